"""The engine on our own kernels, against the suite for all engines and in what is its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native.choice import choose_set
from embedfleet.engines.native.engine import NativeEngine, NativeSettings
from embedfleet.engines.native.library import load
from embedfleet.engines.native.memory import needed_mib
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint, read_config
from embedfleet.vocabulary import Encoding, Precision, Vectors
from tests.checkpoints import LARGE, SMALL, Geometry, random_weights, write_checkpoint
from tests.conformance.engine_conformance import (
    ClosingConformance,
    EngineConformance,
    embed,
    random_texts,
)
from tests.engines.kernels import OURS, RUNNING, needs_native, way
from tests.engines.watching import watched_memory

pytestmark = needs_native

DTYPES = ("f32", "int8")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


@pytest.fixture(scope="module", params=OURS)
def instructions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(
    directory: Path,
    dtype: str = "f32",
    threads: int | None = None,
    batch_tokens: int | None = None,
    *,
    instructions: str = "native",
) -> Engine:
    return load_engine(
        directory,
        EngineOptions(
            dtype=dtype,
            max_tokens=2_048,
            threads=threads,
            batch_tokens=batch_tokens,
            **way(instructions),
        ),
    )


@pytest.fixture(scope="module", params=DTYPES)
def native(request: pytest.FixtureRequest, directory: Path, instructions: str) -> Engine:
    return engine_of(directory, request.param, instructions=instructions)


class TestNativeEngine(EngineConformance, ClosingConformance):
    tolerance: ClassVar[float] = 0.0

    @pytest.fixture
    def engine(self, native: Engine) -> Engine:
        return native

    @pytest.fixture
    def closing(self, directory: Path) -> Engine:
        return engine_of(directory)


@dataclass(frozen=True, slots=True)
class Bits:
    engines: list[Engine]
    """Of other threads and other passes: what is shared out differs in each."""
    texts: list[Encoding]
    alone: list[bytes]
    """The vector of each text, computed alone by the first engine."""


def older_engine_of(directory: Path, threads: int, batch_tokens: int) -> Engine:
    """int8 as on processors with VNNI whose attention is float32, for want of bfloat16."""
    settings = NativeSettings(
        precision=Precision.INT8,
        instructions=choose_set("auto", load().sets),
        bfloat16=False,
        threads=threads,
        batch_tokens=batch_tokens,
        memory_mib=1_024,
        max_tokens=2_048,
    )
    return NativeEngine(Qwen3Checkpoint(directory), settings, load())


@pytest.fixture(scope="module", params=[*DTYPES, "int8 without bfloat16"])
def bits(request: pytest.FixtureRequest, directory: Path, instructions: str) -> Bits:
    counts = ((1, 1_024), (2, 1_024), (3, 1_024), (5, 256), (2, 64))
    if request.param in DTYPES:
        engines = [
            engine_of(directory, request.param, *each, instructions=instructions) for each in counts
        ]
    elif instructions == RUNNING[0]:
        engines = [older_engine_of(directory, *each) for each in counts]
    else:
        pytest.skip("only the best instruction set may have bfloat16, and be without")
    lengths = np.random.default_rng(5).lognormal(3, 1.2, 32).astype(int).clip(1, 400)
    texts = random_texts(engines[0], [1, 2, 15, 16, 17, 95, 96, 97, *lengths])
    return Bits(engines, texts, [embed(engines[0], [text])[0].tobytes() for text in texts])


@settings(max_examples=12, deadline=None)  # for each number and instruction set
@given(data=st.data())
def test_a_text_has_the_same_bits_alone_and_anywhere_in_any_batch_on_any_threads(
    bits: Bits, data: st.DataObject
) -> None:
    engine = data.draw(st.sampled_from(bits.engines))
    any_text = st.integers(0, len(bits.texts) - 1)
    batch = data.draw(st.lists(any_text, min_size=1, max_size=30))
    vectors = embed(engine, [bits.texts[index] for index in batch])
    assert [vector.tobytes() for vector in vectors] == [bits.alone[index] for index in batch]


@settings(max_examples=8, deadline=None)  # for each number and instruction set
@given(data=st.data())
def test_texts_that_begin_alike_have_the_bits_that_they_have_alone(
    bits: Bits, data: st.DataObject
) -> None:
    engine = data.draw(st.sampled_from(bits.engines))
    beginnings = [text for text in bits.texts if len(text) >= 15]
    texts = [
        np.concatenate(
            (
                data.draw(st.sampled_from(beginnings))[: data.draw(st.integers(1, 200))],
                data.draw(st.sampled_from(bits.texts))[: data.draw(st.integers(1, 60))],
            )
        )
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    every = st.tuples(st.sampled_from(texts), st.sampled_from(bits.texts))
    batch = [
        np.concatenate((first, last[:40]))
        for first, last in data.draw(st.lists(every, min_size=2, max_size=12))
    ]
    vectors = embed(engine, batch)
    alone = [embed(bits.engines[0], [text])[0] for text in batch]
    assert vectors.tobytes() == np.stack(alone).tobytes()


def test_float32_has_the_same_bits_with_every_instruction_set_that_multiplies_and_adds_at_once(
    directory: Path,
) -> None:
    engines = [engine_of(directory, instructions=name) for name in RUNNING if name != "portable"]
    texts = random_texts(engines[0], [1, 2, 17, 64, 100, 300])
    first, *others = [embed(engine, texts) for engine in engines]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_int8_is_as_exact_without_products_of_bfloat16(directory: Path) -> None:
    exact, usual = (engine_of(directory, dtype) for dtype in ("f32", "int8"))
    older = older_engine_of(directory, 1, 1_024)
    texts = random_texts(exact, [1, 2, 17, 64, 100, 300])
    reference = embed(exact, texts)
    for engine in (usual, older):
        assert np.einsum("ij,ij->i", embed(engine, texts), reference).min() > 0.995


SHAPES = (
    Geometry(hidden=256, layers=2, heads=4, kv_heads=4, head_dim=64, intermediate=512),
    Geometry(hidden=128, layers=2, heads=8, kv_heads=4, head_dim=32, intermediate=320),
    Geometry(hidden=192, layers=2, heads=8, kv_heads=2, head_dim=128, intermediate=448),
    Geometry(hidden=640, layers=1, heads=10, kv_heads=2, head_dim=64, intermediate=1_536),
    Geometry(hidden=64, layers=3, heads=4, kv_heads=1, head_dim=32, intermediate=64),
    Geometry(hidden=128, layers=2, heads=2, kv_heads=1, head_dim=256, intermediate=128),
)
"""Key heads shared by 1, 2, 4 and 5 query heads; heads of 32 to 256."""


@dataclass(frozen=True, slots=True)
class ByNumpy:
    """A checkpoint, and what NumPy makes of texts with it."""

    directory: Path
    texts: list[Encoding]
    vectors: Vectors


@pytest.fixture(scope="module")
def by_numpy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Geometry], ByNumpy]:
    """Of a shape, computed once for all instruction sets."""

    @cache
    def of(shape: Geometry) -> ByNumpy:
        directory = tmp_path_factory.mktemp("shape")
        write_checkpoint(directory, random_weights(shape), shape)
        engine = load_engine(directory, EngineOptions(dtype="f32", kernels="numpy"))
        texts = random_texts(engine, [1, 2, 3, 16, 33, 100, 257])
        return ByNumpy(directory, texts, embed(engine, texts))

    return of


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_agrees_with_numpy(
    shape: Geometry, by_numpy: Callable[[Geometry], ByNumpy], instructions: str
) -> None:
    theirs = by_numpy(shape)
    f32, int8 = (
        embed(engine_of(theirs.directory, dtype, instructions=instructions), theirs.texts)
        for dtype in DTYPES
    )
    np.testing.assert_allclose(f32, theirs.vectors, atol=5e-6)
    assert np.einsum("ij,ij->i", int8, theirs.vectors).min() > 0.985


def test_a_long_text_agrees_with_numpy(directory: Path) -> None:
    theirs = load_engine(directory, EngineOptions(dtype="f32", kernels="numpy"))
    texts = random_texts(theirs, [4_096])
    expected = embed(theirs, texts)
    for dtype, tolerance in (("f32", 5e-6), ("int8", 0.03)):
        ours = load_engine(directory, EngineOptions(dtype=dtype, kernels="native"))
        np.testing.assert_allclose(embed(ours, texts), expected, atol=tolerance, err_msg=dtype)


def test_a_long_text_between_short_ones_changes_none_of_them(directory: Path) -> None:
    engine = engine_of(directory, batch_tokens=64)
    texts = random_texts(engine, [3, 1_500, 7, 2_048, 64])
    alone = np.concatenate([embed(engine, [text]) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan], ids=str)
def test_a_text_that_overflows_is_not_finite_and_its_neighbours_are_untouched(
    tmp_path: Path, dtype: str, wrong: float, instructions: str
) -> None:
    weights = random_weights(SMALL)
    weights["embed_tokens.weight"][7] = wrong
    directory = write_checkpoint(tmp_path, weights, SMALL)
    engine = engine_of(directory, dtype, instructions=instructions)
    good = [text[text != 7] for text in random_texts(engine, [40, 33, 65])]
    bad: Encoding = np.array([3, 7, 5], np.int32)
    alone = embed(engine, good)
    together = embed(engine, [good[0], bad, good[1], good[2]])
    assert finite_rows(together).tolist() == [True, False, True, True]
    np.testing.assert_array_equal(together[[0, 2, 3]], alone)
    np.testing.assert_array_equal(embed(engine, good), alone)  # nothing is left behind


def test_preparing_does_not_wait_for_the_batch_that_computes(directory: Path) -> None:
    engine = engine_of(directory)
    assert isinstance(engine, NativeEngine)
    with engine._computing, ThreadPoolExecutor(1) as another:  # as a computation holds it
        prepared = another.submit(engine.prepare, random_texts(engine, [5, 9]))
        compute = prepared.result(timeout=60)
    assert finite_rows(compute()).all()


def test_other_python_threads_run_while_it_computes(directory: Path) -> None:
    engine = engine_of(directory, threads=1)
    compute = engine.prepare(random_texts(engine, [1_000] * 4))
    steps = 0
    with ThreadPoolExecutor(1) as another:
        computing = another.submit(compute)
        while not computing.done():
            steps += 1
    assert steps > 1_000  # with the interpreter locked up in the computation there are a few


def tasks() -> set[str]:
    """The threads of this process, as the kernel numbers them."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def end(threads: set[str]) -> bool:
    """Whether they do; Python waits for none of its own to the very end."""
    deadline = time.monotonic() + 60
    while threads & tasks():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_closing_ends_its_threads(directory: Path) -> None:
    before = tasks()
    engine = engine_of(directory, threads=4)
    embed(engine, random_texts(engine, [100]))
    started = tasks() - before
    assert len(started) >= 3  # and the one that calls
    engine.close()
    assert end(started)


def test_an_engine_that_nobody_closed_leaves_no_thread_behind(directory: Path) -> None:
    before = tasks()
    engine = engine_of(directory, threads=4)
    started = tasks() - before
    assert len(started) >= 3
    del engine
    gc.collect()
    assert end(started)


NO_MEMORY = """
import resource
import sys
from pathlib import Path
import numpy as np
from embedfleet.engines.loading import EngineOptions, load_engine

engine = load_engine(Path(sys.argv[1]), EngineOptions(dtype="f32", threads=2, kernels="native"))
short, long = (engine.prepare([np.arange(tokens, dtype=np.int32) % 3_000]) for tokens in (9, 4_096))
before = short()
pages = int(Path("/proc/self/statm").read_text().split()[0])
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), most))
try:
    long()
except MemoryError as error:
    assert "4096 tokens" in str(error), error
else:
    sys.exit("there was memory")
np.testing.assert_array_equal(short(), before)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
assert np.isfinite(long()).all()
"""


def test_a_pass_without_memory_fails_alone_and_the_engine_serves_on(directory: Path) -> None:
    only = {"MALLOC_ARENA_MAX": "1"}  # what other threads have reserved is no memory to count on
    subprocess.run([sys.executable, "-c", NO_MEMORY, directory], check=True, env=os.environ | only)


@pytest.mark.slow
def test_32768_tokens_of_the_06b_geometry_fit_the_memory_that_was_set(tmp_path: Path) -> None:
    """Two layers; one matrix [tokens, tokens] of one head alone would take 4 GiB.

    The budget needs no tolerance: of its 685 MiB 664 are used on any processor, whatever ran
    before, as 16 are for tables twice as long, which other lengths have. What Python, the watcher
    and stacks take meanwhile is half a MiB.
    """
    geometry = replace(LARGE, layers=2, vocabulary=2_000)
    write_checkpoint(tmp_path, random_weights(geometry), geometry)
    memory_mib = needed_mib(read_config(tmp_path / "config.json"), load().numbers, 2, 32_768)
    options = EngineOptions(threads=2, memory_mib=memory_mib, kernels="native")
    engine = load_engine(tmp_path, options)
    (text,) = random_texts(engine, [32_768])
    with watched_memory() as samples:
        vectors = embed(engine, [text])
    assert finite_rows(vectors).all()
    assert max(samples) < memory_mib
    assert samples[-1] < memory_mib / 4  # and it is given back


@pytest.mark.slow
def test_agreement_holds_one_layer_in_float32_at_a_time(tmp_path: Path) -> None:
    geometry = replace(LARGE, layers=4, vocabulary=2_000)
    write_checkpoint(tmp_path, random_weights(geometry), geometry)
    engine = load_engine(tmp_path, EngineOptions(dtype="int8", threads=2, kernels="native"))
    assert isinstance(engine, NativeEngine)
    with watched_memory() as samples:
        assert engine.agreement().layers == geometry.layers
    assert max(samples) < 1.5 * 4 * geometry.linear_parameters / geometry.layers / 2**20


@pytest.mark.slow
def test_loading_takes_hardly_more_memory_than_the_packed_weights_and_closing_gives_it_back(
    tmp_path: Path,
) -> None:
    geometry = replace(LARGE, layers=4, vocabulary=2_000)
    write_checkpoint(tmp_path, random_weights(geometry), geometry)
    with watched_memory() as samples:
        # Each thread that packs has a few MiB of its own at hand.
        engine = load_engine(tmp_path, EngineOptions(dtype="int8", threads=2, kernels="native"))
        engine.close()
    weights_mib = geometry.linear_parameters / 2**20
    embeddings_mib = geometry.vocabulary * geometry.hidden * 2 / 2**20  # the engine's until its end
    assert max(samples) < 1.2 * weights_mib + embeddings_mib
    assert samples[-1] < 0.1 * weights_mib + embeddings_mib
