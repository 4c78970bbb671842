"""Reads a checkpoint's configuration and tensors; errors name file, place and what is expected."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from embedfleet.engines.tensors import Floats, Matrix, Tensor, open_tensors
from embedfleet.models.json_files import brief
from embedfleet.vocabulary import ModelError

_MOST: Final = 2**31 - 1
_LARGEST: Final = 1e30
"""Larger numbers are of no model."""

OTHER_ENGINES: Final = (
    "another engine may serve it: --engine tei, vllm, sglang or llamacpp, or one that already runs "
    "(embedfleet gateway --model DIR --replica URL)"
)
"""The way out for models that embedfleet's own engine does not compute."""


def unsupported(path: Path, said: str) -> ModelError:
    """The error for a file that requires what embedfleet's own engine does not compute."""
    return ModelError(f"{path}: {said}; {OTHER_ENGINES}.")


class NamedTensors:
    """The tensors of a model directory by name, checked for shapes as they are taken."""

    def __init__(
        self,
        directory: Path,
        prefixes: Sequence[str] = ("model.",),
        unread: Collection[str] = (),
    ) -> None:
        """Map them; names are without the first of `prefixes` that they begin with.

        `unread` are there in some checkpoints and mean nothing. Raises ModelError.
        """
        self._directory = directory
        self._prefixes = prefixes
        self._tensors = open_tensors(directory, prefixes, unread)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def refuse_layers_from(self, beginning: str, layers: int) -> None:
        """Raise ModelError where a tensor's name has `beginning`, that of a layer too many."""
        surplus = next((name for name in self._tensors if name.startswith(beginning)), None)
        if surplus is not None:
            raise ModelError(
                f"{self._directory}: tensor {surplus} exists, but according to config.json the "
                f"model has {layers} layers."
            )

    def tensor(self, name: str, *shape: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelError(
                f"{self._directory}: tensor {name} is missing (looked for with and without the "
                f"prefix {' or '.join(map(repr, self._prefixes))}); config.json requires one of "
                f"shape {list(shape)}."
            )
        if tensor.shape != shape:
            raise ModelError(
                f"{self._directory}: tensor {name} has shape {list(tensor.shape)}, but config.json "
                f"requires {list(shape)}."
            )
        return tensor

    def vector(self, name: str, width: int) -> Floats:
        tensor = self.tensor(name, width)
        if tensor.kind == "I8":
            raise ModelError(f"{self._directory}: tensor {name} is int8; norms must be floats.")
        return tensor.floats()

    def matrix(self, role: str, rows: int, columns: int, *, biased: bool = False) -> Matrix:
        """The matrix `role`.weight [rows, columns], with `role`.bias [rows] if it is `biased`."""
        tensor = self.tensor(f"{role}.weight", rows, columns)
        if f"{role}.bias" in self._tensors and not biased:
            raise ModelError(
                f"{self._directory}: tensor {role}.bias is there, and such layers have no bias."
            )
        bias = self.vector(f"{role}.bias", rows) if biased else None
        if tensor.kind != "I8":
            return Matrix(tensor, bias=bias)
        scales = self.tensor(f"{role}.weight_scale", rows, 1)
        if f"{role}.weight_zero_point" in self._tensors:
            raise ModelError(f"{self._directory}: {role}: int8 with zero points is not supported.")
        return Matrix(tensor, scales.floats(), bias)


def refuse_adapter(directory: Path) -> None:
    """A PEFT adapter changes the weights beside which it lies, or has none beside it."""
    adapter = directory / "adapter_config.json"
    if adapter.exists():
        raise ModelError(
            f"{adapter}: the directory holds a PEFT adapter, which is not applied. Merge it into "
            "the weights first (peft: merge_and_unload, then save_pretrained), or remove it to "
            "serve the base model."
        )


def section(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object inside the file; empty where it is absent or null."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {key} is {brief(value)}; it must be an object.")
    return value


def count(path: Path, raw: Mapping[str, Any], key: str) -> int:
    """A positive whole number of the file. Raises ModelError."""
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ModelError(f"{path}: {key} is {brief(value)}; it must be a positive whole number.")
    return value


def positive(path: Path, raw: Mapping[str, Any], key: str) -> float:
    """A positive number of the file. Raises ModelError."""
    value = raw.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        raise ModelError(f"{path}: {key} is {brief(value)}; it must be a positive number.")
    return float(value)
