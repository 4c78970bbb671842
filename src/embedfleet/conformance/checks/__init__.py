"""The checks of the contract, one module per subject."""

from __future__ import annotations

from embedfleet.conformance.check import Check
from embedfleet.conformance.checks import (
    answers,
    bodies,
    contracts,
    inputs,
    limits,
    models,
    prompts,
    refusals,
    reranking,
    routes,
    tokens,
    unicode,
    vectors,
)
from embedfleet.conformance.service import Service

SUITES = (
    inputs.suite,
    answers.suite,
    vectors.suite,
    unicode.suite,
    bodies.suite,
    refusals.suite,
    limits.suite,
    models.suite,
    routes.suite,
    prompts.suite,
    tokens.suite,
    contracts.suite,
)
"""In the order in which they are run: what everything else rests on comes first."""


def all_checks() -> list[Check]:
    """List every check of every suite."""
    return [check for suite in SUITES for check in suite.checks]


def checks_for(service: Service) -> list[Check]:
    """The checks of what the service's model is for."""
    return reranking.suite.checks if service.card.get("task") == "rerank" else all_checks()
