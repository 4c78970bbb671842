"""What counts as a model's weights, and which headers of safetensors files are believed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from embedfleet.models.fingerprint import fingerprint_weights
from embedfleet.models.weights import read_header, weight_files
from embedfleet.vocabulary import ModelError

SHAPES = {
    "model.embed_tokens.weight": (700, 64),
    "model.layers.0.self_attn.q_proj.weight": (256, 64),
    "model.layers.0.mlp.up_proj.weight": (300, 64),
    "model.layers.9.self_attn.v_proj.weight": (64, 64),
    "model.norm.weight": (64,),
}


def numbers(seed: int = 0) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(seed)
    return {name: dice.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def model(directory: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> Path:
    """A directory with these weights in so many files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    names = list(tensors)
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard}.safetensors"
        mine = names[shard::shards]
        save_file({name: tensors[name] for name in mine}, directory / file)
        index |= dict.fromkeys(mine, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return directory


@pytest.mark.parametrize("changed", SHAPES)
def test_a_change_of_any_one_tensor_changes_the_fingerprint(tmp_path: Path, changed: str) -> None:
    """As a fine-tune makes it that leaves all the others alone."""
    before, after = numbers(), numbers()
    after[changed] += np.float32(1e-3)

    one = fingerprint_weights(model(tmp_path / "one", before))
    assert fingerprint_weights(model(tmp_path / "other", after)) != one


@pytest.mark.parametrize("changed", ["model.norm.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("at", [0, -1])
def test_the_first_and_the_last_number_of_a_tensor_count(
    tmp_path: Path, changed: str, at: int
) -> None:
    before, after = numbers(), numbers()
    after[changed].reshape(-1)[at] += 1

    one = fingerprint_weights(model(tmp_path / "one", before))
    assert fingerprint_weights(model(tmp_path / "other", after)) != one


def test_a_tensor_of_another_name_type_or_shape_has_another_fingerprint(tmp_path: Path) -> None:
    given = numbers()
    norm = given["model.norm.weight"]
    variants = [
        given,
        {**given, "model.norm.weight": norm.reshape(8, 8)},
        {**given, "model.norm.weight": norm.view(np.int32)},
        {
            ("model.norms.weight" if name == "model.norm.weight" else name): each
            for name, each in given.items()
        },
    ]
    found = {
        fingerprint_weights(model(tmp_path / str(number), each))
        for number, each in enumerate(variants)
    }
    assert len(found) == len(variants)


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_how_weights_are_cut_into_files_makes_no_difference(tmp_path: Path, shards: int) -> None:
    whole = fingerprint_weights(model(tmp_path / "whole", numbers()))
    assert fingerprint_weights(model(tmp_path / "shards", numbers(), shards)) == whole


def test_safetensors_files_beside_the_weights_are_no_weights(tmp_path: Path) -> None:
    directory = model(tmp_path, numbers(), 2)
    before = fingerprint_weights(directory)
    save_file(numbers(1), directory / "golden.safetensors")
    save_file(numbers(2), directory / "model-9.safetensors")

    assert fingerprint_weights(directory) == before
    assert "golden.safetensors" not in {path.name for path in weight_files(directory)}


def test_of_one_file_and_an_index_of_shards_the_one_counts(tmp_path: Path) -> None:
    directory = model(tmp_path, numbers(), 2)
    save_file(numbers(1), directory / "model.safetensors")
    assert [path.name for path in weight_files(directory)] == ["model.safetensors"]


INDICES = ["[]", "5", '{"weight_map":[]}', '{"weight_map":{"a":5}}', "[" * 100_000, "\ud800", ""]


@pytest.mark.parametrize("text", INDICES, ids=lambda text: text[:12])
def test_a_malformed_index_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match="is not an index of safetensors files"):
        weight_files(tmp_path)


def header_of(path: Path, header: bytes, content: bytes = bytes(64)) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


HEADERS: list[object] = [
    *([], 5, None, {"a": 5}, {"a": []}, {"a": {}}),
    *({"a": entry(shape=[2**64])}, {"a": entry(shape="x")}, {"a": entry(shape=[-4])}),
    *({"a": entry(shape=[1] * 100)}, {"a": entry(dtype=7)}, {"a": entry(data_offsets=[16, 0])}),
    *({"a": entry(data_offsets=[0, 17])}, {"a": entry(data_offsets=[0, 10**30])}),
    {"a": entry(data_offsets=[0])},
    {"a": entry(), "b": entry(data_offsets=[8, 24])},
    {"": entry()},
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_malformed_header_is_refused_in_one_sentence(tmp_path: Path, header: object) -> None:
    path = tmp_path / "model.safetensors"
    header_of(path, json.dumps(header).encode())
    with path.open("rb") as file, pytest.raises(ModelError, match=r"model\.safetensors"):
        read_header(path, file)


@pytest.mark.parametrize("bomb", [b"[" * 10**6, b'{"a":' * 10**5, b'{"a":1e999}', b"\xff" * 9])
def test_a_header_that_is_a_bomb_is_refused(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "model.safetensors"
    header_of(path, bomb)
    with path.open("rb") as file, pytest.raises(ModelError, match="unreadable safetensors header"):
        read_header(path, file)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
def test_a_file_with_damaged_bytes_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    path = model(directory, {"a": np.ones(4, np.float32), "b": np.ones((2, 2), np.float32)})
    path = path / "model.safetensors"
    dice, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(changes):
        content[dice.randrange(len(content) - 32)] = dice.randrange(256)
    path.write_bytes(content)
    with path.open("rb") as file:
        try:
            tensors = read_header(path, file)
        except ModelError:
            return
    assert all(0 <= each.begin <= each.end <= len(content) for each in tensors)
