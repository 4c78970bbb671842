"""Queueing theory of a fleet under steady traffic: M/G/c. Pure.

Erlang's C and the approximation of Allen and Cunneen. Used for capacity plans, and to check the
simulator, which covers traffic that changes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

OVERSHOOT = 0.583
"""Mean overshoot of a normal random walk, in standard deviations of a step: -ζ(1/2)/√(2π)
(Siegmund, Corrected diffusion approximations, 1979)."""
FINENESS = math.log(1.06)
"""Relative resolution of service times and variations: 6 %."""
SHORTEST_S, LONGEST_S = 1e-6, 1e4
"""Bounds of a service time in seconds; beyond them no text is late, or every text."""
NEARLY_NONE = 1e-9
"""Servers in place of none."""
KNOTS, HALVINGS = 64, 24
"""Numbers of servers for which a capacity is computed, and how finely."""

Floats = NDArray[np.float64]


def erlang_c(servers: int, load: float) -> float:
    """The probability that an arrival waits; `load` in servers' worth of work (Erlangs)."""
    if load >= servers:
        return 1.0
    # Erlang B by its recursion, which stays within floats where factorials would not.
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    share = load / servers
    return blocked / (1.0 - share * (1.0 - blocked))


def wait_beyond(
    servers: int, rate: float, service_s: float, variation: float, share: float
) -> float:
    """The wait in seconds that only `share` of the arrivals exceed.

    Those that wait at all wait exponentially long (exact for M/M/c); `variation` stretches it.
    """
    load = rate * service_s
    if load >= servers:
        return math.inf
    waiting = erlang_c(servers, load)
    if waiting <= share:
        return 0.0
    return math.log(waiting / share) * variation * service_s / (servers - load)


def _longer(
    waiting: Floats,
    servers: Floats,
    load: Floats | float,
    service_s: float,
    variation: float,
    wait_s: float,
) -> Floats:
    """The share that waits longer than `wait_s`, from the share that waits at all (Erlang C).

    For a variation up to 1 that of M/M/c, stretched. What is beyond comes from bursts that last
    seconds (`variation` is measured over them): a random walk with steps of a second, whose
    exponent is that of a diffusion, and which overshoots a level by 0.583 standard deviations of a
    step; who waits at all says nothing there (Siegmund, Sequential Analysis, 1985).
    """
    within, beyond = min(variation, 1.0), max(0.0, variation - 1.0)
    idle = np.maximum(0.0, servers - load)
    step = np.sqrt(2.0 * service_s * beyond * load)
    spread = service_s * (servers * within + load * beyond)
    fading = idle * (servers * wait_s + OVERSHOOT * step) / spread
    return np.asarray(waiting ** (1.0 / (1.0 + beyond)) * np.exp(-fading))


def shares_beyond(
    most: int, load: float, service_s: float, variation: float, wait_s: float
) -> Floats:
    """The share of the arrivals that wait longer than `wait_s` for every number of servers from 0
    to `most`, shape [most + 1]; `load` in Erlangs.
    """
    blocked, waiting = 1.0, [1.0] * (most + 1)
    for count in range(1, most + 1):
        blocked = load * blocked / (count + load * blocked)
        if count > load:
            share = load / count
            waiting[count] = blocked / (1.0 - share * (1.0 - blocked))
    servers = np.maximum(np.arange(most + 1.0), NEARLY_NONE)
    return _longer(np.array(waiting), servers, load, service_s, variation, wait_s)


def capacities(
    service_s: float, variation: float, wait_s: float, share: float, most: int
) -> Floats:
    """The largest load in Erlangs at which no larger share than `share` waits longer than `wait_s`,
    for every number of servers from 0 to `most`; shape [most + 1], ascending.

    Service time and variation are rounded to `FINENESS`.
    """
    service = round(math.log(min(max(service_s, SHORTEST_S), LONGEST_S)) / FINENESS)
    varies = round(math.log(variation) / FINENESS)
    return _capacities(service, varies, wait_s, share, most)


@lru_cache(maxsize=1024)
def _capacities(service: int, varies: int, wait_s: float, share: float, most: int) -> Floats:
    """Bisection, for all numbers of servers at once; between some of them the room that is left
    idle is interpolated, which it grows smoothly with (square-root staffing).
    """
    service_s, variation = math.exp(service * FINENESS), math.exp(varies * FINENESS)
    servers = np.unique(np.geomspace(1.0, max(1, most), KNOTS).round())
    low, high = np.zeros(len(servers)), servers.copy()
    for _ in range(HALVINGS):
        load = (low + high) / 2.0
        waiting = _waiting(servers, load)
        fits = _longer(waiting, servers, load, service_s, variation, wait_s) <= share
        low, high = np.where(fits, load, low), np.where(fits, high, load)
    every = np.arange(most + 1.0)
    found = every - np.interp(every, servers, servers - low)
    found[0] = 0.0
    return np.asarray(np.maximum.accumulate(np.maximum(0.0, found)))


def _waiting(servers: Floats, load: Floats) -> Floats:
    """Erlang C, element by element."""
    blocked = np.ones(len(servers))
    for count in range(1, int(servers[-1]) + 1):
        further = load * blocked / (count + load * blocked)
        blocked = np.where(servers >= count, further, blocked)
    used = load / servers
    return np.asarray(blocked / (1.0 - used * (1.0 - blocked)))
