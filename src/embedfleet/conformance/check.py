"""The definition of a check of the contract.

A check is a function that asks a `Service` and raises `Violation` if an answer breaks the contract,
or `Inapplicable` if it can't tell. Its name, with underscores read as spaces, is the sentence that
it checks.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from embedfleet.conformance.service import Service

Run: TypeAlias = Callable[[Service], Awaitable[None]]


class Severity(StrEnum):
    """Whose promise a check holds a service to."""

    REQUIRED = "required"
    """OpenAI documents it, or clients made for OpenAI rely on it."""
    EXTENSION = "extension"
    """embedfleet promises it beyond that."""


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract."""

    name: str
    severity: Severity
    run: Run


class Suite:
    """Checks of one subject, in the order in which they are written."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.checks: list[Check] = []

    def required(self, run: Run) -> Run:
        """Add a function as a check of what OpenAI documents."""
        return self._add(run, Severity.REQUIRED)

    def extension(self, run: Run) -> Run:
        """Add a function as a check of what embedfleet promises beyond."""
        return self._add(run, Severity.EXTENSION)

    def _add(self, run: Run, severity: Severity) -> Run:
        self.checks.append(Check(sentence(run.__name__), severity, run))
        return run


SPELLED = (
    (r"(\w) s ", r"\1's "),
    (r"\bjson\b", "JSON"),
    (r"\butf 8\b", "UTF-8"),
    ("2048", "2,048"),
)
"""What a function's name can't hold of a sentence."""


def sentence(name: str) -> str:
    """The name of a function as the sentence that it is."""
    found = name.replace("_", " ")
    for pattern, spelled in SPELLED:
        found = re.sub(pattern, spelled, found)
    return found
