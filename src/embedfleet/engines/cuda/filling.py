"""Fills matrices on the device from files, while the engine does other things.

Threads read pieces of whole rows into page-locked memory, from which the device fetches them, each
in a stream of its own: reading, copying and quantising overlap, and no memory is touched for the
first time, which in a virtual machine takes longer than the copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event
from typing import Final, TypeAlias

import torch
from torch import Tensor

from embedfleet.engines import tensors
from embedfleet.engines.cuda.devices import Device

PIECE_BYTES: Final = 8 << 20
"""Read and copied at once; a row that is longer is a piece of its own."""
MOST_THREADS: Final = 8

_TYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

Place: TypeAlias = Callable[[int, int, Tensor], None]
"""Takes rows `begin` to `end`, which are on the device in the type they are stored in, and writes
them where they belong. It must not keep them."""


class Filling:
    """What is to be read, and the threads that do so."""

    def __init__(self, device: Device, piece_bytes: int = PIECE_BYTES) -> None:
        self._device = device
        self._piece_bytes = piece_bytes
        self._pieces: SimpleQueue[tuple[tensors.Matrix, int, int, Place]] = SimpleQueue()
        self._largest = 0
        self._stopped = Event()

    def add(self, matrix: tensors.Matrix, place: Place) -> None:
        """Have all rows of `matrix` placed; to be called before anything is under way."""
        rows, columns = matrix.shape
        row = columns * _TYPES[matrix.tensor.kind].itemsize if matrix.scales is None else columns
        step = max(1, self._piece_bytes // row)
        self._largest = max(self._largest, min(step, rows) * row)
        for begin in range(0, rows, step):
            self._pieces.put((matrix, begin, min(begin + step, rows), place))

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Fill beside what is done inside; afterwards all is there.

        Inside, matrices may be read, but mean nothing yet. Raises ModelError where a file can't be
        read.
        """
        self._device.wait()  # memory that is filled from other streams is nobody else's any more
        count = min(MOST_THREADS, os.cpu_count() or 1, self._pieces.qsize())
        with ThreadPoolExecutor(max(1, count), "fill") as pool:
            threads = [pool.submit(self._fill) for _ in range(count)]
            for thread in threads:
                thread.add_done_callback(self._ended)
            try:
                yield
                for thread in threads:
                    thread.result()
            finally:
                self._stopped.set()

    def _ended(self, thread: Future[None]) -> None:
        if thread.exception() is not None:  # which is raised when all have ended
            self._stopped.set()

    def _fill(self) -> None:
        """Take pieces until there are none."""
        with torch.inference_mode(), self._device.filling(self._largest) as (room, wait):
            while not self._stopped.is_set():
                try:
                    matrix, begin, end, place = self._pieces.get_nowait()
                except Empty:
                    return
                host = _read(matrix, begin, end, room)
                place(begin, end, host.to(self._device.torch_device, non_blocking=True))
                wait()


def _read(matrix: tensors.Matrix, begin: int, end: int, room: Tensor) -> Tensor:
    """Rows of a matrix: in `room`, bytes, if they are of a type that torch has."""
    rows = slice(begin, end)
    if matrix.scales is not None:
        return torch.from_numpy(matrix.floats(rows))
    shape = end - begin, matrix.shape[1]
    kind = _TYPES[matrix.tensor.kind]
    host = room[: shape[0] * shape[1] * kind.itemsize]
    matrix.tensor.read(rows, host.numpy())
    return host.view(kind).view(shape)
