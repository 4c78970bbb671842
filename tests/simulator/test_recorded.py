"""What if: a recorded day, with another policy, start-up time, SLO or device."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from embedfleet.autoscaling import Decision, Entry, Mode, Observation, recording
from embedfleet.autoscaling.recording import RecordingError, Settings
from embedfleet.cli.command_line import app
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, kinds, recorded
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.scalers import Order

RUN = CliRunner()
BEGAN = datetime(2026, 11, 23, 9, tzinfo=UTC)
SETTINGS = AutoscalingSettings(min_replicas=1, max_replicas=12)


def keep(path: Path, seen: list[Observation], planned: int = 4) -> Path:
    """A recording of these observations."""
    nothing = Decision(planned, 0, planned, (), "reserve", "because")
    lines = [recording.header("m", Settings.of(SETTINGS))]
    for each in seen:
        at = BEGAN + timedelta(seconds=each.now)
        lines.append(recording.line(Entry(at, at, 1, Mode.AUTOMATIC, each, nothing, planned, 0)))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def steady(
    rate: float = 32_000.0, tokens: float = 400.0, seconds: float = 600.0
) -> list[Observation]:
    """So many tokens per second, all the time."""
    first = Observation(
        0.0,
        4,
        texts_per_s=rate / tokens,
        waiting_tokens=0.0,
        tokens_per_s=15_744.0,
        start_up_s=40.0,
        arriving_fast=rate,
        arriving_slow=rate,
    )
    return [replace(first, now=now) for now in np.arange(0.0, seconds + 1.0, 5.0).tolist()]


class TestFlow:
    def test_as_many_texts_arrive_as_were_recorded(self, tmp_path: Path) -> None:
        """In tokens, and in texts of the mean length."""
        found = recorded.flow(recording.read(keep(tmp_path / "f", steady())), seed=0)
        assert found.seconds == pytest.approx(600.0)
        assert found.tokens.sum() / 600.0 == pytest.approx(32_000.0, rel=0.02)
        assert found.tokens.sum() / found.counts.sum() == pytest.approx(400.0, rel=0.02)

    def test_what_could_not_be_measured_is_as_before(self, tmp_path: Path) -> None:
        """A tick without sight is no lull."""
        seen = steady()
        seen[50:55] = [replace(each, arriving_fast=math.nan) for each in seen[50:55]]
        found = recorded.flow(recording.read(keep(tmp_path / "f", seen)), seed=0)
        assert found.tokens.sum() / 600.0 == pytest.approx(32_000.0, rel=0.02)

    def test_a_long_gap_in_a_recording_is_refused(self, tmp_path: Path) -> None:
        seen = steady()
        late = [replace(each, now=each.now + 400.0) for each in seen[20:]]
        path = keep(tmp_path / "f", [*seen[:20], *late])
        with pytest.raises(RecordingError, match="line 22: nothing was recorded for 405 s"):
            recorded.flow(recording.read(path), seed=0)

    def test_bursts_of_seconds_are_in_it(self, tmp_path: Path) -> None:
        """Each interval has the last of the seconds that were seen at its end."""
        burst = (0.0,) * 8 + (160_000.0, 0.0)
        seen = [replace(each, seconds=burst) for each in steady()]
        found = recorded.flow(recording.read(keep(tmp_path / "f", seen)), seed=0)
        seconds = found.tokens.reshape(-1, 10).sum(axis=1).reshape(-1, 5)
        assert seconds[:, 3].mean() == pytest.approx(160_000.0, rel=0.02)
        assert not np.delete(seconds, 3, axis=1).any()

    @pytest.mark.parametrize("absurd", [math.nan, math.inf, -5.0, 1e300])
    def test_seconds_that_no_pool_can_see_are_as_their_mean(
        self, absurd: float, tmp_path: Path
    ) -> None:
        seen = [replace(each, seconds=(absurd,) * 10) for each in steady()]
        found = recorded.flow(recording.read(keep(tmp_path / "f", seen)), seed=0)
        assert found.tokens.sum() / 600.0 == pytest.approx(32_000.0, rel=0.02)

    def test_copies_of_what_was_recorded_arrive_too(self, tmp_path: Path) -> None:
        """What twice the traffic would take."""
        kept = recording.read(keep(tmp_path / "f", steady()))
        found = recorded.flow(kept, seed=0, copies=2)
        assert found.tokens.sum() / 600.0 == pytest.approx(64_000.0, rel=0.02)
        assert found.tokens.sum() / found.counts.sum() == pytest.approx(400.0, rel=0.02)

    @pytest.mark.parametrize("absurd", [math.inf, 1e300, -5.0])
    def test_what_no_pool_can_see_is_as_before(self, absurd: float, tmp_path: Path) -> None:
        """The policy holds on such figures, so a recording may have them."""
        seen = steady()
        seen[50] = replace(seen[50], arriving_fast=absurd, arriving_slow=absurd, start_up_s=absurd)
        told = recording.read(keep(tmp_path / "f", seen))
        found = recorded.flow(told, seed=0)
        assert found.tokens.sum() / 600.0 == pytest.approx(32_000.0, rel=0.02)
        assert recorded.profile(told).start_s == 40.0

    def test_more_texts_than_can_be_counted_are_refused_with_their_line(
        self, tmp_path: Path
    ) -> None:
        seen = steady()
        seen[50] = replace(seen[50], arriving_fast=1e12)
        seen[50] = replace(seen[50], texts_per_s=1e11, arriving_slow=1e11)
        with pytest.raises(RecordingError, match="line 52: 1e\\+12 tokens/s in texts of 1 tokens"):
            recorded.flow(recording.read(keep(tmp_path / "f", seen)), seed=0)

    def test_nothing_may_have_arrived(self, tmp_path: Path) -> None:
        found = recorded.flow(recording.read(keep(tmp_path / "f", steady(0.0))), seed=0)
        assert found.tokens.sum() == 0.0

    def test_a_simulation_that_was_recorded_is_simulated_alike(self, tmp_path: Path) -> None:
        """Attainment and cost of a policy on what a recording kept of a traffic with edges."""
        arriving = kinds.draw("square-other", 0)
        arriving = flow.Flow(arriving.counts[:36_000], arriving.lengths, arriving.tokens[:36_000])
        watch = Watching()
        profile = Profile(start_s=30.0)
        then = flow.simulate(arriving, watch, profile, ready=6)
        kept = recording.read(keep(tmp_path / "f", watch.seen))
        assert recorded.profile(kept).tokens_per_s == pytest.approx(16_000.0, rel=0.05)
        again = flow.simulate(recorded.flow(kept, 0), Watching(), profile, ready=6)
        assert again.slo_attainment == pytest.approx(then.slo_attainment, abs=0.03)


class Watching:
    """A fleet that keeps what it sees, and its size."""

    name, period_s = "watching", 5.0

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def order(self, seen: Observation) -> Order:
        self.seen.append(seen)
        return Order(8)


class TestCommand:
    def simulate(self, tmp_path: Path, *flags: str) -> dict[str, Any]:
        path = tmp_path / "day.jsonl"
        if not path.exists():
            keep(path, steady())
        output = tmp_path / "runs.json"
        asked = ["simulate", "--recorded", str(path), "--json", str(output), *flags]
        done = RUN.invoke(app, asked)
        assert done.exit_code == 0, done.output
        (row,) = json.loads(output.read_text(encoding="utf-8"))
        return {**row, "output": done.output}

    def test_a_recording_tells_replica_hours_attainment_and_cost(self, tmp_path: Path) -> None:
        """Beside what was ordered then."""
        row = self.simulate(tmp_path, "--price", "3", "--policy", "static-4")
        assert row["slo_attainment"] > 0.99
        assert row["replica_hours"] == pytest.approx(4 * 600 / 3600)
        assert row["cost"] == pytest.approx(2.0)
        assert "recorded: 0.7 replica-hours were ordered then, which cost 2.00" in row["output"]

    def test_a_faster_device_needs_fewer_replicas(self, tmp_path: Path) -> None:
        """Two of the old ones are too few for two replicas' worth of work."""
        few = ("--policy", "static-2")
        assert self.simulate(tmp_path, *few)["slo_attainment"] < 0.6
        assert self.simulate(tmp_path, *few, "--speed", "2")["slo_attainment"] > 0.99

    def test_the_bounds_then_hold_unless_others_are_given(self, tmp_path: Path) -> None:
        """From 4 replicas, which was ordered first, to as few as will do."""
        row = self.simulate(tmp_path, "--policy", "oracle")
        assert 0.0 < row["least_hours"] <= row["replica_hours"] + 1e-9
        more = self.simulate(tmp_path, "--policy", "oracle", "--min-replicas", "6")
        assert more["mean_replicas"] == pytest.approx(6.0)

    def test_a_trace_or_a_recording_is_required(self, tmp_path: Path) -> None:
        """Not none, and not both."""
        path = str(keep(tmp_path / "day.jsonl", steady()))
        for arguments in ([], [path, "--recorded", path]):
            done = RUN.invoke(app, ["simulate", *arguments])
            assert done.exit_code == 2
            assert "a TRACE or --recorded FILE, one of the two" in done.output

    def test_a_recording_may_come_through_a_pipe(self, tmp_path: Path) -> None:
        """From `gunzip -c`, for instance; it is read once."""
        text = keep(tmp_path / "day.jsonl", steady()).read_bytes()
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda: pipe.write_bytes(text))
        writer.start()
        done = RUN.invoke(app, ["simulate", "--recorded", str(pipe), "--policy", "static-4"])
        writer.join(timeout=60)
        assert done.exit_code == 0, done.output
        assert "recorded: 0.7 replica-hours were ordered then" in done.output

    def test_a_truncated_last_line_is_reported(self, tmp_path: Path) -> None:
        """The recorder was killed while it wrote."""
        path = keep(tmp_path / "f", steady())
        path.write_bytes(path.read_bytes()[:-40])
        done = RUN.invoke(app, ["simulate", "--recorded", str(path), "--policy", "static-4"])
        assert done.exit_code == 0, done.output
        assert "line 122: it has no end and was left out" in done.output

    def test_the_promise_of_that_time_may_be_a_short_one(self, tmp_path: Path) -> None:
        """What may wait is a part of it."""
        path = keep(tmp_path / "f", steady())
        path.write_bytes(path.read_bytes().replace(b'"slo_s":0.5', b'"slo_s":0.15', 1))
        assert RUN.invoke(app, ["simulate", "--recorded", str(path)]).exit_code == 0

    def test_settings_that_no_autoscaler_has_are_refused_where_they_stand(
        self, tmp_path: Path
    ) -> None:
        path = keep(tmp_path / "f", steady())
        told = path.read_text(encoding="utf-8").replace('"max_replicas":12', '"max_replicas":-3')
        path.write_text(told, encoding="utf-8")
        done = RUN.invoke(app, ["simulate", "--recorded", str(path)])
        assert done.exit_code == 2
        assert "max_replicas" in done.output
        assert "line 1" in done.output

    def test_a_foreign_file_is_refused_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.csv"
        path.write_text("arrival_s,tokens\n1,2\n", encoding="utf-8")
        done = RUN.invoke(app, ["simulate", "--recorded", str(path)])
        assert done.exit_code == 2
        assert "trace.csv, line 1: no header of a recording" in done.output
