"""Golden vectors: their file and the comparison with a replica's."""

from pathlib import Path

import numpy as np
import pytest

from embedfleet.models.golden.vectors import (
    GoldenVectors,
    all_of_unit_length,
    compare,
    known_file,
    of_unit_length,
    read,
    write,
)
from embedfleet.vocabulary import ModelError, Precision, Vectors


def unit(vectors: np.ndarray) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


RNG = np.random.default_rng(0)
GOLDEN = GoldenVectors(
    revision="abc",
    names=("word", "code", "long"),
    encodings=(np.array([1], np.int32), np.array([2, 3], np.int32), np.array([4] * 9, np.int32)),
    vectors=unit(RNG.standard_normal((3, 64))),
)


def off_by(amount: float) -> Vectors:
    return unit(GOLDEN.vectors + amount * unit(RNG.standard_normal((3, 64))))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Ids, bits and names."""
    write(tmp_path / "golden", GOLDEN)

    found = read(tmp_path / "golden")

    assert (found.revision, found.names) == (GOLDEN.revision, GOLDEN.names)
    assert [ids.tolist() for ids in found.encodings] == [[1], [2, 3], [4] * 9]
    assert found.vectors.tobytes() == GOLDEN.vectors.tobytes()


def test_other_users_may_read_the_file_and_a_link_stays_one(tmp_path: Path) -> None:
    """A service of another user reads it, from a volume whose files are links."""
    (tmp_path / "link").symlink_to("golden")
    (tmp_path / "usual").touch()

    write(tmp_path / "link", GOLDEN)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "golden").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """With what to do instead."""
    (tmp_path / "golden").write_text("no")

    with pytest.raises(ModelError, match="embedfleet golden make"):
        read(tmp_path / "golden")


def test_the_same_vectors_pass_in_every_class() -> None:
    """And little noise passes where the class allows it."""
    assert compare(GOLDEN, GOLDEN.vectors, Precision.F32).passed
    assert compare(GOLDEN, off_by(0.1), Precision.INT8).passed
    assert not compare(GOLDEN, off_by(0.1), Precision.F32).passed


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (unit(RNG.standard_normal((3, 64))), "other weights or another model"),
        (off_by(0.9), "another pooling, a missing end-of-text"),
        (GOLDEN.vectors[:, :32], r"vectors of \(3, 32\), expected \(3, 64\)"),
        (GOLDEN.vectors * 2, "not of unit length"),
        (np.full_like(GOLDEN.vectors, np.nan), "not finite"),
    ],
)
def test_a_refusal_names_what_likely_differs(vectors: Vectors, told: str) -> None:
    """A person must be able to act on it."""
    verdict = compare(GOLDEN, vectors, Precision.INT8)

    assert not verdict.passed
    assert np.any([told_part in verdict.reason for told_part in [told.replace("\\", "")]])


def test_an_engine_that_mixes_up_the_texts_of_a_batch_is_noticed() -> None:
    """Each vector is right, and belongs to another text."""
    assert not compare(GOLDEN, GOLDEN.vectors[[1, 0, 2]], Precision.INT8).passed


def test_the_worst_text_is_named() -> None:
    """One text off: truncation or tokenizer."""
    vectors = GOLDEN.vectors.copy()
    vectors[2] = unit(RNG.standard_normal((1, 64)))

    assert "'long'" in compare(GOLDEN, vectors, Precision.INT8).reason


def test_unit_rows_distinguishes_vectors_from_anything_else() -> None:
    """bf16 engines are off by 1e-3; a zero, NaN or long row is no vector."""
    rows = np.zeros((4, 8), np.float32)
    rows[0, 0], rows[1, 0], rows[2, 0] = 1.0009, np.inf, 1.1

    assert of_unit_length(rows).tolist() == [True, False, False, False]


def test_an_unknown_revision_has_no_shipped_file() -> None:
    """Neither has a model whose weights are elsewhere."""
    assert known_file("no such revision") is None
    assert known_file("") is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 3e38, 0.0, 0.5])
@pytest.mark.parametrize("rows", [1, 3])
def test_one_wrong_row_is_seen_among_any_number(wrong: float, rows: int) -> None:
    """Also where squares are larger than any number."""
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (rows, 1))
    assert all_of_unit_length(vectors)

    vectors[-1, 0] = wrong
    assert not all_of_unit_length(vectors)


def test_no_rows_are_all_right() -> None:
    """A frame of failures alone has none."""
    assert all_of_unit_length(np.empty((0, 8), np.float32))
