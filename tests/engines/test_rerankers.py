"""Scores of pairs by every engine, against those of transformers (torch, float32).

`tests/fixtures/make_reranker_reference.py` made the fixture, of texts of 1 to 2,048 tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine, refuse_unsupported
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.scoring import ScoreHead
from embedfleet.vocabulary import Encoding, ModelError, Task
from tests.checkpoints import SMALL
from tests.engines.kernels import INT8, WAYS, way
from tests.reranker_checkpoints import FORMS, Form, write_reranker

FIXTURES = Path(__file__).parents[1] / "fixtures"
WITH_LONG_TEXTS: Form = "tied"
"""The others score what comes out of the same layers, and texts of 600 tokens will do."""


@pytest.fixture(scope="module")
def texts() -> list[Encoding]:
    with np.load(FIXTURES / "qwen3_reference.npz") as fixture:
        ids = np.maximum(fixture["small_ids"].astype(np.int32), 1)
        return np.split(ids, np.cumsum(fixture["lengths"])[:-1])


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    return {form: write_reranker(tmp_path_factory.mktemp(form), SMALL, form) for form in FORMS}


def scores(directory: Path, texts: list[Encoding], kernels: str, dtype: str) -> np.ndarray:
    options = EngineOptions(dtype=dtype, task=Task.RERANK, **way(kernels))
    engine = load_engine(directory, options)
    rows = engine.prepare(texts)()
    assert rows.shape == (len(texts), engine.info.width)
    engine.close()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    return rows[:, 1].astype(np.float64) ** 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernels", WAYS)
def test_scores_are_those_of_transformers(
    directories: dict[Form, Path], texts: list[Encoding], form: Form, kernels: str
) -> None:
    with np.load(FIXTURES / "reranker_reference.npz") as fixture:
        expected = fixture[form]
    places = [at for at, text in enumerate(texts) if form == WITH_LONG_TEXTS or len(text) <= 600]
    found = scores(directories[form], [texts[at] for at in places], kernels, "f32")
    np.testing.assert_allclose(found, expected[places], atol=1e-4)


@pytest.mark.parametrize("kernels", sorted(INT8 - {"openvino"}))
def test_scores_in_int8_are_near_those_in_float32(
    directories: dict[Form, Path], texts: list[Encoding], kernels: str
) -> None:
    with np.load(FIXTURES / "reranker_reference.npz") as fixture:
        expected = fixture["untied"]
    found = scores(directories["untied"], texts, kernels, "int8")
    assert np.abs(found - expected).mean() < 0.02


def test_a_state_that_is_not_finite_has_no_score() -> None:
    states = np.array([[1, 2], [np.nan, 1], [np.inf, 1]], np.float32)
    rows = ScoreHead(np.ones(2, np.float32)).rows(states)
    assert finite_rows(rows).tolist() == [True, False, False]


def test_a_directory_that_is_neither_is_refused_with_what_it_could_be(tmp_path: Path) -> None:
    directory = write_reranker(tmp_path / "chat", SMALL, "untied")
    (directory / "1_LogitScore" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"chat model or a reranker.*pools\.task"):
        refuse_unsupported(directory, EngineOptions())


def test_answers_that_are_no_tokens_of_the_model_are_refused(tmp_path: Path) -> None:
    directory = write_reranker(tmp_path / "reranker", SMALL, "untied")
    tokens = {"true_token_id": SMALL.vocabulary, "false_token_id": 1}
    (directory / "1_LogitScore" / "config.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match="this is not a reranker"):
        load_engine(directory, EngineOptions(task=Task.RERANK))


def test_a_classifier_of_many_labels_is_no_reranker(tmp_path: Path) -> None:
    directory = write_reranker(tmp_path / "classifier", SMALL, "classifier")
    config = json.loads((directory / "config.json").read_text()) | {"num_labels": 5}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="5 labels"):
        load_engine(directory, EngineOptions())


def test_a_classifier_gives_no_embeddings(tmp_path: Path) -> None:
    directory = write_reranker(tmp_path / "classifier", SMALL, "classifier")
    with pytest.raises(ModelError, match="gives scores and no embeddings"):
        load_engine(directory, EngineOptions(task=Task.EMBED))
