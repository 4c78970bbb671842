"""Merges the metrics of several processes into one exposition.

Counters and histograms are summed, including those of processes that have ended. A gauge is summed
where each process reports its share; any other is taken from the primary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SHARED_GAUGES = {
    "embedfleet_active_requests",
    "embedfleet_queued_texts",
    "embedfleet_queued_tokens",
    "embedfleet_replica_outstanding_tokens",
    "embedfleet_replica_window_tokens",
    "embedfleet_cache_held_texts",
    "embedfleet_cache_held_bytes",
    "embedfleet_cache_redis_queued_bytes",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}
"""Gauges of which each process reports its share."""
CUMULATIVE = {"counter", "histogram", "summary"}


class Sample(msgspec.Struct, array_like=True, gc=False):
    """One number of a family."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, array_like=True, gc=False):
    """A metric as it travels between processes."""

    name: str
    text: str
    type: str
    samples: list[Sample]


def families(registry: Collector) -> list[Family]:
    """What a process has counted."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [
                Sample(each.name, tuple(sorted(each.labels.items())), float(each.value))
                for each in metric.samples
            ],
        )
        for metric in registry.collect()
    ]


def cumulative(told: Iterable[Family]) -> list[Family]:
    """What stays true of a process that has ended."""
    return [family for family in told if family.type in CUMULATIVE]


def merged(primary: Sequence[Family], others: Iterable[Sequence[Family]]) -> list[Family]:
    """The figures of all processes as one."""
    kept = {family.name: _Sum(family) for family in primary}
    for told in others:
        for family in told:
            one = kept.get(family.name)
            if one is None:
                kept[family.name] = _Sum(family)
            elif family.type in CUMULATIVE or family.name in SHARED_GAUGES:
                one.add(family.samples)
            else:
                one.complete(family.samples)
    return [each.family() for each in kept.values()]


class _Sum:
    def __init__(self, family: Family) -> None:
        self._family = family
        self._values = {(each.name, each.labels): each.value for each in family.samples}

    def add(self, samples: Iterable[Sample]) -> None:
        for each in samples:
            at = each.name, each.labels
            if each.name.endswith("_created"):
                self._values[at] = min(self._values.get(at, each.value), each.value)
            else:
                self._values[at] = self._values.get(at, 0.0) + each.value

    def complete(self, samples: Iterable[Sample]) -> None:
        """Take what the primary does not tell."""
        for each in samples:
            self._values.setdefault((each.name, each.labels), each.value)

    def family(self) -> Family:
        samples = [Sample(name, labels, value) for (name, labels), value in self._values.items()]
        return Family(self._family.name, self._family.text, self._family.type, samples)


class Merged(Collector):
    """Families, in the form in which the library renders them."""

    def __init__(self, told: Sequence[Family]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        for family in self._told:
            metric = Metric(family.name, family.text, family.type)
            for each in family.samples:
                metric.add_sample(each.name, dict(each.labels), each.value)
            yield metric


def as_families(value: Any) -> list[Family]:
    """What came from another process. Raises msgspec.ValidationError."""
    return msgspec.convert(value, list[Family])
