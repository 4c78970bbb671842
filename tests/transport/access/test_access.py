"""Whoever decides who may ask keeps the rules that an endpoint relies on."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from embedfleet.transport.access import Access, KeyRing, OpenAccess
from embedfleet.transport.access.keys import mint
from embedfleet.transport.access.records import record_of
from tests.conformance.access_conformance import AccessConformance

KEY = mint(secrets.token_bytes)
RECORD = record_of(KEY, "test", datetime(2026, 11, 22, tzinfo=UTC))
WIDE = replace(RECORD, tokens_per_minute=10**9, requests_per_minute=10**6, concurrent_texts=10**6)


class TestOpenAccess(AccessConformance):
    @pytest.fixture
    def access(self) -> Access:
        return OpenAccess()

    @pytest.fixture(params=[None, "", "Bearer EMPTY"])
    def bearer(self, request: pytest.FixtureRequest) -> str:
        header: str = request.param
        return header


class TestKeyRing(AccessConformance):
    @pytest.fixture(params=[RECORD, WIDE], ids=["no limits", "limits"])
    def access(self, request: pytest.FixtureRequest) -> Access:
        return KeyRing([request.param])

    @pytest.fixture
    def bearer(self) -> str:
        return f"Bearer {KEY.text}"
