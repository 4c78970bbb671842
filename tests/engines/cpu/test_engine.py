"""The engine on OpenVINO, against the suite for all engines and in what is its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.vocabulary import Encoding, Precision
from tests.checkpoints import LARGE, SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import (
    ClosingConformance,
    EngineConformance,
    embed,
    random_texts,
)
from tests.engines.kernels import INT8
from tests.engines.watching import watched_memory

pytest.importorskip("openvino", reason="OpenVINO, an extra, is not installed")

from embedfleet.engines.cpu.engine import CpuEngine, CpuSettings

DTYPES = ("f32", "int8") if "openvino" in INT8 else ("f32",)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


def options(dtype: str = "f32", memory_mib: int | None = None) -> EngineOptions:
    return EngineOptions(dtype=dtype, max_tokens=2_048, memory_mib=memory_mib, kernels="openvino")


@pytest.fixture(scope="module", params=DTYPES)
def cpu(request: pytest.FixtureRequest, directory: Path) -> Engine:
    return load_engine(directory, options(request.param))


class TestCpuEngine(EngineConformance, ClosingConformance):
    @pytest.fixture
    def engine(self, cpu: Engine) -> Engine:
        return cpu

    @pytest.fixture
    def closing(self, directory: Path) -> Engine:
        return load_engine(directory, options())


def test_preparing_does_not_wait_for_the_batch_that_computes(directory: Path) -> None:
    engine = load_engine(directory, options())
    assert isinstance(engine, CpuEngine)
    with engine._computing, ThreadPoolExecutor(1) as another:  # as a computation holds it
        prepared = another.submit(engine.prepare, random_texts(engine, [5, 9]))
        compute = prepared.result(timeout=60)
    assert finite_rows(compute()).all()


def test_other_python_threads_run_while_it_computes(directory: Path) -> None:
    engine = load_engine(directory, options())
    compute = engine.prepare(random_texts(engine, [1_000] * 2))
    steps = 0
    with ThreadPoolExecutor(1) as another:
        computing = another.submit(compute)
        while not computing.done():
            steps += 1
    assert steps > 1_000  # with the interpreter locked up in the computation there are a few


def test_a_text_that_overflows_is_not_finite_and_its_neighbours_are_untouched(
    tmp_path: Path,
) -> None:
    weights = random_weights(SMALL)
    weights["embed_tokens.weight"][7] = np.inf
    engine = load_engine(write_checkpoint(tmp_path, weights, SMALL), options())
    good = [text for text in random_texts(engine, [40, 33, 65]) if 7 not in text]
    assert len(good) == 3
    bad: Encoding = np.array([3, 7, 5], np.int32)
    alone = embed(engine, good)
    together = embed(engine, [good[0], bad, good[1], good[2]])
    assert finite_rows(together).tolist() == [True, False, True, True]
    np.testing.assert_array_equal(together[[0, 2, 3]], alone)
    np.testing.assert_array_equal(embed(engine, good), alone)  # nothing is left behind


@pytest.fixture(scope="module", params=DTYPES)
def engines(request: pytest.FixtureRequest, directory: Path) -> tuple[Engine, Engine]:
    """One with room for all of a long text, and one without."""
    roomy, tight = (
        load_engine(directory, options(request.param, memory_mib)) for memory_mib in (1_024, 24)
    )
    return roomy, tight


class TestLongTexts:
    """Texts beyond the memory budget go layer by layer, in chunks."""

    LENGTHS = (2_048, 1_999, 1_025)

    def test_they_have_the_vectors_of_a_single_pass(self, engines: tuple[Engine, Engine]) -> None:
        roomy, tight = engines
        texts = random_texts(roomy, self.LENGTHS)
        assert tight.info.batch_tokens < min(self.LENGTHS)
        np.testing.assert_allclose(embed(tight, texts), embed(roomy, texts), atol=1e-6)

    def test_they_may_lie_between_short_ones(self, engines: tuple[Engine, Engine]) -> None:
        _, engine = engines
        texts = random_texts(engine, [3, 1_500, 7])
        alone = np.concatenate([embed(engine, [text]) for text in texts])
        np.testing.assert_array_equal(embed(engine, texts), alone)

    def test_the_end_of_the_text_decides_where_it_is_cut_and_changes_nothing(
        self, engines: tuple[Engine, Engine]
    ) -> None:
        roomy, tight = engines
        (text,) = random_texts(roomy, [1_100])
        for length in (1_056, 1_057, 1_087, 1_088, 1_100):
            one, other = embed(roomy, [text[:length]]), embed(tight, [text[:length]])
            np.testing.assert_allclose(one, other, atol=1e-6)


def padded_engine(directory: Path, memory_mib: int = 1_024) -> CpuEngine:
    """As on processors for which OpenVINO has no paged attention."""
    settings = CpuSettings(Precision.F32, 2, 1_024, memory_mib, 2_048, "padded")
    return CpuEngine(Qwen3Checkpoint(directory), settings)


@pytest.fixture(scope="module")
def padded(directory: Path) -> Engine:
    return padded_engine(directory)


class TestPaddedAttention(EngineConformance, ClosingConformance):
    @pytest.fixture
    def engine(self, padded: Engine) -> Engine:
        return padded

    @pytest.fixture
    def closing(self, directory: Path) -> Engine:
        return padded_engine(directory)

    def test_it_has_the_vectors_of_paged_attention(self, engine: Engine, directory: Path) -> None:
        paged = load_engine(directory, options())
        texts = random_texts(engine, [1, 7, 33, 200, 2, 1_000, 64])
        np.testing.assert_allclose(embed(engine, texts), embed(paged, texts), atol=1e-6)

    def test_a_text_that_overflows_reaches_no_other(self, tmp_path: Path) -> None:
        weights = random_weights(SMALL)
        weights["embed_tokens.weight"][7] = np.inf
        engine = padded_engine(write_checkpoint(tmp_path, weights, SMALL))
        good = [text for text in random_texts(engine, [40, 33, 65]) if 7 not in text]
        bad: Encoding = np.array([3, 7, 5], np.int32)
        together = embed(engine, [good[0], bad, good[1], good[2]])
        assert finite_rows(together).tolist() == [True, False, True, True]
        np.testing.assert_allclose(together[[0, 2, 3]], embed(engine, good), atol=1e-6)


@pytest.mark.slow
def test_32768_tokens_of_the_06b_geometry_fit_the_memory_that_was_set(tmp_path: Path) -> None:
    """Two layers; one matrix [tokens, tokens] of one head alone would take 4 GiB."""
    geometry = replace(LARGE, layers=2, vocabulary=2_000)
    write_checkpoint(tmp_path, random_weights(geometry), geometry)
    memory_mib = 800
    limited = EngineOptions(threads=2, memory_mib=memory_mib, kernels="openvino")
    engine = load_engine(tmp_path, limited)
    (text,) = random_texts(engine, [32_768])
    with watched_memory() as samples:
        vectors = embed(engine, [text])
    assert finite_rows(vectors).all()
    one_layer_mib = geometry.linear_parameters / 2 * 4 / 2**20
    assert max(samples) < memory_mib + one_layer_mib
    assert samples[-1] < memory_mib / 4  # and it is given back
