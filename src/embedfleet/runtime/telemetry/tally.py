"""A single-threaded histogram, for what is observed with every text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """What is observed under one set of labels."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        """Observations in each bucket, not cumulated."""
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount


class Tally(Collector):
    """It adds to plain numbers, which may be read from another thread.

    The library's own takes two locks for each observation, and looks for its bucket one by one
    (1.1 us, here 0.2).
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.labelnames = tuple(labelnames)
        self.buckets = (*buckets, inf)
        self._name = name
        self._documentation = documentation
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these labels, made when it is asked for first."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self.labelnames):
                raise ValueError(f"{self._name} has the labels {', '.join(self.labelnames)}")
            found = self._series[values] = Series(self.buckets)
        return found

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """What it is, without values."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self.labelnames)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What was observed so far."""
        (family,) = self.describe()
        names = [floatToGoString(bound) for bound in self.buckets]  # type: ignore[no-untyped-call]
        for values, series in list(self._series.items()):
            family.add_metric(
                values,
                buckets=list(zip(names, accumulate(list(series.counts)), strict=True)),
                sum_value=series.sum,
            )
        return [family]
