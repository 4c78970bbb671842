"""Scores by the engine for GPUs: on torch's CPU device, and on a GPU where there is one.

On a machine with one: `python -m pytest -q tests/engines/cuda/test_reranker.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")

import torch

from embedfleet.engines.architectures import open_checkpoint
from embedfleet.engines.cuda.devices import Device, Processor, find_device
from embedfleet.engines.cuda.engine import CudaEngine, CudaSettings
from embedfleet.vocabulary import Encoding, Precision, Task, Vectors
from tests.checkpoints import SMALL
from tests.reranker_checkpoints import FORMS, Form, write_reranker

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOLERANCES = {Precision.F32: 1e-4, Precision.BF16: 0.03, Precision.FP8: 0.1}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    return Processor() if request.param == "cpu" else find_device("cuda")


@pytest.fixture(scope="module")
def texts() -> list[Encoding]:
    with np.load(FIXTURES / "qwen3_reference.npz") as fixture:
        ids = np.maximum(fixture["small_ids"].astype(np.int32), 1)
        return np.split(ids, np.cumsum(fixture["lengths"])[:-1])


def scored(
    directory: Path, device: Device, texts: list[Encoding], settings: CudaSettings
) -> list[Vectors]:
    """The rows of all texts together, then of each alone."""
    engine = CudaEngine(open_checkpoint(directory, Task.RERANK), settings, device)
    found = [engine.prepare(texts)(), *(engine.prepare([text])() for text in texts[:6])]
    engine.close()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_scores_are_those_of_transformers(
    tmp_path: Path, device: Device, texts: list[Encoding], form: Form, precision: Precision
) -> None:
    directory = write_reranker(tmp_path / form, SMALL, form)
    with np.load(FIXTURES / "reranker_reference.npz") as fixture:
        expected = fixture[form]
    rows, *_ = scored(directory, device, texts, CudaSettings(precision, 1_024, 2_048))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows[:, 1].astype(float) ** 2, expected, atol=TOLERANCES[precision])


def test_a_pair_has_the_same_bits_alone_and_with_others_in_deterministic_mode(
    tmp_path: Path, device: Device, texts: list[Encoding]
) -> None:
    directory = write_reranker(tmp_path / "reranker", SMALL)
    settings = CudaSettings(Precision.BF16, 1_024, 2_048, deterministic=True)
    together, *alone = scored(directory, device, texts, settings)
    assert together[: len(alone)].tobytes() == np.concatenate(alone).tobytes()


def test_a_state_that_is_not_finite_has_no_score(tmp_path: Path, device: Device) -> None:
    directory = write_reranker(tmp_path / "reranker", SMALL)
    checkpoint = open_checkpoint(directory, Task.RERANK)
    checkpoint.head.weights[0] = np.inf  # type: ignore[attr-defined]
    engine = CudaEngine(checkpoint, CudaSettings(Precision.F32, 1_024, 2_048), device)
    assert np.isnan(engine.prepare([np.arange(1, 9, dtype=np.int32)])()).all()
    engine.close()
