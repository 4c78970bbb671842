"""int8 on models whose weights are uneven, and whether loading notices where it is not enough."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native.agreement import Agreement, depth_of
from embedfleet.engines.native.engine import NativeEngine
from embedfleet.engines.native.weights import evened
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint, Qwen3Config
from embedfleet.vocabulary import Precision, Vectors
from tests.checkpoints import SMALL, Layout, Weights, random_weights, write_checkpoint
from tests.conformance.engine_conformance import embed, random_texts
from tests.engines.kernels import OURS, RUNNING, needs_native, way

pytestmark = needs_native
GEOMETRY = replace(SMALL, hidden=512, intermediate=1_024)
QWEN_06B = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, tied=True)
QWEN_8B = Qwen3Config(4096, 36, 32, 8, 128, 12_288, 151_665, 1e-6, 1e6, 40_960, tied=False)


def uneven(sigma: float) -> Weights:
    """Norms whose weights are log-normal, as those of trained models are, more or less."""
    weights, rng = random_weights(GEOMETRY), np.random.default_rng(9)
    for name, values in weights.items():
        if values.ndim == 1 and "layernorm" in name:
            values[:] *= np.exp(sigma * rng.standard_normal(values.shape))
    return weights


def engine_of(directory: Path, dtype: str, instructions: str) -> Engine:
    return load_engine(directory, EngineOptions(dtype=dtype, threads=2, **way(instructions)))


def cosines(found: Vectors, expected: Vectors) -> Vectors:
    products: Vectors = np.einsum("ij,ij->i", found, expected)
    return products


@pytest.mark.parametrize("sigma", [0.8, 1.6])
def test_int8_bears_uneven_norms(tmp_path: Path, sigma: float) -> None:
    directory = write_checkpoint(tmp_path, uneven(sigma), GEOMETRY)
    exact, int8 = (engine_of(directory, dtype, RUNNING[0]) for dtype in ("f32", "int8"))
    texts = random_texts(exact, [5, 16, 32, 48, 64, 200])
    found = cosines(embed(int8, texts), embed(exact, texts))
    assert found.mean() > 0.99
    assert found.min() > 0.98


@pytest.mark.parametrize("sigma", [0.0, 0.8, 2.0])
def test_evening_out_changes_no_product(tmp_path: Path, sigma: float) -> None:
    layer = Qwen3Checkpoint(write_checkpoint(tmp_path, uneven(sigma), GEOMETRY)).layer(1)
    changed, columns = evened(layer)
    assert set(columns) == {"query", "key", "value", "gate", "up"}
    for norm, names in (("input_norm", ("query", "key", "value")), ("mlp_norm", ("gate", "up"))):
        for name in names:
            product = getattr(changed, norm) * columns[name]
            np.testing.assert_allclose(product, getattr(layer, norm), rtol=1e-6)
    spread = [np.ptp(np.log(np.abs(norm))) for norm in (layer.mlp_norm, changed.mlp_norm)]
    assert spread[1] == pytest.approx(spread[0] / 2, rel=1e-3)


def test_a_norm_of_zeros_stays_one(tmp_path: Path) -> None:
    weights = uneven(0.8)
    weights["layers.1.input_layernorm.weight"][3:9] = 0
    changed, columns = evened(
        Qwen3Checkpoint(write_checkpoint(tmp_path, weights, GEOMETRY)).layer(1)
    )
    assert not changed.input_norm[3:9].any()
    assert np.isfinite(columns["query"]).all()


def test_weights_that_are_stored_as_int8_stay_as_they_are(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, uneven(0.8), GEOMETRY, Layout("I8"))
    layer = Qwen3Checkpoint(directory).layer(0)
    changed, columns = evened(layer)
    assert not columns
    np.testing.assert_array_equal(changed.input_norm, layer.input_norm)


@pytest.mark.parametrize("instructions", OURS)
@pytest.mark.parametrize("layout", [Layout("BF16"), Layout("I8")], ids=str)
def test_the_agreement_is_that_of_vectors(
    tmp_path: Path, instructions: str, layout: Layout
) -> None:
    directory = write_checkpoint(tmp_path, uneven(0.8), GEOMETRY, layout)
    exact, int8 = (engine_of(directory, dtype, instructions) for dtype in ("f32", "int8"))
    assert isinstance(int8, NativeEngine)
    said = int8.agreement()
    texts = random_texts(exact, list(range(1, 97, 5)))
    found = cosines(embed(int8, texts), embed(exact, texts))
    assert said.layers == GEOMETRY.layers
    assert 1 - said.mean == pytest.approx(1 - found.mean(), rel=0.5)


@pytest.mark.parametrize("instructions", OURS)
def test_auto_takes_float32_where_int8_does_not_suit_the_model_and_says_so_once(
    tmp_path: Path, instructions: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = uneven(0.8)
    for index in range(GEOMETRY.layers):  # numbers that hide all others of their group
        weights[f"layers.{index}.self_attn.o_proj.weight"][:, ::256] *= 3_000
        weights[f"layers.{index}.mlp.down_proj.weight"][:, ::256] *= 3_000
    directory = write_checkpoint(tmp_path, weights, GEOMETRY)
    with caplog.at_level(logging.INFO):
        engine = engine_of(directory, "auto", instructions)
    assert engine.info.precision is Precision.F32
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    if instructions == "portable":  # whose int8 is slower than its float32
        assert not warnings
    else:
        (said,) = warnings
        assert "int8 does not suit the model" in said
    assert engine_of(directory, "int8", instructions).info.precision is Precision.INT8


def test_nan_does_not_suffice() -> None:
    assert Agreement(mean=0.995, least=0.985, layers=1).suffices
    assert not Agreement(mean=0.995, least=0.97, layers=1).suffices
    assert not Agreement(mean=0.985, least=0.985, layers=1).suffices
    assert not Agreement(mean=float("nan"), least=float("nan"), layers=1).suffices


def test_of_large_models_some_layers_are_compared_and_of_small_ones_all() -> None:
    small = replace(QWEN_06B, hidden=256, layers=6)
    assert depth_of(small) == 6
    assert 10 <= depth_of(QWEN_06B) < 28
    assert 3 <= depth_of(QWEN_8B) <= 6
