"""The NumPy engine's threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.plain import PlainEngine
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.tensors import Floats
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import embed

TEXTS = [np.arange(3, 3 + length, dtype=np.int32) for length in (40, 7, 1, 23)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


@pytest.fixture(autouse=True)
def _several_threads_for_products() -> Iterator[None]:
    """As NumPy has them by itself where there are several processors."""
    with threadpool_limits(3, user_api="blas"):
        yield


def threads_for_products() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


class Watched(Qwen3Checkpoint):
    """Lets texts go on when as many as expected are being computed."""

    def __init__(self, directory: Path, side_by_side: int) -> None:
        super().__init__(directory)
        self._together = Barrier(side_by_side)
        self.seen: list[set[int]] = []

    def embed(self, ids: NDArray[np.int32], positions: NDArray[np.int32] | None = None) -> Floats:
        self._together.wait(timeout=60)
        self.seen.append(threads_for_products())
        return super().embed(ids, positions)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_texts_as_there_are_threads_are_computed_at_once_with_a_thread_each(
    directory: Path, threads: int
) -> None:
    checkpoint = Watched(directory, threads)
    engine = PlainEngine(checkpoint, threads=threads, max_tokens=64, batch_tokens=64)
    embed(engine, TEXTS)
    engine.close()
    assert checkpoint.seen == [{1}] * len(TEXTS)
    assert threads_for_products() == {3}, "others have theirs back"


def test_a_text_has_the_same_bits_in_any_batch_on_any_number_of_threads(directory: Path) -> None:
    one, several = (
        load_engine(directory, EngineOptions(kernels="numpy", dtype="f32", threads=threads))
        for threads in (1, 4)
    )
    alone = np.concatenate([embed(one, [text]) for text in TEXTS])
    np.testing.assert_array_equal(embed(several, TEXTS), alone)
    np.testing.assert_array_equal(embed(several, TEXTS[::-1]), alone[::-1])
