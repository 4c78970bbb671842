"""Recorded observations of a pool: the file that `embedfleet autoscale record` writes.

JSON, a line each: first what was recorded and with which settings, then every observation with what
was ordered upon it. `null` is what could not be measured. A recording is untrusted input: whatever
is wrong in it is told with its line. A last line without its end is none yet.

    {"format": "embedfleet-observations", "version": 1, "pool": "m", "settings": {…}}
    {"at": "2026-11-29T12:00:05Z", "run": "9f…", "mode": "automatic", "planned": 3, …, "seen": {…}}

Within a run of the autoscaler time is `seen.now`, a clock that is never set. It starts anew with
the host, so between two runs `at` tells how long nothing was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_type_hints

import msgspec
import orjson

from embedfleet.autoscaling.adapting import Experience, decide
from embedfleet.autoscaling.journal import Entry, Mode
from embedfleet.autoscaling.policy import Decision
from embedfleet.autoscaling.schedule import Schedule
from embedfleet.autoscaling.signals import Observation
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import SettingError

FORMAT, VERSION = "embedfleet-observations", 1
REMEMBERED = 720
"""Observations of a pool that a gateway keeps for a recorder: an hour of ticks of 5 s, half a
megabyte."""
MOST_BYTES_OF_A_LINE = 65_536
"""Longer lines are none of a recording."""
MOST_S = 31 * 86_400.0
"""Longer recordings are not read at once: a flow of a month has 27 million bins."""
MOST_LINES = 1_000_000
"""Likewise; a month of ticks of 5 s has half as many."""
MOST_REPLICAS = 4096
"""As `autoscaling.max_replicas` has it."""
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=86_400.0)]


class RecordingError(SettingError):
    """A recording can't be read."""


class Settings(msgspec.Struct, frozen=True):
    """What a recording says of the autoscaler's settings."""

    min_replicas: Annotated[int, msgspec.Meta(ge=0, le=MOST_REPLICAS)]
    max_replicas: Annotated[int, msgspec.Meta(ge=1, le=MOST_REPLICAS)]
    tick_s: Seconds
    slo_s: Seconds
    fast_window_s: Seconds

    @classmethod
    def of(cls, settings: AutoscalingSettings) -> Settings:
        return cls(*(getattr(settings, name) for name in cls.__struct_fields__))


class _Header(msgspec.Struct, frozen=True):
    format: str
    version: int
    pool: str
    settings: Settings


class _Line(msgspec.Struct, frozen=True):
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    mode: Mode
    planned: Annotated[int, msgspec.Meta(ge=0, le=MOST_REPLICAS)]
    standby: Annotated[int, msgspec.Meta(ge=0, le=MOST_REPLICAS)]
    seen: dict[str, Any]
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""


UNKNOWN: dict[Any, Any] = {
    float: float | None,
    tuple[float, ...]: tuple[float | None, ...],
}
"""Forms of figures that may be null."""


def _seen() -> type[msgspec.Struct]:
    """The form of an observation: figures may be null, and all but the first two be absent."""
    hints = get_type_hints(Observation, localns={"datetime": datetime})
    told: list[Any] = []
    for each in fields(Observation):
        kind = hints[each.name]
        if each.default is MISSING:
            told.append((each.name, kind))
        else:
            told.append((each.name, UNKNOWN.get(kind, kind), each.default))
    return msgspec.defstruct("Seen", told, frozen=True)


SEEN = _seen()


@dataclass(frozen=True, slots=True)
class Line:
    """One observation, and what was ordered upon it."""

    number: int
    """Of the line in its file."""
    at: datetime
    mode: Mode
    planned: int
    standby: int
    seen: Observation
    run: str = ""
    """Differs from one start of the autoscaler to the next; empty where that was not kept."""
    after_s: float = 0.0
    """Seconds since the line before."""
    begins: bool = False
    """Whether it is the first of its run."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A pool over some time."""

    path: Path
    pool: str
    settings: Settings
    lines: tuple[Line, ...]
    """In order of time; at least two."""
    cut: int | None = None
    """Number of a last line that lacks its end and was left out."""

    @property
    def replica_hours(self) -> float:
        """Of all that was ordered meanwhile, standby included."""
        return sum(
            (before.planned + before.standby) * after.after_s / 3600.0
            for before, after in pairwise(self.lines)
        )


def header(pool: str, settings: Settings | dict[str, Any]) -> bytes:
    """The first line, without its end."""
    told = msgspec.to_builtins(settings)
    return orjson.dumps({"format": FORMAT, "version": VERSION, "pool": pool, "settings": told})


def line(entry: Entry, run: str = "") -> bytes:
    """What is kept of a decision of this run of the autoscaler, without the line's end."""
    return orjson.dumps(
        {
            "at": entry.at,
            "run": run,
            "mode": entry.mode,
            "planned": entry.ordered,
            "standby": entry.standby,
            "seen": entry.seen,
        }
    )


def read(path: Path) -> Recording:
    """Read a recording. RecordingError, with the line and what is wrong with it."""
    try:
        with path.open("rb") as file:
            return _read(path, _numbered(file, path))
    except OSError as error:
        raise RecordingError(f"the recording {path} can't be read: {reason(error)}") from error


def _read(path: Path, texts: Iterator[tuple[int, bytes]]) -> Recording:
    told = _decoded(path, *next(texts, (1, b"")), _Header)
    if (told.format, told.version) != (FORMAT, VERSION):
        raise RecordingError(
            f"{path}, line 1: format {told.format!r}, version {told.version}; this reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    lines: list[Line] = []
    seconds, cut = 0.0, None
    for number, text in texts:
        try:
            found = observed(path, number, text)
        except RecordingError:
            if text.endswith(b"\n"):
                raise
            cut = number
            break
        each = _timed(path, lines[-1] if lines else None, found, told.settings.tick_s)
        seconds += each.after_s
        if seconds > MOST_S or len(lines) == MOST_LINES:
            raise RecordingError(
                f"{path}, line {number}: more than {MOST_S / 86_400.0:.0f} days, or "
                f"{MOST_LINES:,} observations, are too many to be read at once; use fewer lines"
            )
        lines.append(each)
    if len(lines) < 2:
        raise RecordingError(
            f"{path}: a recording takes two observations at least, and here are {len(lines)}"
        )
    return Recording(path, told.pool, told.settings, tuple(lines), cut)


def _numbered(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, one at a time."""
    # No more of a line than it may have: a file may be one line of any size.
    texts = iter(partial(file.readline, MOST_BYTES_OF_A_LINE + 1), b"")
    for number, text in enumerate(texts, start=1):
        if len(text) > MOST_BYTES_OF_A_LINE:
            raise RecordingError(
                f"{path}, line {number}: it has more than {MOST_BYTES_OF_A_LINE:,} bytes"
            )
        if text.strip():
            yield number, text


def _timed(path: Path, before: Line | None, here: Line, tick_s: float) -> Line:
    """The line with how long after the one before it was seen. RecordingError for the past."""
    if before is None:
        return replace(here, begins=True)
    if here.run != before.run:
        # A clock that was set back says nothing.
        by_clock_s = (here.at - before.at).total_seconds()
        return replace(here, begins=True, after_s=by_clock_s if by_clock_s > 0 else tick_s)
    after_s = here.seen.now - before.seen.now
    if after_s <= 0:
        raise RecordingError(
            f"{path}, line {here.number}: its time, {here.seen.now:g} s, is not after that of the "
            f"line before, {before.seen.now:g} s"
        )
    return replace(here, after_s=after_s)


def observed(path: Path, number: int, text: bytes) -> Line:
    told = _decoded(path, number, text, _Line)
    try:
        seen = msgspec.structs.asdict(msgspec.convert(told.seen, SEEN))
    except msgspec.ValidationError as error:
        raise RecordingError(f"{path}, line {number}: no observation: {error}") from error
    # The time of day is the one field that may be unknown in earnest.
    known = {name: each if name == "clock" else _known(each) for name, each in seen.items()}
    observation = Observation(**known)
    if not math.isfinite(observation.now):
        raise RecordingError(f"{path}, line {number}: its time is {observation.now}")
    return Line(number, told.at, told.mode, told.planned, told.standby, observation, told.run)


def _known(figure: Any) -> Any:
    """What was read, with NaN for null."""
    if isinstance(figure, tuple):
        return tuple(map(_known, figure))
    return math.nan if figure is None else figure


def _decoded(path: Path, number: int, text: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "no header of a recording" if kind is _Header else "no observation"
        raise RecordingError(f"{path}, line {number}: {what}: {error}") from error


def decisions(
    recording: Recording, settings: AutoscalingSettings, schedule: Schedule = ()
) -> Iterator[Decision]:
    """What the policy decides on what was recorded, from a fresh memory for each run.

    Upon the same settings, and from the first observation of a gateway on, that is what it decided.
    """
    experience = Experience()
    for each in recording.lines:
        if each.begins:
            experience = Experience()
        decision, experience = decide(each.seen, experience, settings, schedule)
        yield decision
