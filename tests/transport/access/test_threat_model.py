"""The threat model names tests that there are, and every threat has one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from embedfleet.runtime.settings import options

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
THREATS = [
    row
    for row in PAGE.partition("## Threats")[2].partition("## Who enforces")[0].splitlines()
    if row.startswith("|") and not row.startswith(("| threat", "|---"))
]


@cache
def written() -> set[str]:
    """The names of all tests."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"def (test_\w+)\(", text)}


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row.split("|")[1].strip())
def test_what_stands_against_a_threat_is_shown_by_tests_that_there_are(row: str) -> None:
    _, threat, against, shown, _ = row.split("|")
    assert threat.strip()
    assert against.strip()
    named = re.findall(r"`(test_\w+)`", shown)
    assert named
    assert set(named) <= written(), set(named) - written()


def test_settings_that_the_page_names_exist() -> None:
    named = set(
        re.findall(r"`((?:gateway|admin|access|log|replica|pools|cache|engine)\.\w+)", PAGE)
    )
    known = set(options())
    assert {name for name in named if name not in known and not name.endswith("_")} == set()
    assert named & known
