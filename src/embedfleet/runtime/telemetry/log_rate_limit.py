"""Rate-limits similar log lines and reports how many were suppressed."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

PERIOD_S = 60.0
"""Seconds between lines of a kind while it continues."""

BURST = 3
"""Lines of a kind that are written before: a replica that comes, goes and comes is told whole."""

MOST_KINDS = 1024
"""Kinds that are remembered; the one that was seen longest ago is forgotten first."""

Kind = tuple[object, ...]


@dataclass(slots=True)
class _Seen:
    since: float
    """When its minute began, in the time that is handed in."""
    written: int = 1
    left_out: int = 0


class Repeats:
    """Which lines are written. Pure: the time is handed in."""

    def __init__(
        self, period_s: float = PERIOD_S, most: int = MOST_KINDS, burst: int = BURST
    ) -> None:
        self._period_s = period_s
        self._most = most
        self._burst = burst
        self._kinds: OrderedDict[Kind, _Seen] = OrderedDict()

    def admit(self, kind: Kind, now: float) -> int | None:
        """None where the line is to be left out; else how many of its kind were since the last."""
        seen = self._kinds.get(kind)
        if seen is not None and now - seen.since < self._period_s:
            if seen.written < self._burst:
                seen.written += 1
                return 0
            seen.left_out += 1
            return None
        goes_on = seen is not None and seen.left_out > 0
        self._kinds[kind] = _Seen(now, self._burst if goes_on else 1)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > self._most:
            self._kinds.popitem(last=False)
        return 0 if seen is None else seen.left_out

    def left_out(self) -> int:
        """Suppressed lines that were not reported yet."""
        return sum(seen.left_out for seen in self._kinds.values())


def kind_of(record: logging.LogRecord) -> Kind | None:
    """Records of one kind say the same of the same thing; None for one that is always written.

    Numbers may differ (how many texts, how many seconds), words may not (which replica). Lines of
    the access log carry `fields` and are what was asked for.
    """
    if hasattr(record, "fields") or record.levelno >= logging.ERROR:
        return None
    arguments = record.args if isinstance(record.args, tuple) else ()
    words = tuple(LEADING.sub("#", each) for each in arguments if isinstance(each, str))
    return (record.name, record.levelno, record.msg, words)


LEADING = re.compile(r"^[\d.,]+")
"""The number of `3 texts`, which differs from line to line; that of `local-3` is part of a name."""


class OnceAMinute(logging.Filter):
    """Leaves repeated records out at a handler."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._repeats = Repeats()
        self._now = now

    def filter(self, record: logging.LogRecord) -> bool:
        kind = kind_of(record)
        if kind is None:
            return True
        left_out = self._repeats.admit(kind, self._now())
        if left_out is None:
            return False
        if left_out:
            # The record is changed once for all handlers behind this one: it is told here alone.
            record.msg = f"{record.getMessage()} (and {left_out:,} more like it)"
            record.args = ()
        return True
