"""The format of API keys, and the hash that is stored of them.

`ef-<id>-<secret>`: the id is public (logs, metrics, lists), the secret is 256 random bits. Both are
lower-case base32, which a double click selects whole and no shell or URL alters.

Stored is one BLAKE2b hash of the secret. Slow password hashes (bcrypt, Argon2) protect secrets that
people choose; 256 random bits can't be guessed at any speed, and a slow hash would let anyone load
our CPU.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

DIGEST_BYTES = 32
SECRET_BYTES = 32
LEAST_PLAIN = 16
"""Fewest characters of a key that was not made here."""

_ID = r"[a-z2-7]{12}"
_FORMAT = re.compile(rf"ef-({_ID})-([a-z2-7]{{52}})")
_ID_BYTES = 8
_ID_CHARACTERS = 12  # 60 of the 64 bits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is shown once, to the one who made it."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What a client is given."""
        return f"ef-{self.id}-{self.secret}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a presented key claims: whose it is, and the hash that would prove it."""

    lookup: str
    """The id of a key of ours; of any other the hash of the whole."""
    digest: bytes


def mint(random_bytes: Callable[[int], bytes]) -> ApiKey:
    """Make a key; `random_bytes` must be fit for secrets, such as `secrets.token_bytes`."""
    return ApiKey(
        _base32(random_bytes(_ID_BYTES))[:_ID_CHARACTERS], _base32(random_bytes(SECRET_BYTES))
    )


def claim_of(text: str) -> Claim:
    """Parse a presented key: one hash, whatever it looks like."""
    ours = _FORMAT.fullmatch(text)
    if ours is not None:
        return Claim(ours[1], digest_of(ours[2]))
    digest = digest_of(text)
    return Claim(digest.hex(), digest)


def lookup_of(key_id: str, digest: str) -> str:
    """Where the claim of a recorded key points to."""
    return key_id if re.fullmatch(_ID, key_id) else digest


def digest_of(secret: str) -> bytes:
    """The hash that is kept instead of a secret."""
    hashed = blake2b(secret.encode(), digest_size=DIGEST_BYTES, person=b"embedfleet key")
    return hashed.digest()


def _base32(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()
