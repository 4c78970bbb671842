"""Authenticates API keys and applies their limits.

Limits hold for this machine's gateway, over all its processes; several gateways each grant them.

A verified key is remembered under a keyed hash of its header, so that the common request costs one
hash and one lookup. The timing of the lookup reveals nothing: without the hash key, which never
leaves the process, a client can't choose what is compared. Invalid keys are never remembered, and
an unknown id costs the same as a wrong secret: one hash and one constant-time comparison.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import blake2b

from embedfleet.transport.access.keys import DIGEST_BYTES, claim_of, lookup_of
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.access.quota import KeyQuota, StoredKey, Usage
from embedfleet.transport.access.records import KeyRecord
from embedfleet.vocabulary import UnauthorizedError

MOST_REMEMBERED = 4096
"""Headers remembered: a few spellings of each of a thousand keys."""

NO_KEY = "none"
"""The key under which requests without a good one are counted."""

_NOBODY = bytes(DIGEST_BYTES)
_MISSING = (
    "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`; clients of OpenAI "
    "do so with `api_key`."
)


class KeyRing:
    """The keys of a process; opens passes for those that are good."""

    def __init__(
        self,
        records: Iterable[KeyRecord] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        first_name: Callable[[str], str] = str,
        ledger: Ledger | None = None,
    ) -> None:
        """`wall` gives seconds since 1970; `first_name` any name of a model its first one. `ledger`
        is what processes that grant limits together share.
        """
        self._ledger = ledger
        self._clock = clock
        self._wall = wall
        self._first_name = first_name
        # Keyed once and copied for each header: half the time of a new one.
        self._marking = blake2b(digest_size=16, key=secrets.token_bytes(32))
        self._stored: dict[str, StoredKey] = {}
        self._verified: dict[bytes, StoredKey] = {}
        self.usage: dict[str, Usage] = {NO_KEY: Usage()}
        """What was used, by the id of the key; of keys that are gone too."""
        self.replace(records)

    def __len__(self) -> int:
        """Keys, those that ended included."""
        return len(self._stored)

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Take other keys from now on; who stays keeps what is left of its quotas."""
        now = self._clock()
        stored = {}
        for record in records:
            usage = self.usage.get(record.id)
            if usage is None:
                account = None if self._ledger is None else self._ledger.account(record.id)
                usage = self.usage[record.id] = Usage(account)
            usage.limit(record, now)
            stored[lookup_of(record.id, record.digest)] = StoredKey(record, usage)
        self._stored = stored
        self._verified.clear()

    def open(self, authorization: str | None) -> KeyQuota:
        """Let the bearer of a good key in.

        Raises UnauthorizedError, or RateLimitedError when its requests are used up.
        """
        if authorization is None:
            raise self._refuse(_MISSING, None)
        sent = authorization.encode("latin-1", "replace")
        marking = self._marking.copy()
        marking.update(sent)
        mark = marking.digest()
        stored = self._verified.get(mark)
        if stored is None:
            stored = self._verify(authorization)
            if len(self._verified) >= MOST_REMEMBERED:
                self._verified.clear()
            self._verified[mark] = stored
        if stored.expires is not None and stored.expires <= self._wall():
            raise self._refuse("This API key has expired.", "invalid_api_key")
        opened = KeyQuota(stored, self._clock, self._first_name)
        opened.begin()
        return opened

    def open_for(self, key: str) -> KeyQuota:
        """For work that the bearer of a key asked for before, by the key's id.

        Raises UnauthorizedError where it has ended since, or RateLimitedError.
        """
        stored = next((each for each in self._stored.values() if each.record.id == key), None)
        now = datetime.fromtimestamp(self._wall(), UTC)
        ended = "gone" if stored is None else stored.record.ended(now)
        if stored is None or ended is not None:
            raise self._refuse(f"This API key ({key}) is {ended}.", "invalid_api_key")
        opened = KeyQuota(stored, self._clock, self._first_name)
        opened.begin()
        return opened

    def _verify(self, authorization: str) -> StoredKey:
        scheme, _, text = authorization.replace("\t", " ").partition(" ")
        if scheme.lower() != "bearer":
            raise self._refuse(_MISSING, None)
        claim = claim_of(text.strip())
        stored = self._stored.get(claim.lookup)
        good = hmac.compare_digest(claim.digest, stored.digest if stored else _NOBODY)
        if stored is None or not good:
            raise self._refuse(
                "Incorrect API key provided. Ask the operator of this service for one.",
                "invalid_api_key",
            )
        ended = stored.record.ended(datetime.fromtimestamp(self._wall(), UTC))
        if ended is not None:
            raise self._refuse(f"This API key ({stored.record.id}) is {ended}.", "invalid_api_key")
        return stored

    def _refuse(self, message: str, code: str | None) -> UnauthorizedError:
        self.usage[NO_KEY].refuse("key")
        return UnauthorizedError(message, code=code)
