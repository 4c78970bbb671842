"""Who is tokenised next: by lane, by caller, by urgency; and who may wait."""

from __future__ import annotations

from random import Random

import pytest

from embedfleet.api.tokenizer_queue import LEAD, Ticket, TokenizerQueue
from embedfleet.vocabulary import Lane, OverloadedError

INTERACTIVE, BULK = Lane.INTERACTIVE, Lane.BULK
SLICE = 16_384


def new_queue(most: int = 10**9, per_s: float = 1e6) -> TokenizerQueue[str]:
    return TokenizerQueue(most, per_s)


def ticket(
    name: str, lane: Lane = INTERACTIVE, caller: str = "a", characters: int = SLICE, at: float = 0.0
) -> Ticket[str]:
    return Ticket(name, lane, caller, characters, at, at + 600)


def order(queue: TokenizerQueue[str], slices: int) -> list[Ticket[str]]:
    """Whose slices come, when one is worked on after the other."""
    found = []
    for _ in range(slices):
        if not queue:
            break
        one = queue.take()
        found.append(one)
        queue.back(one, min(SLICE, one.left), 0.01, done=one.left <= SLICE)
    return found


def test_interactive_requests_pass_bulk_ones_that_came_before() -> None:
    queue = new_queue()
    for number in range(40):
        queue.put(ticket(f"bulk {number}", BULK, characters=310_000))
    order(queue, 3)
    queue.put(ticket("question", characters=5_400, at=1.0))
    assert "question" in [one.work for one in order(queue, 2)]


def test_bulk_keeps_a_tenth_while_both_lanes_wait() -> None:
    queue = new_queue()
    for number in range(400):
        queue.put(ticket(f"i{number}", INTERACTIVE))
        queue.put(ticket(f"b{number}", BULK))
    bulk = sum(one.lane is BULK for one in order(queue, 300))
    assert 300 * 0.1 - 2 <= bulk <= 300 * 0.1 + LEAD / SLICE + 2


def test_callers_of_a_lane_have_equal_parts() -> None:
    queue = new_queue()
    for number in range(100):
        queue.put(ticket(f"greedy {number}", caller="greedy", characters=100 * SLICE))
    queue.put(ticket("modest", caller="modest", characters=10 * SLICE))
    served = [one.caller for one in order(queue, 20)]
    assert served.count("modest") == 10


def test_a_new_caller_has_no_claim_for_the_time_before() -> None:
    queue = new_queue()
    queue.put(ticket("old", caller="old", characters=1000 * SLICE))
    order(queue, 500)
    queue.put(ticket("new", caller="new", characters=1000 * SLICE))
    served = [one.caller for one in order(queue, 100)]
    assert 49 <= served.count("new") <= 51


def test_of_one_callers_requests_the_shorter_passes() -> None:
    queue = new_queue()
    queue.put(ticket("document", characters=10_000_000))
    queue.put(ticket("question", characters=5_000, at=0.1))
    assert queue.take().work == "question"


def test_a_request_that_finds_nothing_before_it_always_may_wait() -> None:
    new_queue(most=10).admit(10**9, BULK, 0.001)


def test_more_characters_than_there_is_room_for_are_refused_and_bulk_has_half_of_it() -> None:
    queue = new_queue(most=1_000_000, per_s=1e9)
    queue.put(ticket("first", characters=400_000))
    queue.admit(200_000, INTERACTIVE, 60)
    with pytest.raises(OverloadedError, match="limit of 500000 for bulk") as refused:
        queue.admit(200_000, BULK, 60)
    assert refused.value.retry_after_s is not None
    with pytest.raises(OverloadedError, match=r"gateway\.max_queued_bytes"):
        queue.admit(700_000, INTERACTIVE, 60)


def test_a_request_that_would_wait_beyond_its_deadline_is_refused_with_the_wait() -> None:
    queue = new_queue(per_s=1000)
    queue.put(ticket("first", characters=100_000))
    with pytest.raises(OverloadedError, match="about 100") as refused:
        queue.admit(10, INTERACTIVE, 5)
    assert refused.value.retry_after_s == pytest.approx(60)
    queue.admit(10, INTERACTIVE, 500)


def test_bulk_that_waits_does_not_count_in_full_for_an_interactive_request() -> None:
    queue = new_queue(per_s=1000)
    queue.put(ticket("bulk", BULK, characters=100_000))
    queue.admit(10, INTERACTIVE, 1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_nothing_is_lost_and_the_sum_is_right(seed: int) -> None:
    rng, queue = Random(seed), new_queue()
    waiting: list[Ticket[str]] = []
    running: list[Ticket[str]] = []
    ended: set[str] = set()
    for number in range(500):
        action = rng.random()
        if action < 0.4:
            one = ticket(
                str(number),
                rng.choice([INTERACTIVE, BULK]),
                rng.choice("abc"),
                rng.randrange(1, 100_000),
                float(number),
            )
            queue.put(one)
            waiting.append(one)
        elif action < 0.7 and queue:
            one = queue.take()
            waiting.remove(one)
            running.append(one)
        elif action < 0.9 and running:
            one = running.pop(rng.randrange(len(running)))
            done = rng.random() < 0.3
            queue.back(one, rng.randrange(0, 20_000), 0.01, done=done)
            if done:
                ended.add(one.work)
            else:
                waiting.append(one)
        elif waiting:
            one = waiting.pop(rng.randrange(len(waiting)))
            queue.remove(one)
            ended.add(one.work)
        assert bool(queue) == bool(waiting)
        assert queue.characters == sum(one.left for one in waiting + running)
    for one in running:
        queue.back(one, 0, 0.0, done=True)
    rest = {queue.take().work for _ in waiting}
    assert rest == {one.work for one in waiting}
