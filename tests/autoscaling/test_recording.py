"""Recorded observations: what is written is read again, and what is foreign is refused."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Decision, Entry, Mode, Observation, recording
from embedfleet.autoscaling.recording import RecordingError, Settings
from embedfleet.runtime.settings import AutoscalingSettings
from tests.autoscaling.test_scaler import SETTINGS, START, Rig, V

HEADER = recording.header("m", Settings.of(AutoscalingSettings()))
FIGURES = st.floats(0, 1e12) | st.just(math.nan)


def entry(seen: Observation) -> Entry:
    decision = Decision(3, 0, 3, (), "reserve", "because")
    return Entry(START, START, 1, Mode.AUTOMATIC, seen, decision, 3, 0)


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def line(now: float) -> bytes:
    return recording.line(entry(Observation(now, 2, arriving_fast=10.0)))


@given(
    st.builds(
        Observation,
        now=st.just(5.0),
        ready=st.integers(0, 99),
        arriving_fast=FIGURES,
        utilisation=FIGURES,
        start_up_s=FIGURES,
        seconds=st.lists(FIGURES, max_size=12).map(tuple),
        memory_used=st.tuples(st.floats(0, 1)),
        clock=st.none() | st.just(START),
    )
)
def test_an_observation_is_read_as_it_was_seen(seen: Observation) -> None:
    """Figures to the last digit; NaN is null."""
    kept = orjson.loads(recording.line(entry(seen)))
    again = recording.observed(Path("f"), 2, orjson.dumps(kept))
    assert repr(again.seen) == repr(seen)


async def test_a_recording_replayed_gives_what_the_live_scaler_decided(tmp_path: Path) -> None:
    """From the first tick on, through growth, a lost sight, and shrinking."""
    rig = Rig()
    for rate, ticks in ((1.0, 30), (5.0, 60), (math.nan, 3), (0.5, 300), (4.0, 20)):
        rig.source.rate = rate * V
        for _ in range(ticks):
            await rig.tick()
    lines = [recording.line(each) for each in rig.entries]
    found = recording.read(written(tmp_path / "f.jsonl", HEADER, *lines))
    again = [each.planned for each in recording.decisions(found, SETTINGS)]
    assert again == [each.decision.planned for each in rig.entries]
    assert len(set(again)) > 3
    assert [each.planned for each in found.lines] == [each.ordered for each in rig.entries]


def test_replica_hours_are_those_that_were_ordered(tmp_path: Path) -> None:
    """Up to the last observation."""
    found = recording.read(written(tmp_path / "f", HEADER, line(0.0), line(1800.0), line(3600.0)))
    assert found.replica_hours == pytest.approx(3.0)
    assert (found.pool, found.settings.max_replicas) == ("m", 8)


def test_fields_that_an_older_version_did_not_write_have_their_defaults(tmp_path: Path) -> None:
    """And unknown ones of a newer version are left out."""
    told = {"at": START.isoformat(), "mode": "automatic", "planned": 2, "standby": 0}
    lines = [
        orjson.dumps(told | {"seen": {"now": float(now), "ready": 2, "new": 1}, "more": 2})
        for now in range(2)
    ]
    found = recording.read(written(tmp_path / "f", HEADER, *lines))
    assert found.lines[0].seen.standby == 0
    assert math.isnan(found.lines[0].seen.arriving_fast)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((), "line 1: no header of a recording: Input data was truncated"),
        ((b"arrival_s,tokens", b"1,2"), "line 1: no header of a recording: JSON is malformed"),
        ((b"\xff\xfe\x00",), "line 1: no header of a recording"),
        ((b"{}",), "line 1: no header of a recording: .*missing required field `format`"),
        (
            (HEADER.replace(b"1,", b"9,", 1),),
            "line 1: format .* version 9; this reads .* version 1",
        ),
        ((HEADER,), "two observations at least, and here are 0"),
        ((HEADER, line(1.0)), "two observations at least, and here are 1"),
        ((HEADER, line(1.0), line(2.0)[:40]), "line 3: no observation: Input data was truncated"),
        ((HEADER, line(1.0), HEADER), "line 3: no observation: .*missing required field `at`"),
        (
            (HEADER, line(1.0).replace(b"+00:00", b"")),
            "line 2: no observation: Expected `datetime` with a timezone",
        ),
        ((HEADER, line(1.0), b"[]"), "line 3: no observation: Expected `object`, got `array`"),
        (
            (HEADER, line(1.0), line(2.0).replace(b'"ready":2', b'"ready":"2"')),
            r"line 3: no observation: Expected `int`, got `str` - at `\$.ready`",
        ),
        ((HEADER, line(5.0), line(5.0)), "line 3: its time, 5 s, is not after"),
        ((HEADER, line(5.0), b"", line(4.0)), "line 4: its time, 4 s, is not after"),
        ((HEADER, b" " * 70_000 + line(5.0)), "line 2: it has more than 65,536 bytes"),
        ((HEADER, line(0.0), line(32 * 86_400.0)), "line 3: more than 31 days"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_with_its_line(
    tmp_path: Path, lines: tuple[bytes, ...], complaint: str
) -> None:
    with pytest.raises(RecordingError, match=complaint):
        recording.read(written(tmp_path / "f.jsonl", *lines))


@given(st.data())
def test_a_recording_that_was_cut_off_is_read_up_to_its_last_whole_line(
    data: st.DataObject,
) -> None:
    """Wherever a crash or a full disk ended it."""
    whole = b"\n".join([HEADER, *(line(float(now)) for now in range(5))]) + b"\n"
    third = whole.index(line(2.0))
    length = data.draw(st.integers(third, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(whole[:length])
        found = recording.read(path)
    ends = whole[:length].count(b"\n") - 1
    # A line that lacks nothing but its end is whole too.
    assert ends <= len(found.lines) <= ends + 1
    assert found.cut == (
        len(found.lines) + 2 if not whole[:length].endswith((b"\n", b"}}")) else None
    )


@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e9),
            st.floats(0.1, 200.0),
            st.integers(1, 4),
            st.integers(-5_000, 5_000),
        ),
        min_size=2,
        max_size=5,
    )
)
def test_time_goes_on_through_restarts_and_whatever_clocks_do(
    runs: list[tuple[float, float, int, int]],
) -> None:
    """Within a run by the time that nobody sets; between two by the clock, if it went forward."""
    lines, expected, clock = [HEADER], [], START
    before = None
    for place, (began, step, many, jump) in enumerate(runs):
        clock += timedelta(seconds=jump)
        for tick in range(many):
            seen = entry(Observation(began + tick * step, 2))
            lines.append(recording.line(replace(seen, at=clock), f"run {place}"))
            if before is not None:
                between = (clock - before).total_seconds()
                same = seen.seen.now - (began + (tick - 1) * step)
                expected.append(same if tick else between if between > 0 else 5.0)
            before = clock
            clock += timedelta(seconds=step)
    with tempfile.TemporaryDirectory() as folder:
        found = recording.read(written(Path(folder) / "f", *lines))
    assert [each.after_s for each in found.lines[1:]] == pytest.approx(expected)
    assert sum(each.begins for each in found.lines) == len(runs)
    assert found.replica_hours == pytest.approx(3 * sum(expected) / 3600.0)


def test_no_more_of_a_line_is_read_than_it_may_have(tmp_path: Path) -> None:
    """A file of another kind may be one line of any size."""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RecordingError, match="line 1: it has more than 65,536 bytes"):
        recording.read(path)


@pytest.mark.parametrize("absurd", [-1, 10**30])
@pytest.mark.parametrize("name", ["planned", "standby"])
def test_a_fleet_that_no_pool_can_have_is_refused(name: str, absurd: int, tmp_path: Path) -> None:
    """It would be paid for."""
    told = orjson.loads(line(5.0)) | {name: absurd}
    damaged = json.dumps(told).encode()  # orjson has no such numbers
    with pytest.raises(RecordingError, match=f"line 2: no observation: .* at `\\$.{name}`"):
        recording.read(written(tmp_path / "f", HEADER, damaged, line(10.0)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"the recording .*none.jsonl can't be read"):
        recording.read(tmp_path / "none.jsonl")


@given(st.binary(max_size=200))
def test_whatever_is_in_a_line_it_is_read_or_refused(damage: bytes) -> None:
    """Never anything but RecordingError."""
    for text in (damage, line(1.0)[: len(damage)] + damage):
        with contextlib.suppress(RecordingError):
            assert recording.observed(Path("f"), 2, text).seen.now >= -math.inf
