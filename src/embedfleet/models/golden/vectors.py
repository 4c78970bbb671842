"""Golden vectors: the reference engine's output for a fixed set of texts, and comparison with it.

A replica gets traffic only after reproducing them. The file is made once by the reference engine
(`embedfleet golden make`), never from whichever replica joins first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from embedfleet.runtime.text_files import write_file
from embedfleet.vocabulary import Encoding, ModelError, Precision, Vectors

KNOWN = Path(__file__).parent / "known"
"""Files that ship with embedfleet, named by model revision."""

UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from 1. Engines that normalise in bf16 are off by about 1e-3."""


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Encodings with the float32 vectors of the reference engine."""

    revision: str
    names: tuple[str, ...]
    """What each text is, for messages: `short English`, `code`, …"""
    encodings: tuple[Encoding, ...]
    vectors: Vectors

    def shortest(self, texts: int) -> GoldenVectors:
        """Those of so few of the texts that they cost next to nothing to compute."""
        lengths = [len(encoding) for encoding in self.encodings]
        rows = np.argsort(lengths, kind="stable")[:texts].tolist()
        return GoldenVectors(
            self.revision,
            tuple(self.names[row] for row in rows),
            tuple(self.encodings[row] for row in rows),
            self.vectors[rows],
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether vectors agree with the golden ones."""

    passed: bool
    least_cosine: float
    reason: str


def known_file(revision: str) -> Path | None:
    """The shipped file for a model revision, if there is one."""
    path = KNOWN / f"{revision}.safetensors"
    return path if revision and path.is_file() else None


def write(path: Path, golden: GoldenVectors) -> None:
    """Write a file that `read` reads. Raises SetupError."""
    lengths = np.array([len(encoding) for encoding in golden.encodings], np.int32)
    tensors: dict[str, NDArray[np.generic]] = {
        "lengths": lengths,
        "ids": np.concatenate(golden.encodings).astype(np.int32),
        "vectors": golden.vectors,
    }
    metadata = {"revision": golden.revision, "names": json.dumps(golden.names)}
    # Not `save_file`: it replaces what is there, links too, by a file that only its owner can read.
    write_file(path, save(tensors, metadata))


def read(path: Path) -> GoldenVectors:
    """Read a file of golden vectors; ModelError if it is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            ids, lengths = file.get_tensor("ids"), file.get_tensor("lengths")
            vectors = file.get_tensor("vectors")
        encodings = np.split(ids, np.cumsum(lengths)[:-1])
        return GoldenVectors(
            metadata["revision"], tuple(json.loads(metadata["names"])), tuple(encodings), vectors
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path} is not a file of golden vectors ({error}); make one with `embedfleet golden "
            "make`"
        ) from error


INVALID_VECTOR = "a vector that is not finite or not of unit length"


def of_unit_length(vectors: Vectors) -> NDArray[np.bool_]:
    """Which rows are finite and of unit length: what any right vector is. Shape [texts]."""
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are what is looked for
        squares = np.vecdot(vectors, vectors)
    right: NDArray[np.bool_] = np.abs(squares - 1.0) <= 2 * UNIT_TOLERANCE
    return right


def all_of_unit_length(vectors: Vectors) -> bool:
    """Whether every row is finite and of unit length, as cheaply as it can be known."""
    if len(vectors) == 1:  # most answers: a dot product is a fifth of what follows
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(vectors[0].dot(vectors[0]))
        return abs(square - 1.0) <= 2 * UNIT_TOLERANCE
    return bool(of_unit_length(vectors).all())


def compare(golden: GoldenVectors, vectors: Vectors, precision: Precision) -> Verdict:
    """Judge a replica's vectors for the golden encodings by the pool's precision class."""
    if vectors.shape != golden.vectors.shape:
        expected = golden.vectors.shape
        return Verdict(False, float("nan"), f"vectors of {vectors.shape}, expected {expected}")
    if not of_unit_length(vectors).all():
        return Verdict(False, float("nan"), INVALID_VECTOR)
    cosines = np.einsum("ij,ij->i", vectors, golden.vectors)
    least = float(cosines.min())
    if least >= precision.least_cosine:
        return Verdict(True, least, "")
    name = golden.names[int(cosines.argmin())]
    return Verdict(
        False,
        least,
        f"the vector of the golden text '{name}' has cosine {least:.4f} to the reference, "
        f"{precision} needs {precision.least_cosine}; {_likely_cause(cosines)}",
    )


def _likely_cause(cosines: NDArray[np.floating]) -> str:
    """What such a difference usually comes from."""
    median = float(np.median(cosines))
    if median < 0.3:
        return "the vectors are unrelated: other weights or another model"
    if median < 0.9:
        return "all are off: another pooling, a missing end-of-text token or another revision"
    if float(cosines.max()) > 0.999:
        return "only some are off: truncation or a tokenizer that differs"
    return "all are off a little: coarser numbers than the pool promises"
