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
    """Padding tokens that are computed to fill a fixed size."""
    shared: Sequence[int] = ()
    """First tokens of each text that are computed as another text's, in batch order; empty where
    every text is computed whole."""
    done: Callable[[], bool] | None = None
    """Whether the vectors are there, so that calling it does not block. None, the default, for what
    has not begun, and for what takes so long that a thread should wait for it."""

    def __call__(self) -> Vectors:
        return self.compute()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The capabilities of an engine."""

    width: int
    """Dimensions of a vector."""
    max_tokens: int
    """Longest text in tokens that the engine accepts."""
    vocabulary: int
    """Token ids must be below this."""
    precision: Precision
    device: str
    """The device's name for display and metrics, for instance `cpu` or `cuda:0`."""
    batch_tokens: int
    """The batch size in tokens at which the engine runs best; packing fills batches up to it."""
    in_flight: int = 1
    """Batches that may be computed at once. A second one keeps an asynchronous device busy: it is
    submitted while the first one computes."""
    enough_tokens: int | None = None
    """Waiting tokens at which another batch is started while one computes, since the device reaches
    its full throughput with as many. None: a full batch."""
    long_beside: bool = False
    """Whether a text over `batch_tokens` is computed concurrently with batches."""
    at_once_tokens: int = 0
    """Batches up to this many tokens are prepared on the event loop: a thread switch costs more."""
    device_uuid: str | None = None
    """The driver's UUID of the GPU; None for other devices."""
    kernels: str = ""
    """The kernels on a CPU, for display: `native`, `openvino` or `numpy`; empty on a GPU."""
    instructions: str = ""
    """The instruction set of the native kernels, for display."""


class Engine(Protocol):
    """Encodings to vectors on one device."""

    @property
    def info(self) -> EngineInfo: ...

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Do the work on the host; may run while another batch computes."""
        ...

    def close(self) -> None:
        """Release memory and threads; the engine is unusable afterwards."""
        ...
