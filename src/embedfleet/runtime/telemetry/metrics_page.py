"""Renders docs/metrics.md from the metrics catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from embedfleet.runtime.telemetry.metrics import GatewayMetrics, Metrics, ReplicaMetrics
from embedfleet.runtime.telemetry.tally import Counts, Tally

_INTRODUCTION = """\
# Metrics

Written by `make docs` from `src/embedfleet/runtime/telemetry/metrics.py`.

A gateway shows its own at `/metrics` of its admin address (`admin.port`), a replica at `/metrics`
of its address. `/targets` of the admin address lists the replicas for Prometheus' HTTP service
discovery. Besides these there are the usual `process_…` of memory, processor time and open files.

Labels are few whatever callers send: pools, replicas, lanes, states, statuses, ids of API keys. A
request that names no model served here is counted under the pool `none`, one without a good key
under the key `none`. Times are in seconds.

Rules, alerts and dashboards made of them are in `deploy/monitoring/`, what to do about an alert in
[runbook.md](runbook.md).
"""


Known: TypeAlias = MetricWrapperBase | Counts | Tally
"""A metric of the catalogue."""


def catalogue(metrics: Metrics) -> Iterator[Known]:
    """Every metric of a process of one kind, in the order of the catalogue."""
    for each in vars(metrics).values():
        if isinstance(each, Counter | Gauge | Histogram | Counts | Tally):
            yield each


def exposed_name(metric: Known) -> str:
    """Its name as it is scraped; counters end in `_total`."""
    name: str = next(iter(metric.describe())).name
    return f"{name}_total" if isinstance(metric, Counter | Counts) else name


def labels_of(metric: Known) -> tuple[str, ...]:
    """The names of its labels."""
    if isinstance(metric, Counts | Tally):
        return metric.labelnames
    names: tuple[str, ...] = metric._labelnames  # noqa: SLF001  # not public
    return names


def as_markdown() -> str:
    """Write `docs/metrics.md`."""
    parts = [_INTRODUCTION]
    for title, metrics in (("A gateway's", GatewayMetrics()), ("A replica's", ReplicaMetrics())):
        rows = "".join(_row(metric) for metric in catalogue(metrics))
        parts.append(
            f"## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def _row(metric: Known) -> str:
    described = next(iter(metric.describe()))
    labels = ", ".join(f"`{label}`" for label in labels_of(metric))
    return (
        f"| `{exposed_name(metric)}` | {described.type} | {labels} | {described.documentation} |\n"
    )
