"""Sliding windows over arrivals, latencies and utilisation, in bounded memory. Pure.

`now` is handed in and never decreases.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

FINENESS = math.log(1.05)
"""Relative resolution of latencies: 5 %."""
SHORTEST_S = 1e-4
LONGEST_S = 1e5


LEAST_SECONDS = 15
"""Seconds of arrivals that tell something of their variance."""


def unevenness(tokens: Sequence[float], texts: float) -> float:
    """The burstiness of so many texts with so many tokens in each second; NaN for no tokens."""
    total = math.fsum(tokens)
    if not total or not texts:
        return math.nan
    squares = math.fsum((after - before) ** 2 for before, after in pairwise(tokens))
    variance = squares / (2.0 * (len(tokens) - 1))
    return variance / (2.0 * total / len(tokens) * total / texts)


@dataclass(slots=True)
class Arrivals:
    """Recent arrivals, second by second."""

    keep_s: float = 60.0
    """Seconds that are remembered."""
    _seconds: deque[tuple[int, float, int]] = field(default_factory=deque)
    _first: float | None = None

    def add(self, tokens: float, now: float, texts: int = 1) -> None:
        """Count texts that arrived, whether they were admitted or not."""
        if self._first is None:
            self._first = now
        second = math.floor(now)
        if self._seconds and self._seconds[-1][0] == second:
            _, before, count = self._seconds[-1]
            self._seconds[-1] = (second, before + tokens, count + texts)
        else:
            self._seconds.append((second, tokens, texts))
        while self._seconds[0][0] < now - self.keep_s - 1:
            self._seconds.popleft()

    def tokens_per_s(self, window_s: float, now: float) -> float:
        """Mean rate over the last whole seconds of the window."""
        return self._mean([tokens for _, tokens, _ in self._within(window_s, now)], window_s, now)

    def texts_per_s(self, window_s: float, now: float) -> float:
        """Mean rate over the last whole seconds of the window."""
        return self._mean([texts for _, _, texts in self._within(window_s, now)], window_s, now)

    def seconds(self, window_s: float, now: float) -> tuple[float, ...]:
        """Tokens of each of the last whole seconds of the window, the latest at the end; empty
        before the first."""
        if self._first is None:
            return ()
        last = math.floor(now)
        first = max(last - max(1, round(window_s)), math.floor(self._first))
        tokens = [0.0] * (last - first)
        for second, many, _ in self._within(window_s, now):
            tokens[second - first] = many
        return tuple(tokens)

    def burstiness(self, window_s: float, now: float) -> float:
        """Variance of the tokens of a second over twice what their mean times the mean text is: the
        factor by which waits exceed those of M/M/c (Allen and Cunneen's mean of both variations,
        with the index of dispersion in place of that of the gaps). NaN below `LEAST_SECONDS`.

        The variance is taken from differences of neighbouring seconds (von Neumann), so that a
        level that changes is none.
        """
        if self._first is None:
            return math.nan
        last = math.floor(now)
        first = max(last - max(1, round(window_s)), math.floor(self._first) + 1)
        if last - first < LEAST_SECONDS:
            return math.nan
        tokens, texts = [0.0] * (last - first), 0
        for second, many, count in self._within(window_s, now):
            if second >= first:
                tokens[second - first], texts = many, texts + count
        return unevenness(tokens, texts)

    def _within(self, window_s: float, now: float) -> Iterator[tuple[int, float, int]]:
        last = math.floor(now)
        first = last - max(1, round(window_s))
        for each in reversed(self._seconds):
            if each[0] < first:
                return
            if each[0] < last:
                yield each

    def _mean(self, counts: list[float] | list[int], window_s: float, now: float) -> float:
        if self._first is None:
            return 0.0
        # Shortly after the start, the time before it must not count as quiet.
        seen_s = math.floor(now) - math.floor(self._first)
        return sum(counts) / max(1, min(round(window_s), seen_s))


@dataclass(slots=True)
class Latencies:
    """How long answers took lately: a histogram for each second, with steps of 5 %."""

    keep_s: float = 30.0
    """Seconds that are remembered."""
    _seconds: deque[tuple[int, Counter[int]]] = field(default_factory=deque)

    def add(self, seconds: float, now: float, texts: int = 1) -> None:
        """Count texts that were answered, or failed, after so long."""
        second = math.floor(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter()))
            self._forget(now)
        bounded = min(max(seconds, SHORTEST_S), LONGEST_S)
        self._seconds[-1][1][math.ceil(math.log(bounded) / FINENESS)] += texts

    def quantile(self, share: float, now: float) -> float:
        """What `share` of the texts did not exceed, in seconds; 0 where there was none."""
        self._forget(now)
        found: Counter[int] = Counter()
        for _, counts in self._seconds:
            found.update(counts)
        left = share * found.total()
        for step, texts in sorted(found.items()):
            left -= texts
            if left <= 1e-6:  # shares are not exact
                return math.exp(step * FINENESS)
        return 0.0

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] < now - self.keep_s:
            self._seconds.popleft()


@dataclass(slots=True)
class Busy:
    """What share of the time replicas computed lately, from their own counters of seconds."""

    keep_s: float = 60.0
    """Seconds over which it is taken: replicas are asked now and then, so shorter ones jump."""
    _samples: deque[tuple[float, dict[str, float]]] = field(default_factory=deque)

    def share(self, busy_s: Mapping[str, float], now: float) -> float:
        """Mean of the replicas that were there at both ends of the window; NaN for none."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - self.keep_s:
            self._samples.popleft()
        self._samples.append((now, dict(busy_s)))
        began, before = self._samples[0]
        used = [
            busy_s[name] - since
            for name, since in before.items()
            if name in busy_s and busy_s[name] >= since  # a restarted one counts from zero again
        ]
        if not used or now <= began:
            return math.nan
        return min(1.0, sum(used) / len(used) / (now - began))
