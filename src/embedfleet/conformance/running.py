"""Runs checks against a service, one after the other.

A check passes, fails with a reason, or is skipped with a reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from enum import StrEnum

from embedfleet.conformance.check import Check, Severity
from embedfleet.conformance.exchange import Inapplicable, NoAnswerError, Violation
from embedfleet.conformance.service import Service


class Verdict(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """A check and how it ended."""

    check: Check
    verdict: Verdict
    reason: str = ""
    """What would be right where it failed, why it was skipped."""
    asked: str = ""
    answered: str = ""


NOT_OURS = "an extension of embedfleet"
"""Why extensions are skipped where the service does not promise them."""


async def run_checks(
    service: Service, checks: Iterable[Check], *, extensions: bool
) -> AsyncIterator[Result]:
    """Give the result of each check as soon as it is known."""
    for check in checks:
        if check.severity is Severity.EXTENSION and not extensions:
            yield Result(check, Verdict.SKIPPED, NOT_OURS)
        else:
            yield await run_check(service, check)


async def run_check(service: Service, check: Check) -> Result:
    """Run one check."""
    try:
        await check.run(service)
    except Inapplicable as reason:
        return Result(check, Verdict.SKIPPED, str(reason))
    except NoAnswerError as error:
        return Result(check, Verdict.FAILED, f"there must be an answer: {error}")
    except Violation as violation:
        answer = violation.answer
        return Result(
            check,
            Verdict.FAILED,
            violation.right,
            answer.asked.shown if answer else "",
            answer.shown if answer else "",
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A check reads on where an answer must have a field; another service's may have none.
        missing = f"the answer must have the form of the contract ({error!r})"
        return Result(check, Verdict.FAILED, missing)
    return Result(check, Verdict.PASSED)
