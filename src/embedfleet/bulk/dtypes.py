"""Number types of outputs: those of the API that the file formats support. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.client.wire import DTYPES as OF_SERVICES
from embedfleet.client.wire import OutputDtype

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    name: OF_SERVICES[name] for name in ("float32", "float16", "int8", "uint8", "binary", "ubinary")
}  # NumPy's files and Parquet have no type for bfloat16 and FP8.
"""The type of a number in a row, by name. `binary` and `ubinary` hold eight dimensions."""

_BITS: Final = {"binary", "ubinary"}
_AS_NAMED: Final[Mapping[str, OutputDtype]] = {
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


def asked_of_service(dtype: str) -> OutputDtype:
    """The `output_dtype` of requests. Floats are rounded here, since every service has float32;
    integers by the service, so that they have the same scale as its queries.
    """
    return _AS_NAMED.get(dtype, "float32")


def columns(dtype: str, dimensions: int) -> int:
    """Numbers in a row of so many dimensions."""
    return dimensions // 8 if dtype in _BITS else dimensions


def cosines(dtype: str, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Cosines between corresponding rows of two matrices, shape [rows].

    For bits the angle is estimated from the Hamming distance: a random hyperplane separates two
    vectors with a probability of their angle divided by π (Charikar 2002).
    """
    if dtype in _BITS:
        differing = one.view(np.uint8) ^ other.view(np.uint8)
        shares = np.bitwise_count(differing).sum(axis=1) / (8 * one.shape[1])
        found: NDArray[np.float64] = np.cos(np.pi * shares)
        return found
    zero = 128.0 if dtype == "uint8" else 0.0
    a, b = one.astype(np.float64) - zero, other.astype(np.float64) - zero
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.sum(a * b, axis=1) / lengths)
