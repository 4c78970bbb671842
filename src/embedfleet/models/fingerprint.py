"""Fingerprints by which two processes verify that they hold the same model.

Paths, dates and links are not part of them. Every tensor is, because a fine-tune may leave all but
a few matrices unchanged. Each tensor is sampled at some places, as reading 15 GB takes longer than
loading them; training changes a tensor everywhere, so also there. A fingerprint does not protect
against deliberate manipulation.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from embedfleet.models.absent import absent
from embedfleet.models.sentence_transformers import lowercases
from embedfleet.models.weights import StoredTensor, read_header, weight_files
from embedfleet.vocabulary import ModelError, Pooling

_SIZE = 16
"""Bytes of a fingerprint; twice as many hexadecimal digits."""

_PLACES = 16
"""Samples of a tensor, spread evenly from its first byte to its last."""

_SAMPLE = 4096
"""Bytes of a sample. A tensor of at most 64 KiB, as every norm is, goes in whole."""


def fingerprint_tokenizer(directory: Path) -> str:
    """Fingerprint `tokenizer.json`, and whether texts are lower-cased before, which makes other
    tokens of them. Raises ModelError if a file can't be read.
    """
    path = directory / "tokenizer.json"
    try:
        digest = blake2b(path.read_bytes(), digest_size=_SIZE)
        digest.update(b"lower-cased" if lowercases(directory) else b"")
        return digest.hexdigest()
    except FileNotFoundError:
        raise absent(path) from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None


def fingerprint_weights(directory: Path, pooling: str = Pooling.LAST) -> str:
    """Fingerprint configuration, weights and pooling; empty if the directory has no weights.

    In go the configuration and of each tensor its name, type, shape and samples, in the order of
    names: how a checkpoint is cut into files makes no difference. Raises ModelError if a file can't
    be read.
    """
    files = weight_files(directory)
    if not files:
        return ""
    for path in files:
        if not path.exists():
            raise absent(path)
    parts: list[tuple[str, bytes]] = []
    try:
        configuration = (directory / "config.json").read_bytes()
        for path in files:
            with path.open("rb") as file:
                parts += [(each.name, _digest(file, each)) for each in read_header(path, file)]
    except OSError as error:
        raise ModelError(f"{directory}: weights can't be read: {error}") from None
    digest = blake2b(digest_size=_SIZE)
    _add(digest, b"config.json", configuration)
    if pooling != Pooling.LAST:
        _add(digest, b"pooling", pooling.encode())
    for name, sampled in sorted(parts):
        _add(digest, name.encode(), sampled)
    return digest.hexdigest()


def _digest(file: BinaryIO, tensor: StoredTensor) -> bytes:
    digest = blake2b(digest_size=_SIZE)
    _add(digest, tensor.kind.encode(), repr(tensor.shape).encode())
    for at, length in _samples(tensor):
        file.seek(at)
        digest.update(file.read(length))
    return digest.digest()


def _samples(tensor: StoredTensor) -> Iterator[tuple[int, int]]:
    """Places and lengths."""
    size = tensor.end - tensor.begin
    if size <= _PLACES * _SAMPLE:
        yield tensor.begin, size
        return
    for number in range(_PLACES):
        yield tensor.begin + (size - _SAMPLE) * number // (_PLACES - 1), _SAMPLE


def _add(digest: blake2b, name: bytes, content: bytes) -> None:
    """Lengths go in first, so that bytes can't move from one part to the next unnoticed."""
    for part in (name, content):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
