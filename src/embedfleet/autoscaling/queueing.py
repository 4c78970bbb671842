"""Queueing theory of a fleet under steady traffic: M/G/c. Pure.

Erlang's C and the approximation of Allen and Cunneen. Used for capacity plans, and to check the
simulator, which covers traffic that changes.
"""

from __future__ import annotations

import math
from functools import lru_cache

NEGLIGIBLE = 20.0
"""Beyond so many mean waits, nobody waits."""


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


def mean_wait_s(
    servers: int, rate: float, service_s: float, arrivals_scv: float, service_scv: float
) -> float:
    """Mean wait of a G/G/c queue (Allen and Cunneen); exact for M/M/c.

    `rate` per second, `service_s` the mean of a service, and the squared coefficients of variation
    of the gaps between arrivals and of services.
    """
    load = rate * service_s
    if load >= servers:
        return math.inf
    variation = (arrivals_scv + service_scv) / 2.0
    return erlang_c(servers, load) * service_s / (servers - load) * variation


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


@lru_cache(maxsize=4096)
def share_beyond(
    servers: int, load: float, service_s: float, variation: float, wait_s: float
) -> float:
    """The share of the arrivals that wait longer than `wait_s`, likewise; `load` in Erlangs."""
    if load >= servers:
        return 1.0
    fading = (servers - load) * wait_s / (variation * service_s)
    return 0.0 if fading > NEGLIGIBLE else erlang_c(servers, load) * math.exp(-fading)


@lru_cache(maxsize=4096)
def fewest_servers(
    load: float, service_s: float, variation: float, wait_s: float, share: float, most: int
) -> int:
    """The fewest servers, up to `most`, with which no larger share waits longer than `wait_s`."""
    servers = math.ceil(load)
    while servers < most and share_beyond(servers, load, service_s, variation, wait_s) > share:
        servers += 1
    return servers
