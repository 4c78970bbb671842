"""Requests of every kind of wrong to whole apps: gateway, admin and replica, over TLS as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transport.serving.fuzzing_apps import fuzz_apps


async def test_whatever_is_sent_applications_raise_no_error(tmp_path: Path) -> None:
    outcomes = await fuzz_apps(tmp_path, 1, 400)
    assert sum(outcomes.values()) == 400


@pytest.mark.slow
async def test_many_more_requests_to_whole_apps(tmp_path: Path) -> None:
    outcomes = await fuzz_apps(tmp_path, 2, 8_000)
    assert any(each.endswith(": 200") for each in outcomes)
