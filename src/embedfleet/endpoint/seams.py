"""What an endpoint meets: who asks, what computes, which models there are, what it tells.

Decides the forms in which these meet. Refuses to know what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from embedfleet.cache.single_flight import Arrived
from embedfleet.encoding.encoder import Encoder
from embedfleet.vocabulary import Encoding, Lane, ModelIdentity, Precision, Vectors


class Caller(NamedTuple):
    """What matters of who asks, beside the texts."""

    lane: Lane
    deadline: float
    """When the answer is of no use any more, monotonic seconds."""
    address: str = ""


class Computed(NamedTuple):
    """The vectors of a request, and where its time went."""

    vectors: Vectors
    """[texts, width], in the order of the texts."""
    queue_s: float
    """Longest wait of one of its texts."""
    compute_s: float
    """Longest computation of a batch with one of its texts."""


class Backend(Protocol):
    """Computes vectors for encodings."""

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Arrived | None = None
    ) -> Computed:
        """Vectors in the order of `encodings`; cancelling forgets the work.

        `arrived` is told of each vector as soon as it is there, also of one that nobody waits for
        any more: a batch that has begun is finished. Raises the error of the first text that has
        no vector.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Promise:
    """What a pool promises of every vector, whichever replica computes it."""

    revision: str
    """Fingerprint of the weights; where nobody can tell, a word that is this process's own."""
    precision: Precision


def _no_promise() -> Promise | None:
    return None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as callers see it."""

    identity: ModelIdentity
    names: tuple[str, ...]
    """What callers may call it; the first one is shown in lists."""
    encoder: Encoder
    backend: Backend
    created: int
    """Seconds since 1970, for OpenAI's model list."""
    promise: Callable[[], Promise | None] = _no_promise
    """The same object each time, once it is known; without it nothing is answered from a cache."""


class Answered(NamedTuple):
    """What is told of each finished request, to be counted."""

    model: str | None
    """First name of the model; None when the request did not get that far."""
    status: int
    seconds: float
    texts: int = 0
    tokens: int = 0
    address: str = ""
    """The client's, as far as it can be believed."""
    key: str = ""
    """The id of the caller's key."""
    hits: int | None = None
    """Texts that a cache knew; None without one."""
