"""What a client is told, and how it tells what came out: JSON in, JSON out.

A client runs as a process of its own, in an environment that has its packages and none of ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One client's work."""

    root: str
    """Address of the service, without any path."""
    model: str
    key: str
    texts: list[str]


def task() -> Task:
    """Read the task."""
    return Task(**json.load(sys.stdin))


def error_of(call: Callable[[], object]) -> str:
    """What a call raises, in words."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  # which one is the question
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def tell(**found: object) -> None:
    json.dump(found, sys.stdout)
