"""Scheduled bounds: minimum and maximum replicas by weekday and time of day. Pure.

    mon-fri 07:00-20:00 Europe/Berlin min=4 max=16
    sat,sun 22:00-06:00 UTC max=2

A window belongs to the day on which it starts and may cross midnight. Its times are local
wall-clock times: an hour skipped by a daylight saving change does not occur, a repeated one occurs
twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from embedfleet.vocabulary import SettingError

if TYPE_CHECKING:
    from datetime import datetime

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES = 24 * 60
SHAPE = re.compile(
    r"(?P<days>[a-z,\-]+)\s+(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)\s+(?P<zone>[\w/+\-]+)"
    r"(?:\s+min=(?P<floor>\d{1,4}))?(?:\s+max=(?P<ceiling>\d{1,4}))?",
    re.IGNORECASE | re.ASCII,
)
STEP_S = 60.0
"""Looking ahead for a floor goes in steps of the times' own precision."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of some weekdays, and the bounds that hold in them."""

    days: frozenset[int]
    """Weekdays on which it starts; Monday is 0."""
    start: int
    """Minute of the day."""
    end: int
    """Minute of the day; not after `start` means: of the next day."""
    zone: ZoneInfo
    floor: int | None = None
    ceiling: int | None = None

    def holds(self, moment: datetime) -> bool:
        """Whether a moment (with its zone) lies in the window."""
        local = moment.astimezone(self.zone)
        minute, today = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        started_today = today in self.days and minute >= self.start
        return started_today or ((today - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the schedule allows at a moment."""

    floor: int = 0
    ceiling: int | None = None


Schedule = tuple[Window, ...]


def bounds(schedule: Schedule, moment: datetime, ahead_s: float = 0.0) -> Bounds:
    """Bounds at a moment: the highest floor, the lowest ceiling.

    Floors that begin within `ahead_s` hold already, and lift the ceiling of now, so that replicas
    are ready when the window starts.
    """
    ceilings = [
        window.ceiling for window in schedule if window.ceiling is not None and window.holds(moment)
    ]
    moments = list(_until(moment, ahead_s))
    floor = max(
        (
            window.floor
            for window in schedule
            if window.floor is not None and any(map(window.holds, moments))
        ),
        default=0,
    )
    return Bounds(floor, max(min(ceilings), floor) if ceilings else None)


def _until(moment: datetime, ahead_s: float) -> Iterator[datetime]:
    """Moments from now on, in steps on the one time line that knows no changes of the clock."""
    yield moment
    for step in range(1, int(ahead_s / STEP_S) + 1):
        yield moment.fromtimestamp(moment.timestamp() + step * STEP_S, moment.tzinfo)
    if ahead_s > 0:
        yield moment.fromtimestamp(moment.timestamp() + ahead_s, moment.tzinfo)


def parse(lines: Iterable[str]) -> Schedule:
    """Read windows; SettingError for the first that can't be meant."""
    return tuple(map(_window, lines))


def _window(line: str) -> Window:
    found = SHAPE.fullmatch(line.strip())
    if found is None:
        raise SettingError(
            f'autoscaling.schedule: "{line}" does not have the form '
            '"mon-fri 07:00-20:00 Europe/Berlin min=4 max=16"'
        )
    floor, ceiling = (
        None if found[name] is None else int(found[name]) for name in ("floor", "ceiling")
    )
    if floor is None and ceiling is None:
        raise SettingError(f'autoscaling.schedule: "{line}" has neither min= nor max=')
    if floor is not None and ceiling is not None and floor > ceiling:
        raise SettingError(f'autoscaling.schedule: "{line}" has min={floor} above max={ceiling}')
    return Window(
        frozenset(_days(found["days"].lower(), line)),
        _minute(found["start"], line),
        _minute(found["end"], line) % MINUTES,
        _zone(found["zone"], line),
        floor,
        ceiling,
    )


def _days(text: str, line: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise SettingError(
                f'autoscaling.schedule: "{line}": "{part}" is not a day; use mon, tue, wed, thu, '
                "fri, sat or sun"
            )
        start, end = DAYS.index(first), DAYS.index(last or first)
        yield from (day % 7 for day in range(start, end + 1 if start <= end else end + 8))


def _minute(text: str, line: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if hour > 24 or minute > 59 or (hour == 24 and minute):
        raise SettingError(
            f'autoscaling.schedule: "{line}": "{text}" is not a time of day such as 07:00'
        )
    return 60 * hour + minute


def _zone(name: str, line: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingError(
            f'autoscaling.schedule: "{line}": "{name}" is not a time zone such as Europe/Berlin'
        ) from None
