"""What a check of the contract is, and how it complains.

A check is a function that takes an `Endpoint`, and raises `Violation` if the service breaks the
contract or `Inapplicable` if it can't tell. Checks need no test runner: a command can run them
against any base URL and print the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tests.contract.endpoint import Answer, Endpoint, Vectors


class Violation(AssertionError):  # noqa: N818  # what it is in the contract's words
    """The service breaks the contract."""


class Inapplicable(Exception):  # noqa: N818
    """The service does not say enough about itself for this check."""


Run: TypeAlias = Callable[[Endpoint], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract."""

    name: str
    run: Run


CHECKS: list[Check] = []


def check(run: Run) -> Run:
    """Add a function to the contract; its name is the sentence."""
    CHECKS.append(Check(run.__name__.replace("_", " "), run))
    return run


def expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise Violation(complaint)


def accepted(answer: Answer, *, texts: int | None = None) -> Answer:
    """Expect an embeddings answer, of so many texts."""
    expect(
        answer.status == 200,
        f"expected status 200, got {answer.status}: {answer.body[:300]!r}",
    )
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json"), f"expected JSON, got content type {kind!r}")
    count = len(answer.json["data"])
    expect(texts in (None, count), f"expected {texts} vectors, got {count}")
    return answer


def refused(
    answer: Answer,
    *,
    status: int = 400,
    param: str | None = None,
    code: str | None = None,
    kind: str = "invalid_request_error",
) -> dict[str, Any]:
    """Expect an error in OpenAI's shape; give its inner object."""
    expect(
        answer.status == status, f"expected status {status}, got {answer.status}: {answer.body!r}"
    )
    told = answer.json
    expect(isinstance(told, dict) and isinstance(told.get("error"), dict), f"no `error` in {told}")
    error: dict[str, Any] = told["error"]
    expect(
        set(error) >= {"message", "type", "param", "code"},
        f"`error` must have message, type, param and code; it has {sorted(error)}",
    )
    expect(bool(error["message"]), "the message is empty")
    expect(error["type"] == kind, f"expected type {kind}, got {error['type']}")
    if param is not None:
        expect(error["param"] == param, f"expected param {param}, got {error['param']}")
    if code is not None:
        expect(error["code"] == code, f"expected code {code}, got {error['code']}")
    return error


def same(one: Vectors, other: Vectors, complaint: str) -> None:
    """Expect the same vectors, as far as batches of another size change the last digits."""
    expect(one.shape == other.shape, f"{complaint}: {one.shape} against {other.shape}")
    least = float((one * other).sum(axis=1).min())
    expect(least > 0.998, f"{complaint}: cosine {least:.5f}")


def different(one: Vectors, other: Vectors, complaint: str) -> None:
    largest = float((one * other).sum(axis=1).max())
    expect(largest < 0.9999, f"{complaint}: cosine {largest:.5f}")


def unit_length(vectors: Vectors) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    expect(
        bool(np.all(np.abs(lengths - 1) < 1e-5)), f"vectors must have unit length, not {lengths}"
    )
