"""The catalogue of metrics: names, labels, documentation, and that each is measured and watched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from embedfleet.runtime.telemetry.metrics import (
    CONTENT_TYPE,
    LATENCY_S,
    GatewayMetrics,
    Metrics,
    ReplicaMetrics,
)
from embedfleet.runtime.telemetry.metrics_page import (
    Known,
    as_markdown,
    catalogue,
    exposed_name,
    labels_of,
)
from embedfleet.runtime.telemetry.tally import Counts, Tally

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "embedfleet"
MONITORING = ROOT / "deploy" / "monitoring"
CODE = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py"))
WATCHED = "\n".join(
    path.read_text(encoding="utf-8")
    for kind in ("*.yml", "*.yaml", "*.json")
    for path in MONITORING.rglob(kind)
)

LABELS = {
    *("pool", "replica", "lane", "state", "status", "outcome", "version"),
    *("engine", "precision"),
    *("term", "winner", "direction", "came_from"),
    *("key", "reason", "files"),
    *("tier", "result"),
}
"""Labels whose values we choose or know; nothing that callers make up."""

UNITS = (
    *("_seconds", "_bytes", "_tokens", "_texts", "_ratio", "_total", "_info", "_requests"),
    *("_replicas", "_watts", "_checks"),
)
NO_UNIT = {
    *("embedfleet_replica_state", "embedfleet_golden_drift", "embedfleet_cache_redis_state"),
    "embedfleet_reload_failing",
    *(f"embedfleet_autoscaling_{name}" for name in ("winner", "held", "by_hand")),
}

EVERY = [
    pytest.param(attribute, metric, id=exposed_name(metric))
    for metrics in (GatewayMetrics(), ReplicaMetrics())
    for attribute, metric in vars(metrics).items()
    if metric in list(catalogue(metrics))
]


@pytest.mark.parametrize(("attribute", "metric"), EVERY)
def test_names_follow_prometheus_conventions(attribute: str, metric: Known) -> None:
    """A prefix, a unit, `_total` for counters and for nothing else; help is a sentence."""
    name = exposed_name(metric)
    assert re.fullmatch(r"embedfleet_[a-z_]+", name)
    assert name.endswith(UNITS) or name in NO_UNIT
    assert name.endswith("_total") == isinstance(metric, Counter | Counts)
    assert next(iter(metric.describe())).documentation.endswith(".")
    if isinstance(metric, Histogram):
        assert list(metric._kwargs["buckets"]) == sorted(metric._kwargs["buckets"])
    if isinstance(metric, Tally):
        assert list(metric.buckets) == sorted(metric.buckets)


@pytest.mark.parametrize(("attribute", "metric"), EVERY)
def test_labels_are_bounded_whatever_callers_send(attribute: str, metric: Known) -> None:
    assert set(labels_of(metric)) <= LABELS


@pytest.mark.parametrize(("attribute", "metric"), EVERY)
def test_every_metric_is_measured_somewhere(attribute: str, metric: Known) -> None:
    """A name in the catalogue that nobody sets would show zero for ever."""
    assert re.search(rf"metrics\.{attribute}\b", CODE) or attribute == "build_info"


@pytest.mark.parametrize(("attribute", "metric"), EVERY)
def test_every_metric_is_looked_at_by_a_rule_or_a_dashboard(attribute: str, metric: Known) -> None:
    """What nobody looks at need not be measured."""
    assert exposed_name(metric) in WATCHED


def test_the_page_of_metrics_is_up_to_date() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: make docs"


@pytest.mark.parametrize("kind", [GatewayMetrics, ReplicaMetrics])
def test_processes_share_no_registry(kind: type[Metrics]) -> None:
    """A gateway and a replica in one process, as in tests, count for themselves."""
    kind()
    assert b"embedfleet_build_info" in kind().exposition()


@given(st.lists(st.lists(st.sampled_from([0.0, *LATENCY_S]) | st.floats(0, 1e4))))
def test_a_tally_shows_what_the_librarys_histogram_shows(seen: list[list[float]]) -> None:
    """Read as often as one likes, at the bounds of buckets too."""
    registries = []
    for kind in (Histogram, Tally):
        registry = CollectorRegistry()
        shown = kind("seconds", "What.", ["pool"], buckets=LATENCY_S, registry=registry).labels("a")
        for some in seen:
            for each in some:
                shown.observe(each)
            registry.get_sample_value("seconds_count", {"pool": "a"})
        registries.append(registry)
    by_library, by_us = (
        [line for line in generate_latest(each).splitlines() if not line.startswith(b"seconds_sum")]
        for each in registries
    )
    assert [line for line in by_us if b"_created" not in line] == [
        line for line in by_library if b"_created" not in line
    ]
    sums = [each.get_sample_value("seconds_sum", {"pool": "a"}) for each in registries]
    assert sums[0] == pytest.approx(sums[1])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**6))))
def test_counts_show_what_the_librarys_counter_shows(seen: list[tuple[str, int]]) -> None:
    shown = []
    for kind in (Counter, Counts):
        registry = CollectorRegistry()
        counter = kind("texts_total", "What.", ["pool"], registry=registry)
        for label, amount in seen:
            counter.labels(label).inc(amount)
        lines = generate_latest(registry).splitlines()
        shown.append([line for line in lines if b"_created" not in line])
    assert shown[0] == shown[1]


def test_a_scrape_is_of_the_version_that_every_scraper_reads() -> None:
    """Prometheus' library for Go reads no other; names in UTF-8 would take a newer one."""
    assert CONTENT_TYPE == b"text/plain; version=0.0.4; charset=utf-8"
    assert b'{"' not in GatewayMetrics().exposition() + ReplicaMetrics().exposition()


def test_a_label_too_many_is_a_mistake() -> None:
    registry = CollectorRegistry()
    counts = Counts("texts_total", "What.", ["pool"], registry=registry)
    with pytest.raises(ValueError, match="has the labels pool"):
        counts.labels("a", "b")
