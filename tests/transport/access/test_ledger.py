"""Limits that several processes grant together are those of one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.access.bucket import Bucket
from embedfleet.transport.access.keyring import KeyRing
from embedfleet.transport.access.ledger import REQUESTS, TOKENS, Ledger
from embedfleet.transport.access.records import plain
from embedfleet.vocabulary import RateLimitedError

KEY = "a-plain-key-of-some-length"
fork = multiprocessing.get_context("fork")


def record(**limits: int) -> object:
    (one,) = plain([KEY], datetime.now(UTC), "test")
    return type(one)(**{name: getattr(one, name) for name in one.__struct_fields__} | limits)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 60), st.floats(0, 5), st.booleans()),
        max_size=30,
    )
)
def test_a_shared_bucket_gives_what_a_bucket_of_one_process_gives(
    steps: list[tuple[int, int, float, bool]],
) -> None:
    """Whichever process asks."""
    descriptor = Ledger.create()
    alone, now = Bucket.full(100, 0.0), 0.0
    shared = []
    for process in range(3):
        account = Ledger(descriptor, process).account("key")
        assert account is not None
        shared.append(account.bucket(TOKENS, 100, 0.0))
    for process, amount, pause_s, gives in steps:
        now += pause_s
        if gives:
            alone.give(amount, now)
            shared[process].give(amount, now)
        else:
            assert shared[process].take(amount, now) == alone.take(amount, now)
        assert {each.remaining(now) for each in shared} == {alone.remaining(now)}
    os.close(descriptor)


def _take_all(descriptor: int, process: int, taken: object) -> None:
    account = Ledger(descriptor, process).account("key")
    assert account is not None
    bucket = account.bucket(REQUESTS, 1000, 0.0)
    while not bucket.take(1, 0.0):
        taken[process] += 1  # type: ignore[index]


def test_processes_that_take_at_the_same_time_take_no_more_than_there_is() -> None:
    descriptor, taken = Ledger.create(), fork.Array("i", 4)
    processes = [fork.Process(target=_take_all, args=(descriptor, n, taken)) for n in range(4)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)

    assert sum(taken[:]) == 1000
    os.close(descriptor)


def _die_with_the_slot(descriptor: int) -> None:
    account = Ledger(descriptor, 1).account("key")
    assert account is not None
    account.enter(3, 10)
    with account.locked():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_it_has_a_slot_leaves_it_to_the_others() -> None:
    descriptor = Ledger.create()
    ledger = Ledger(descriptor, 0)
    account = ledger.account("key")
    assert account is not None
    dying = fork.Process(target=_die_with_the_slot, args=(descriptor,))
    dying.start()
    dying.join(60)

    assert account.enter(8, 10) == 3  # its texts still count
    ledger.forget(1)
    assert account.enter(8, 10) is None
    os.close(descriptor)


def test_keys_of_several_rings_have_their_limits_together() -> None:
    descriptor = Ledger.create()
    rings = [
        KeyRing([record(tokens_per_minute=100, concurrent_texts=4)], ledger=Ledger(descriptor, n))  # type: ignore[list-item]
        for n in range(2)
    ]
    first, second = (ring.open(f"Bearer {KEY}") for ring in rings)
    first.enter("m", 3)
    first.charge(60)
    with pytest.raises(RateLimitedError, match="Limit 4, Used 3, Requested 2"):
        second.enter("m", 2)
    second.enter("m", 1)
    with pytest.raises(RateLimitedError, match="Requested 60"):
        second.charge(60)
    first.close()
    third = rings[1].open(f"Bearer {KEY}")
    third.enter("m", 3)
    os.close(descriptor)
