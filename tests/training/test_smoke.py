"""The whole training in miniature: every stage runs, and its model loads like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

for name in ("torch", "jieba", "opencc"):
    pytest.importorskip(
        name, reason=f"{name} is needed for training; see training/requirements.txt"
    )

from training.corpora import data_directory  # noqa: E402

from embedfleet.engines.qwen3 import Qwen3Checkpoint  # noqa: E402
from embedfleet.models.description import describe  # noqa: E402

ROOT = Path(__file__).parents[2]


def run(recipe: str, folder: Path) -> None:
    command = [sys.executable, "-m", recipe, str(folder), "--smoke"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(not data_directory().is_dir(), reason=f"no data in {data_directory()}")
def test_all_stages_run_end_to_end(tmp_path: Path) -> None:
    run("training.run", tmp_path)
    description = describe(tmp_path / "model")
    assert description.identity.prompts["query"].endswith("\nQuery:")
    assert Qwen3Checkpoint(tmp_path / "model").config.hidden == description.identity.width
