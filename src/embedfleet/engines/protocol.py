"""The engine protocol: batches of token ids in, unit vectors out, on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from embedfleet.vocabulary import Encoding, Precision, Vectors


@dataclass(frozen=True, slots=True)
class Computation:
    """A prepared batch: calling it computes the vectors, shape [texts, width], in batch order.

    Rows have unit length; a row that could not be computed is not finite (NaN or Inf somewhere),
    and the caller must check that."""

    compute: Callable[[], Vectors]
    padding_tokens: int = 0
    """Tokens of no text that are computed beside the texts', to fill a fixed size."""

    def __call__(self) -> Vectors:
        return self.compute()


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
    in_flight: int = 1
    """Batches that may be computed at once. A second one is for a device that works on its own: it
    is given the next batch while it computes, and never waits for the processor."""
    enough_tokens: int | None = None
    """Waiting tokens from which on a further batch is begun while another computes: with so many
    the device is as fast as with any more. None: with a full batch."""
    long_beside: bool = False
    """Whether a text over `batch_tokens` computes beside batches and does not hold them up."""
    at_once_tokens: int = 0
    """Batches up to this long are prepared in less time than it takes to wake a thread for it."""
    device_uuid: str | None = None
    """Which GPU it is, as the driver knows it; None for others."""
    kernels: str = ""
    """For people: whose compute on a processor, `native`, `openvino` or `numpy`; a GPU has no
    choice."""
    instructions: str = ""
    """For people: the instruction set that our own kernels compute with."""


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
