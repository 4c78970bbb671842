"""Computes `controller.kubernetes.io/pod-deletion-cost`, so that the right pod is removed. Pure.

A ReplicaSet removes pods that are not ready first, whatever their cost, then the cheapest. Only
costs that changed are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from embedfleet.vocabulary import ReplicaState

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

OF_STATE = {
    ReplicaState.DRAINING: -100,
    ReplicaState.EJECTED: -50,
    ReplicaState.STARTING: -20,
    ReplicaState.VERIFYING: -20,
    ReplicaState.STANDBY: -10,
    ReplicaState.SUSPECT: -5,
}
"""What brings no traffic goes before what does."""

VICTIM = -1000
"""Of a replica that was chosen to go, and drained."""

QUANTUM_TOKENS = 4096
"""Outstanding work is reported in doublings of so many tokens: the exact figure would change with
every read, and each write costs the API server."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that may go."""

    name: str
    state: ReplicaState
    outstanding_tokens: int


def cost(candidate: Candidate) -> int:
    """More for what would be missed more."""
    if candidate.state is ReplicaState.READY:
        return (candidate.outstanding_tokens // QUANTUM_TOKENS).bit_length()
    return OF_STATE.get(candidate.state, 0)


def victims(candidates: Iterable[Candidate], count: int) -> list[str]:
    """Names of those to go: the idle before the busy, what gets no traffic before both."""
    ordered = sorted(
        candidates,
        key=lambda each: (
            each.state is ReplicaState.READY,
            OF_STATE.get(each.state, 0),
            each.outstanding_tokens,
            each.name,
        ),
    )
    return [each.name for each in ordered[: max(0, count)]]


def changes(candidates: Iterable[Candidate], told: Mapping[str, int]) -> dict[str, int]:
    """Costs to write: those that differ from what was written before."""
    wanted = {each.name: cost(each) for each in candidates}
    return {name: price for name, price in wanted.items() if told.get(name) != price}
