"""A model's files that are overwritten or cut off while an engine serves: it computes as before.

`cp new/model.safetensors model/` and `rsync --inplace` write into the file that is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import embed, random_texts
from tests.engines.kernels import WAYS, way


def overwritten(path: Path) -> None:
    other = write_checkpoint(path.parent / "other", random_weights(SMALL, seed=7), SMALL)
    with path.open("r+b") as file:
        file.write((other / path.name).read_bytes())


def filled_with_nothing(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def cut_off(path: Path) -> None:
    os.truncate(path, 4096)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def removed(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("change", [overwritten, filled_with_nothing, cut_off, emptied, removed])
@pytest.mark.parametrize("kernels", WAYS)
def test_vectors_stay_those_of_the_model_that_was_loaded(
    kernels: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    directory = write_checkpoint(tmp_path / "model", random_weights(SMALL), SMALL)
    engine = load_engine(directory, EngineOptions(threads=1, dtype="f32", **way(kernels)))
    texts = random_texts(engine, (1, 5, 40))
    before = embed(engine, texts)
    change(directory / "model.safetensors")
    np.testing.assert_array_equal(embed(engine, texts), before)
    engine.close()
