"""The compiled kernels, as `kernels/model.h` declares them.

Decides where the library is and how its functions are called. Refuses to know what for. Loads it
once, and only when asked: on a processor without its instructions it must not be.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MODULE: Final = f"{__package__}._kernels"
"""Built like an extension module, so that it is found like one; Python can't import it."""

ABI: Final = 2
"""Of `kernels/model.h`, as this module declares it."""
INT8: Final = 0
FLOAT: Final = 1


class Shape(Structure):
    """The sizes of a model, `epsilon` of its norms, and its `kind`: INT8 or FLOAT.

    `bfloat16`: whether attention of INT8 multiplies that.
    """

    _fields_ = (
        ("hidden", c_int32),
        ("layers", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("epsilon", c_float),
        ("kind", c_int32),
        ("bfloat16", c_int32),
    )


class PackedMatrix(Structure):
    """Where the panels of a matrix [out, in] are; `scales` and `sums` are int8's."""

    _fields_ = (
        ("packed", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("out", c_int32),
        ("in_", c_int32),
    )


MATRICES: Final = ("query", "key", "value", "output", "gate", "up", "down")
NORMS: Final = ("input_norm", "query_norm", "key_norm", "mlp_norm")


class PackedLayer(Structure):
    """The weights of a layer, named as in LayerWeights."""

    _fields_ = (
        *((name, PackedMatrix) for name in MATRICES),
        *((name, c_void_p) for name in NORMS),
    )


_PACK: Final = [c_void_p, c_int32, c_int32]
"""Values, outputs and inputs, which every packing function begins with."""
FUNCTIONS: Final[dict[str, tuple[list[Any], Any]]] = {
    "embedfleet_abi": ([], c_int32),
    "embedfleet_supported": ([], c_int32),
    "embedfleet_pack_int8": ([*_PACK, c_void_p, c_void_p], None),
    "embedfleet_quantise_bf16": ([*_PACK, c_void_p, c_void_p, c_void_p], None),
    "embedfleet_quantise_float": ([*_PACK, c_void_p, c_void_p, c_void_p], None),
    "embedfleet_pack_bf16": ([*_PACK, c_void_p], None),
    "embedfleet_pack_float": ([*_PACK, c_void_p], None),
    "embedfleet_open": ([POINTER(Shape), POINTER(PackedLayer), c_void_p, c_int32], c_void_p),
    "embedfleet_run": (
        [c_void_p, c_int32, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p],
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
def load() -> ctypes.CDLL:
    """The kernels, whose functions let other Python threads run. Raises OSError."""
    path = find()
    if path is None:
        raise FileNotFoundError("the kernels were not compiled when embedfleet was installed")
    return opened(path)


def opened(path: Path) -> ctypes.CDLL:
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
        raise OSError(f"{path} was compiled from another version; install embedfleet again")
    if not library.embedfleet_supported():
        # Who emulates a processor may show another's instructions in /proc/cpuinfo.
        raise OSError("the processor, or the system, has not what the kernels were compiled to")
    return library


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
        raise ValueError(f"an array of shape {array.shape} has gaps between its numbers")
    return array.ctypes.data
