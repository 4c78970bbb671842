"""Encoders in the engine for GPUs, on torch's CPU device; with a GPU, its kernels as well.

pytest -m slow tests/engines/cuda/test_bert.py
"""

# ruff: noqa: E402  # what is imported needs torch, and is looked for first

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")

from embedfleet.engines.architectures import open_checkpoint
from embedfleet.engines.bert import EncoderConfig
from embedfleet.engines.cuda.bert import PlainEncoderOperations
from embedfleet.engines.cuda.devices import CudaDevice, Processor
from embedfleet.engines.cuda.engine import CudaEngine, CudaSettings
from embedfleet.engines.cuda.layout import lay_out
from embedfleet.engines.cuda.plain import parts_of
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding, Precision, SettingError, Vectors
from tests import encoder_checkpoints as checkpoints
from tests.conformance.engine_conformance import ClosingConformance, EngineConformance
from tests.encoder_checkpoints import (
    BERT,
    BGE_BASE,
    GEOMETRIES,
    MINILM_L6,
    POOLINGS,
    XLM_ROBERTA,
    EncoderGeometry,
    random_encoder,
    write_encoder,
)
from tests.engines.cuda.in_interpreter import needs_triton, run_interpreted
from tests.engines.test_bert import embed, reference

pytestmark = pytest.mark.slow

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    ),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Any:
    return CudaDevice(0) if request.param == "cuda" else Processor()


def engine_of(
    directory: Path,
    device: Any,
    precision: Precision = Precision.F32,
    *,
    deterministic: bool = False,
) -> Engine:
    settings = CudaSettings(precision, 1_024, 512, deterministic=deterministic)
    return CudaEngine(open_checkpoint(directory), settings, device)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("pooling", POOLINGS)
class TestAgainstTransformers:
    def test_float32_agrees_alone_and_in_a_batch(
        self, name: str, pooling: checkpoints.Pooling, device: Any, tmp_path: Path
    ) -> None:
        known = reference(name, pooling)
        engine = engine_of(write_encoder(tmp_path, GEOMETRIES[name], pooling=pooling), device)
        assert np.abs(embed(engine, known.texts) - known.vectors).max() < 1e-4
        alone = np.concatenate([embed(engine, [text]) for text in known.texts])
        assert np.abs(alone - known.vectors).max() < 1e-4

    def test_bf16_has_cosines_above_0_999(
        self, name: str, pooling: checkpoints.Pooling, device: Any, tmp_path: Path
    ) -> None:
        known = reference(name, pooling)
        directory = write_encoder(tmp_path, GEOMETRIES[name], pooling=pooling)
        found = embed(engine_of(directory, device, Precision.BF16), known.texts)
        assert np.einsum("ij,ij->i", found, known.vectors).min() > 0.999


@pytest.mark.parametrize("precision", [Precision.F32, Precision.BF16])
def test_deterministic_vectors_have_the_same_bits_alone_and_in_a_batch(
    precision: Precision, device: Any, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # which divide a sum among them by its size
    try:
        texts = reference("bert", "mean").texts[:12]
        engine = engine_of(write_encoder(tmp_path, BERT), device, precision, deterministic=True)
        alone = np.concatenate([embed(engine, [text]) for text in texts])
        np.testing.assert_array_equal(embed(engine, texts), alone)
    finally:
        torch.set_num_threads(threads)


class TestEncoderEngine(EngineConformance, ClosingConformance):
    tolerance: ClassVar[float] = 1e-6

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Engine:
        return engine_of(write_encoder(tmp_path, XLM_ROBERTA), Processor())

    @pytest.fixture
    def closing(self, engine: Engine) -> Engine:
        return engine


def test_padding_tokens_in_a_text_have_the_place_that_the_processor_gives_them(
    device: Any, tmp_path: Path
) -> None:
    directory = write_encoder(tmp_path, XLM_ROBERTA)
    texts: list[Encoding] = [np.array(ids, np.int32) for ids in ([5, 1, 6], [1], [7, 8, 1, 1, 9])]
    expected = embed(load_engine(directory, EngineOptions(device="cpu", kernels="numpy")), texts)
    engine = engine_of(directory, device)
    np.testing.assert_allclose(embed(engine, texts), expected, atol=1e-5)
    for text, vector in zip(texts, expected, strict=True):
        np.testing.assert_allclose(embed(engine, [text])[0], vector, atol=1e-5)


def test_a_text_that_overflows_is_no_vector_and_leaves_its_neighbours_alone(
    device: Any, tmp_path: Path
) -> None:
    weights = random_encoder(BERT)
    weights["embeddings.word_embeddings.weight"][7] = np.nan
    engine = engine_of(write_encoder(tmp_path, BERT, weights=weights), device, Precision.BF16)
    good, bad = np.arange(10, 90, dtype=np.int32), np.array([5, 7, 9], np.int32)
    assert finite_rows(embed(engine, [good, bad, good])).tolist() == [True, False, True]


def test_fp8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"fp8.*Use bf16"):
        load_engine(write_encoder(tmp_path, BERT), EngineOptions(device="cuda", dtype="fp8"))


@needs_triton
def test_kernels_compute_what_plain_torch_does_in_triton_s_interpreter() -> None:
    run_interpreted("bert_kernels_interpreted")


@needs_gpu
@pytest.mark.parametrize("geometry", [MINILM_L6, BGE_BASE, XLM_ROBERTA], ids=str)
class TestKernels:
    """Each against plain torch on the same numbers."""

    LENGTHS = (1, 2, 63, 64, 65, 128, 300, 512, 5)

    @pytest.fixture
    def texts(self) -> Any:
        layout = lay_out(self.LENGTHS, tile_tokens=64, alone_from=1 << 30, causal=False)
        array = np.zeros(layout.shape.size, np.int32)
        layout.write([np.zeros(n, np.int32) for n in self.LENGTHS], layout.shape, array)
        return parts_of(torch.from_numpy(array).cuda(), layout.shape, layout)[1]

    def config(self, geometry: EncoderGeometry) -> EncoderConfig:
        g = geometry
        head = g.hidden // g.heads
        return EncoderConfig(
            g.hidden, g.layers, g.heads, head, g.intermediate, 100, 1e-12, g.positions, 0, 2
        )

    def compared(
        self, geometry: EncoderGeometry, texts: Any, do: Callable[[Any, Any], Any], width: int
    ) -> None:
        from embedfleet.engines.cuda.bert_kernels import (  # noqa: PLC0415
            FusedEncoderOperations,
        )

        config = self.config(geometry)
        x = torch.randn(sum(self.LENGTHS), width, device="cuda")
        fused = do(FusedEncoderOperations(config), x.bfloat16()).double()
        plain = do(PlainEncoderOperations(config), x.bfloat16().float()).double()
        assert float((fused - plain).norm() / plain.norm()) < 6e-3

    def test_attention_of_texts_of_all_lengths(self, geometry: EncoderGeometry, texts: Any) -> None:
        self.compared(geometry, texts, lambda ops, x: ops.attend(x, texts), 3 * geometry.hidden)

    def test_means_of_texts_of_all_lengths(self, geometry: EncoderGeometry, texts: Any) -> None:
        self.compared(geometry, texts, lambda ops, x: ops.mean(x, texts), geometry.hidden)


@needs_gpu
@pytest.mark.parametrize("geometry", [MINILM_L6, BGE_BASE], ids=["MiniLM-L6", "bge-base"])
def test_a_published_model_s_size_on_the_gpu_agrees_with_the_processor(
    geometry: EncoderGeometry, tmp_path: Path
) -> None:
    directory = write_encoder(tmp_path, geometry)
    rng = np.random.default_rng(1)
    lengths = [1, 7, 30, 64, 200, 512, *rng.integers(1, 512, 40)]
    texts = [rng.integers(2, geometry.vocabulary, n).astype(np.int32) for n in lengths]

    def cosines(engine: Engine, expected: Vectors) -> Vectors:
        products: Vectors = np.einsum("ij,ij->i", embed(engine, texts), expected)
        return products

    expected = embed(load_engine(directory, EngineOptions(device="cpu", dtype="f32")), texts)
    exact = engine_of(directory, CudaDevice(0))
    assert np.abs(embed(exact, texts) - expected).max() < 1e-4
    quick = load_engine(directory, EngineOptions(device="cuda", max_tokens=512))
    assert cosines(quick, expected).min() > 0.998
