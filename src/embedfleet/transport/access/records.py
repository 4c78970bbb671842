"""API key records and the format of the keys file (`keys.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embedfleet.transport.access.keys import LEAST_PLAIN, ApiKey, claim_of, digest_of
from embedfleet.vocabulary import Lane, SetupError

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Limit = Annotated[int, Meta(ge=1, le=10**12)]
Moment = Annotated[datetime, Meta(tz=True)]


class KeyFileError(SetupError):
    """A file of keys can't be read, written or understood."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: whose it is, what proves it, and what it allows. None: no limit."""

    id: Id
    name: Name
    """Who has it, for people."""
    digest: Digest
    """BLAKE2b hash of the secret, hexadecimal."""
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None
    lane: Lane | None = None
    """The only lane of its requests; None leaves it to them."""
    tokens_per_minute: Limit | None = None
    requests_per_minute: Limit | None = None
    concurrent_texts: Limit | None = None
    models: tuple[Name, ...] = ()
    """The models that it may use, by any of their names; empty means all."""
    comment: str = ""

    def ended(self, now: datetime) -> Literal["revoked", "expired"] | None:
        """Why it is of no use any more; None while it is."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else None


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    keys: tuple[KeyRecord, ...]


def parse(text: bytes) -> tuple[KeyRecord, ...]:
    """The keys of a file. Raises KeyFileError that says what is wrong and where."""
    try:
        keys = msgspec.json.decode(text, type=_File).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeyFileError(f"not a valid keys file: {error}") from error
    seen: set[str] = set()
    for key in keys:
        if key.id in seen:
            raise KeyFileError(f"two keys have the id {key.id}")
        seen.add(key.id)
    return keys


def render(keys: Sequence[KeyRecord]) -> bytes:
    """Write the file, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(_File(version=1, keys=tuple(keys)))) + b"\n"


def record_of(key: ApiKey, name: str, created: datetime) -> KeyRecord:
    """What is kept of a new key; without limits."""
    return KeyRecord(id=key.id, name=name, digest=digest_of(key.secret).hex(), created=created)


def plain(
    texts: Sequence[str], created: datetime, where: str, *, source: str | None = None
) -> tuple[KeyRecord, ...]:
    """Records of keys that are given as they are: no limits, ids by their place.

    `where` names the place in ids, and in errors unless `source` does; KeyFileError for a key that
    could be guessed.
    """
    records = []
    for number, text in enumerate(texts, 1):
        if len(text) < LEAST_PLAIN or not text.isascii() or not text.isprintable() or " " in text:
            raise KeyFileError(
                f"{source or where}: key {number} must have at least {LEAST_PLAIN} printable "
                "characters and no spaces; `embedfleet keys create` makes good ones"
            )
        claim = claim_of(text)
        digest = claim.digest.hex()
        own = f"{where.lower()}-{number}" if claim.lookup == digest else claim.lookup
        records.append(KeyRecord(id=own, name=f"{where} {number}", digest=digest, created=created))
    return tuple(records)
