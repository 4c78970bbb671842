"""Files of tensors: what is read, and how damage is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engine.tensors import open_tensors
from embedfleet.vocabulary import ModelError
from tests.checkpoints import write_safetensors

VALUES = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)


def write(directory: Path, name: str = "model.safetensors") -> Path:
    path = directory / name
    write_safetensors(path, {"model.a": ("F32", VALUES), "b": ("I8", VALUES.astype(np.int8))})
    return path


def test_tensors_are_found_by_name_without_the_prefix(tmp_path: Path) -> None:
    write(tmp_path)
    tensors = open_tensors(tmp_path)
    assert sorted(tensors) == ["a", "b"]
    np.testing.assert_array_equal(tensors["a"].floats(), VALUES)


def test_values_stay_in_the_file_and_cannot_be_changed(tmp_path: Path) -> None:
    write(tmp_path)
    assert not open_tensors(tmp_path)["a"].stored.flags.writeable


def test_a_directory_without_weights_is_told_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors is missing.*index\.json"):
        open_tensors(tmp_path)


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    write(tmp_path, "one.safetensors")
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        open_tensors(tmp_path)


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="no index"):
        open_tensors(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    write(tmp_path, "one.safetensors")
    write(tmp_path, "two.safetensors")
    with pytest.raises(ModelError, match="twice"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 60, -1], ids="{} bytes".format)
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_tensors(tmp_path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"pointer of Git LFS.*git lfs pull"):
        open_tensors(tmp_path)


def test_a_type_that_is_not_supported_is_named(tmp_path: Path) -> None:
    values = VALUES.astype(np.float64)
    write_safetensors(tmp_path / "model.safetensors", {"a": ("F64", values)})
    with pytest.raises(ModelError, match="tensor a has type F64; supported are F32, F16, BF16, I8"):
        open_tensors(tmp_path)


def test_what_was_read_may_be_left_and_read_again(tmp_path: Path) -> None:
    write(tmp_path)
    tensors = open_tensors(tmp_path)
    before = tensors["a"].floats()
    tensors["a"].leave()
    np.testing.assert_array_equal(tensors["a"].floats(), before)
    np.testing.assert_array_equal(tensors["b"].floats(), VALUES.astype(np.int8))
