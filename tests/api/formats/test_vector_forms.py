"""Every form of a vector is a function of one float32 vector, and says what can be said of it."""

from __future__ import annotations

from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.api.formats.embedding_request import EmbeddingRequest, check_dimensions
from embedfleet.api.formats.vector_forms import KINDS, Form, Kind, as_bytes, derive, rounded, scale
from embedfleet.vocabulary import CallerError, Vectors


def unit_rows(texts: int, width: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((texts, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 20), st.integers(4, 40), st.integers(0, 2**32 - 1))
def test_a_vector_has_the_same_form_alone_and_among_others(
    kind: Kind, texts: int, eighths: int, seed: int
) -> None:
    vectors = unit_rows(texts, 320, seed)
    together = rounded(derive(vectors, 8 * eighths), kind)
    for row, expected in zip(vectors, together, strict=True):
        (alone,) = rounded(derive([row], 8 * eighths), kind)
        assert alone.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dimensions", [32, 128, 640, 1024, 4096])
def test_integers_times_their_scale_are_the_vector_within_half_a_step(dimensions: int) -> None:
    vectors = unit_rows(20, dimensions)
    step = scale("int8", dimensions)
    assert step == scale("uint8", dimensions)
    signed, unsigned = (np.asarray(rounded(vectors, kind)) for kind in ("int8", "uint8"))
    assert signed.dtype == np.int8
    assert unsigned.dtype == np.uint8
    assert (unsigned.astype(int) - 128 == signed).all()
    off = signed * np.float32(step) - vectors
    assert np.abs(off).max() <= np.float32(step) * 0.501


def test_what_lies_beyond_the_span_is_clipped_on_both_sides() -> None:
    vectors = np.zeros((1, 1024), np.float32)
    vectors[0, :2] = (0.8, -0.6)
    (row,) = np.asarray(rounded(vectors, "int8"))
    assert row[:3].tolist() == [127, -127, 0]


def test_the_scale_depends_on_the_dimensions_alone() -> None:
    """An index holds vectors of years, machines and releases: a scale that moved would break it."""
    known = {32: 1.0, 64: 0.875, 256: 0.4375, 640: 7 / 640**0.5, 1024: 0.21875}
    for dimensions, reach in known.items():
        assert scale("int8", dimensions) == float(np.float32(reach / 127))
    assert scale("float16", 640) is None


def test_bits_are_signs_first_dimension_first() -> None:
    vectors = np.array([[0.5, -0.5, 0.5, -0.5, -0.5, -0.5, -0.5, -0.0]], np.float32)
    assert np.asarray(rounded(vectors, "ubinary")).tolist() == [[0b10100001]]
    assert np.asarray(rounded(vectors, "binary")).tolist() == [[0b10100001 - 128]]


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("fp8_e4m3", ml_dtypes.float8_e4m3fn),
        ("fp8_e5m2", ml_dtypes.float8_e5m2),
    ],
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_narrow_floats_have_the_bytes_that_their_library_reads(
    kind: Kind, type_: type, *, big_endian: bool
) -> None:
    vectors = unit_rows(3, 64)
    raw = b"".join(as_bytes(rounded(vectors, kind), big_endian=big_endian))
    read = np.frombuffer(raw, f"u{np.dtype(type_).itemsize}")
    read = read.byteswap() if big_endian else read
    expected: np.ndarray = vectors.astype(type_)
    assert (read.view(type_).reshape(3, 64) == expected).all()


def test_float32_goes_out_as_it_lies_there_or_turned_around() -> None:
    vectors = unit_rows(2, 64)
    for rows in (vectors, list(vectors)):
        assert b"".join(as_bytes(rows, big_endian=False)) == vectors.astype("<f4").tobytes()
        assert b"".join(as_bytes(rows, big_endian=True)) == vectors.astype(">f4").tobytes()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_no_vectors_have_every_form(kind: Kind) -> None:
    assert len(rounded([], kind)) == 0


def test_bits_fill_whole_bytes_or_are_refused() -> None:
    asked = EmbeddingRequest("m", ("a",), dimensions=100, forms=(Form("binary"),))
    with pytest.raises(CallerError, match="multiple of 8; got 100") as refused:
        check_dimensions(asked, 640)
    assert refused.value.param == "dimensions"
    check_dimensions(EmbeddingRequest("m", ("a",), forms=(Form("ubinary"),)), 640)
    check_dimensions(EmbeddingRequest("m", ("a",), dimensions=100, forms=(Form("int8"),)), 640)
