"""What a key looks like and what is kept of it."""

from __future__ import annotations

import secrets

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.access.keys import ApiKey, claim_of, digest_of, lookup_of, mint


def test_a_key_has_a_public_id_and_a_secret_of_256_bits() -> None:
    key = mint(secrets.token_bytes)
    assert key.text == f"ef-{key.id}-{key.secret}"
    assert len(key.secret) * 5 >= 256
    assert key.text.isascii()
    assert key.text == key.text.lower()


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32))
def test_every_key_that_is_made_is_found_by_its_id_and_proved_by_its_secret(
    for_id: bytes, for_secret: bytes
) -> None:
    key = mint(lambda count: for_id if count == 8 else for_secret)
    claim = claim_of(key.text)
    assert claim.lookup == key.id
    assert claim.digest == digest_of(key.secret)
    assert lookup_of(key.id, claim.digest.hex()) == claim.lookup


def test_keys_made_from_other_bytes_are_other_keys() -> None:
    made = [mint(secrets.token_bytes) for _ in range(100)]
    assert len({key.id for key in made}) == len({key.secret for key in made}) == 100


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_other_text_is_found_by_the_hash_of_the_whole(text: str) -> None:
    claim = claim_of(text)
    assert claim.lookup == claim.digest.hex() == digest_of(text).hex()


def test_a_key_is_shown_only_on_purpose() -> None:
    key = ApiKey("abcdefgh2345", "s3cret")
    assert "s3cret" not in repr(key)
    assert "s3cret" not in str(key)
