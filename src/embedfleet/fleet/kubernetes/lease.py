"""Leader election among gateways by a Lease: what a candidate does next. Pure.

The rules are those of client-go's leader election. A holder's renewals are timed by the local clock
from the moment they were first seen, so clocks of different machines need not agree; a holder stops
acting before others may take over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
"""Kubernetes' MicroTime."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a lease holds, in seconds; client-go's defaults."""

    lease_s: float = 15.0
    """After so long without a sign of life others take over."""
    act_s: float = 10.0
    """A holder that could not renew for so long stops acting: earlier than others begin."""
    retry_s: float = 2.0
    """Between two looks at the lease."""


class LeaseAction(StrEnum):
    """What a candidate does now."""

    TAKE = "take"
    """Nobody holds it, or its holder is silent: write our name."""
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Candidacy:
    """What one candidate knows."""

    me: str
    times: Times = Times()
    seen: tuple[str, str] = ("", "")
    """Holder and time of renewal, as last read."""
    seen_at: float = -math.inf
    """When that was first seen, by our clock."""
    renewed_at: float = -math.inf
    """When we last wrote it."""

    def read(self, lease: Mapping[str, Any] | None, now: float) -> Candidacy:
        """Having seen the lease as it is; None when there is none yet."""
        spec = (lease or {}).get("spec") or {}
        found = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if found == self.seen and lease is not None:
            return self
        return replace(self, seen=found, seen_at=now)

    def wrote(self, lease: Mapping[str, Any], asked_at: float) -> Candidacy:
        """Having written it: it holds from when that was asked for, not from the answer."""
        return replace(self.read(lease, asked_at), renewed_at=asked_at)

    def next_action(self, now: float) -> LeaseAction:
        holder, _ = self.seen
        if holder == self.me:
            return LeaseAction.RENEW
        silent = now - self.seen_at > self.times.lease_s
        return LeaseAction.TAKE if not holder or silent else LeaseAction.WAIT

    @property
    def ends_at(self) -> float:
        """Until when we may act, if we may; in the past otherwise."""
        return self.renewed_at + self.times.act_s if self.seen[0] == self.me else -math.inf

    def leads(self, now: float) -> bool:
        """Whether we may act."""
        return now < self.ends_at


def written(
    before: Mapping[str, Any] | None, name: str, me: str, at: str, lease_s: float
) -> dict[str, Any]:
    """The lease with our name in it. Its version stays, so that the write fails (409) when somebody
    else was quicker. An empty `me` gives it up.
    """
    spec = dict((before or {}).get("spec") or {})
    transitions = int(spec.get("leaseTransitions") or 0)
    if me and spec.get("holderIdentity") != me:
        spec["acquireTime"] = at
        transitions += before is not None
    spec |= {
        "holderIdentity": me,
        "leaseDurationSeconds": math.ceil(lease_s) if me else 1,
        "renewTime": at,
        "leaseTransitions": transitions,
    }
    metadata = dict((before or {}).get("metadata") or {}) or {"name": name}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }
