"""Validation rules of single settings, attached to dataclass fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DISTANT_S = 86_400.0
"""The longest duration that any setting accepts: a day."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a single value must satisfy, and how it is spelled."""

    at_least: float | None = None
    at_most: float | None = None
    none: str | None = None
    """The word that stands for `None` in files, variables and flags."""
    flag: str | None = None
    """Its name on the command line, where it has one."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Values that people may expect to be right, and why each is not."""
    guards: bool = False
    """Leaving it out opens a door or a connection: an empty variable is refused, not ignored."""


def setting(
    default: object,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    none: str | None = None,
    flag: str | None = None,
    refused: Mapping[str, str] | None = None,
    guards: bool = False,
) -> Any:
    """Make a dataclass field that carries its rule."""
    rule = Rule(at_least, at_most, none, flag, refused or {}, guards)
    return field(default=default, metadata={"rule": rule})


def duration(default: float) -> Any:
    """Make a field of seconds: at least a millisecond, at most a day."""
    return setting(default, at_least=0.001, at_most=DISTANT_S)


def count(default: int | None, *, at_most: int | None = None, none: str | None = None) -> Any:
    """Make a field that counts something: at least one."""
    return setting(default, at_least=1, at_most=at_most, none=none)
