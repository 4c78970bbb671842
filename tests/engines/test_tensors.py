"""Files of tensors: what is read, and how damage is reported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.tensors import open_tensors
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


def test_rows_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path)
    stored = open_tensors(tmp_path)["a"].stored
    np.testing.assert_array_equal(stored[1:2], VALUES[1:2])
    np.testing.assert_array_equal(stored[5:9], VALUES[5:9])
    np.testing.assert_array_equal(stored[:], VALUES)


def test_a_file_that_another_one_replaced_is_read_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    tensors = open_tensors(tmp_path)
    write_safetensors(tmp_path / "new", {"a": ("F32", -VALUES)})
    (tmp_path / "new").rename(path)
    np.testing.assert_array_equal(tensors["a"].floats(), VALUES)


@pytest.mark.parametrize("size", [0, 4, -1], ids="to {} bytes".format)
def test_a_file_that_was_truncated_meanwhile_is_reported(tmp_path: Path, size: int) -> None:
    path = write(tmp_path)
    tensors = open_tensors(tmp_path)
    os.truncate(path, path.stat().st_size - 1 if size < 0 else size)
    with pytest.raises(ModelError, match=r"model\.safetensors was written to"):
        tensors["b"].floats()


def test_a_file_that_was_overwritten_meanwhile_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path)
    os.utime(path, (1, 1))  # the clock of a file system may stand still for some milliseconds
    tensors = open_tensors(tmp_path)
    tensors["b"].floats()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ModelError, match=r"model\.safetensors was written to"):
        tensors["a"].floats()


def test_what_is_held_stays_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    held = open_tensors(tmp_path)["a"].held()
    path.write_bytes(b"")
    np.testing.assert_array_equal(held.floats(), VALUES)


def test_a_directory_without_weights_is_refused_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors is missing.*index\.json"):
        open_tensors(tmp_path)


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    write(tmp_path, "one.safetensors")
    with pytest.raises(ModelError, match=r"two\.safetensors is missing"):
        open_tensors(tmp_path)


def test_an_invalid_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="not an index"):
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
