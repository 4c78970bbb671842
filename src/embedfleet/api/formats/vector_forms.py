"""Encodings of vectors in responses: number formats and layouts.

Every form is a function of one float32 vector of unit length: cut to the requested dimensions,
normalised again (`derive`), then rounded to the requested number format. Integers have one scale
per number of dimensions, the same for every row, text, model and process, so inner products of
integers rank as those of the floats do, in any index. (A scale per row, as some servers use, is
lost with the row's length and distorts the ranking.)

A coordinate of a unit vector with d dimensions has a root mean square of 1/√d. The integers span
`SPAN` times that, at most 1, in 127 steps of `scale(d)`; the rounding error, 0.3 of a step, turns a
vector by about one degree. Values beyond are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import CallerError, VectorError, Vectors

Layout: TypeAlias = Literal["float", "base64", "bytes", "bytes_only"]
"""How numbers are written: JSON numbers, base64 of their bytes, or one body of bytes, with or
without a header that describes it. OpenAI has the first two, vLLM all four."""

Kind: TypeAlias = Literal[
    "float32",
    "float16",
    "bfloat16",
    "fp8_e4m3",
    "fp8_e5m2",
    "int8",
    "uint8",
    "binary",
    "ubinary",
]
"""What a number of a vector is. Floats have vLLM's names, integers those of Cohere and Voyage:
`binary` is one bit a dimension, set where the number is not negative, most significant bit first,
eight to a byte that is 128 less than that of `ubinary`."""

LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
IN_JSON: Final[frozenset[Layout]] = frozenset({"float", "base64"})
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

SPAN: Final = 7.0
"""How many times the root mean square of a coordinate integers reach: of 5 to 8, measured on real
questions (`benchmarks.forms`), the one that costs least recall at all dimensions. A few coordinates
in a million of real vectors lie beyond, up to ten times it."""

_TYPES: Final[dict[Kind, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "binary": np.dtype(np.int8),
    "ubinary": np.dtype(np.uint8),
}
PACKED: Final[frozenset[Kind]] = frozenset({"binary", "ubinary"})
"""Bits, eight to a byte."""
_FLOATS: Final = {"float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"}

_DIGITS: Final = 13.0
_DIGITS_OF_INTEGERS: Final = 4.5
"""What a number takes in JSON, in bytes, its comma included."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a vector."""

    kind: Kind = "float32"
    layout: Layout = "float"
    big_endian: bool = False
    """The order of a number's bytes, where there is more than one."""

    @property
    def in_json(self) -> bool:
        return self.layout in IN_JSON

    def size(self, dimensions: int) -> int:
        """Bytes that a vector takes in an answer, about."""
        numbers = dimensions // 8 if self.kind in PACKED else dimensions
        if self.layout == "float":
            return int(numbers * (_DIGITS if self.kind in _FLOATS else _DIGITS_OF_INTEGERS))
        size = numbers * _TYPES[self.kind].itemsize
        return size if self.layout != "base64" else (size + 2) // 3 * 4


FLOATS: Final = Form()
"""The default form."""


def scale(kind: Kind, dimensions: int) -> float | None:
    """What an integer is to be multiplied with, None for what are no integers.

    A number is `scale * q` of an int8 q, and `scale * (q - 128)` of an uint8 q.
    """
    if kind not in {"int8", "uint8"}:
        return None
    return float(np.float32(min(1.0, SPAN / float(np.sqrt(dimensions))) / 127))


def check_packable(form: Form, dimensions: int) -> None:
    """Raise CallerError where the bits of a vector fill no whole number of bytes."""
    if form.kind in PACKED and dimensions % 8:
        raise CallerError(
            f"`{form.kind}` vectors have eight dimensions to a byte, so `dimensions` must be a "
            f"multiple of 8; got {dimensions}.",
            param="dimensions",
            code="invalid_value",
        )


def derive(
    vectors: Vectors | Sequence[NDArray[np.float32]], dimensions: int | None = None
) -> Vectors | Sequence[NDArray[np.float32]]:
    """Make the answer's vectors, shape [texts, dimensions], from full ones of unit length.

    `vectors` is a float32 matrix [texts, width] or one float32 array [width] per text. Full width
    (also by None) gives the same bits; fewer dimensions are cut off and the rest is brought to unit
    length, in float32. A row's result does not depend on the rows beside it. What is not cut comes
    back as it is, a matrix or rows.

    Raises ValueError for dimensions below 1 or above the width, VectorError if nothing but zeros
    is left of a vector.
    """
    if not len(vectors):
        return vectors
    width = len(vectors[0])
    if dimensions is None or dimensions == width:
        return vectors
    full = vectors if isinstance(vectors, np.ndarray) else np.stack(vectors)
    if not 1 <= dimensions < width:
        raise ValueError(f"no {dimensions} dimensions in vectors of {width}")
    # One copy makes rows contiguous, so that every row is summed in the same order, however many
    # there are: a cached vector must give the same bits as a fresh one.
    cut = np.ascontiguousarray(full[:, :dimensions])
    lengths = np.sqrt(np.add.reduce(cut * cut, axis=1, keepdims=True))
    if not lengths.all():
        raise VectorError(f"the first {dimensions} dimensions of a vector are all zero")
    return np.divide(cut, lengths)


def rounded(
    vectors: Vectors | Sequence[NDArray[np.float32]], kind: Kind
) -> NDArray[Any] | Sequence[NDArray[Any]]:
    """Vectors of the requested dimensions as numbers of a kind.

    float32 comes back as it is; else an array [texts, dimensions], [texts, dimensions / 8] for
    bits. Rounding is to nearest, ties to even.
    """
    if kind == "float32" or not len(vectors):
        return vectors
    full = vectors if isinstance(vectors, np.ndarray) else np.stack(vectors)
    if kind in PACKED:
        bits = np.packbits(full >= 0, axis=-1)
        return bits if kind == "ubinary" else (bits ^ np.uint8(0x80)).view(np.int8)
    step = scale(kind, full.shape[1])
    if step is None:
        return full.astype(_TYPES[kind])
    steps = full / np.float32(step)
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    whole = steps.astype(np.int8)
    return whole if kind == "int8" else (whole.view(np.uint8) ^ np.uint8(0x80))


def as_bytes(numbers: NDArray[Any] | Sequence[NDArray[Any]], *, big_endian: bool) -> Any:
    """The same with rows that lie as they are to go out: contiguous, in the order of bytes asked
    for, of a type whose bytes any library hands on.
    """
    if not isinstance(numbers, np.ndarray):
        # Rows of a cache are contiguous and go out as they lie there.
        return [row.byteswap() for row in numbers] if big_endian else numbers
    whole = np.ascontiguousarray(numbers, "<f4" if numbers.dtype.itemsize == 4 else None)
    if whole.dtype.itemsize < 4:
        whole = whole.view(np.uint8 if whole.dtype.itemsize == 1 else np.uint16)
    return whole.byteswap() if big_endian else whole


def as_numbers(numbers: NDArray[Any] | Sequence[NDArray[Any]]) -> Any:
    """The same as JSON writers know them: contiguous, and narrow floats widened."""
    if not isinstance(numbers, np.ndarray):
        return numbers
    if numbers.dtype not in _OF_JSON:
        numbers = numbers.astype(np.float32)
    return np.ascontiguousarray(numbers)


_OF_JSON = {np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)}
