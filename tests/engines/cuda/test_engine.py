"""The engine for GPUs on torch's CPU device: its own code, in plain torch instead of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")

import torch

import embedfleet
from embedfleet.engines.cuda.devices import Fetched, Processor, is_loss
from embedfleet.engines.cuda.engine import CudaEngine, CudaSettings
from embedfleet.engines.cuda.plain import attention_of_one
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint, Qwen3Config
from embedfleet.vocabulary import Encoding, EngineLostError, Precision, SettingError, Vectors
from tests.checkpoints import (
    NARROW,
    SMALL,
    Geometry,
    Layout,
    Weights,
    random_weights,
    write_checkpoint,
)
from tests.conformance.engine_conformance import (
    ClosingConformance,
    EngineConformance,
    embed,
    random_texts,
    random_tree,
)
from tests.engines.cuda.in_interpreter import needs_triton, run_interpreted

pytestmark = pytest.mark.slow

BUILTIN = Path(embedfleet.__file__).parent / "models" / "builtin"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "qwen3_reference.npz"
PRECISIONS = [Precision.F32, Precision.BF16, Precision.FP8]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch divides a sum among threads by its size, which deterministic modes of GPUs know not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


def cuda_engine(
    directory: Path,
    precision: Precision = Precision.F32,
    *,
    batch_tokens: int = 1_024,
    deterministic: bool = False,
) -> CudaEngine:
    settings = CudaSettings(precision, batch_tokens, 2_048, deterministic=deterministic)
    return CudaEngine(Qwen3Checkpoint(directory), settings, Processor())


@pytest.fixture(scope="module", params=PRECISIONS)
def usual(request: pytest.FixtureRequest, directory: Path) -> Engine:
    return cuda_engine(directory, request.param)


@pytest.fixture(scope="module", params=PRECISIONS)
def deterministic(request: pytest.FixtureRequest, directory: Path) -> Engine:
    return cuda_engine(directory, request.param, deterministic=True)


class TestCudaEngine(EngineConformance, ClosingConformance):
    @pytest.fixture
    def engine(self, usual: Engine) -> Engine:
        return usual

    @pytest.fixture
    def closing(self, directory: Path) -> Engine:
        return cuda_engine(directory)


class TestDeterministicCudaEngine(EngineConformance):
    tolerance = 0.0

    @pytest.fixture
    def engine(self, deterministic: Engine) -> Engine:
        return deterministic


@pytest.mark.parametrize("name", ["small", "narrow"])
class TestAgainstTransformers:
    """In float32, for the same weights; texts of 1 to 2,048 tokens."""

    @pytest.fixture
    def reference(self, name: str, tmp_path: Path) -> tuple[Path, list[Encoding], Vectors]:
        geometry = {"small": SMALL, "narrow": NARROW}[name]
        write_checkpoint(tmp_path, random_weights(geometry), geometry)
        with np.load(FIXTURE) as fixture:
            ids = fixture[f"{name}_ids"].astype(np.int32)
            texts = np.split(ids, np.cumsum(fixture["lengths"])[:-1])
            return tmp_path, texts, fixture[f"{name}_vectors"]

    def cosines(
        self, reference: tuple[Path, list[Encoding], Vectors], precision: Precision
    ) -> Vectors:
        directory, texts, expected = reference
        found = embed(cuda_engine(directory, precision), texts)
        products: Vectors = np.einsum("ij,ij->i", found.astype(np.float64), expected)
        return products

    def test_float32_agrees(self, reference: tuple[Path, list[Encoding], Vectors]) -> None:
        assert self.cosines(reference, Precision.F32).min() > 0.99999

    def test_bf16_has_cosines_above_0_999(
        self, reference: tuple[Path, list[Encoding], Vectors]
    ) -> None:
        assert self.cosines(reference, Precision.BF16).min() > 0.999

    def test_fp8_is_as_far_off_as_three_bits_of_mantissa_make_white_noise(
        self, reference: tuple[Path, list[Encoding], Vectors]
    ) -> None:
        """Weights of pure noise are the worst case; `test_fp8_keeps_a_trained_models_vectors`."""
        assert self.cosines(reference, Precision.FP8).mean() > 0.98


class TestSharedPrefixes:
    """Texts that begin alike, in trees of random depth, beside others."""

    def batches(self, engine: Engine, seed: int) -> list[Encoding]:
        return random_tree(np.random.default_rng(seed), engine.info.vocabulary)

    @pytest.mark.parametrize("seed", range(2))
    def test_float32_is_as_near_to_separate_computation_as_rounding_allows(
        self, directory: Path, seed: int
    ) -> None:
        engine = cuda_engine(directory)
        texts = self.batches(engine, seed)
        alone = np.concatenate([embed(engine, [text]) for text in texts])
        np.testing.assert_allclose(embed(engine, texts), alone, atol=1e-5)

    @pytest.mark.parametrize("seed", range(2))
    def test_deterministic_bits_are_those_of_separate_computation(
        self, deterministic: Engine, seed: int
    ) -> None:
        texts = self.batches(deterministic, seed)
        alone = np.concatenate([embed(deterministic, [text]) for text in texts])
        np.testing.assert_array_equal(embed(deterministic, texts), alone)

    def test_what_is_shared_is_computed_once(self, directory: Path) -> None:
        engine = cuda_engine(directory, deterministic=True)
        first = np.arange(64, dtype=np.int32)
        texts = [np.append(first, np.int32(number)) for number in range(64)]
        # Of 64 texts of 65 tokens 128 tokens are left, in blocks of 64 rows.
        assert engine.prepare(texts).padding_tokens == 0


@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.6])
def test_fp8_keeps_a_trained_models_vectors_however_uneven_its_channels(
    tmp_path: Path, sigma: float
) -> None:
    directory = write_checkpoint(tmp_path, *heavy_tailed(sigma), Layout("F32"))
    exact, small = (cuda_engine(directory, each) for each in (Precision.F32, Precision.FP8))
    texts = random_texts(exact, [1, 3, 8, 20, 64, 200, 700])
    cosines = np.einsum("ij,ij->i", embed(exact, texts), embed(small, texts))
    assert cosines.mean() > 0.995


def heavy_tailed(sigma: float) -> tuple[Weights, Geometry]:
    """The built-in model with log-normal gains of channels, which its matrices take back.

    The function stays the same; what is rounded has outliers, as in large trained models.
    """
    model, dice = Qwen3Checkpoint(BUILTIN), np.random.default_rng(9)
    config = model.config
    weights = {"embed_tokens.weight": model.embedding.floats(), "norm.weight": model.final_norm}
    for index in range(config.layers):
        layer = model.layer(index)
        attention, mlp = (np.exp(sigma * dice.standard_normal(config.hidden)) for _ in range(2))
        named: dict[str, np.ndarray] = {
            "input_layernorm": layer.input_norm * attention,
            "self_attn.q_proj": layer.query.floats() / attention,
            "self_attn.k_proj": layer.key.floats() / attention,
            "self_attn.v_proj": layer.value.floats() / attention,
            "self_attn.q_norm": layer.query_norm,
            "self_attn.k_norm": layer.key_norm,
            "self_attn.o_proj": layer.output.floats(),
            "post_attention_layernorm": layer.mlp_norm * mlp,
            "mlp.gate_proj": layer.gate.floats() / mlp,
            "mlp.up_proj": layer.up.floats() / mlp,
            "mlp.down_proj": layer.down.floats(),
        }
        for name, values in named.items():
            weights[f"layers.{index}.{name}.weight"] = values.astype(np.float32)
    return weights, Geometry(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate,
        vocabulary=config.vocabulary,
        positions=config.max_positions,
        rope_theta=config.rope_theta,
    )


def test_a_text_that_overflows_is_not_finite_and_its_neighbours_are_untouched(
    tmp_path: Path,
) -> None:
    weights = random_weights(SMALL)
    weights["embed_tokens.weight"][7] = np.inf
    engine = cuda_engine(write_checkpoint(tmp_path, weights, SMALL))
    good = [text for text in random_texts(engine, [40, 33, 65]) if 7 not in text]
    bad: Encoding = np.array([3, 7, 5], np.int32)
    together = embed(engine, [good[0], bad, good[1], good[2]])
    assert finite_rows(together).tolist() == [True, False, True, True]
    np.testing.assert_allclose(together[[0, 2, 3]], embed(engine, good), atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_text_longer_than_a_batch_goes_in_steps_and_has_the_same_vector(
    directory: Path, precision: Precision
) -> None:
    roomy, tight = (
        cuda_engine(directory, precision),
        cuda_engine(directory, precision, batch_tokens=600),
    )
    texts = random_texts(roomy, [3, 1_500, 2_048, 7])
    np.testing.assert_allclose(embed(tight, texts), embed(roomy, texts), atol=2e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_are_the_same_with_a_batch_of_any_size(directory: Path, precision: Precision) -> None:
    odd = cuda_engine(directory, precision, batch_tokens=1_000, deterministic=True)
    even = cuda_engine(directory, precision, batch_tokens=1_024, deterministic=True)
    texts = random_texts(odd, [3, 990, 1_500, 7])
    np.testing.assert_array_equal(embed(odd, texts), embed(even, texts))
    np.testing.assert_array_equal(embed(odd, texts[2:3]), embed(odd, texts)[2:3])


class LosingDevice(Processor):
    """A device that is gone as soon as vectors are fetched from it."""

    said = "CUDA error: an illegal memory access was encountered"
    lost = False

    def fetch(self, vectors: Any, count: int, *, soon: bool = False) -> Fetched:
        if self.lost:
            raise torch.AcceleratorError(f"{self.said}\nCUDA kernel errors might be reported later")
        return super().fetch(vectors, count)


def test_a_lost_device_is_distinguished_from_a_failed_batch(directory: Path) -> None:
    device = LosingDevice()
    settings = CudaSettings(Precision.F32, 1_024, 2_048)
    engine = CudaEngine(Qwen3Checkpoint(directory), settings, device)
    device.lost = True
    with pytest.raises(EngineLostError, match=r"cpu is lost .*: CUDA error: an illegal") as told:
        embed(engine, random_texts(engine, [3]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("the engine is closed"), False),
    ],
    ids=str,
)
def test_missing_memory_and_errors_of_one_batch_are_no_loss(
    error: RuntimeError, lost: bool
) -> None:
    assert is_loss(error) is lost


@needs_triton
def test_tiles_attend_to_shared_tokens_in_triton_s_interpreter() -> None:
    run_interpreted("attention_interpreted")


def test_attention_of_long_texts_in_blocks_is_that_of_all_at_once() -> None:
    config = Qwen3Config(64, 1, 4, 2, 16, 64, 100, 1e-6, 1e6, 4_096, True)
    torch = pytest.importorskip("torch")
    queries, keys, values = (torch.randn(2_600, 16 * heads) for heads in (4, 2, 2))
    found = attention_of_one(queries, keys, values, config, causal=True)
    for length in (1, 600, 2_000):  # short enough to be computed at once
        part = (queries[:length], keys[:length], values[:length])
        expected = attention_of_one(*part, config, causal=True)
        torch.testing.assert_close(found[:length], expected, atol=1e-5, rtol=1e-4)
    (last,) = attention_of_one(queries[-1:], keys, values, config, causal=False)
    torch.testing.assert_close(found[-1], last, atol=1e-5, rtol=1e-4)


def test_weights_in_every_layout_mean_the_same(tmp_path: Path) -> None:
    weights = random_weights(SMALL)
    text = [np.arange(50, dtype=np.int32)]
    first, *others = (
        embed(cuda_engine(write_checkpoint(tmp_path / str(layout), weights, SMALL, layout)), text)
        for layout in (Layout(), Layout("F32", shards=2), Layout("F16", prefix="model."))
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_weights_stored_as_int8_are_widened(tmp_path: Path) -> None:
    weights = random_weights(SMALL)
    stored = write_checkpoint(tmp_path / "int8", weights, SMALL, Layout("I8"))
    whole = write_checkpoint(tmp_path / "bf16", weights, SMALL)
    text = [np.arange(50, dtype=np.int32)]
    (one,), (other,) = embed(cuda_engine(stored), text), embed(cuda_engine(whole), text)
    assert one @ other > 0.995


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(directory: Path) -> None:
    settings = CudaSettings(Precision.BF16, 1_024, 2_048)
    with pytest.raises(SettingError, match="does not fit"):
        CudaEngine(Qwen3Checkpoint(directory), settings, Processor(free_mib=100))


def test_an_engine_describes_the_batches_that_it_takes(directory: Path) -> None:
    info = cuda_engine(directory, Precision.BF16).info
    assert (info.precision, info.width, info.in_flight) == (Precision.BF16, 256, 2)
    assert info.long_beside
    assert info.enough_tokens == 512


def test_a_machine_without_a_gpu_is_told_so(directory: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SettingError, match="sees no GPU here: look at nvidia-smi"):
        load_engine(directory, EngineOptions(device="cuda"))
