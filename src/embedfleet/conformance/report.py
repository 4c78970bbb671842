"""The report of a run: a table for people, JSON for machines.

Reports may be kept or published, so they never contain an API key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedfleet.conformance.check import Severity
from embedfleet.conformance.running import NOT_OURS, Result, Verdict

COLOURS = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}


def line(result: Result) -> Text:
    """Tell one result, with what was asked, answered and right where it failed."""
    text = Text()
    text.append(f"{result.verdict:8}", style=COLOURS[result.verdict])
    text.append(result.check.name)
    if result.check.severity is Severity.EXTENSION:
        text.append("  [extension]", style="dim")
    if result.verdict is Verdict.SKIPPED:
        text.append(f"\n          {result.reason}", style="dim")
    if result.verdict is Verdict.FAILED:
        for head, what in (
            ("asked", result.asked),
            ("answered", result.answered),
            ("right", result.reason),
        ):
            if what:
                text.append(f"\n          {head:9} ", style="bold")
                text.append(what)
    return text


def worth_a_line(result: Result) -> bool:
    """Whether a result is listed; extensions that were not requested are only counted."""
    return result.reason != NOT_OURS


def summary(results: Sequence[Result]) -> RenderableType:
    """Count results by severity and verdict."""
    table = Table("", *(verdict.value for verdict in Verdict), box=None, pad_edge=False)
    for severity in Severity:
        counts = Counter(each.verdict for each in results if each.check.severity is severity)
        table.add_row(severity.value, *(str(counts[verdict]) for verdict in Verdict))
    if all(map(worth_a_line, results)):
        return table
    return Group(table, "Extensions of embedfleet were not checked here; --extensions checks them.")


def conforms(results: Iterable[Result]) -> bool:
    """Whether nothing failed."""
    return all(each.verdict is not Verdict.FAILED for each in results)


def as_json(results: Sequence[Result], *, url: str, model: str, version: str) -> dict[str, Any]:
    """Give the run as JSON's objects."""
    counts = Counter(each.verdict for each in results)
    return {
        "url": url,
        "model": model,
        "embedfleet": version,
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "checks": [
            {
                "name": each.check.name,
                "severity": each.check.severity.value,
                "verdict": each.verdict.value,
                "reason": each.reason,
                "asked": each.asked,
                "answered": each.answered,
            }
            for each in results
        ],
    }
