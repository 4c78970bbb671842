"""The file of keys: what is written is read, and what is wrong is said."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.access.keys import claim_of, mint
from embedfleet.transport.access.records import (
    KeyFileError,
    KeyRecord,
    parse,
    plain,
    record_of,
    render,
)
from embedfleet.vocabulary import Lane

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

moments = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
limits = st.none() | st.integers(1, 10**12)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=100
)
records = st.builds(
    KeyRecord,
    id=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    name=names,
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    created=moments,
    expires=st.none() | moments,
    revoked=st.none() | moments,
    lane=st.none() | st.sampled_from(Lane),
    tokens_per_minute=limits,
    requests_per_minute=limits,
    concurrent_texts=limits,
    models=st.lists(names, max_size=3).map(tuple),
    comment=st.text(st.characters(codec="utf-8")),
)


@given(st.lists(records, max_size=4, unique_by=lambda record: record.id))
def test_what_is_written_is_read_as_the_same(keys: list[KeyRecord]) -> None:
    assert parse(render(keys)) == tuple(keys)


def test_no_secret_is_in_the_file() -> None:
    key = mint(secrets.token_bytes)
    assert key.secret.encode() not in render([record_of(key, "search", NOW)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"version": 2, "keys": []}', r"version"),
        (b'{"version": 1, "keys": [{"id": "a"}]}', r"`name`"),
        (b'{"version": 1, "keys": [], "key": 1}', "unknown field `key`"),
        (b'{"version": 1, "keys": [{"id": "a", "name": "M\xfcller"}]}', "utf-8"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_place(text: bytes, said: str) -> None:
    with pytest.raises(KeyFileError, match=said):
        parse(text)


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise_anything_but_our_error(text: bytes) -> None:
    with pytest.raises(KeyFileError):
        parse(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens_per_minute", 0),
        ("lane", "slow"),
        ("digest", "abc"),
        ("id", "a b"),
        ("name", "a\nb"),
        ("expires", "2026-11-22T12:00:00"),  # of which time zone?
        ("tokens_per_minut", 1),
    ],
)
def test_a_wrong_field_is_refused_by_its_place(field: str, value: object) -> None:
    wanted = msgspec.json.decode(render([record_of(mint(secrets.token_bytes), "search", NOW)]))
    wanted["keys"][0][field] = value
    with pytest.raises(KeyFileError, match=r"keys\[0\]|keys\[\.\.\.\]"):
        parse(msgspec.json.encode(wanted))


def test_two_keys_of_one_id_are_refused() -> None:
    record = record_of(mint(secrets.token_bytes), "search", NOW)
    with pytest.raises(KeyFileError, match=f"two keys have the id {record.id}"):
        parse(render([record, record]))


def test_a_key_ends_by_its_date_or_by_being_revoked() -> None:
    record = record_of(mint(secrets.token_bytes), "search", NOW)
    assert record.ended(NOW) is None
    soon = msgspec.structs.replace(record, expires=NOW + timedelta(days=1))
    assert soon.ended(NOW) is None
    assert soon.ended(NOW + timedelta(days=1)) == "expired"
    assert msgspec.structs.replace(soon, revoked=NOW).ended(NOW) == "revoked"


def test_keys_given_as_they_are_get_ids_by_their_place_or_their_own() -> None:
    own = mint(secrets.token_bytes)
    first, second = plain(["a-key-of-sixteen", own.text], NOW, "Environment")
    assert (first.id, second.id) == ("environment-1", own.id)
    assert first.digest == claim_of("a-key-of-sixteen").digest.hex()
    assert second.digest == claim_of(own.text).digest.hex()


@pytest.mark.parametrize("text", ["", "short", "with a space in it", "schlüssel-schlüssel"])
def test_a_key_that_could_be_guessed_or_not_be_sent_is_refused_without_showing_it(
    text: str,
) -> None:
    with pytest.raises(KeyFileError, match="Environment: key 1 must have at least 16") as refused:
        plain([text], NOW, "Environment")
    assert not text or text not in str(refused.value)
