"""Long passes let short ones in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest

from embedfleet.engines.cuda.turns import Turns


class FakeDevice:
    """Does what it was given in order, when it is told to go on."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.done = 0
        self._changed = threading.Condition()

    def give(self, work: str) -> None:
        self.given.append(work)

    def do(self, count: int) -> None:
        with self._changed:
            self.done += count
            self._changed.notify_all()

    def mark(self) -> Callable[[], None]:
        until = len(self.given)

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: self.done >= until, 60)

        return wait


def steps(device: FakeDevice, count: int) -> Generator[None, None, str]:
    for number in range(count):
        device.give(f"long {number}")
        yield
    return "vectors"


def test_all_steps_run_and_the_result_comes_out() -> None:
    device = FakeDevice()
    device.do(100)
    assert Turns().in_steps(steps(device, 5), device.mark) == "vectors"
    assert device.given == [f"long {number}" for number in range(5)]


def test_the_device_never_has_more_than_a_few_steps_of_a_long_pass_before_it() -> None:
    device, turns = FakeDevice(), Turns(ahead=2)
    long = threading.Thread(target=turns.in_steps, args=(steps(device, 6), device.mark))
    long.start()
    for done in range(5):
        while len(device.given) < done + 2:
            pass
        assert len(device.given) == done + 2
        device.do(1)
    device.do(1)
    long.join(60)
    assert not long.is_alive()


def test_a_short_pass_gets_between_the_steps_of_a_long_one() -> None:
    device, turns = FakeDevice(), Turns(ahead=2)
    long = threading.Thread(target=turns.in_steps, args=(steps(device, 6), device.mark))
    long.start()
    while len(device.given) < 2:
        pass
    with turns.whole():
        device.give("short")
    device.do(100)
    long.join(60)
    assert device.given.index("short") == 2
    assert len(device.given) == 7


def test_a_step_that_fails_leaves_the_device_to_others() -> None:
    def failing() -> Generator[None, None, str]:
        yield
        raise RuntimeError("out of memory")

    device, turns = FakeDevice(), Turns()
    device.do(100)
    with pytest.raises(RuntimeError, match="out of memory"):
        turns.in_steps(failing(), device.mark)
    with turns.whole():
        device.give("short")


def test_whoever_does_not_wait_for_a_turn_gets_it_only_when_nobody_has_it() -> None:
    turns = Turns()
    with turns.if_free() as first, turns.if_free() as second:
        assert (first, second) == (True, False)
    with turns.whole(), turns.if_free() as beside:
        assert not beside
    with turns.if_free() as again:
        assert again
