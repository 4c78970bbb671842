"""Loads the compiled kernel library and declares its functions for ctypes (`kernels/model.h`)."""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int32, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.architectures import Forward
from embedfleet.vocabulary import Pooling

_MODULE: Final = f"{__package__}._kernels"
"""Built like an extension module, so that it is found like one; Python can't import it."""

ABI: Final = 6
"""Of `kernels/model.h`, as this module declares it."""
FORWARDS: Final[dict[Forward, int]] = {"decoder": 0, "encoder": 1}
POOLINGS: Final = {Pooling.LAST: 0, Pooling.FIRST: 1, Pooling.MEAN: 2}
INT8: Final = 0
FLOAT: Final = 1
FROM_INT8: Final = 0
FROM_BF16: Final = 1
FROM_FLOAT: Final = 2


class Shape(Structure):
    """The sizes of a model, `epsilon` of its norms, and its `kind`: INT8 or FLOAT.

    `forward` and `pooling` are FORWARDS and POOLINGS, `set` is the number of an instruction set,
    `bfloat16` whether attention of INT8 multiplies it.
    """

    _fields_ = (
        ("hidden", c_int32),
        ("layers", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("epsilon", c_float),
        ("forward", c_int32),
        ("pooling", c_int32),
        ("kind", c_int32),
        ("set", c_int32),
        ("bfloat16", c_int32),
    )


class PackedMatrix(Structure):
    """Where the panels of a matrix [out, in] are; `scales` and `sums` are int8's.

    `bias` is None where there is none.
    """

    _fields_ = (
        ("packed", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("bias", c_void_p),
        ("out", c_int32),
        ("in_", c_int32),
    )


MATRICES: Final = ("query", "key", "value", "output", "gate", "up", "down")
NORMS: Final = (
    "input_norm",
    "query_norm",
    "key_norm",
    "mlp_norm",
    "attention_norm",
    "attention_norm_bias",
    "output_norm",
    "output_norm_bias",
)


class PackedLayer(Structure):
    """The weights of a layer, named as a family's own are; what a family has not stays zero."""

    _fields_ = (
        *((name, PackedMatrix) for name in MATRICES),
        *((name, c_void_p) for name in NORMS),
    )


class _Numbers(Structure):
    _fields_ = (
        ("block_rows", c_int32),
        ("few_rows", c_int32),
        ("key_block", c_int32),
        ("group_inputs", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("most_head_dim", c_int32),
        ("most_sharing", c_int32),
    )


class _SetInfo(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("needs", c_char_p),
        ("runs", c_int32),
        ("bfloat16", c_int32),
        ("quick_int8", c_int32),
        ("byte_panel", c_int32),
        ("float_panel", c_int32),
        ("together", c_int32),
        ("offset", c_int32),
    )


@dataclass(frozen=True, slots=True)
class Numbers:
    """Constants of the kernels that callers reckon with."""

    block_rows: int
    """Tokens that a thread takes through a layer at a time."""
    few_rows: int
    """Times the threads: a pass of fewer tokens is computed by all threads together."""
    key_block: int
    """Keys and values of a text take memory for a multiple of so many tokens."""
    group_inputs: int
    """Inputs that share a scale in int8, those of an output as those of a token."""
    inputs: int
    """A matrix has a multiple of so many inputs."""
    outputs: int
    """And of so many outputs; so have heads."""
    most_head_dim: int
    most_sharing: int
    """Query heads of one key head."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What a library can compute with, if the processor has it."""

    number: int
    name: str
    needs: tuple[str, ...]
    """Of the processor, by Linux' names."""
    runs: bool
    """Whether processor and system here have it."""
    bfloat16: bool
    """Whether attention of int8 multiplies bfloat16 here."""
    quick_int8: bool
    """Whether int8 is faster than float32."""
    byte_panel: int
    """Outputs of a packed panel of int8; it is [inputs / together][outputs][together]."""
    float_panel: int
    """Outputs of a packed panel of floats; it is [inputs][outputs]."""
    together: int
    offset: int
    """Of a token's bytes: what `sums` of weights are multiplied by."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """A loaded library; its functions let other Python threads run."""

    functions: ctypes.CDLL
    numbers: Numbers
    sets: tuple[InstructionSet, ...]
    """Best first; the last one is for any processor."""


FUNCTIONS: Final[dict[str, tuple[list[Any], Any]]] = {
    "embedfleet_abi": ([], c_int32),
    "embedfleet_numbers": ([POINTER(_Numbers)], None),
    "embedfleet_sets": ([], c_int32),
    "embedfleet_set": ([c_int32, POINTER(_SetInfo)], None),
    "embedfleet_pack": (
        [c_int32, c_int32, *[c_void_p] * 3, c_int32, c_int32, *[c_void_p] * 3],
        None,
    ),
    "embedfleet_open": ([POINTER(Shape), POINTER(PackedLayer), c_void_p, c_int32], c_void_p),
    "embedfleet_run": (
        [c_void_p, c_int32, *[c_void_p] * 7],
        c_int32,
    ),
    "embedfleet_release": ([c_void_p], None),
    "embedfleet_close": ([c_void_p], None),
}
"""Arguments and result; pointers to numbers are plain addresses."""


def find() -> Path | None:
    """Where the compiled kernels are; None where they were not compiled."""
    found = importlib.util.find_spec(_MODULE)
    return Path(found.origin) if found is not None and found.origin else None


@cache
def load() -> Kernels:
    """The kernels. Raises OSError."""
    path = find()
    if path is None:
        raise FileNotFoundError("the kernels were not compiled when embedfleet was installed")
    return opened(path)


def opened(path: Path) -> Kernels:
    """The library at `path`. Raises OSError, also when it is not of this version."""
    library = ctypes.CDLL(str(path))
    try:
        for name, (arguments, result) in FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
        abi = library.embedfleet_abi()
    except AttributeError:
        abi = None
    if abi != ABI:
        raise OSError(f"{path} was compiled from another version; reinstall embedfleet")
    numbers = _Numbers()
    library.embedfleet_numbers(byref(numbers))
    sets = tuple(_set(library, number) for number in range(library.embedfleet_sets()))
    return Kernels(library, Numbers(**_members(numbers)), sets)


def _set(library: ctypes.CDLL, number: int) -> InstructionSet:
    info = _SetInfo()
    library.embedfleet_set(number, byref(info))
    members = _members(info)
    members |= {name: bool(members[name]) for name in ("runs", "bfloat16", "quick_int8")}
    members["name"] = info.name.decode("ascii")
    members["needs"] = tuple(info.needs.decode("ascii").split())
    return InstructionSet(number=number, **members)


def _members(structure: Structure) -> dict[str, Any]:
    return {field[0]: getattr(structure, field[0]) for field in structure._fields_}


def absence() -> str | None:
    """Why the kernels can't be loaded; None where they are. Loads them."""
    try:
        load()
    except OSError as error:
        return str(error)
    return None


def address(array: NDArray[np.generic]) -> int:
    """Where the numbers of an array begin. Whoever hands it on keeps the array meanwhile."""
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {array.shape} is not contiguous")
    return array.ctypes.data
