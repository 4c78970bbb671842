"""The engines' vectors against those of transformers (torch, float32) for the same weights.

`tests/fixtures/make_reference.py` made the fixture: texts of 1 to 2,048 tokens, each alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding, Vectors
from tests.checkpoints import NARROW, SMALL, Geometry, Layout, random_weights, write_checkpoint
from tests.engines.kernels import INT8, WAYS, way

FIXTURE = Path(__file__).parents[1] / "fixtures" / "qwen3_reference.npz"
GEOMETRIES = {"small": SMALL, "narrow": NARROW}
SHORTER = 600
"""Tokens: of 18 texts two are longer, and take three quarters of the time."""


@dataclass(frozen=True, slots=True)
class Reference:
    directory: Path
    geometry: Geometry
    texts: list[Encoding]
    vectors: Vectors
    kernels: str

    @property
    def shorter(self) -> tuple[list[Encoding], Vectors]:
        """Those that are quick to compute, which are most, and their vectors."""
        places = [at for at, text in enumerate(self.texts) if len(text) <= SHORTER]
        return [self.texts[at] for at in places], self.vectors[places]

    def load(self, dtype: str) -> Engine:
        return load_engine(self.directory, EngineOptions(dtype=dtype, **way(self.kernels)))

    def embed(self, dtype: str, texts: list[Encoding]) -> Vectors:
        return self.load(dtype).prepare(texts)()


@pytest.fixture(scope="module", params=WAYS)
def kernels(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def reference(
    request: pytest.FixtureRequest, kernels: str, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    name = request.param
    geometry = GEOMETRIES[name]
    directory = tmp_path_factory.mktemp(name)
    write_checkpoint(directory, random_weights(geometry), geometry)
    with np.load(FIXTURE) as fixture:
        ids = fixture[f"{name}_ids"].astype(np.int32)
        texts = np.split(ids, np.cumsum(fixture["lengths"])[:-1])
        return Reference(directory, geometry, texts, fixture[f"{name}_vectors"], kernels)


def cosines(found: Vectors, expected: Vectors) -> Vectors:
    products: Vectors = np.einsum("ij,ij->i", found.astype(np.float64), expected)
    return products


def assert_exact(found: Vectors, expected: Vectors) -> None:
    assert cosines(found, expected).min() > 0.999999
    assert np.abs(found - expected).max() < 1e-4


def test_float32_agrees_on_texts_of_1_to_2048_tokens_in_one_batch(reference: Reference) -> None:
    assert_exact(reference.embed("f32", reference.texts), reference.vectors)


def test_float32_agrees_shuffled(reference: Reference) -> None:
    texts, vectors = reference.shorter
    order = np.random.default_rng(3).permutation(len(texts))
    found = reference.embed("f32", [texts[index] for index in order])
    assert_exact(found, vectors[order])


def test_float32_agrees_alone(reference: Reference) -> None:
    engine = reference.load("f32")
    alone = [engine.prepare([text])() for text in reference.texts]
    assert_exact(np.concatenate(alone), reference.vectors)


def needs_int8(reference: Reference) -> None:
    if reference.kernels not in INT8:
        pytest.skip(f"{reference.kernels} computes no int8 here")


def test_int8_has_a_mean_cosine_above_0_995(reference: Reference) -> None:
    needs_int8(reference)
    found = cosines(reference.embed("int8", reference.texts), reference.vectors)
    assert found.mean() > 0.995
    assert found.min() > 0.99


@pytest.mark.parametrize(
    "layout",
    [
        Layout("F32"),
        Layout("F16"),
        Layout("BF16", prefix="model."),
        Layout("F32", shards=3),
        Layout("F16", prefix="model.", shards=2),
    ],
    ids=str,
)
def test_every_layout_of_a_checkpoint_means_the_same(
    layout: Layout, kernels: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, SMALL.vocabulary, n).astype(np.int32) for n in (1, 9, 40)]
    weights = random_weights(SMALL)
    vectors = [
        load_engine(directory, EngineOptions(dtype="f32", **way(kernels))).prepare(texts)()
        for directory in (
            write_checkpoint(tmp_path / "published", weights, SMALL),
            write_checkpoint(tmp_path / "other", weights, SMALL, layout),
        )
    ]
    assert_exact(*vectors)


def test_rope_theta_is_found_in_its_newer_place(tmp_path: Path) -> None:
    weights = random_weights(SMALL)
    parameters = {"rope_theta": SMALL.rope_theta, "rope_type": "default"}
    newer = write_checkpoint(
        tmp_path / "newer", weights, SMALL, rope_theta=None, rope_parameters=parameters
    )
    older = write_checkpoint(tmp_path / "older", weights, SMALL)
    text = np.arange(100, dtype=np.int32)
    found, expected = (
        load_engine(directory, EngineOptions(dtype="f32")).prepare([text])()
        for directory in (newer, older)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_weights_stored_as_int8_are_close_to_those_they_came_from(
    reference: Reference, tmp_path: Path, dtype: str
) -> None:
    if dtype == "int8":
        needs_int8(reference)
    geometry = reference.geometry
    write_checkpoint(tmp_path, random_weights(geometry), geometry, Layout("I8"))
    engine = load_engine(tmp_path, EngineOptions(dtype=dtype, **way(reference.kernels)))
    texts, vectors = reference.shorter
    assert cosines(engine.prepare(texts)(), vectors).mean() > 0.995
