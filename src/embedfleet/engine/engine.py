"""The protocol between batches and a device.

An engine knows token ids and vectors. It refuses to know HTTP, queues, replicas and texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from embedfleet.vocabulary import Encoding, Precision, Vectors

Computation: TypeAlias = Callable[[], Vectors]
"""A prepared batch: calling it computes the vectors, shape [texts, width], in batch order.

Rows have unit length; a row that could not be computed is not finite (NaN or Inf somewhere), and
the caller must check that."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do."""

    width: int
    """Dimensions of a vector."""
    max_tokens: int
    """Longest text in tokens that the engine accepts."""
    vocabulary: int
    """Token ids must be below this."""
    precision: Precision
    device: str
    """For people and metrics, for instance `cpu` or `cuda:0`."""
    batch_tokens: int
    """The batch size in tokens at which the engine runs best; packing fills batches up to it."""


class Engine(Protocol):
    """Encodings to vectors on one device."""

    @property
    def info(self) -> EngineInfo: ...

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Do everything that does not need the device; may run while another batch computes."""
        ...

    def close(self) -> None:
        """Give back memory and threads; the engine is unusable afterwards."""
        ...
