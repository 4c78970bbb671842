"""What a gateway counts of its replicas, and how long it shows it."""

from __future__ import annotations

import asyncio
import time

import msgspec

from embedfleet.api.answer_memory import AnswerRoom
from embedfleet.api.served_model import Answered
from embedfleet.fleet.balancing import Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.states import Event
from embedfleet.runtime.settings import GatewaySettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.counting import PoolCounter
from embedfleet.scheduling.delivery.dispatch import Dispatcher
from embedfleet.server.gateway.recording import (
    MOST_GONE,
    ClientLimitCounter,
    RequestCounter,
    StateGauge,
)
from tests.fleet.test_health import DESCRIPTION


def gone(metrics: GatewayMetrics) -> str:
    series = 'embedfleet_replica_entered_total{pool="m",state="gone"} '
    lines = metrics.exposition().decode().splitlines()
    (found,) = (line.removeprefix(series) for line in lines if line.startswith(series))
    return found


def shown(metrics: GatewayMetrics, name: str, replica: str) -> list[float]:
    """The values of all series of a metric about a replica."""
    return [
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == f"embedfleet_{name}" and sample.labels["replica"] == replica
    ]


def ready(fleet: Fleet, name: str) -> Member:
    member = fleet.add(name, f"http://{name}", 0.0)
    member.description = DESCRIPTION
    for event in (Event.ANSWERED, Event.VERIFIED):
        fleet.apply(member, event, 0.0)
    return member


async def test_requests_are_counted_after_their_answers_have_left() -> None:
    """In the next turn of the event loop, those of one turn together."""
    metrics = GatewayMetrics()
    counter = RequestCounter(metrics)

    def counted() -> float | None:
        labels = {"pool": "m", "status": "200"}
        return metrics.registry.get_sample_value("embedfleet_requests_total", labels)

    for _ in range(3):
        counter.count(Answered("m", 200, 0.01, texts=2))
    assert counted() is None
    await asyncio.sleep(0)
    assert counted() == 3
    counter.count(Answered("m", 200, 0.01))
    await asyncio.sleep(0)
    assert counted() == 4


async def test_what_is_read_has_all_that_was_counted() -> None:
    """Nobody who reads metrics must wait for a turn of the event loop."""
    metrics = GatewayMetrics()
    counter = PoolCounter("m", metrics)
    counter.computed(20)
    counter.observe(Dispatcher(LeastWork(), attempts=4))
    assert metrics.registry.get_sample_value("embedfleet_tokens_total", {"pool": "m"}) == 20
    await asyncio.sleep(0)
    assert metrics.registry.get_sample_value("embedfleet_tokens_total", {"pool": "m"}) == 20


def test_what_a_replica_has_to_do_is_shown_while_it_is_used() -> None:
    """A last value would stay for ever, and be summed up with those of others."""
    metrics = GatewayMetrics()
    counter, dispatcher = PoolCounter("m", metrics), Dispatcher(LeastWork(), attempts=4)
    gauges = ("replica_outstanding_tokens", "replica_window_tokens")
    for name in ("a", "b"):
        dispatcher.join(Load(name, 100, 50, outstanding_tokens=7))
    counter.observe(dispatcher)
    dispatcher.leave("a")
    counter.observe(dispatcher)
    assert [shown(metrics, each, "a") for each in gauges] == [[], []]
    assert [shown(metrics, each, "b") for each in gauges] == [[7], [100]]

    dispatcher.join(Load("a", 100, 50))
    counter.observe(dispatcher)
    assert [shown(metrics, each, "a") for each in gauges] == [[0], [100]]


def test_what_runs_at_a_replica_is_shown_once_and_until_it_is_gone() -> None:
    """Also when it is another engine after it was away."""
    metrics, fleet = GatewayMetrics(), Fleet()
    StateGauge("m", fleet, metrics)
    member = ready(fleet, "a")
    fleet.apply(member, Event.SPARED, 0.0)
    member.description = msgspec.structs.replace(DESCRIPTION, device="another")
    fleet.apply(member, Event.RECOVERED, 0.0)
    assert shown(metrics, "replica_info", "a") == [1]

    fleet.apply(member, Event.LOST, 0.0)
    assert shown(metrics, "replica_info", "a") == []


def test_a_replica_that_is_gone_keeps_its_zeros_until_many_others_are_gone_too() -> None:
    """Alerts about it need them for a while; names that are never used again need none."""
    metrics, fleet = GatewayMetrics(), Fleet()
    StateGauge("m", fleet, metrics)
    for number in range(MOST_GONE):
        fleet.apply(ready(fleet, f"r{number}"), Event.LOST, 0.0)
    assert set(shown(metrics, "replica_state", "r0")) == {0}

    ready(fleet, "r0")  # it is back: the one that is gone for longest is now another
    for number in range(MOST_GONE, MOST_GONE + 2):
        fleet.apply(ready(fleet, f"r{number}"), Event.LOST, 0.0)
    assert sum(shown(metrics, "replica_state", "r0")) == 1
    assert shown(metrics, "replica_state", "r1") == []
    assert set(shown(metrics, "replica_state", "r2")) == {0}


def test_a_lost_replica_counts_as_gone_and_a_removed_one_does_not() -> None:
    """An alert hangs on it, and a fleet that shrinks as it should is nothing to be told of."""
    fleet, metrics = Fleet(), GatewayMetrics()
    StateGauge("m", fleet, metrics)
    lost, let_go = (fleet.add(name, f"http://{name}", time.monotonic()) for name in "ab")
    let_go.leaving.add("supervisor")
    fleet.apply(let_go, Event.LOST, time.monotonic())
    assert gone(metrics) == "0.0"

    fleet.apply(lost, Event.LOST, time.monotonic())
    assert gone(metrics) == "1.0"


async def test_what_was_not_taken_in_time_is_counted_once() -> None:
    metrics, room = GatewayMetrics(), AnswerRoom(100)
    counter = ClientLimitCounter(GatewaySettings(), room, metrics)
    counter.answers.shed, counter.answers.cut_off, room.shed = 2, 3, 1
    counter.observe()
    counter.observe()
    assert metrics.registry.get_sample_value("embedfleet_shed_answers_total") == 3
    assert metrics.registry.get_sample_value("embedfleet_slow_clients_total") == 3
    room.shed += 1
    counter.observe()
    assert metrics.registry.get_sample_value("embedfleet_shed_answers_total") == 4


def test_a_replica_whose_checks_fail_while_its_calls_succeed_is_reported() -> None:
    """From one scrape to the next, and no longer than it is there."""
    fleet, metrics = Fleet(), GatewayMetrics()
    gauge = StateGauge("m", fleet, metrics)
    member = ready(fleet, "r")
    gauge.observe()
    assert shown(metrics, "replica_failing_checks", "r") == [0]

    fleet.check_failed(member, "probe", "nonsense")
    gauge.observe()
    assert shown(metrics, "replica_failing_checks", "r") == [1]

    fleet.apply(member, Event.REFUSED, 1.0)
    gauge.observe()
    assert shown(metrics, "replica_failing_checks", "r") == [0]

    fleet.apply(member, Event.LOST, 2.0)
    gauge.observe()
    assert shown(metrics, "replica_failing_checks", "r") == []
