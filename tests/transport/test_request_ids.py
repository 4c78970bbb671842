"""Names of requests: taken over where they do no harm, else made."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.request_ids import request_id


@pytest.mark.parametrize("name", ["req_1", "6f1c0b2e-3c7b-4d7e-9a51-0f4f3c1f8e2d", "a/b:c+d=e@f.g"])
def test_a_harmless_name_is_taken_over(name: str) -> None:
    assert request_id(name.encode()) == name


@pytest.mark.parametrize("name", [b"", b"a b", b"a\x1b[2J", b"a" * 129, b"\xff", b'"', b"a,b"])
def test_an_invalid_request_id_is_replaced(name: bytes) -> None:
    assert request_id(name).startswith("req_")


def test_names_that_are_made_are_used_once() -> None:
    made = [request_id(None) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"req_[0-9a-f]{20,}", name) for name in made)


@given(st.binary())
def test_whatever_is_sent_the_name_fits_into_a_header_and_a_line(sent: bytes) -> None:
    assert re.fullmatch(r"[!-~]{1,128}", request_id(sent))
