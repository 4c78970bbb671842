"""The metrics of several processes add up to what one process would have counted."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from embedfleet.runtime.telemetry.merging import (
    Family,
    Merged,
    as_families,
    cumulative,
    families,
    merged,
)


class Process:
    """Metrics of each kind in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.texts = Counter("embedfleet_texts_total", "Texts.", ["pool"], registry=self.registry)
        self.seconds = Histogram(
            "embedfleet_seconds", "Seconds.", registry=self.registry, buckets=(0.1, 1.0)
        )
        self.queued = Gauge("embedfleet_queued_texts", "Waiting.", registry=self.registry)
        self.state = Gauge(
            "embedfleet_replica_state", "State.", ["replica"], registry=self.registry
        )

    def told(self) -> list[Family]:
        """Its families after the journey between two processes."""
        return as_families(msgspec.msgpack.decode(msgspec.msgpack.encode(families(self.registry))))


def text(told: list[Family]) -> dict[str, float]:
    """The exposition as a scraper reads it, without when each series was made."""
    lines = generate_latest(Merged(told)).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, value in pairs if "_created" not in name}


@given(st.lists(st.lists(st.floats(0, 3), max_size=5), min_size=1, max_size=5))
def test_counters_and_histograms_of_processes_add_up_to_those_of_one(
    observed: list[list[float]],
) -> None:
    alone, several = Process(), [Process() for _ in observed]
    for process, values in zip(several, observed, strict=True):
        for value in values:
            for each in (alone, process):
                each.texts.labels("p").inc()
                each.seconds.observe(value)

    seen = text(merged(several[0].told(), [each.told() for each in several[1:]]))
    expected = text(alone.told())
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(seen[name] - value) < 1e-9


def test_what_a_process_counted_stays_when_it_has_ended_but_not_what_it_held() -> None:
    primary, ended = Process(), Process()
    ended.texts.labels("p").inc(3)
    ended.queued.set(7)

    seen = text(merged(primary.told(), [cumulative(ended.told())]))

    assert seen['embedfleet_texts_total{pool="p"}'] == 3
    assert seen["embedfleet_queued_texts"] == 0


def test_shares_add_up_and_states_are_the_primarys() -> None:
    primary, worker = Process(), Process()
    primary.state.labels("a").set(1)
    worker.state.labels("a").set(5)
    worker.state.labels("b").set(1)
    primary.queued.set(1)
    worker.queued.set(2)

    seen = text(merged(primary.told(), [worker.told()]))

    assert seen['embedfleet_replica_state{replica="a"}'] == 1
    assert seen['embedfleet_replica_state{replica="b"}'] == 1
    assert seen["embedfleet_queued_texts"] == 3
