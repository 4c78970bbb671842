"""How many servers a load takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling.queueing import capacities, erlang_c, shares_beyond

SHARE, WAIT_S = 0.005, 0.25


@settings(max_examples=15, deadline=None)
@given(
    service_s=st.floats(0.001, 0.2),
    variation=st.floats(0.5, 20.0),
    most=st.sampled_from([1, 8, 32, 300]),
)
def test_a_capacity_is_the_largest_load_that_keeps_the_promise(
    service_s: float, variation: float, most: int
) -> None:
    """Held at it, up to how finely times are told apart, and broken with a third less room."""
    able = capacities(service_s, variation, WAIT_S, SHARE, most)
    assert len(able) == most + 1
    assert (np.diff(able) >= 0).all()
    for servers in {1, most // 3, most} - {0}:
        load = float(able[servers])
        at = shares_beyond(most, load, service_s, variation, WAIT_S)[servers]
        assert at <= SHARE * 1.5
        more = servers - 0.66 * (servers - load)
        beyond = shares_beyond(most, more, service_s, variation, WAIT_S)[servers]
        assert beyond > SHARE


@given(load=st.floats(0.0, 40.0), service_s=st.floats(0.01, 2.0))
def test_where_work_comes_at_random_waits_are_those_of_erlang(
    load: float, service_s: float
) -> None:
    """Exact for M/M/c."""
    shares = shares_beyond(32, load, service_s, 1.0, WAIT_S)
    for servers in range(1, 33):
        idle = max(0.0, servers - load)
        told = erlang_c(servers, load) * math.exp(-idle * WAIT_S / service_s)
        assert shares[servers] == pytest.approx(told, abs=1e-8)


def test_bursts_of_seconds_make_waits_as_long_as_they_do_in_a_simulation() -> None:
    """A fluid whose rate differs by a fifth from second to second: within a factor of two."""
    rng = np.random.default_rng(7)
    load, service_s, seconds = 8.0, 0.02, 400_000
    came = load * rng.gamma(25.0, 1 / 25.0, seconds)
    variation = float(came.var()) / (2.0 * load * service_s)
    for servers in (9, 10):
        total = np.concatenate([[0.0], np.cumsum(np.repeat(came - servers, 10) / 10.0)])
        left = total - np.minimum.accumulate(total)
        late = float((left > WAIT_S * servers).mean())
        told = shares_beyond(servers, load, service_s, variation, WAIT_S)[servers]
        assert late / 2 <= told <= late * 2
