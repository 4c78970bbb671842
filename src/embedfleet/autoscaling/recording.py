"""Recorded observations of a pool: the file that `embedfleet autoscale record` writes.

JSON, a line each: first what was recorded and with which settings, then every observation with what
was ordered upon it. `null` is what could not be measured. A recording is untrusted input:
whatever is wrong in it is told with its line.

    {"format": "embedfleet-observations", "version": 1, "pool": "m", "settings": {…}}
    {"at": "2026-11-29T12:00:05Z", "mode": "automatic", "planned": 3, "standby": 0, "seen": {…}}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
MOST_BYTES_OF_A_LINE = 65_536
"""Longer lines are none of a recording."""
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
    at: datetime
    mode: Mode
    planned: Annotated[int, msgspec.Meta(ge=0, le=MOST_REPLICAS)]
    standby: Annotated[int, msgspec.Meta(ge=0, le=MOST_REPLICAS)]
    seen: dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Recording:
    """A pool over some time."""

    path: Path
    pool: str
    settings: Settings
    lines: tuple[Line, ...]
    """In order of time; at least two."""

    @property
    def replica_hours(self) -> float:
        """Of all that was ordered meanwhile, standby included."""
        return sum(
            (before.planned + before.standby) * (after.seen.now - before.seen.now) / 3600.0
            for before, after in pairwise(self.lines)
        )


def header(pool: str, settings: Settings | dict[str, Any]) -> bytes:
    """The first line, without its end."""
    told = msgspec.to_builtins(settings)
    return orjson.dumps({"format": FORMAT, "version": VERSION, "pool": pool, "settings": told})


def line(entry: Entry) -> bytes:
    """What is kept of a decision, without the line's end."""
    return orjson.dumps(
        {
            "at": entry.at,
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
            first, *rest = _numbered(file, path) or [(1, b"")]
    except OSError as error:
        raise RecordingError(f"the recording {path} can't be read: {reason(error)}") from error
    told = _decoded(path, *first, _Header)
    if (told.format, told.version) != (FORMAT, VERSION):
        raise RecordingError(
            f"{path}, line 1: format {told.format!r}, version {told.version}; this reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    lines: list[Line] = []
    for number, text in rest:
        each = observed(path, number, text)
        if lines and each.seen.now <= lines[-1].seen.now:
            raise RecordingError(
                f"{path}, line {number}: its time, {each.seen.now:g} s, is not after that of the "
                f"line before, {lines[-1].seen.now:g} s"
            )
        lines.append(each)
    if len(lines) < 2:
        raise RecordingError(
            f"{path}: a recording takes two observations at least, and here are {len(lines)}"
        )
    return Recording(path, told.pool, told.settings, tuple(lines))


def _numbered(file: Iterable[bytes], path: Path) -> list[tuple[int, bytes]]:
    found = []
    for number, text in enumerate(file, start=1):
        if len(text) > MOST_BYTES_OF_A_LINE:
            raise RecordingError(f"{path}, line {number}: it has {len(text):,} bytes")
        if text.strip():
            found.append((number, text))
    return found


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
    return Line(number, told.at, told.mode, told.planned, told.standby, observation)


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
    """What the policy decides on what was recorded, from a fresh memory.

    Upon the same settings, and from the first observation of a gateway on, that is what it decided.
    """
    experience = Experience()
    for each in recording.lines:
        decision, experience = decide(each.seen, experience, settings, schedule)
        yield decision
