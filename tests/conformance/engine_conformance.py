"""What every engine must do, whatever its device; one suite for all of them.

A test class inherits from `EngineConformance` and provides the fixture `engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding, Vectors


def random_texts(engine: Engine, lengths: Sequence[int], seed: int = 0) -> list[Encoding]:
    rng = np.random.default_rng(seed)
    ids = engine.info.vocabulary
    return [rng.integers(0, ids, length).astype(np.int32) for length in lengths]


def random_tree(dice: np.random.Generator, vocabulary: int, texts: int = 24) -> list[Encoding]:
    """Texts most of which begin with one of the others or with a part of it, in random order."""
    found: list[Encoding] = []
    while len(found) < texts:
        own = dice.integers(0, vocabulary, int(dice.integers(1, 90))).astype(np.int32)
        begins = found[int(dice.integers(len(found)))] if found and dice.random() < 0.8 else own[:0]
        found.append(np.concatenate((begins[: int(dice.integers(len(begins) + 1))], own)))
    return [found[place] for place in dice.permutation(texts)]


def embed(engine: Engine, texts: Sequence[Encoding]) -> Vectors:
    return engine.prepare(texts)()


class EngineConformance:
    """Inherit, and provide the fixture `engine`, open and with texts of 300 tokens allowed."""

    tolerance: ClassVar[float] = 1e-4
    """The largest difference in any dimension between two runs of one text."""

    LENGTHS: ClassVar[tuple[int, ...]] = (7, 1, 64, 33, 250, 2, 31, 32, 120, 5)

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def test_vectors_have_the_width_it_says_and_unit_length(self, engine: Engine) -> None:
        vectors = embed(engine, random_texts(engine, self.LENGTHS))
        assert vectors.shape == (len(self.LENGTHS), engine.info.width)
        assert vectors.dtype == np.float32
        assert finite_rows(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_a_text_has_the_same_vector_alone_batched_and_shuffled(self, engine: Engine) -> None:
        texts = random_texts(engine, self.LENGTHS)
        batched = embed(engine, texts)
        alone = np.concatenate([embed(engine, [text]) for text in texts])
        order = np.random.default_rng(1).permutation(len(texts))
        shuffled = embed(engine, [texts[index] for index in order])
        np.testing.assert_allclose(alone, batched, atol=self.tolerance)
        np.testing.assert_allclose(shuffled, batched[order], atol=self.tolerance)

    def test_rows_come_in_batch_order_when_a_batch_exceeds_one_pass(self, engine: Engine) -> None:
        texts = random_texts(engine, [60, 3] * (engine.info.batch_tokens // 60 + 2))
        vectors = embed(engine, texts)
        for index in (0, 1, len(texts) - 2, len(texts) - 1):
            (one,) = embed(engine, [texts[index]])
            np.testing.assert_allclose(one, vectors[index], atol=self.tolerance)

    def test_one_token_is_a_text(self, engine: Engine) -> None:
        first, second = embed(engine, [np.array([5], np.int32), np.array([6], np.int32)])
        assert not np.allclose(first, second, atol=0.01)

    def test_texts_may_be_as_long_as_it_says_and_no_longer(self, engine: Engine) -> None:
        limit = engine.info.max_tokens
        longest, too_long = random_texts(engine, [limit, limit + 1])
        assert finite_rows(embed(engine, [longest])).all()
        with pytest.raises(ValueError, match=str(limit)):
            engine.prepare([too_long])

    def test_every_token_counts_and_so_does_the_order(self, engine: Engine) -> None:
        (text,) = random_texts(engine, [20])
        changed, swapped = text.copy(), text.copy()
        changed[0] = (changed[0] + 1) % engine.info.vocabulary
        swapped[[3, 11]] = swapped[[11, 3]]
        original, *others = embed(engine, [text, changed, swapped])
        for other in others:
            assert np.abs(original - other).max() > 1e-3

    def test_an_empty_batch_is_refused(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="batch"):
            engine.prepare([])

    def test_a_text_without_tokens_is_refused(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="tokens"):
            engine.prepare([np.array([1], np.int32), np.array([], np.int32)])

    def test_a_computation_may_run_twice(self, engine: Engine) -> None:
        compute = engine.prepare(random_texts(engine, [9, 4]))
        np.testing.assert_array_equal(compute(), compute())

    def test_threads_may_prepare_while_others_compute(self, engine: Engine) -> None:
        batches = [random_texts(engine, [n, 40, 3], seed=n) for n in range(1, 33)]
        expected = [embed(engine, batch) for batch in batches]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda batch: embed(engine, batch), batches))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(one, other, atol=self.tolerance)

    def test_vectors_stay_as_they_are_when_more_is_computed(self, engine: Engine) -> None:
        texts = random_texts(engine, [10, 20])
        vectors = embed(engine, texts)
        before = vectors.copy()
        embed(engine, random_texts(engine, [10, 20], seed=9))
        np.testing.assert_array_equal(vectors, before)


class ClosingConformance:
    """Inherit, and provide the fixture `closing`: an engine for one test, which closes it."""

    @pytest.fixture
    def closing(self) -> Engine:
        raise NotImplementedError

    def test_a_closed_engine_refuses_to_compute_and_says_why(self, closing: Engine) -> None:
        compute = closing.prepare([np.array([1, 2], np.int32)])
        closing.close()
        with pytest.raises(RuntimeError, match="closed"):
            compute()

    def test_closing_twice_is_closing(self, closing: Engine) -> None:
        closing.close()
        closing.close()
