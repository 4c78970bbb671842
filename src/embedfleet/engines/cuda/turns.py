"""Interleaves long and short passes on the device.

A device executes work in the order of submission. A long pass is therefore submitted only a few
steps ahead, so that a short pass that arrives meanwhile waits for those few steps only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")

Wait: TypeAlias = Callable[[], None]
"""Returns when the device has done all that it was given before this was made."""

AHEAD: Final = 2
"""Steps of a long pass that the device may have before it: one that it computes, and one so that it
never waits for us."""


class Turns:
    """One thread at a time gives work to the device; a long pass lets others in after each step."""

    def __init__(self, ahead: int = AHEAD) -> None:
        self._ahead = ahead
        self._lock = Lock()

    def whole(self) -> AbstractContextManager[object]:
        """For as long as this is held, nobody else gives work to the device."""
        return self._lock

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Whether nobody else gives work to the device; then nobody does inside."""
        free = self._lock.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._lock.release()

    def in_steps(self, steps: Generator[None, None, T], mark: Callable[[], Wait]) -> T:
        """Run `steps` with room for others after each; `mark` notes how far the device was told."""
        given: deque[Wait] = deque()
        while True:
            with self._lock:
                try:
                    next(steps)
                except StopIteration as end:
                    result: T = end.value
                    return result
                given.append(mark())
            if len(given) >= self._ahead:
                given.popleft()()
