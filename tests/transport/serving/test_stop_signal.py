"""What a process makes of signals: the first drains, a later one hurries."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from embedfleet.transport.serving import StopSignal
from tests.loops import settle

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of the tests' own process come back afterwards."""
    kept = {each: signal.getsignal(each) for each in (*STOPPING, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("second", STOPPING)
@pytest.mark.parametrize("first", STOPPING)
async def test_a_signal_sent_twice_hurries_nothing_and_one_that_is_repeated_later_does(
    handlers: None, first: signal.Signals, second: signal.Signals
) -> None:
    clock = Clock()
    stop = StopSignal(clock=clock)
    hurried = asyncio.Event()
    stop.hurry = hurried.set
    try:
        for after_s, number in [(0.0, first), (0.0, second), (0.4, first)]:
            clock.now += after_s
            signal.raise_signal(number)
            await settle()
            await stop.wait()
            assert not stop.hurried
        clock.now += 0.2  # more than half a second after the first
        signal.raise_signal(second)
        await hurried.wait()
        assert stop.hurried
        signal.raise_signal(first)  # another that is sent twice: the process is not ended
        await settle()
    finally:
        for number in STOPPING:
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_signal_sent_twice_does_not_skip_the_pause_of_a_stop(handlers: None) -> None:
    clock = Clock()
    stop = StopSignal(clock=clock)
    try:
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()
        pause = asyncio.create_task(stop.pause(3600))
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert not pause.done()
        clock.now += 1
        signal.raise_signal(signal.SIGTERM)
        await pause
        assert not stop.hurried
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
