"""What each client is told to do, and how it tells what came out: JSON in, JSON out.

A client runs as a process of its own, in an environment that has its packages and none of ours.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KEY = "none"


@dataclass(frozen=True)
class Task:
    """One client's work."""

    url: str
    """Base URL of the service."""
    busy_url: str
    """Base URL of a service that answers each key's first request with 429."""
    guarded_url: str
    """Base URL of a service that wants `guarded_key`."""
    guarded_key: str
    model: str
    small_model: str
    """Model of the busy and of the guarded service."""
    prompt: str
    """What `input_type: query` puts before a text, for clients that can't send the field."""
    questions: list[str]
    passages: list[str]
    too_long: str


def task() -> Task:
    """Read the task."""
    return Task(**json.load(sys.stdin))


def nearest(questions: Sequence[Sequence[float]], passages: Sequence[Sequence[float]]) -> list[int]:
    """Find the place of the passage that is nearest to each question."""
    return [
        max(
            range(len(passages)),
            key=lambda place: sum(a * b for a, b in zip(question, passages[place], strict=True)),
        )
        for question in questions
    ]


def error_of(call: Callable[[], object]) -> dict[str, object]:
    """Tell what a call raises: the names of the error's classes, and its message."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  # which one is the question
        return {"classes": [each.__name__ for each in type(error).__mro__], "message": str(error)}
    return {"classes": [], "message": "nothing was raised"}


def tell(found: dict[str, object]) -> None:
    json.dump(found, sys.stdout)
