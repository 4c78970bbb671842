"""The model families that engines compute, and how a checkpoint is described to an engine.

A checkpoint gives sizes, tensors by role, embeddings and pooling. Each engine implements a family's
layers as one forward pass of about a hundred lines on shared kernels: `native/kernels/decoder.c`
and `encoder.c`, `plain.py`, `cuda/forward.py` and `cuda/encoder.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines import bert as encoder
from embedfleet.engines import qwen3
from embedfleet.engines.checkpoint import OTHER_ENGINES
from embedfleet.engines.rope import Tables
from embedfleet.engines.scoring import Head
from embedfleet.engines.tensors import Floats, Matrix
from embedfleet.models.families import BERT, QWEN3, ROBERTA, family_of
from embedfleet.models.json_files import brief, read_object
from embedfleet.models.reranker import task_of
from embedfleet.models.sentence_transformers import (
    read_pooling,
    refuse_elsewhere,
    refuse_other_uses,
)
from embedfleet.vocabulary import ModelError, Pooling, Task

Forward: TypeAlias = Literal["decoder", "encoder"]
"""Qwen3's layers, and BERT's."""


class Geometry(Protocol):
    """Sizes that every family has."""

    @property
    def hidden(self) -> int:
        """Width of the residual stream and of a vector."""
        ...

    @property
    def layers(self) -> int: ...

    @property
    def heads(self) -> int:
        """Query heads."""
        ...

    @property
    def kv_heads(self) -> int:
        """Key and value heads; each serves `heads / kv_heads` query heads."""
        ...

    @property
    def head_dim(self) -> int: ...

    @property
    def intermediate(self) -> int:
        """Width of the MLP."""
        ...

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table."""
        ...

    @property
    def epsilon(self) -> float:
        """Of the norms."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest text in tokens that the model was made for."""
        ...


class Checkpoint(Protocol):
    """A model's weights, checked for names and shapes."""

    directory: Path
    pooling: Pooling
    embedding: Matrix
    """[vocabulary, hidden]"""
    head: Head
    """What is made of pooled states."""

    @property
    def forward(self) -> Forward:
        """What its layers compute."""
        ...

    @property
    def config(self) -> Geometry: ...

    @property
    def final_norm(self) -> Floats | None:
        """Of the states after the last layer, [hidden]; None where there is no such norm."""
        ...

    def angles(self) -> Tables | None:
        """By which queries and keys are turned; None where positions are in the embeddings."""
        ...

    def hold_embeddings(self) -> None:
        """Read the embedding table into memory. Raises ModelError."""
        ...

    def embed(self, ids: NDArray[np.int32], positions: NDArray[np.int32]) -> Floats:
        """What tokens are before the first layer, [len(ids), hidden], by `positions` in texts."""
        ...

    def layer(self, index: int) -> Any:
        """The weights of a layer, by role: a dataclass of matrices and vectors."""
        ...


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a family's checkpoints are read."""

    open: Callable[[Path, Pooling, Task], Checkpoint]
    read_config: Callable[[Path], Geometry]
    refuse: Callable[[Path], None]
    """Raise ModelError for directories that hold no embedding model."""
    poolings: tuple[Pooling, ...]
    reranks: bool
    """Whether a reranker of the family can be computed."""


_DECODER: Final = _Reading(
    qwen3.Qwen3Checkpoint,
    qwen3.read_config,
    qwen3.refuse_generative,
    (Pooling.LAST,),
    reranks=True,
)
_ENCODER: Final = _Reading(
    encoder.EncoderCheckpoint,
    encoder.read_config,
    encoder.refuse_others,
    (Pooling.FIRST, Pooling.MEAN),
    reranks=False,
)
_READINGS: Final = {QWEN3: _DECODER, BERT: _ENCODER, ROBERTA: _ENCODER}


def open_checkpoint(directory: Path, task: Task | None = None) -> Checkpoint:
    """Map the checkpoint in `directory`; raises ModelError naming what is missing or wrong.

    `task` is what the files tell by default.
    """
    refuse_elsewhere(directory)
    task = task_of(directory, wanted=task)
    reading, pooling = _reading(directory, task)
    return reading.open(directory, pooling, task)


def read_geometry(directory: Path, task: Task | None = None) -> Geometry:
    """The sizes of a model that engines here can compute, without its weights.

    Raises ModelError that names what is not supported, with a way out.
    """
    refuse_elsewhere(directory)
    reading, _ = _reading(directory, task_of(directory, wanted=task))
    return reading.read_config(directory / "config.json")


def _reading(directory: Path, task: Task) -> tuple[_Reading, Pooling]:
    path = directory / "config.json"
    raw = read_object(path)
    family = family_of(raw)
    reading = _READINGS.get(family)
    if reading is None or "model_type" not in raw:
        known = ", ".join(name for each in _READINGS for name in each.model_types)
        raise ModelError(
            f"{path}: model_type is {brief(raw.get('model_type'))}, and embedfleet's own engine "
            f"computes {known}; {OTHER_ENGINES}."
        )
    if task is Task.RERANK:
        if not reading.reranks:
            raise ModelError(
                f"{path}: embedfleet's own engine computes no rerankers of the family "
                f"{family.name}; {OTHER_ENGINES}."
            )
        return reading, Pooling.LAST
    reading.refuse(directory)
    try:
        refuse_other_uses(directory)
        pooling = read_pooling(directory, family.pooling)
    except ModelError as error:
        raise ModelError(f"{error}; {OTHER_ENGINES}.") from None
    if pooling not in reading.poolings:
        wanted = " or ".join(reading.poolings)
        raise ModelError(
            f"{directory}: the vector is read by {pooling} pooling; embedfleet's own engine reads "
            f"{family.name} models by {wanted} pooling alone; {OTHER_ENGINES}."
        )
    return reading, pooling
