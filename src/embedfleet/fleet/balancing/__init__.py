"""Load-balancing policies: which replica gets the next texts. One file per policy.

To add a policy, add a file and a line in POLICIES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from embedfleet.fleet.balancing.client_hash import ClientHash
from embedfleet.fleet.balancing.least_connections import LeastConnections
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.fleet.balancing.load import Balancer, Candidate, Load
from embedfleet.fleet.balancing.power_of_two import PowerOfTwo
from embedfleet.fleet.balancing.round_robin import RoundRobin
from embedfleet.fleet.balancing.weighted import Weighted

if TYPE_CHECKING:
    from random import Random

POLICIES: dict[str, Callable[[Random], Balancer]] = {
    "least-work": lambda _: LeastWork(),
    "power-of-two": PowerOfTwo,
    "least-connections": lambda _: LeastConnections(),
    "round-robin": lambda _: RoundRobin(),
    "weighted": lambda _: Weighted(),
    "client-hash": lambda _: ClientHash(),
}
"""Policies by the name that `pools.balancing` takes; each gets the dice that it may roll."""

__all__ = ["POLICIES", "Balancer", "Candidate", "Load"]
