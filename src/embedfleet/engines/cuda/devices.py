"""The device under the engine: allocation, streams, synchronisation, loss of the device.

A CUDA device works asynchronously. The CPU device, on which tests of the engine run, completes each
operation when it is called.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from embedfleet.engines.cuda.turns import Wait
from embedfleet.runtime.machine import usable_processors
from embedfleet.vocabulary import EngineLostError, SettingError, Vectors

_MIB = 1 << 20
_CONTROL = Path("/dev/nvidiactl")
"""The driver's own device file: whoever uses a GPU may open it, whatever the user or container."""
_FEWEST_TO_SPIN = 4
"""Processors of which a thread that waits for some milliseconds may keep one from all else."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Vectors on their way from a device; calling it waits for them."""

    vectors: Vectors
    """What they are once the device has written them."""
    wait: Wait
    done: Callable[[], bool] | None = None
    """Whether waiting would take no time; None where a processor has more to do than to ask."""

    def __call__(self) -> Vectors:
        self.wait()
        return self.vectors


class Device(Protocol):
    """Where an engine computes."""

    name: str
    uuid: str | None
    torch_device: torch.device

    def free_mib(self) -> int: ...

    def total_mib(self) -> int: ...

    def limit(self, mib: int) -> None:
        """Let this process allocate no more on the device than it has now, and so much."""
        ...

    def planning(self) -> AbstractContextManager[None]:
        """Inside, no other process of this machine decides by what is free on its devices."""
        ...

    def stream(self) -> AbstractContextManager[Any]:
        """Inside, this thread's work goes to the engine's own stream."""
        ...

    def empty_input(self, size: int) -> Tensor:
        """Integers [size] here that the device can fetch while others compute."""
        ...

    def mark(self) -> Wait:
        """Note what the device has been given so far; inside `stream`."""
        ...

    def fetch(self, vectors: Tensor, count: int, *, soon: bool = False) -> Fetched:
        """Give the device the order to bring the first `count` rows here; inside `stream`.

        `soon`: they will be here in so little time that waiting may keep a processor busy.
        """
        ...

    def filling(self, size: int) -> AbstractContextManager[tuple[Tensor, Wait]]:
        """Inside, this thread's work goes to a stream of its own. Gives bytes [size] here that the
        device can fetch, and what waits for all that this thread has given to the device."""
        ...

    def wait(self) -> None:
        """Return when the engine's own stream has nothing left to do."""
        ...

    def release_memory(self) -> None:
        """Give back what was allocated, here and on the device, and is not used."""
        ...


class CudaDevice:
    """A GPU, with one stream."""

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)
        self.name = f"cuda:{index}"
        self.uuid: str | None = str(torch.cuda.get_device_properties(index).uuid)
        self._stream = torch.cuda.Stream(self.torch_device)
        self._spins = usable_processors() >= _FEWEST_TO_SPIN

    def free_mib(self) -> int:
        free: int = torch.cuda.mem_get_info(self.torch_device)[0]
        return free // _MIB

    def total_mib(self) -> int:
        total: int = torch.cuda.mem_get_info(self.torch_device)[1]
        return total // _MIB

    def limit(self, mib: int) -> None:
        mib += torch.cuda.memory_reserved(self.torch_device) // _MIB
        share = min(1.0, mib / self.total_mib())
        torch.cuda.set_per_process_memory_fraction(share, self.torch_device)

    def planning(self) -> AbstractContextManager[None]:
        return locked(_CONTROL)

    def stream(self) -> AbstractContextManager[Any]:
        stream: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return stream

    def empty_input(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, pin_memory=True)

    def mark(self) -> Wait:
        wait: Wait = self._marked(spins=False).synchronize
        return wait

    def fetch(self, vectors: Tensor, count: int, *, soon: bool = False) -> Fetched:
        here = torch.empty(count, vectors.shape[1], dtype=torch.float32, pin_memory=True)
        here.copy_(vectors[:count], non_blocking=True)
        spins = soon and self._spins
        mark = self._marked(spins=spins)
        return Fetched(here.numpy(), mark.synchronize, mark.query if spins else None)

    def _marked(self, *, spins: bool) -> torch.cuda.Event:
        """`spins`: who waits for it does not sleep; who does is woken a tenth of a millisecond
        late."""
        event = torch.cuda.Event(blocking=not spins)
        event.record(self._stream)
        return event

    @contextmanager
    def filling(self, size: int) -> Iterator[tuple[Tensor, Wait]]:
        stream = torch.cuda.Stream(self.torch_device)
        with torch.cuda.stream(stream):
            yield torch.empty(size, dtype=torch.uint8, pin_memory=True), stream.synchronize

    def wait(self) -> None:
        self._stream.synchronize()

    def release_memory(self) -> None:
        self._stream.synchronize()
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()  # noqa: SLF001  # torch has no other way to give back what is page-locked


class Processor:
    """torch's CPU device, at which the engine's own code is tested where there is no GPU."""

    def __init__(self, free_mib: int = 1 << 20) -> None:
        self.torch_device = torch.device("cpu")
        self.name = "cpu"
        self.uuid: str | None = None
        self._free_mib = free_mib

    def free_mib(self) -> int:
        return self._free_mib

    def total_mib(self) -> int:
        return self._free_mib

    def limit(self, mib: int) -> None:
        pass

    def planning(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def empty_input(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32)

    def mark(self) -> Wait:
        return _nothing

    def fetch(
        self,
        vectors: Tensor,
        count: int,
        *,
        soon: bool = False,
    ) -> Fetched:
        return Fetched(vectors[:count].numpy(), _nothing, _true if soon else None)

    @contextmanager
    def filling(self, size: int) -> Iterator[tuple[Tensor, Wait]]:
        yield torch.empty(size, dtype=torch.uint8), _nothing

    def wait(self) -> None:
        pass

    def release_memory(self) -> None:
        pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process of this machine is inside with the same file; where it can't be
    opened, nobody is kept out."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _nothing() -> None:
    pass


def _true() -> bool:
    return True


def is_loss(error: RuntimeError) -> bool:
    """Whether a device that raised this computes nothing more: CUDA repeats such errors for ever.

    Memory that was missing for one batch may be there for the next.
    """
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    fatal = getattr(torch, "AcceleratorError", None)
    return "CUDA error" in str(error) if fatal is None else isinstance(error, fatal)


@contextmanager
def telling_of_loss(device: str) -> Iterator[None]:
    """Raise EngineLostError instead of torch's own error when the device is lost inside."""
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        said = str(error).partition("\n")[0]
        raise EngineLostError(
            f"{device} is lost and computes nothing more until this process is started again: "
            f"{said}"
        ) from error


def capabilities() -> list[tuple[int, int]]:
    """Compute capability of each GPU that torch can use here, by its number."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_capability(n) for n in range(torch.cuda.device_count())]


def brings_up_early(device: torch.device) -> bool:
    """Whether a GPU can bring a kernel up while the one before it runs: Hopper and newer."""
    major: int = torch.cuda.get_device_capability(device)[0]
    return major >= 9


def find_device(name: str) -> CudaDevice:
    """`cuda` or `cuda:N`; raises SettingError when there is no such GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise SettingError(
            f"device is {name}, but torch {torch.__version__} sees no GPU here: look at "
            "nvidia-smi, at CUDA_VISIBLE_DEVICES, and whether this torch was built for CUDA."
        )
    number = name.partition(":")[2] or "0"
    if not number.isdigit() or int(number) >= count:
        raise SettingError(
            f"device is {name}; this machine has cuda:0"
            + (f" to cuda:{count - 1}." if count > 1 else " alone.")
        )
    return CudaDevice(int(number))
