"""One vector for different texts is found out by the answer that has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.balancing import Load
from embedfleet.scheduling.delivery.repeated_vectors import (
    DOUBT_S,
    DOUBTS,
    PAUSE_S,
    RepeatedVectors,
    different,
)
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import ReplicaError, Vectors
from tests.fakes.revealing_engine import vector_of

WIDTH = 64
ids = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def text(tokens: list[int], *, attempts: int = 0) -> Text:
    made = Text(np.array(tokens, np.int32))
    made.attempts = attempts
    return made


def rows(*seeds: int) -> Vectors:
    """A vector of unit length for each seed."""
    found = [np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds]
    return np.stack([row / np.linalg.norm(row) for row in found]).astype(np.float32)


def load() -> Load:
    return Load("a", 4096, 1024)


@given(frames=st.lists(st.lists(ids, min_size=1, max_size=6), max_size=6))
def test_an_engine_that_computes_each_text_is_never_doubted(frames: list[list[list[int]]]) -> None:
    """Equal texts have equal vectors, in one frame and in the next."""
    repeated, replica = RepeatedVectors(), load()
    for now, frame in enumerate(frames):
        vectors = np.stack([vector_of(np.array(tokens, np.int32)) for tokens in frame])
        repeated.refuse(replica, [text(tokens) for tokens in frame], vectors, now)
    assert replica.shut_until < 0


@given(data=st.data(), texts=st.lists(ids, min_size=2, max_size=6))
def test_a_row_that_stands_for_two_different_texts_is_refused(
    data: st.DataObject, texts: list[list[int]]
) -> None:
    """Wherever they are: in one frame, or one the last of the frame before."""
    source, copy = sorted(data.draw(st.permutations(range(len(texts))))[:2])
    vectors = rows(*range(len(texts)))
    vectors[copy] = vectors[source]
    arrays = [np.array(tokens, np.int32) for tokens in texts]
    doubtful = different(arrays[source], arrays[copy])
    for cut in {0, source + 1 if copy == source + 1 else 0}:
        repeated, replica = RepeatedVectors(), load()
        frames = [slice(0, cut), slice(cut, None)]
        try:
            for part in frames:
                repeated.refuse(replica, [text(each) for each in texts[part]], vectors[part], 5.0)
        except ReplicaError:
            assert doubtful
            assert replica.shut_until == 5.0 + PAUSE_S
        else:
            assert not doubtful


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([1, 2, 3], [1, 2, 4], True),
        ([7], [8], True),
        ([5], [5, 5, 5], False),
        ([1, 2, 3], [3, 2, 1, 1], False),
        ([*range(1000)], [*range(999), 5000], False),
        ([*range(1000)], [*range(900)], True),
    ],
)
def test_texts_are_different_when_their_tokens_are(
    one: list[int], other: list[int], found: bool
) -> None:
    """A token that is repeated may have the vector of one, and long texts that differ in a word."""
    assert different(np.array(one, np.int32), np.array(other, np.int32)) is found


def test_who_sends_odd_texts_can_not_have_a_replica_ejected() -> None:
    """It is doubted twice a minute, and three failures in a row eject."""
    repeated, replica = RepeatedVectors(), load()
    refusals = 0
    for now in np.arange(0.0, 3 * DOUBT_S, 0.5):
        try:
            repeated.refuse(replica, [text([1]), text([2])], rows(0, 0), now)
        except ReplicaError:
            refusals += 1
    assert refusals == 3 * DOUBTS


def test_a_text_fails_by_it_once() -> None:
    repeated = RepeatedVectors()
    repeated.refuse(load(), [text([1], attempts=1), text([2], attempts=1)], rows(0, 0), 0.0)


@given(
    attempts=st.lists(st.integers(0, 3), min_size=2, max_size=5),
    times=st.lists(st.floats(0.0, 5 * DOUBT_S), min_size=1, max_size=10),
)
def test_a_replica_that_fails_its_checks_is_never_believed(
    attempts: list[int], times: list[float]
) -> None:
    """However often it was doubted, and the texts failed."""
    repeated, replica = RepeatedVectors(), load()
    for now in sorted(times):
        texts = [text([number], attempts=each) for number, each in enumerate(attempts)]
        with pytest.raises(ReplicaError, match="one vector"):
            repeated.refuse(replica, texts, rows(*[0] * len(texts)), now, unproven=True)


def test_scores_of_different_pairs_may_be_equal() -> None:
    certain = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    RepeatedVectors().refuse(load(), [text([1]), text([2])], certain, 0.0)


def test_a_replica_that_is_gone_is_forgotten() -> None:
    repeated = RepeatedVectors()
    repeated.refuse(load(), [text([1])], rows(0), 0.0)
    repeated.keep(frozenset())
    repeated.refuse(load(), [text([2])], rows(0), 0.0)
