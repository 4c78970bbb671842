"""What only a GPU can show: kernels, captured passes, the whole engine, bits that do not change.

Skipped where there is none, as in CI; runs on a GPU are recorded in benchmarks/results.
"""

# ruff: noqa: E402  # what is imported needs torch and a GPU, and is looked for first

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU here", allow_module_level=True)

from embedfleet.engines.architectures import open_checkpoint
from embedfleet.engines.cuda.devices import (
    CudaDevice,
    Processor,
    brings_up_early,
    capabilities,
    find_device,
)
from embedfleet.engines.cuda.engine import CudaEngine, CudaSettings
from embedfleet.engines.cuda.few_rows import FewRowsKernel
from embedfleet.engines.cuda.fused import TILES, FusedOperations
from embedfleet.engines.cuda.layout import lay_out
from embedfleet.engines.cuda.linear import Ready, quantised
from embedfleet.engines.cuda.operations import ALONE_FROM
from embedfleet.engines.cuda.plain import Heads, PlainOperations, Rotation, parts_of
from embedfleet.engines.plain import PlainEngine
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint, Qwen3Config, read_config
from embedfleet.engines.rope import cosines_and_sines
from embedfleet.models.source import BUILT_IN, BUILTIN_RERANKER
from embedfleet.vocabulary import Precision, SettingError, Task
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import (
    ClosingConformance,
    EngineConformance,
    embed,
    random_texts,
    random_tree,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

FOUR_B = Qwen3Config(2560, 36, 32, 8, 128, 9728, 151_665, 1e-6, 1e6, 40_960, True)
SMALLEST = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, True)
EARLY = brings_up_early(torch.device("cuda"))
LENGTHS = [1, 5, 15, 16, 17, 33, 64, 150, 1_000, ALONE_FROM - 1, ALONE_FROM, ALONE_FROM, 3_000]


class Random:
    """Fresh numbers each time: a kernel must compute the same function of any."""

    def __init__(self) -> None:
        self._generator = torch.Generator("cuda").manual_seed(time.time_ns() % 2**31)

    def __call__(self, *shape: int) -> Any:
        made = torch.randn(*shape, device="cuda", generator=self._generator)
        return made.to(torch.bfloat16)


def far(found: Any, expected: Any) -> float:
    found, expected = found.double(), expected.double()
    assert torch.isfinite(found).all()
    return float((found - expected).norm() / expected.norm())


def rotation(config: Qwen3Config) -> Rotation:
    table = cosines_and_sines(config, config.max_positions)
    return Rotation(*(torch.from_numpy(each).cuda() for each in table))


def wide(ready: Ready) -> Any:
    values = ready.values.float()
    return values if ready.scales is None else values * ready.scales


@pytest.mark.parametrize("config", [FOUR_B, SMALLEST], ids=["4B", "0.6B"])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
class TestKernels:
    """Each against plain torch on the same numbers."""

    @pytest.fixture
    def operations(self, config: Qwen3Config, fp8: bool) -> tuple[FusedOperations, PlainOperations]:
        table = rotation(config)
        fused = FusedOperations(config, table, fp8=fp8, early=EARLY)
        return fused, PlainOperations(config, table, fp8=fp8)

    def test_norms_with_and_without_a_sum(
        self, operations: Any, config: Qwen3Config, fp8: bool
    ) -> None:
        fused, plain = operations
        random = Random()
        x, delta, weight = (
            random(77, config.hidden),
            random(77, config.hidden),
            random(config.hidden),
        )
        for added in (None, delta):
            one, other = x.clone(), x.clone()
            found, expected = fused.norm(one, weight, added), plain.norm(other, weight, added)
            assert far(wide(found), wide(expected)) < 2e-3  # a rounding that falls the other way
            assert torch.equal(one, other)
            unit = fused.unit(x, weight, added)
            assert far(unit, plain.unit(x, weight, added)) < 1e-6

    def test_gates_and_quantisation(self, operations: Any, config: Qwen3Config, fp8: bool) -> None:
        fused, plain = operations
        random = Random()
        gate_up = random(77, 2 * config.intermediate)
        gate_up[:, 0], gate_up[:, 1] = 200.0, -200.0  # where e^-x is 0 or infinite
        assert far(wide(fused.gate(gate_up)), wide(plain.gate(gate_up))) < 2e-3

    def test_rows_of_zeros_stay_zero(self, operations: Any, config: Qwen3Config, fp8: bool) -> None:
        fused, _ = operations
        zeros = torch.zeros(5, 2 * config.intermediate, dtype=torch.bfloat16, device="cuda")
        weight = Random()(config.hidden)
        assert not wide(fused.gate(zeros)).any()
        assert not wide(fused.norm(zeros[:, : config.hidden].contiguous(), weight, None)).any()

    def test_what_is_no_number_stays_in_its_row(
        self, operations: Any, config: Qwen3Config, fp8: bool
    ) -> None:
        fused, _ = operations
        random = Random()
        x, gate_up = random(5, config.hidden), random(5, 2 * config.intermediate)
        for place, bad in ((0, float("nan")), (-1, float("inf"))):
            one, other = x.clone(), gate_up.clone()
            one[2, place] = other[2, place] = bad
            for found in (fused.norm(one, random(config.hidden), None), fused.gate(other)):
                finite = torch.isfinite(wide(found)).all(1).tolist()
                assert finite == [True, True, False, True, True]

    @pytest.mark.parametrize(
        "lengths", [LENGTHS, [n for n in LENGTHS if n < ALONE_FROM]], ids=["all", "in tiles"]
    )
    def test_attention_of_texts_of_all_lengths(
        self, operations: Any, config: Qwen3Config, fp8: bool, lengths: list[int]
    ) -> None:
        fused, _ = operations
        random = Random()
        layout = lay_out(lengths, tile_tokens=TILES.tokens(config), alone_from=ALONE_FROM)
        array = np.zeros(layout.shape.size, np.int32)
        layout.write([np.zeros(n, np.int32) for n in lengths], layout.shape, array)
        _, texts = parts_of(torch.from_numpy(array).cuda(), layout.shape, layout)
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        mixed = random(layout.tokens, queries + 2 * keys)
        last = random(len(lengths), queries)
        norms = random(config.head_dim), random(config.head_dim)

        def heads(made: Any, asking: Any = None) -> Heads:
            made = made.clone()  # they may be overwritten
            own = made[:, :queries] if asking is None else asking.clone()
            seen = made[:, queries : queries + keys], made[:, queries + keys :]
            return Heads(own, *seen, *norms)

        exact = heads(mixed.float())
        exact = Heads(exact.queries.float(), exact.keys.float(), exact.values.float(), *norms)
        within = 0.03 if fp8 else 6e-3  # three bits are 0.025 away at the mean
        true = PlainOperations(config, rotation(config), fp8=False)
        expected = true.attend(exact, texts, last=False).values
        assert far(wide(fused.attend(heads(mixed), texts, last=False)), expected) < within
        expected = true.attend(heads(mixed.float(), last.float()), texts, last=True).values
        assert far(wide(fused.attend(heads(mixed, last), texts, last=True)), expected) < within


@pytest.mark.parametrize("early", [False, True] if EARLY else [False])
@pytest.mark.parametrize("shape", [(6144, 2560), (2560, 9728), (2576, 4096), (48, 256)])
def test_products_of_few_rows_are_products(early: bool, shape: tuple[int, int]) -> None:
    random, kernel = Random(), FewRowsKernel(torch.device("cuda"), early=early)
    outputs, inputs = shape
    weight = random(outputs, inputs)
    weights, weight_scales = quantised(weight)
    across = weight_scales.t().contiguous()
    for rows in (1, 7, 16, 33, 64):
        x, before = random(rows, inputs), random(rows, outputs)
        product = x.double() @ weight.double().t()
        assert far(kernel.times(Ready(x), weight, None, None), product) < 3e-3
        added = before.clone()
        kernel.times(Ready(x), weight, None, added)
        assert far(added, before.double() + product) < 3e-3
        ready = Ready(*quantised(x))
        exact = (ready.values.double() * ready.scales) @ (weights.double() * weight_scales).t()
        assert far(kernel.times(ready, weights, across, None), exact) < 3e-3


def test_products_of_few_rows_have_the_same_bits_each_time() -> None:
    random, kernel = Random(), FewRowsKernel(torch.device("cuda"), early=EARLY)
    x, weight = Ready(random(16, 9728)), random(2560, 9728)
    first = kernel.times(x, weight, None, None)
    for _ in range(50):
        assert torch.equal(kernel.times(x, weight, None, None), first)


def engine_on(
    device: CudaDevice | Processor, directory: Path, precision: Precision, **options: Any
) -> CudaEngine:
    settings = CudaSettings(precision, options.pop("batch_tokens", 4_096), 4_096, **options)
    return CudaEngine(Qwen3Checkpoint(directory), settings, device)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


@pytest.fixture(scope="module", params=[Precision.F32, Precision.BF16, Precision.FP8])
def precision(request: pytest.FixtureRequest) -> Precision:
    return Precision(request.param)


@pytest.fixture(scope="module")
def usual(directory: Path, precision: Precision) -> Engine:
    return engine_on(find_device("cuda"), directory, precision)


@pytest.fixture(scope="module")
def deterministic(directory: Path, precision: Precision) -> Engine:
    return engine_on(find_device("cuda"), directory, precision, deterministic=True)


class TestEngineOnAGpu(EngineConformance, ClosingConformance):
    # Another number of rows is another order of summing, and in FP8 that decides roundings to
    # three bits: some dimensions of vectors of pure noise move by 0.02.
    tolerance = 0.03

    @pytest.fixture
    def engine(self, usual: Engine) -> Engine:
        return usual

    @pytest.fixture
    def closing(self, directory: Path) -> Engine:
        return engine_on(find_device("cuda"), directory, Precision.BF16)


class TestDeterministicEngineOnAGpu(EngineConformance):
    tolerance = 0.0

    @pytest.fixture
    def engine(self, deterministic: Engine) -> Engine:
        return deterministic


def test_it_agrees_with_the_same_engine_on_the_processor(
    directory: Path, usual: Engine, precision: Precision
) -> None:
    texts = random_texts(usual, [1, 9, 40, 130, 700, 2_048, 2_500, 4_000], seed=time.time_ns())
    expected = embed(engine_on(Processor(), directory, precision), texts)
    cosines = np.einsum("ij,ij->i", embed(usual, texts), expected)
    assert cosines.min() > {Precision.F32: 0.99999, Precision.BF16: 0.9995}.get(precision, 0.99)


@pytest.mark.parametrize("seed", range(4))
def test_texts_that_share_first_tokens_have_the_bits_they_have_alone_in_deterministic_mode(
    deterministic: Engine, seed: int
) -> None:
    texts = random_tree(np.random.default_rng(seed), deterministic.info.vocabulary)
    alone = np.concatenate([embed(deterministic, [text]) for text in texts])
    np.testing.assert_array_equal(embed(deterministic, texts), alone)


def test_texts_that_share_first_tokens_are_near_those_computed_apart(
    usual: Engine, precision: Precision
) -> None:
    texts = random_tree(np.random.default_rng(time.time_ns()), usual.info.vocabulary)
    alone = np.concatenate([embed(usual, [text]) for text in texts])
    together = embed(usual, texts)
    if precision is Precision.F32:
        np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.einsum("ij,ij->i", together, alone).min() > 0.99


def test_long_texts_neither_lend_their_first_tokens_nor_share_them(deterministic: Engine) -> None:
    texts = random_texts(deterministic, [64, 100, ALONE_FROM - 1, ALONE_FROM, 3_000])
    for text in texts[1:]:
        text[:64] = texts[0]
    alone = np.concatenate([embed(deterministic, [text]) for text in texts])
    np.testing.assert_array_equal(embed(deterministic, texts), alone)


def test_passes_of_long_texts_one_after_the_other_see_nothing_of_each_other(
    deterministic: Engine,
) -> None:
    """Attention is launched between graphs that write the same memory in each pass."""
    passes = [
        random_texts(deterministic, [ALONE_FROM + tokens for tokens in more] + short, seed=seed)
        for seed, (more, short) in enumerate(
            [([0, 0], []), ([900], [30, 700]), ([0], [5] * 20), ([452], [1_500]), ([1, 0], [])]
        )
    ]
    alone = [np.concatenate([embed(deterministic, [text]) for text in texts]) for texts in passes]
    for texts, expected in [*zip(passes, alone, strict=True)] * 2:
        np.testing.assert_array_equal(embed(deterministic, texts), expected)


def test_long_texts_go_in_steps_and_have_the_same_vectors(directory: Path) -> None:
    roomy = engine_on(find_device("cuda"), directory, Precision.BF16)
    tight = engine_on(find_device("cuda"), directory, Precision.BF16, batch_tokens=600)
    texts = random_texts(roomy, [3, 1_500, 4_000, 7])
    np.testing.assert_allclose(embed(tight, texts), embed(roomy, texts), atol=5e-3)


def test_short_texts_from_many_threads_each_get_their_own_vector(directory: Path) -> None:
    """Each is given to the GPU by its own thread where no other is doing so."""
    engine = engine_on(find_device("cuda"), directory, Precision.BF16)
    texts = random_texts(engine, [1 + turn % 64 for turn in range(400)])
    expected = [embed(engine, [text])[0] for text in texts]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: embed(engine, [text])[0], texts))
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_compute_on_a_gpu_what_they_do_on_a_processor(
    name: str, precision: Precision
) -> None:
    task = Task.RERANK if name == BUILTIN_RERANKER else Task.EMBED
    checkpoint = open_checkpoint(BUILT_IN[name], task)
    exact = PlainEngine(checkpoint, threads=2, max_tokens=512, batch_tokens=1_024)
    engine = CudaEngine(checkpoint, CudaSettings(precision, 4_096, 512), find_device("cuda"))
    texts = random_texts(exact, [1, 2, 7, 16, 33, 64, 100, 300, 500, 500], seed=time.time_ns())
    found, expected = embed(engine, texts), embed(exact, texts)
    far = {Precision.F32: 1e-5, Precision.BF16: 0.02}.get(precision, 0.1)
    np.testing.assert_allclose(found, expected, atol=far)


def test_memory_that_a_person_allows_is_all_that_is_taken(directory: Path) -> None:
    engine = engine_on(find_device("cuda"), directory, Precision.BF16, memory_mib=600)
    embed(engine, random_texts(engine, [engine.info.max_tokens, 700, 8]))
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(100 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_it_names_its_gpu_and_refuses_one_that_is_not_there(directory: Path) -> None:
    info = engine_on(find_device("cuda:0"), directory, Precision.BF16).info
    assert info.device == "cuda:0"
    assert info.device_uuid
    with pytest.raises(SettingError, match="this machine has cuda:0"):
        find_device("cuda:63")


LOSES_ITS_GPU = """
import numpy as np, torch
from pathlib import Path
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.vocabulary import EngineLostError

options = EngineOptions(device="cuda", dtype="bf16", max_tokens=512)
engine = load_engine(Path("src/embedfleet/models/builtin"), options)
text = [np.array([5, 6], np.int32)]
engine.prepare(text)()
torch.zeros(4, device="cuda").index_select(0, torch.tensor([9], device="cuda"))
for _ in range(2):
    try:
        engine.prepare(text)()
    except EngineLostError as error:
        print(error, flush=True)
"""


def test_an_engine_whose_gpu_is_lost_says_so_each_time() -> None:
    """In a process of its own, which torch may end by a signal: its GPU is lost for good."""
    command = [sys.executable, "-c", LOSES_ITS_GPU]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=ROOT, text=True).stdout
    assert told.count("cuda:0 is lost and computes nothing more") == 2


def test_it_tells_what_its_gpus_can() -> None:
    found = capabilities()
    assert len(found) == torch.cuda.device_count()
    assert (found[0][0] >= 9) == EARLY


def test_the_geometry_of_the_small_model_is_what_tests_think(directory: Path) -> None:
    assert read_config(directory / "config.json").head_dim == 128
