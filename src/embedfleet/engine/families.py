"""The families of models that engines compute, and how their checkpoints are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from embedfleet.engine.qwen3 import Qwen3Checkpoint, read_config, refuse_generative
from embedfleet.engine.reading import OTHER_ENGINES
from embedfleet.model.families import QWEN3, family_of
from embedfleet.model.json_files import read_object
from embedfleet.model.sentence_transformers import read_pooling
from embedfleet.vocabulary import ModelError, Pooling


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


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a family's checkpoints are read."""

    open: Callable[[Path, Pooling], Qwen3Checkpoint]
    read_config: Callable[[Path], Geometry]
    refuse: Callable[[Path], None]
    """Raise ModelError for directories that hold no embedding model."""
    poolings: tuple[Pooling, ...]


_DECODER: Final = _Reading(Qwen3Checkpoint, read_config, refuse_generative, (Pooling.LAST,))
_READINGS: Final = {QWEN3: _DECODER}


def open_checkpoint(directory: Path) -> Qwen3Checkpoint:
    """Map the checkpoint in `directory`; raises ModelError naming what is missing or wrong."""
    reading, pooling = _reading(directory)
    return reading.open(directory, pooling)


def read_geometry(directory: Path) -> Geometry:
    """The sizes of a model that engines here can compute, without its weights.

    Raises ModelError that names what is not supported, with a way out.
    """
    reading, _ = _reading(directory)
    return reading.read_config(directory / "config.json")


def _reading(directory: Path) -> tuple[_Reading, Pooling]:
    path = directory / "config.json"
    raw = read_object(path)
    family = family_of(raw)
    reading = _READINGS.get(family)
    if reading is None or "model_type" not in raw:
        known = ", ".join(name for each in _READINGS for name in each.model_types)
        raise ModelError(
            f"{path}: model_type is {raw.get('model_type')!r}, and embedfleet's own engine "
            f"computes {known}; {OTHER_ENGINES}."
        )
    reading.refuse(directory)
    pooling = read_pooling(directory, family.pooling)
    if pooling not in reading.poolings:
        wanted = " or ".join(reading.poolings)
        raise ModelError(
            f"{directory}: the vector is read by {pooling} pooling; embedfleet's own engine reads "
            f"{family.name} models by {wanted} pooling alone; {OTHER_ENGINES}."
        )
    return reading, pooling
