"""Whether a model's files are those that were read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from embedfleet.models.files import Snapshot
from tests.small_tokenizer import write_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = write_model(tmp_path / "model")
    (directory / "one.safetensors").write_bytes(b"numbers")
    index = {"weight_map": {"a": "one.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def test_untouched_files_have_not_changed(directory: Path) -> None:
    files = Snapshot.of(directory)
    (directory / "one.safetensors").read_bytes()
    (directory / "README.md").write_text("of no model")
    assert files.first_changed() is None


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "one.safetensors", "model.safetensors.index.json"],
)
def test_one_that_is_written_to_replaced_or_removed_has(directory: Path, name: str) -> None:
    path = directory / name
    files = Snapshot.of(directory)
    with path.open("r+b") as file:
        file.write(b"?")
    os.utime(path, (1, 1))
    assert files.first_changed() == name

    files = Snapshot.of(directory)
    shutil.copy2(path, directory / "copy")
    (directory / "copy").rename(path)
    assert files.changed(name)

    files = Snapshot.of(directory)
    path.unlink()
    assert files.first_changed() == name


def test_one_that_comes_has_changed_too(directory: Path) -> None:
    files = Snapshot.of(directory)
    (directory / "config_sentence_transformers.json").write_text("{}")
    assert files.first_changed() == "config_sentence_transformers.json"


def test_the_last_that_was_written_tells_the_age(directory: Path) -> None:
    assert Snapshot.of(directory).age_s() < 3600
    for path in directory.rglob("*"):
        os.utime(path, (1, 1))
    assert Snapshot.of(directory).age_s() > 1e9
