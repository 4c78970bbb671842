"""What HTTP headers say beside the body."""

from __future__ import annotations

import pytest

from embedfleet.transport.asgi import Message, Request
from embedfleet.transport.headers import (
    CacheDirectives,
    asked_wait_s,
    cache_directives,
    client_address,
    deadline_s,
    lane_of,
    timing_headers,
    trusted_networks,
)
from embedfleet.vocabulary import CallerError, Lane, SettingError

PROXIES = trusted_networks(("10.0.0.0/8", "127.0.0.1"))


async def nothing() -> Message:
    raise AssertionError


async def nowhere(message: Message) -> None:
    raise AssertionError


def request(peer: str, **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"client": (peer, 1234), "headers": pairs}, nothing, nowhere)


def test_the_lane_is_interactive_unless_asked() -> None:
    """In any case of letters; anything else is an error with what would be right."""
    assert lane_of(None) is Lane.INTERACTIVE
    assert lane_of(" Bulk ") is Lane.BULK
    with pytest.raises(CallerError, match="`interactive` or `bulk`"):
        lane_of("fast")


@pytest.mark.parametrize(
    ("value", "wishes"),
    [
        (None, CacheDirectives(answer=True, store=True)),
        ("no-store", CacheDirectives(answer=True, store=False)),
        ("No-Cache", CacheDirectives(answer=False, store=True)),
        ("max-age=0 , no-cache,no-store", CacheDirectives(answer=False, store=False)),
        ("only-if-cached, max-stale=60, no-cached", CacheDirectives(answer=True, store=True)),
        (",,;", CacheDirectives(answer=True, store=True)),
    ],
)
def test_a_caller_says_what_a_cache_may_do(value: str | None, wishes: CacheDirectives) -> None:
    """RFC 9111, 5.2.1; what it knows nothing of it leaves alone."""
    assert cache_directives(value) == wishes


def test_a_deadline_is_at_most_what_the_service_allows() -> None:
    """In milliseconds from now."""
    assert deadline_s(None, 600.0) == 600.0
    assert deadline_s("1500", 600.0) == 1.5
    assert deadline_s("99999999999", 600.0) == 600.0
    assert deadline_s("9" * 10_000, 600.0) == 600.0
    assert deadline_s("0" * 10_000 + "7", 600.0) == 0.007


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "", "٣", "1e3"])
def test_a_deadline_that_is_no_number_is_refused(value: str) -> None:
    """With what would be right."""
    with pytest.raises(CallerError, match="whole number of milliseconds"):
        deadline_s(value, 600.0)


def test_forwarded_addresses_are_not_trusted_by_default() -> None:
    """Anyone can write a header."""
    assert client_address(request("1.2.3.4", x_forwarded_for="9.9.9.9"), ()) == "1.2.3.4"
    assert client_address(request("1.2.3.4", x_real_ip="9.9.9.9"), PROXIES) == "1.2.3.4"


def test_a_trusted_proxy_is_believed() -> None:
    """The last address that is no trusted proxy is the client; what stands left of it anyone may
    have written."""
    chain = request("127.0.0.1", x_forwarded_for="6.6.6.6, 9.9.9.9, 10.1.2.3")
    assert client_address(chain, PROXIES) == "9.9.9.9"
    assert client_address(request("10.0.0.1", x_real_ip="9.9.9.9"), PROXIES) == "9.9.9.9"
    assert client_address(request("10.0.0.1"), PROXIES) == "10.0.0.1"


def lines(name: bytes, *values: bytes) -> Request:
    """A request with a header on several lines."""
    pairs = [(b"host", b"here"), *((name, value) for value in values)]
    return Request({"client": ("127.0.0.1", 1234), "headers": pairs}, nothing, nowhere)


def test_a_proxy_may_send_the_address_in_a_header_line_of_its_own() -> None:
    """HAProxy appends one; the line before it is what the client wrote."""
    appended = lines(b"x-forwarded-for", b"6.6.6.6", b"9.9.9.9")
    assert client_address(appended, PROXIES) == "9.9.9.9"


def test_a_list_on_several_lines_is_one_list() -> None:
    """RFC 9110, 5.3."""
    asked = lines(b"cache-control", b"no-cache", b"max-age=0, no-store")
    assert cache_directives(asked.listed(b"cache-control")) == CacheDirectives(
        answer=False, store=False
    )
    assert lines(b"cache-control").listed(b"cache-control") is None


def test_an_invalid_network_is_a_settings_error() -> None:
    """With the setting's name."""
    with pytest.raises(SettingError, match=r"gateway\.trusted_proxies"):
        trusted_networks(("10.0.0.0/99",))


def test_timing_tells_where_a_request_spent_its_time() -> None:
    """Waiting, computing, and what embedfleet itself added."""
    headers = dict(timing_headers(total_s=0.110, queue_s=0.030, compute_s=0.075))

    assert headers[b"server-timing"] == b"queue;dur=30.0, compute;dur=75.0"
    assert headers[b"x-embedfleet-overhead-ms"] == b"5.00"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0),
        (b" 120 ", 120),
        (b"9" * 5000, 999_999_999_999),
        (b"Fri, 07 Nov 2014 23:59:59 GMT", 9),
        (b"Friday, 07-Nov-14 23:59:59 GMT", 9),
        (b"Fri Nov  7 23:59:59 2014", 9),
        (b"Fri, 07 Nov 2014 23:00:00 GMT", 0),
        (b"Fri, 07 Nov 99999 23:00:00 GMT", 0),
        (b"-5", 0),
        (b"1.5", 0),
        (b"soon", 0),
        (b"\xff\xb2", 0),
        (b"", 0),
    ],
)
def test_a_time_to_try_again_comes_as_seconds_or_as_a_date(value: bytes, seconds: float) -> None:
    """All forms of RFC 9110, 10.2.3; what is none asks for nothing."""
    assert asked_wait_s(value, now=1415404790.0) == seconds
