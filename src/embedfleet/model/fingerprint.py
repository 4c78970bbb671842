"""Fingerprints by which two processes know that they hold the same model.

This module decides which bytes make a model the same. Paths, dates and file-system links are not
among them. It refuses to know what the bytes mean.

Weights are sampled, not read whole: reading 15 GB takes longer than loading them. Another
checkpoint of the same shape has other numbers everywhere, so also in the sample; a fingerprint is
no protection against someone who changes a file on purpose.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from embedfleet.vocabulary import ModelError

_SIZE = 16
"""Bytes of a fingerprint; twice as many hexadecimal digits."""

_SAMPLE = 1024 * 1024
"""Bytes read at each end of a weights file."""

_LENGTH_OF_HEADER = 8
"""A safetensors file begins with the length of its JSON header, as a 64-bit integer."""


def fingerprint_tokenizer(directory: Path) -> str:
    """Fingerprint `tokenizer.json`; raises ModelError if it can't be read."""
    path = directory / "tokenizer.json"
    try:
        return blake2b(path.read_bytes(), digest_size=_SIZE).hexdigest()
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None


def fingerprint_weights(directory: Path) -> str:
    """Fingerprint configuration and weights, empty if the directory has no weights.

    Of each safetensors file go in: name, size, header, and a mebibyte at either end. Raises
    ModelError if a file can't be read.
    """
    files = sorted(directory.glob("*.safetensors"), key=lambda path: path.name)
    if not files:
        return ""
    digest = blake2b(digest_size=_SIZE)
    try:
        _add(digest, b"config.json", (directory / "config.json").read_bytes())
        for path in files:
            _add(digest, path.name.encode(), _sample(path))
    except OSError as error:
        raise ModelError(f"{directory}: weights can't be read: {error}") from None
    return digest.hexdigest()


def _sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(_LENGTH_OF_HEADER), "little")
        if header > size - _LENGTH_OF_HEADER:
            raise ModelError(f"{path} is not a safetensors file, or not a whole one")
        file.seek(0)
        head = file.read(max(_LENGTH_OF_HEADER + header, _SAMPLE))
        file.seek(max(0, size - _SAMPLE))
        tail = file.read()
    return size.to_bytes(8, "little") + head + tail


def _add(digest: blake2b, name: bytes, content: bytes) -> None:
    """Lengths go in first, so that bytes can't move from one part to the next unnoticed."""
    for part in (name, content):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
