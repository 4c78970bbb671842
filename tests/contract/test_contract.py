"""embedfleet keeps OpenAI's contract and its own additions, one sentence after the other."""

from __future__ import annotations

import pytest

from embedfleet.conformance.check import Check
from embedfleet.conformance.checks import all_checks
from embedfleet.conformance.report import line
from embedfleet.conformance.running import Verdict, run_check
from embedfleet.conformance.service import introduced
from embedfleet.conformance.transport import connected


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
async def test_the_service_keeps_the_contract(check: Check, base_url: str) -> None:
    async with connected(base_url, key=None, timeout_s=60) as transport:
        service = await introduced(transport, model=None, max_tokens=None, guarded=False)
        assert service.is_embedfleet
        result = await run_check(service, check)
    if result.verdict is Verdict.SKIPPED:
        pytest.skip(result.reason)
    assert result.verdict is Verdict.PASSED, line(result).plain
