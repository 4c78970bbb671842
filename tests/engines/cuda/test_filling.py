"""Matrices on the device are filled from files by several threads, in pieces of rows."""

# ruff: noqa: E402  # what is imported needs torch, and is looked for first

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")

from embedfleet.engines.cuda.devices import Processor
from embedfleet.engines.cuda.filling import Filling
from embedfleet.engines.cuda.forward import Forward
from embedfleet.engines.cuda.linear import FloatMatrix, Fp8Matrix, quantised
from embedfleet.engines.cuda.weights import Loading, Weights
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.tensors import Matrix, Tensor
from embedfleet.vocabulary import ModelError, Precision
from tests.checkpoints import SMALL, Layout, random_weights, write_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["F32", "BF16", "F16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    return write_checkpoint(directory, random_weights(SMALL), SMALL, Layout(request.param))


def loaded(directory: Path, precision: Precision, piece_bytes: int) -> Weights:
    filling = Filling(Processor(), piece_bytes)
    loading = Loading(torch.device("cpu"), precision, filling)
    weights = loading.load(Qwen3Checkpoint(directory))
    with filling.under_way():
        pass
    return weights


@pytest.mark.parametrize("precision", [Precision.F32, Precision.BF16, Precision.FP8])
@pytest.mark.parametrize("piece_bytes", [1, 1_000, 1 << 24], ids=["rows", "some", "all"])
def test_the_bits_are_those_of_the_whole_matrix_whatever_the_pieces(
    checkpoint: Path, precision: Precision, piece_bytes: int
) -> None:
    weights = loaded(checkpoint, precision, piece_bytes)
    model = Qwen3Checkpoint(checkpoint)
    dtype = torch.float32 if precision is Precision.F32 else torch.bfloat16
    assert torch.equal(weights.embedding, torch.from_numpy(model.embedding.floats()).to(dtype))
    for index, layer in enumerate(weights.layers):
        stored = model.layer(index)
        for matrix, parts in {
            layer.query_key_value: [stored.query, stored.key, stored.value],
            layer.output: [stored.output],
            layer.gate_up: [stored.gate, stored.up],
            layer.down: [stored.down],
        }.items():
            whole = torch.from_numpy(np.concatenate([each.floats() for each in parts])).to(dtype)
            if isinstance(matrix, Fp8Matrix):
                values, scales = quantised(whole)
                assert torch.equal(matrix.weight.float(), values.float())
                assert torch.equal(matrix.scales, scales.t())
            else:
                assert isinstance(matrix, FloatMatrix)
                assert torch.equal(matrix.weight, whole)


def test_int8_of_a_file_is_widened_with_its_scales() -> None:
    dice = np.random.default_rng(1)
    values = dice.integers(-127, 128, (50, 8)).astype(np.int8)
    scales = dice.random((50, 1)).astype(np.float32)
    filling = Filling(Processor(), 16)
    found = torch.empty(50, 8)

    def place(begin: int, end: int, rows: object) -> None:
        found[begin:end] = rows

    filling.add(Matrix(Tensor("int8", "I8", values), scales), place)
    with filling.under_way():
        pass
    np.testing.assert_array_equal(found.numpy(), values * scales)


def test_a_file_that_is_written_to_meanwhile_is_an_error_and_ends_all_threads(
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path, random_weights(SMALL), SMALL)
    filling = Filling(Processor(), 1_000)
    Loading(torch.device("cpu"), Precision.F32, filling).load(Qwen3Checkpoint(tmp_path))
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match="written to"), filling.under_way():
        pass


def test_an_error_of_what_is_done_beside_is_raised_and_nothing_more_is_read(
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path, random_weights(SMALL), SMALL)
    filling = Filling(Processor(), 1)
    Loading(torch.device("cpu"), Precision.F32, filling).load(Qwen3Checkpoint(tmp_path))
    with pytest.raises(RuntimeError, match="beside"), filling.under_way():
        raise RuntimeError("beside")


def test_a_shortened_model_has_its_first_and_its_last_layer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, random_weights(SMALL), SMALL)
    weights = loaded(tmp_path, Precision.F32, 1 << 20)
    layers = weights.layers
    many = replace(weights, layers=(layers[0], *layers[:1] * 5, layers[-1]))
    operations: Any = None
    forward = Forward(Qwen3Checkpoint(tmp_path).config, many, operations, 512)
    assert forward.shortened().weights.layers == (layers[0], layers[-1])
    for few in (layers[:1], layers[:2]):
        assert (
            replace(forward, weights=replace(weights, layers=few)).shortened().weights.layers == few
        )
