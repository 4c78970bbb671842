"""Reads traces: texts with an arrival time and a token count. Errors give the line number.

Two formats, both CSV with a heading, in order of time:

    TIMESTAMP,ContextTokens,GeneratedTokens      as in Azure's LLM inference traces of 2023
    arrival_s,tokens                             our own: seconds from the start, tokens of the text
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import SettingError

AZURE = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
OWN = ["arrival_s", "tokens"]
COPY_SPREAD_S = 1.0
"""Copies of a text arrive up to so many seconds apart: other clients, the same moment of the day.
Bursts longer than this keep their shape."""


class TraceError(SettingError):
    """A trace can't be read."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Texts in order of arrival."""

    name: str
    arrival_s: NDArray[np.float64]
    """Seconds from the start."""
    tokens: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.arrival_s) != len(self.tokens) or not len(self.tokens):
            raise TraceError(f"the trace {self.name} has no texts")

    @property
    def seconds(self) -> float:
        """From the start to the last arrival."""
        return max(1.0, float(self.arrival_s[-1]))

    def copies(self, count: int, rng: np.random.Generator) -> Trace:
        """Every text `count` times, each copy up to a second off (`COPY_SPREAD_S`)."""
        if count == 1:
            return self
        arrival_s = np.repeat(self.arrival_s, count)
        arrival_s = np.maximum(0.0, arrival_s + rng.uniform(0.0, COPY_SPREAD_S, len(arrival_s)))
        order = np.argsort(arrival_s, kind="stable")
        tokens = np.repeat(self.tokens, count)
        return Trace(f"{self.name} x{count}", arrival_s[order], tokens[order])


def read(path: Path) -> Trace:
    """Read a trace of either format."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines)
            heading = next(rows, [])
            if heading == AZURE:
                found = list(_azure(rows, path))
            elif heading == OWN:
                found = list(_own(rows, path))
            else:
                raise TraceError(
                    f"{path}, line 1: the heading is {','.join(heading)!r}; known are "
                    f"{','.join(AZURE)!r} and {','.join(OWN)!r}"
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"the trace {path} can't be read: {reason(error)}") from error
    arrival_s = np.array([at for at, _ in found], np.float64)
    tokens = np.array([count for _, count in found], np.int64)
    return Trace(path.stem, arrival_s, tokens)


def _azure(rows: Iterator[list[str]], path: Path) -> Iterator[tuple[float, int]]:
    first: float | None = None
    last = -math.inf
    for number, row in enumerate(rows, start=2):
        try:
            stamp, context, _ = row
            # Seven digits of a second; Python takes six.
            moment = datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC).timestamp()
            tokens = int(context)
        except ValueError:
            raise _malformed(path, number, row) from None
        first = moment if first is None else first
        last = _in_order(path, number, moment - first, last)
        yield last, _positive(path, number, tokens)


def _own(rows: Iterator[list[str]], path: Path) -> Iterator[tuple[float, int]]:
    last = -math.inf
    for number, row in enumerate(rows, start=2):
        try:
            stamp, count = row
            arrival_s, tokens = float(stamp), int(count)
        except ValueError:
            raise _malformed(path, number, row) from None
        if not 0 <= arrival_s < math.inf:
            raise TraceError(f"{path}, line {number}: {stamp} is not a time since the start")
        last = _in_order(path, number, arrival_s, last)
        yield last, _positive(path, number, tokens)


def _malformed(path: Path, number: int, row: list[str]) -> TraceError:
    return TraceError(f"{path}, line {number}: {','.join(row)!r} is not a row of this trace")


def _in_order(path: Path, number: int, arrival_s: float, last: float) -> float:
    if arrival_s < last:
        raise TraceError(
            f"{path}, line {number}: it is {last - arrival_s:g} s before the last line"
        )
    return arrival_s


def _positive(path: Path, number: int, tokens: int) -> int:
    if not 0 < tokens < 2**31:
        raise TraceError(f"{path}, line {number}: {tokens} is not a number of tokens")
    return tokens
