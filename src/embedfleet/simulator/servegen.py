"""Generates traffic from ServeGen's statistics (alibaba/ServeGen, `data/language/m-small`).

For each client and each ten minutes they give a rate, a coefficient of variation and the
distribution of inter-arrival times with its parameters; for each six hours a histogram of prompt
lengths.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfleet.runtime.text_files import reason
from embedfleet.simulator.traffic import Trace, TraceError

WINDOW_S = 600.0
"""The statistics' own resolution of rates."""
LENGTHS_S = 21_600.0
"""The statistics' own resolution of lengths."""
MOST_TOKENS = 32_768
"""Longer prompts are cut: the longest text that the models served here read."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Law:
    """How gaps between a client's arrivals are distributed in one window."""

    name: str
    rate: float
    """Texts per second."""
    shape: float

    def gaps(self, count: int, rate: float, rng: np.random.Generator) -> Floats:
        """So many gaps in seconds, with this law's burstiness and a mean of 1/`rate`."""
        if self.name == "Gamma":
            return rng.gamma(self.shape, 1.0 / (self.shape * rate), count)
        mean = math.gamma(1.0 + 1.0 / self.shape)
        return rng.weibull(self.shape, count) / (mean * rate)


@dataclass(frozen=True, slots=True)
class Client:
    """One client over two weeks."""

    laws: dict[int, Law]
    """By number of the window; those without traffic are absent."""
    lengths: dict[int, tuple[NDArray[np.int64], Floats]]
    """Token counts and their cumulative shares, by number of the six hours."""

    def mean_tokens(self, window: int) -> float:
        found = self._histogram(window)
        if found is None:
            return 0.0
        values, cumulative = found
        return float(np.sum(values * np.diff(cumulative, prepend=0.0)))

    def draw(
        self, window: int, scale: float, rng: np.random.Generator
    ) -> tuple[Floats, NDArray[np.int64]] | None:
        """Arrivals (seconds into the window) and token counts."""
        law, found = self.laws.get(window), self._histogram(window)
        if law is None or found is None:
            return None
        rate = law.rate * scale
        expected = rate * WINDOW_S
        # The process runs before the window too, so that a window does not begin with an arrival.
        at = np.cumsum(law.gaps(int(1.5 * expected + 6 * math.sqrt(expected) + 10), rate, rng))
        at -= rng.uniform(0.0, 0.5) * max(0.0, float(at[-1]) - WINDOW_S)
        at = at[(at >= 0) & (at < WINDOW_S)]
        values, cumulative = found
        picks = np.searchsorted(cumulative, rng.random(len(at)) * cumulative[-1], side="right")
        return at, values[np.minimum(picks, len(values) - 1)]

    def _histogram(self, window: int) -> tuple[NDArray[np.int64], Floats] | None:
        """The lengths of these six hours, or of the nearest that have any."""
        if not self.lengths:
            return None
        block = int(window * WINDOW_S // LENGTHS_S)
        return self.lengths[min(self.lengths, key=lambda each: (abs(each - block), each))]


@dataclass(frozen=True, slots=True)
class ServeGen:
    """All clients."""

    clients: tuple[Client, ...]

    def tokens_per_s(self, first: int, windows: int) -> float:
        """Mean rate over some windows, as the statistics have it."""
        total = sum(
            law.rate * client.mean_tokens(window)
            for client in self.clients
            for window, law in client.laws.items()
            if first <= window < first + windows
        )
        return total / windows

    def windows(
        self, first: int, count: int, scale: float, seed: int
    ) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
        """Arrivals of one window after the other: seconds from the first, and token counts."""
        for window in range(first, first + count):
            rng = np.random.default_rng((seed, window))
            drawn = [client.draw(window, scale, rng) for client in self.clients]
            parts = [each for each in drawn if each is not None]
            if not parts:
                continue
            at = np.concatenate([each[0] for each in parts]) + (window - first) * WINDOW_S
            order = np.argsort(at, kind="stable")
            yield at[order], np.concatenate([each[1] for each in parts])[order]

    def trace(self, first: int, count: int, scale: float, seed: int) -> Trace:
        """Some windows as one trace."""
        parts = list(self.windows(first, count, scale, seed))
        if not parts:
            raise TraceError(f"ServeGen has no traffic in windows {first} to {first + count}")
        return Trace(
            f"servegen {first}+{count}",
            np.concatenate([each[0] for each in parts]),
            np.concatenate([each[1] for each in parts]),
        )


def read(path: Path) -> ServeGen:
    """Read the statistics from their archive (.tar.xz)."""
    rates: dict[str, dict[int, Law]] = {}
    lengths: dict[str, dict[int, tuple[NDArray[np.int64], Floats]]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                held = archive.extractfile(member)
                if held is None:
                    continue
                chunk, _, kind = Path(member.name).stem.removeprefix("chunk-").partition("-")
                text = held.read().decode("utf-8")
                if kind == "trace":
                    rates[chunk] = _laws(text, member.name)
                elif kind == "dataset":
                    lengths[chunk] = _lengths(text)
    except (OSError, tarfile.TarError, ValueError, SyntaxError) as error:
        raise TraceError(
            f"ServeGen's statistics in {path} can't be read: {reason(error)}"
        ) from error
    return ServeGen(tuple(Client(rates[each], lengths[each]) for each in sorted(lengths)))


def _laws(text: str, name: str) -> dict[int, Law]:
    laws = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        try:
            start_s, rate, _, law, *parameters = row
            if float(rate) > 0 and law in {"Gamma", "Weibull"}:
                laws[round(float(start_s) / WINDOW_S)] = Law(law, float(rate), float(parameters[0]))
        except (ValueError, IndexError):
            raise TraceError(f"{name}, line {number}: {','.join(row)!r} is not a window") from None
    return laws


def _lengths(text: str) -> dict[int, tuple[NDArray[np.int64], Floats]]:
    found = {}
    for start_s, histograms in json.loads(text).items():
        shares: dict[Any, Any] = ast.literal_eval(histograms["input_tokens"])
        if shares:
            values = np.array([min(MOST_TOKENS, max(1, int(key))) for key in shares], np.int64)
            weights = np.array(list(shares.values()), np.float64)
            found[int(float(start_s) // LENGTHS_S)] = (values, np.cumsum(weights / weights.sum()))
    return found
