"""Rate limits of one API key, applied to one request at a time.

Refusals use OpenAI's wording and headers, because client libraries parse them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from embedfleet.transport.access.bucket import Bucket
from embedfleet.transport.access.ledger import REQUESTS, TOKENS, Account
from embedfleet.transport.access.records import KeyRecord
from embedfleet.vocabulary import ForbiddenError, Lane, RateLimitedError

Headers = tuple[tuple[bytes, bytes], ...]

NEVER: Headers = ((b"x-should-retry", b"false"),)
"""Tells OpenAI's clients, which would send a 429 again, that it can't help."""

REQUESTS_LEFT = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
)
TOKENS_LEFT = (
    b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-tokens",
)
"""OpenAI's names for what a caller has left."""


class Usage:
    """What a key has used; survives changes of its record."""

    __slots__ = (
        "account",
        "refusals",
        "requests",
        "requests_bucket",
        "texts",
        "tokens",
        "tokens_bucket",
    )

    def __init__(self, account: Account | None = None) -> None:
        """`account` holds what all processes share of its limits, where there are several."""
        self.account = account
        self.requests = 0
        """Requests admitted."""
        self.tokens = 0
        """Tokens charged."""
        self.texts = 0
        """Texts of requests that run now."""
        self.refusals: dict[str, int] = {}
        """Requests refused, by what for."""
        self.tokens_bucket: Bucket | None = None
        self.requests_bucket: Bucket | None = None

    def limit(self, record: KeyRecord, now: float) -> None:
        """Follow the limits of a record."""
        self.tokens_bucket = self._limited(
            TOKENS, self.tokens_bucket, record.tokens_per_minute, now
        )
        self.requests_bucket = self._limited(
            REQUESTS, self.requests_bucket, record.requests_per_minute, now
        )

    def enter(self, texts: int, most: int | None) -> int | None:
        """Begin so many texts; None, or how many are at work where these would be over `most`."""
        if most is not None:
            if self.account is not None:
                working = self.account.enter(texts, most)
            else:
                working = self.texts if self.texts + texts > most else None
            if working is not None:
                return working
        self.texts += texts
        return None

    def leave(self, texts: int, most: int | None) -> None:
        """So many texts of those that were begun under this limit are done."""
        self.texts -= texts
        if most is not None and self.account is not None and texts:
            self.account.leave(texts)

    def refuse(self, reason: str) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def _limited(
        self, which: int, bucket: Bucket | None, per_minute: int | None, now: float
    ) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is not None:
            bucket.resize(per_minute, now)
            return bucket
        if self.account is not None:
            return self.account.bucket(which, per_minute, now)
        return Bucket.full(per_minute, now)


class StoredKey:
    """A key of the ring: its record, ready to be compared, and what it has used."""

    __slots__ = ("digest", "expires", "record", "usage")

    def __init__(self, record: KeyRecord, usage: Usage) -> None:
        self.record = record
        self.usage = usage
        self.digest = bytes.fromhex(record.digest)
        self.expires = None if record.expires is None else record.expires.timestamp()
        """Seconds since 1970."""


class KeyQuota:
    """One request of the bearer of a key."""

    __slots__ = (
        "_clock",
        "_first_name",
        "_most",
        "_owed",
        "_paid",
        "_stored",
        "_texts",
        "key",
        "lane",
    )

    def __init__(
        self, stored: StoredKey, clock: Callable[[], float], first_name: Callable[[str], str]
    ) -> None:
        self.key: str = stored.record.id
        self.lane: Lane | None = stored.record.lane
        self._stored = stored
        self._clock = clock
        self._first_name = first_name
        self._texts = 0
        self._most: int | None = None
        """The limit under which they were begun: the record may be another one by their end."""
        self._paid = 0
        """Tokens taken from the bucket."""
        self._owed = 0
        """Tokens charged."""

    def begin(self) -> None:
        """Count the request; RateLimitedError when there were too many in the last minute."""
        usage = self._stored.usage
        if usage.requests_bucket is not None:
            self._pay(usage.requests_bucket, 1, "requests")
        usage.requests += 1

    def enter(self, model: str, texts: int) -> None:
        """Ask for a model, by its first name, and a number of texts.

        Raises ForbiddenError for a model that is not the key's, RateLimitedError for too many texts
        at once.
        """
        record, usage = self._stored.record, self._stored.usage
        if record.models and not self._may_use(model):
            usage.refuse("model")
            raise ForbiddenError(
                f"The key `{record.id}` does not have access to model `{model}`; it may use "
                + ", ".join(f"`{each}`" for each in record.models),
                code="model_not_found",
            )
        most = record.concurrent_texts
        working = usage.enter(texts, most)
        if most is not None and working is not None:
            usage.refuse("texts")
            fits = texts <= most
            raise RateLimitedError(
                f"Rate limit reached for key `{record.id}` on texts at once: Limit {most}, "
                f"Used {working}, Requested {texts}. "
                + ("Please try again in 1s." if fits else "Send fewer texts in a request."),
                kind="texts",
                retry_after_s=1.0 if fits else None,
                headers=() if fits else NEVER,
            )
        self._texts += texts
        self._most = most

    def reserve(self, tokens: int) -> None:
        """Pay for an estimate, before texts are tokenised; RateLimitedError says no.

        Who is refused afterwards has paid for the tokenising with it.
        """
        bucket = self._stored.usage.tokens_bucket
        if bucket is not None and tokens:
            self._pay(bucket, tokens, "tokens")
            self._paid += tokens

    def charge(self, tokens: int) -> None:
        """Pay for what has to be computed, less what was reserved; RateLimitedError before anything
        is.
        """
        bucket = self._stored.usage.tokens_bucket
        if bucket is not None:
            owed = self._owed + tokens - self._paid
            if owed > 0:
                self._pay(bucket, owed, "tokens", of=tokens)
            else:
                bucket.give(-owed, self._clock())
            self._paid += owed
        self._owed += tokens

    def refund(self) -> None:
        """Give back all that was paid: nothing was computed, through no fault of the caller."""
        bucket = self._stored.usage.tokens_bucket
        if bucket is not None:
            bucket.give(self._paid, self._clock())
        self._paid = self._owed = 0

    def headers(self) -> Headers:
        """The remaining limits in OpenAI's headers; nothing where there is no limit."""
        usage = self._stored.usage
        if usage.tokens_bucket is None and usage.requests_bucket is None:
            return ()
        now = self._clock()
        return _told(usage.requests_bucket, REQUESTS_LEFT, now) + _told(
            usage.tokens_bucket, TOKENS_LEFT, now
        )

    def close(self) -> None:
        """Give the texts back; what was charged and not refunded is what the key has used."""
        self._stored.usage.leave(self._texts, self._most)
        self._stored.usage.tokens += self._owed
        self._texts = self._paid = self._owed = 0

    def _may_use(self, model: str) -> bool:
        models = self._stored.record.models
        return model in models or any(self._first_name(each) == model for each in models)

    def _pay(self, bucket: Bucket, amount: int, what: str, of: int = 0) -> None:
        """`of` is the whole of which the amount is the rest: a retry is charged all of it."""
        now = self._clock()
        wait_s = bucket.take(amount, now)
        if not wait_s:
            return
        if of > amount:
            amount, missing = of, of - bucket.remaining(now)
            wait_s = math.inf if of > bucket.per_minute else missing * 60 / bucket.per_minute
        self._stored.usage.refuse(what)
        limit = f"{what} per min ({what[0].upper()}PM): Limit {bucket.per_minute}"
        left = self.headers()
        if math.isinf(wait_s):
            raise RateLimitedError(
                f"Request too large for key `{self.key}` on {limit}, Requested {amount}. Send "
                "fewer or shorter texts in a request.",
                kind=what,
                headers=NEVER + left,
            )
        used = bucket.per_minute - bucket.remaining(now)
        after = ((b"retry-after-ms", str(math.ceil(wait_s * 1e3)).encode()),)
        raise RateLimitedError(
            f"Rate limit reached for key `{self.key}` on {limit}, Used {used}, Requested {amount}. "
            f"Please try again in {spelled(wait_s)}.",
            kind=what,
            retry_after_s=wait_s,
            headers=after + left,
        )


def spelled(seconds: float) -> str:
    """A duration as OpenAI spells it: `12ms`, `9.816s`, `6m0s`, `1h2m3s`."""
    milliseconds = math.ceil(seconds * 1e3)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds / 1e3, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return text
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _told(bucket: Bucket | None, names: tuple[bytes, bytes, bytes], now: float) -> Headers:
    if bucket is None:
        return ()
    limit, remaining, reset = names
    return (
        (limit, b"%d" % bucket.per_minute),
        (remaining, b"%d" % bucket.remaining(now)),
        (reset, spelled(bucket.full_in_s(now)).encode()),
    )
