"""Who is let in with which key, and how much it may use."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from embedfleet.transport.access import Access, KeyRecord, KeyRing
from embedfleet.transport.access.keyring import MOST_REMEMBERED, NO_KEY
from embedfleet.transport.access.keys import ApiKey, mint
from embedfleet.transport.access.quota import spelled
from embedfleet.transport.access.records import plain, record_of
from embedfleet.vocabulary import (
    EmbedfleetError,
    ForbiddenError,
    Lane,
    RateLimitedError,
    UnauthorizedError,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = mint(secrets.token_bytes)
RECORD = record_of(KEY, "search", NOW)
BEARER = f"Bearer {KEY.text}"


@dataclass
class Clocks:
    """Both clocks, moved by hand."""

    now: float = 1000.0
    wall: datetime = field(default=NOW)

    def ring(self, *records: KeyRecord, names: dict[str, str] | None = None) -> KeyRing:
        return KeyRing(
            records,
            clock=lambda: self.now,
            wall=lambda: self.wall.timestamp(),  # noqa: PLW0108  it moves
            first_name=lambda name: (names or {}).get(name, name),
        )


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def limited(**limits: Any) -> KeyRecord:
    return replace(RECORD, **limits)


def refusal(access: Access, authorization: str | None) -> UnauthorizedError:
    with pytest.raises(UnauthorizedError) as refused:
        access.open(authorization)
    return refused.value


def told(error: EmbedfleetError) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in error.headers}


# -- whose key it is -----------------------------------------------------------------------


def test_the_bearer_of_a_good_key_is_let_in_under_its_id(clocks: Clocks) -> None:
    ring = clocks.ring(RECORD)
    for spelling in (BEARER, f"bearer {KEY.text}", f"BEARER  {KEY.text} "):
        assert ring.open(spelling).key == KEY.id
        assert ring.open(spelling).key == KEY.id  # remembered, and the same


@pytest.mark.parametrize("header", [None, "", "Basic dXNlcjpwYXNz", KEY.text])
def test_without_a_key_the_answer_says_how_to_send_one(clocks: Clocks, header: str | None) -> None:
    error = refusal(clocks.ring(RECORD), header)
    assert "Authorization: Bearer YOUR_KEY" in error.message
    assert (error.status, error.kind, error.code) == (401, "invalid_request_error", None)
    assert told(error) == {"www-authenticate": "Bearer"}


def wrong_keys() -> list[str]:
    other = mint(secrets.token_bytes)
    return [
        other.text,
        ApiKey(KEY.id, other.secret).text,
        ApiKey(other.id, KEY.secret).text,
        KEY.text[:-1],
        KEY.text + "a",
        KEY.text.upper(),
        KEY.id,
        KEY.secret,
        RECORD.digest,
        "",
        "ключ",
    ]


@pytest.mark.parametrize("text", wrong_keys())
def test_a_wrong_key_is_refused_with_the_same_words_whatever_is_wrong(
    clocks: Clocks, text: str
) -> None:
    ring = clocks.ring(RECORD)
    ring.open(BEARER)
    error = refusal(ring, f"Bearer {text}")
    assert error.message == "Incorrect API key provided. Ask the operator of this service for one."
    assert (error.kind, error.code) == ("invalid_request_error", "invalid_api_key")
    assert ring.usage[NO_KEY].refusals == {"key": 1}


@given(st.text())
def test_no_header_whatever_breaks_it(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        Clocks().ring(RECORD).open(header)


def test_a_key_ring_without_keys_accepts_no_request(clocks: Clocks) -> None:
    refusal(clocks.ring(), BEARER)


def test_a_revoked_key_is_refused_from_the_next_request_on(clocks: Clocks) -> None:
    ring = clocks.ring(RECORD)
    ring.open(BEARER)
    ring.replace([replace(RECORD, revoked=NOW)])
    assert f"({KEY.id}) is revoked" in refusal(ring, BEARER).message


def test_a_key_that_is_gone_from_the_file_is_refused_from_the_next_request_on(
    clocks: Clocks,
) -> None:
    ring = clocks.ring(RECORD)
    ring.open(BEARER)
    ring.replace([])
    refusal(ring, BEARER)


def test_a_key_expires_also_while_it_is_remembered(clocks: Clocks) -> None:
    ring = clocks.ring(limited(expires=datetime(2026, 11, 23, tzinfo=UTC)))
    ring.open(BEARER)
    clocks.wall = datetime(2026, 11, 23, tzinfo=UTC)
    assert "expired" in refusal(ring, BEARER).message
    assert "expired" in refusal(clocks.ring(*[ring._stored[KEY.id].record]), BEARER).message


def test_keys_given_as_they_are_work_alike(clocks: Clocks) -> None:
    ring = clocks.ring(*plain(["sixteen-letters-", KEY.text], NOW, "environment"))
    assert ring.open("Bearer sixteen-letters-").key == "environment-1"
    assert ring.open(BEARER).key == KEY.id


def test_what_is_remembered_is_bounded_and_holds_no_key(clocks: Clocks) -> None:
    ring = clocks.ring(RECORD)
    for spaces in range(MOST_REMEMBERED + 10):
        ring.open(f"Bearer {' ' * spaces}{KEY.text}")
        ring.open(f"Bearer\t{' ' * spaces}{KEY.text}\t")
    for _ in range(100):
        refusal(ring, f"Bearer {mint(secrets.token_bytes).text}")
    assert len(ring._verified) <= MOST_REMEMBERED
    remembered = repr(list(ring._verified)) + repr(vars(ring)) + repr(RECORD)
    assert KEY.secret not in remembered


# -- how much it may use ---------------------------------------------------------------------


def test_a_key_without_limits_gets_no_limit_headers(clocks: Clocks) -> None:
    opened = clocks.ring(RECORD).open(BEARER)
    opened.enter("any-model", 10**6)
    opened.charge(10**12)
    assert opened.headers() == ()
    assert opened.lane is None


def test_a_keys_lane_is_that_of_its_requests(clocks: Clocks) -> None:
    assert clocks.ring(limited(lane=Lane.BULK)).open(BEARER).lane is Lane.BULK


def test_tokens_beyond_the_limit_are_refused_as_openai_does(clocks: Clocks) -> None:
    opened = clocks.ring(limited(tokens_per_minute=6000)).open(BEARER)
    opened.charge(5000)
    with pytest.raises(RateLimitedError) as refused:
        opened.charge(1500)
    error = refused.value
    assert (error.status, error.kind, error.code) == (429, "tokens", "rate_limit_exceeded")
    assert error.message == (
        f"Rate limit reached for key `{KEY.id}` on tokens per min (TPM): Limit 6000, Used 5000, "
        "Requested 1500. Please try again in 5s."
    )
    assert error.retry_after_s == 5
    assert told(error) == {
        "retry-after-ms": "5000",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-reset-tokens": "50s",
    }
    clocks.now += 5
    opened.charge(1500)


def test_a_request_that_never_fits_is_refused_for_good(clocks: Clocks) -> None:
    opened = clocks.ring(limited(tokens_per_minute=6000)).open(BEARER)
    with pytest.raises(RateLimitedError, match=r"Request too large .* Requested 6001") as refused:
        opened.charge(6001)
    assert refused.value.retry_after_s is None
    assert told(refused.value)["x-should-retry"] == "false"


def test_what_is_free_is_not_charged_even_with_nothing_left(clocks: Clocks) -> None:
    opened = clocks.ring(limited(tokens_per_minute=10)).open(BEARER)
    opened.charge(10)
    opened.charge(0)


def test_requests_beyond_the_limit_are_refused_before_their_body_is_read(clocks: Clocks) -> None:
    ring = clocks.ring(limited(requests_per_minute=2))
    ring.open(BEARER)
    ring.open(BEARER)
    with pytest.raises(RateLimitedError, match=r"requests per min .RPM.: Limit 2") as refused:
        ring.open(BEARER)
    assert refused.value.kind == "requests"
    assert told(refused.value)["x-ratelimit-remaining-requests"] == "0"
    clocks.now += 30
    assert dict(ring.open(BEARER).headers())[b"x-ratelimit-limit-requests"] == b"2"


def test_texts_at_once_are_counted_over_all_requests_and_given_back(clocks: Clocks) -> None:
    ring = clocks.ring(limited(concurrent_texts=10))
    first, second = ring.open(BEARER), ring.open(BEARER)
    first.enter("m", 6)
    with pytest.raises(RateLimitedError, match="Limit 10, Used 6, Requested 5") as refused:
        second.enter("m", 5)
    assert refused.value.retry_after_s == 1
    second.close()  # it took nothing, so it gives nothing back
    first.close()
    first.close()
    ring.open(BEARER).enter("m", 10)
    with pytest.raises(RateLimitedError, match="Send fewer texts"):
        ring.open(BEARER).enter("m", 11)


def test_models_of_others_are_forbidden_as_openai_does(clocks: Clocks) -> None:
    opened = clocks.ring(limited(models=("small", "large"))).open(BEARER)
    opened.enter("small", 1)
    with pytest.raises(ForbiddenError, match="does not have access to model `huge`") as refused:
        opened.enter("huge", 1)
    error = refused.value
    assert (error.status, error.kind, error.code) == (
        403,
        "invalid_request_error",
        "model_not_found",
    )


def test_a_model_may_be_allowed_by_any_of_its_names(clocks: Clocks) -> None:
    names = {"org/model": "org/model", "model": "org/model"}
    opened = clocks.ring(limited(models=("model",)), names=names).open(BEARER)
    opened.enter("org/model", 1)


def test_other_keys_keep_what_is_left_of_their_quotas(clocks: Clocks) -> None:
    record = limited(tokens_per_minute=1000, concurrent_texts=5)
    ring = clocks.ring(record)
    opened = ring.open(BEARER)
    opened.enter("m", 5)
    opened.charge(900)
    ring.replace([replace(record, comment="another comment")])
    later = ring.open(BEARER)
    with pytest.raises(RateLimitedError):
        later.charge(200)
    with pytest.raises(RateLimitedError):
        later.enter("m", 1)
    opened.close()
    later.enter("m", 5)


def test_a_limit_that_is_lifted_is_lifted_at_once(clocks: Clocks) -> None:
    ring = clocks.ring(limited(tokens_per_minute=10))
    ring.open(BEARER).charge(10)
    ring.replace([RECORD])
    ring.open(BEARER).charge(10**6)


def test_what_each_key_used_is_counted(clocks: Clocks) -> None:
    ring = clocks.ring(limited(tokens_per_minute=10, models=("m",)))
    opened = ring.open(BEARER)
    opened.enter("m", 2)
    opened.charge(7)
    with pytest.raises(RateLimitedError):
        opened.charge(7)
    with pytest.raises(ForbiddenError):
        opened.enter("n", 1)
    usage = ring.usage[KEY.id]
    assert (usage.requests, usage.tokens, usage.texts) == (1, 0, 2)
    opened.close()
    assert (usage.requests, usage.tokens, usage.texts) == (1, 7, 0)
    assert usage.refusals == {"tokens": 1, "model": 1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0061, "7ms"),
        (0.9995, "1s"),
        (9.816, "9.816s"),
        (60, "1m0s"),
        (360.5, "6m0.5s"),
        (3723, "1h2m3s"),
    ],
)
def test_durations_are_spelled_as_openai_does(seconds: float, text: str) -> None:
    assert spelled(seconds) == text
