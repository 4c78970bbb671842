"""What a gateway counts of its replicas."""

from __future__ import annotations

import time

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.states import Event
from embedfleet.gateway.counting import StateGauge
from embedfleet.telemetry.metrics import GatewayMetrics


def gone(metrics: GatewayMetrics) -> str:
    series = 'embedfleet_replica_entered_total{pool="m",state="gone"} '
    lines = metrics.exposition().decode().splitlines()
    (found,) = (line.removeprefix(series) for line in lines if line.startswith(series))
    return found


def test_a_replica_that_was_lost_counts_as_gone_and_one_that_was_let_go_does_not() -> None:
    """An alert hangs on it, and a fleet that shrinks as it should is nothing to be told of."""
    fleet, metrics = Fleet(), GatewayMetrics()
    StateGauge("m", fleet, metrics)
    lost, let_go = (fleet.add(name, f"http://{name}", time.monotonic()) for name in "ab")
    let_go.leaving.add("supervisor")
    fleet.apply(let_go, Event.LOST, time.monotonic())
    assert gone(metrics) == "0.0"

    fleet.apply(lost, Event.LOST, time.monotonic())
    assert gone(metrics) == "1.0"
