"""What a model's JSON files may say of other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfleet.models.json_files import names_neighbour
from embedfleet.models.sentence_transformers import read_pooling
from embedfleet.models.weights import weight_files
from embedfleet.vocabulary import ModelError, Pooling

NAMES = ("1_Pooling", "model-00001-of-00002.safetensors", "two words", "naïve", "é" * 127)
PATHS = ("", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\0b", "a\nb", "\ud800", "é" * 128)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_one_file_names_a_neighbour(name: str) -> None:
    assert names_neighbour(name)


@pytest.mark.parametrize("value", [*PATHS, None, 1, ["a"]])
def test_paths_hidden_files_and_what_no_file_system_takes_name_none(value: object) -> None:
    assert not names_neighbour(value)


@pytest.mark.parametrize("path", ["..", ".hidden", "a/b", "/etc/passwd", "a\nb", "é" * 128])
def test_indices_and_modules_keep_to_the_same_rule(tmp_path: Path, path: str) -> None:
    index = {"weight_map": {"a": path}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a file beside it"):
        weight_files(tmp_path)
    modules = [{"type": "models.Transformer"}, {"type": "models.Pooling", "path": path}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="must be a folder beside the file"):
        read_pooling(tmp_path, Pooling.MEAN)


def test_a_folder_may_be_named_with_a_slash_at_its_end(tmp_path: Path) -> None:
    first, second = (f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling"))
    modules = [{"type": first}, {"type": second, "path": "pool/"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert read_pooling(tmp_path, Pooling.MEAN) is Pooling.FIRST
