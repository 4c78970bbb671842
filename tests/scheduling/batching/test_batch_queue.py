"""Whether a batch is formed now, and which texts compute beside batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from embedfleet.scheduling.batching.packing import BatchQueue, Rhythm
from embedfleet.vocabulary import Lane
from embedfleet.work import CostModel


@dataclass(eq=False)
class Text:
    tokens: int
    urgency: float = 0.0
    lane: Lane = Lane.INTERACTIVE
    alone: bool = False


def waiting(rhythm: Rhythm, *tokens: int) -> BatchQueue[Text]:
    texts: BatchQueue[Text] = BatchQueue(rhythm)
    texts.add([Text(count, urgency=place) for place, count in enumerate(tokens)])
    return texts


def taken(texts: BatchQueue[Text], batches: int, *, long_runs: bool = False) -> list[int]:
    """Token counts of the batch that is formed; none while it is better to wait."""
    if not texts.ready(batches, long_runs=long_runs):
        return []
    return [text.tokens for text in texts.take(long_runs=long_runs)]


ONE = Rhythm(100)
OVERLAPPING = Rhythm(100, in_flight=2, enough_tokens=40, long_beside=True)


def test_tokens_of_texts_beside_batches_are_reported_while_they_wait() -> None:
    texts = waiting(OVERLAPPING, 3, 101, 100, 500)
    assert (texts.tokens, texts.long_tokens) == (704, 601)
    assert taken(texts, 0) == [101]
    assert (texts.tokens, texts.long_tokens) == (603, 500)


def test_with_no_batch_there_one_is_formed_of_whatever_waits() -> None:
    assert taken(waiting(ONE, 3), 0) == [3]
    assert taken(waiting(OVERLAPPING, 3), 0) == [3]


def test_nothing_waits_and_nothing_is_formed() -> None:
    assert taken(waiting(ONE), 0) == []


def test_an_engine_that_computes_one_at_a_time_gets_the_next_early_only_if_it_is_full() -> None:
    assert taken(waiting(ONE, 60, 39), 1) == []
    assert taken(waiting(ONE, 60, 40), 1) == [40, 60]


def test_an_engine_that_overlaps_gets_the_next_as_soon_as_it_is_worth_a_batch() -> None:
    assert taken(waiting(OVERLAPPING, 39), 1) == []
    assert taken(waiting(OVERLAPPING, 39, 1), 1) == [1, 39]


def test_no_more_than_two_batches_are_fixed_early() -> None:
    for rhythm in (ONE, OVERLAPPING):
        assert taken(waiting(rhythm, 90, 90, 90), 2) == []


def test_a_long_text_starts_beside_batches_however_many_there_are() -> None:
    texts = waiting(OVERLAPPING, 5, 500)
    assert taken(texts, 2, long_runs=False) == [500]
    assert len(texts) == 1


def test_one_long_text_runs_at_a_time_and_short_ones_pass_it() -> None:
    texts = waiting(OVERLAPPING, 500, 5)
    assert taken(texts, 0, long_runs=True) == [5]
    assert taken(texts, 0, long_runs=True) == []
    assert texts.tokens == 500


def test_where_nothing_computes_beside_batches_a_long_text_is_a_batch() -> None:
    texts = waiting(ONE, 500, 5)
    assert taken(texts, 0, long_runs=False) == [500]


def test_texts_are_counted_until_they_are_taken_or_forgotten() -> None:
    texts = waiting(OVERLAPPING, 500, 5, 7)
    everything = list(texts)
    assert (len(texts), texts.tokens) == (3, 512)
    assert texts.remove(everything[:1]) == 1
    assert texts.remove(everything) == 2
    assert (len(texts), texts.tokens) == (0, 0)


COST = CostModel(per_batch_s=0.001, per_token_s=1e-5, per_squared_token_s=0.0)
"""200 tokens in what a short batch may take."""


def test_batches_are_short_while_texts_of_both_lanes_come() -> None:
    rhythm = Rhythm(1_000, in_flight=2, enough_tokens=100)
    assert rhythm.budget(COST, mixed=False) == 1_000
    assert rhythm.budget(COST, mixed=True) == pytest.approx(200, abs=1)


def test_batches_are_no_shorter_than_a_device_is_fast_with_and_no_longer_than_usual() -> None:
    rhythm = Rhythm(1_000, in_flight=2, enough_tokens=500)
    assert rhythm.budget(COST, mixed=True) == 500
    fast, unknown = replace(COST, per_token_s=1e-9), replace(COST, per_token_s=0.0)
    assert rhythm.budget(fast, mixed=True) == rhythm.budget(unknown, mixed=True) == 1_000


def test_nor_where_short_batches_would_cost_throughput() -> None:
    assert Rhythm(1_000).budget(COST, mixed=True) == 1_000


def test_a_batch_may_be_given_less_than_the_whole_budget() -> None:
    texts = waiting(OVERLAPPING, 30, 30, 30)
    assert [text.tokens for text in texts.take(60, long_runs=False)] == [30, 30]
