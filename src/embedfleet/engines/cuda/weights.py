"""Loads a checkpoint's weights onto the device.

Matrices that are multiplied with the same input are stored as one, so that one product serves them
all; quantisation to FP8 happens on the way. Vectors are there at once, matrices are filled later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from embedfleet.engines import bert as encoder
from embedfleet.engines import tensors
from embedfleet.engines.bert import EncoderCheckpoint
from embedfleet.engines.cuda.filling import Filling, Place
from embedfleet.engines.cuda.linear import (
    FewRows,
    FixedRows,
    FloatMatrix,
    Fp8Matrix,
    Matrix,
    quantised,
)
from embedfleet.engines.qwen3 import LayerWeights, Qwen3Checkpoint
from embedfleet.engines.scoring import Head, ScoreHead
from embedfleet.vocabulary import Precision


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; matrices are [out, in]."""

    input_norm: Tensor
    query_key_value: Matrix
    query_norm: Tensor
    key_norm: Tensor
    output: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Weights:
    """A model on the device."""

    embedding: Tensor
    """[vocabulary, hidden]"""
    layers: tuple[Layer, ...]
    final_norm: Tensor
    score: Tensor | None = None
    """[hidden] float32, of a reranker: what a final state times it is, is the score's logit."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One layer; matrices are [out, in]. Biases of `output` and `down` are added with the norms."""

    query_key_value: Matrix
    output: Matrix
    output_bias: Tensor
    attention_norm: Norm
    up: Matrix
    down: Matrix
    down_bias: Tensor
    output_norm: Norm


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """A model on the device."""

    words: Tensor
    """[vocabulary, hidden]"""
    places: Tensor
    """Positions, with the first token type added, [positions, hidden]."""
    norm: Norm
    layers: tuple[EncoderLayer, ...]


@dataclass(frozen=True, slots=True)
class Loading:
    """How weights are brought to a device."""

    device: torch.device
    precision: Precision
    filling: Filling
    """Gets what is to be read."""
    fixed_rows: int | None = None
    """Rows of every product, where texts must have the same bits in any batch."""
    few: FewRows | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision is Precision.F32 else torch.bfloat16

    def load(self, checkpoint: Qwen3Checkpoint) -> Weights:
        """Make room for the whole model; the checkpoint's files will be read once, in order."""
        layers = range(checkpoint.config.layers)
        return Weights(
            embedding=self._joined([checkpoint.embedding]),
            layers=tuple(self._layer(checkpoint.layer(index)) for index in layers),
            final_norm=self._norm(checkpoint.final_norm),
            score=self._score(checkpoint.head),
        )

    def load_encoder(self, checkpoint: EncoderCheckpoint) -> EncoderWeights:
        """The same of an encoder."""
        layers = range(checkpoint.config.layers)
        return EncoderWeights(
            words=self._joined([checkpoint.embedding]),
            places=self._norm(checkpoint.position_rows),
            norm=Norm(*map(self._norm, checkpoint.embedding_norm)),
            layers=tuple(self._encoder_layer(checkpoint.layer(index)) for index in layers),
        )

    def _encoder_layer(self, weights: encoder.EncoderLayer) -> EncoderLayer:
        return EncoderLayer(
            query_key_value=self._biased(weights.query, weights.key, weights.value),
            output=self._matrix(weights.output),
            output_bias=self._bias(weights.output),
            attention_norm=self._layer_norm(weights.attention_norm, weights.attention_norm_bias),
            up=self._biased(weights.up),
            down=self._matrix(weights.down),
            down_bias=self._bias(weights.down),
            output_norm=self._layer_norm(weights.output_norm, weights.output_norm_bias),
        )

    def _biased(self, *parts: tensors.Matrix) -> Matrix:
        bias = torch.cat([self._bias(part) for part in parts])
        matrix: Matrix = FloatMatrix(self._joined(parts), None, bias)
        return matrix if self.fixed_rows is None else FixedRows(matrix, self.fixed_rows)

    def _bias(self, matrix: tensors.Matrix) -> Tensor:
        if matrix.bias is None:
            return torch.zeros(matrix.shape[0], dtype=self.dtype, device=self.device)
        return self._norm(matrix.bias)

    def _layer_norm(self, weight: tensors.Floats, bias: tensors.Floats) -> Norm:
        return Norm(self._norm(weight), self._norm(bias))

    def _layer(self, weights: LayerWeights) -> Layer:
        return Layer(
            input_norm=self._norm(weights.input_norm),
            query_key_value=self._matrix(weights.query, weights.key, weights.value),
            query_norm=self._norm(weights.query_norm),
            key_norm=self._norm(weights.key_norm),
            output=self._matrix(weights.output),
            mlp_norm=self._norm(weights.mlp_norm),
            gate_up=self._matrix(weights.gate, weights.up),
            down=self._matrix(weights.down),
        )

    def _matrix(self, *parts: tensors.Matrix) -> Matrix:
        matrix: Matrix
        if self.precision is Precision.FP8:
            matrix = self._quantised(parts)
        else:
            matrix = FloatMatrix(self._joined(parts), self.few)
        return matrix if self.fixed_rows is None else FixedRows(matrix, self.fixed_rows)

    def _joined(self, parts: Sequence[tensors.Matrix]) -> Tensor:
        """Matrices one below the other, in one tensor on the device."""
        joined = torch.empty(_shape(parts), dtype=self.dtype, device=self.device)

        def place_from(first: int) -> Place:
            def place(begin: int, end: int, rows: Tensor) -> None:
                joined[first + begin : first + end] = rows

            return place

        self._add(parts, place_from)
        return joined

    def _quantised(self, parts: Sequence[tensors.Matrix]) -> Fp8Matrix:
        """The same in FP8."""
        rows, columns = _shape(parts)
        joined = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=self.device)
        scales = torch.empty(1, rows, dtype=torch.float32, device=self.device)

        def place_from(first: int) -> Place:
            def place(begin: int, end: int, rows: Tensor) -> None:
                here = slice(first + begin, first + end)
                # As the matrix is in bf16: what is stored in float32 is rounded to that first.
                joined[here], scales.t()[here] = quantised(rows.to(self.dtype))

            return place

        self._add(parts, place_from)
        return Fp8Matrix(joined, scales, self.few)

    def _add(self, parts: Sequence[tensors.Matrix], place_from: Callable[[int], Place]) -> None:
        first = 0
        for part in parts:
            self.filling.add(part, place_from(first))
            first += part.shape[0]

    def _score(self, head: Head) -> Tensor | None:
        if not isinstance(head, ScoreHead):
            return None
        return torch.from_numpy(head.weights).to(self.device)

    def _norm(self, values: tensors.Floats) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)


AnyLayer = TypeVar("AnyLayer", Layer, EncoderLayer)


def ends(layers: tuple[AnyLayer, ...]) -> tuple[AnyLayer, ...]:
    """The first and the last layer, between which nothing is computed that is not in them."""
    return layers if len(layers) < 3 else (layers[0], layers[-1])


def _shape(parts: Sequence[tensors.Matrix]) -> tuple[int, int]:
    """Of matrices one below the other."""
    return sum(part.shape[0] for part in parts), parts[0].shape[1]
