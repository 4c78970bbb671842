"""Capacity planning: how many replicas a known load needs, from a measured profile. Pure.

Queueing theory for the busiest hour; `embedfleet simulate` covers how traffic moves within it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedfleet.autoscaling import ability
from embedfleet.autoscaling.queueing import wait_beyond
from embedfleet.simulator.profiles import Profile
from embedfleet.vocabulary import SettingError

DAY_S = 86_400.0
MOST_REPLICAS = 100_000
MOST_UTILISATION = 0.8
"""Replicas of a plan are never busier: beyond it, waits double with every small surprise."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a service has to do."""

    texts_per_day: float
    tokens: float
    """Mean token count of a text."""
    p99_s: float
    """Latency that 99 of 100 texts stay below, in seconds."""
    peak: float = 2.0
    """The busiest hour over the mean one."""
    tokens_p99: float | None = None
    """Token count that only one text of a hundred exceeds; four times the mean where unknown."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes."""

    replicas: int
    gpus: int
    cost_per_month: float
    utilisation: float
    """In the busiest hour."""
    wait_p99_s: float
    latency_p99_s: float
    tokens_per_s: float
    """What one replica can do within the promise."""
    spare: int
    """Replicas of these that are there so that one may die."""


def plan(demand: Demand, profile: Profile, *, gpus: int = 1, cost_per_hour: float = 0.0) -> Plan:
    """The smallest fleet that keeps the promise in the busiest hour, and one more."""
    _check(demand)
    long_text = demand.tokens_p99 or 4.0 * demand.tokens
    own_s = profile.cost.seconds([round(long_text)])
    room_s = demand.p99_s - own_s
    if room_s <= 0:
        raise SettingError(
            f"a text of {long_text:,.0f} tokens alone takes {own_s:.3g} s on this replica, more "
            f"than the p99 of {demand.p99_s:g} s: allow more time, or take faster replicas"
        )
    # Half of the room for the wait, half for the batch that the text shares.
    each = ability(profile.cost, demand.tokens, profile.batch_tokens, max(own_s, room_s / 2))
    rate = demand.texts_per_day * demand.peak / DAY_S
    service_s = demand.tokens / each
    least = max(1, math.ceil(rate * service_s / MOST_UTILISATION))
    for replicas in range(least, MOST_REPLICAS):
        wait_s = wait_beyond(replicas, rate, service_s, 1.0, 0.01)
        if wait_s <= room_s / 2:
            break
    else:
        raise SettingError(f"more than {MOST_REPLICAS} replicas would be needed")
    total = replicas + 1
    return Plan(
        replicas=total,
        gpus=total * gpus,
        cost_per_month=total * gpus * cost_per_hour * 24 * 365 / 12,
        utilisation=rate * service_s / total,
        wait_p99_s=wait_s,
        latency_p99_s=wait_s + max(own_s, room_s / 2),
        tokens_per_s=each,
        spare=1,
    )


def _check(demand: Demand) -> None:
    for name, value in (
        ("--texts-per-day", demand.texts_per_day),
        ("--tokens", demand.tokens),
        ("--p99", demand.p99_s),
        ("--peak", demand.peak),
        ("--tokens-p99", demand.tokens_p99 or 1.0),
    ):
        if not 0 < value < math.inf:
            raise SettingError(f"{name} is {value:g}; it must be above 0")
    if demand.peak < 1:
        raise SettingError(f"--peak is {demand.peak:g}; the busiest hour is not below the mean")
