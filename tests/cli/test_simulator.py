"""`embedfleet simulate` and `embedfleet plan`, as they are typed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app

RUN = CliRunner()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A minute of four texts a second."""
    path = tmp_path / "trace.csv"
    rows = "".join(f"{place / 4},{500 + place}\n" for place in range(240))
    path.write_text("arrival_s,tokens\n" + rows, encoding="utf-8")
    return path


def test_policies_are_compared_and_written_as_json(trace: Path, tmp_path: Path) -> None:
    """One row for each policy and seed, under the name that was typed."""
    output = tmp_path / "runs.json"
    policies = ["--policy", "embedfleet", "--policy", "kpa-600", "--policy", "static-3"]
    done = RUN.invoke(
        app, ["simulate", str(trace), *policies, "--seeds", "2", "--json", str(output)]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert [(row["policy"], row["seed"]) for row in rows] == [
        *(("embedfleet", 0), ("embedfleet", 1)),
        *(("kpa-600", 0), ("kpa-600", 1)),
        *(("static-3", 0), ("static-3", 1)),
    ]
    needed = {"slo_attainment", "mean_replicas", "wait_p99_s", "scale_events", "rejected"}
    assert all(needed <= set(row) for row in rows)
    assert rows[-1]["mean_replicas"] == pytest.approx(3.0)
    assert "static-3" in done.output


def test_a_flow_is_simulated_likewise(trace: Path) -> None:
    """For traces that are too long for single texts."""
    done = RUN.invoke(app, ["simulate", str(trace), "--flow", "--policy", "static-4"])
    assert done.exit_code == 0
    assert "100.00%" in done.output


def test_the_oracle_tells_what_would_have_been_enough(trace: Path, tmp_path: Path) -> None:
    """Beside its schedule, the hours below which there is none."""
    output = tmp_path / "runs.json"
    asked = ["simulate", str(trace), "--flow", "--policy", "oracle", "--json", str(output)]
    done = RUN.invoke(app, [*asked, "--min-replicas", "1"])
    assert done.exit_code == 0, done.output
    assert "no schedule that answers 99.5% in time takes fewer than" in done.output
    (row,) = json.loads(output.read_text(encoding="utf-8"))
    assert row["slo_attainment"] >= 0.995
    assert 0.0 < row["least_hours"] <= row["replica_hours"] + 1e-9


def test_an_slo_that_no_fleet_attains_is_reported_and_the_others_are_simulated(trace: Path) -> None:
    """Three replicas' worth of work on two."""
    asked = ["simulate", str(trace), "--flow", "--policy", "oracle", "--slo-ms", "300"]
    asked += ["--max-replicas", "2", "--copies", "40"]
    alone = RUN.invoke(app, asked)
    assert alone.exit_code == 2
    assert "the oracle: 2 replicas all the time answer" in alone.output
    assert "allow more replicas (--max-replicas)" in " ".join(alone.output.split())
    beside = RUN.invoke(app, [*asked, "--policy", "static-9"])
    assert beside.exit_code == 0, beside.output
    assert "static-9" in beside.output


def test_a_plot_is_written_or_what_it_needs_is_named(trace: Path, tmp_path: Path) -> None:
    """Matplotlib comes with the extra `plots` only."""
    output = tmp_path / "runs.png"
    done = RUN.invoke(app, ["simulate", str(trace), "--plot", str(output)])
    if find_spec("matplotlib") is None:
        assert done.exit_code == 2
        assert "plots need matplotlib: " in done.output
        assert "[plots]" in done.output
    else:
        assert done.exit_code == 0, done.output
        assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policy", "magic"], '"magic" is unknown; known are embedfleet, article'),
        (["--policy", "static-0"], '"static-0" is unknown'),
        (["--min-replicas", "9", "--max-replicas", "3"], "autoscaling.min_replicas (9) is above"),
        (["--policy", "static-99999999"], '"static-99999999" is unknown'),
        (["--policy", "static-٣"], '"static-٣" is unknown'),
        (["--speed", "1e300"], "at most 10000"),
        (["--json", "/nowhere/runs.json"], "/nowhere/runs.json can't be written: No such file"),
        (["--plot", "runs.bmp"], "--plot: runs.bmp must end with .png, .svg or .pdf"),
        (["--plot", "runs"], "--plot: runs must end with .png, .svg or .pdf"),
    ],
)
def test_invalid_demands_are_refused_in_one_line(
    trace: Path, arguments: list[str], complaint: str
) -> None:
    """Before anything is simulated."""
    done = RUN.invoke(app, ["simulate", str(trace), *arguments])
    assert done.exit_code == 2
    assert complaint in done.output


def test_a_shorter_promise_leaves_less_time_to_wait(trace: Path, tmp_path: Path) -> None:
    """What may wait is a part of it, unless a file says how much."""
    done = RUN.invoke(app, ["simulate", str(trace), "--flow", "--slo-ms", "100"])
    assert done.exit_code == 0, done.output
    config = tmp_path / "c.toml"
    config.write_text("[autoscaling]\nmax_wait_s = 0.2\n", encoding="utf-8")
    done = RUN.invoke(app, ["simulate", str(trace), "--slo-ms", "100", "--config", str(config)])
    assert done.exit_code == 2
    assert "autoscaling.max_wait_s (0.2) is above autoscaling.slo_s (0.1)" in done.output


def test_a_malformed_row_is_refused_with_its_line(tmp_path: Path) -> None:
    """And exit code 2."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,tokens\n1,2\n3\n", encoding="utf-8")
    done = RUN.invoke(app, ["simulate", str(path)])
    assert done.exit_code == 2
    assert "line 3: '3' is not a row of this trace" in done.output


def test_a_plan_says_what_a_load_takes() -> None:
    """Replicas, GPUs, utilisation, latency and cost."""
    flags = ["--texts-per-day", "50e6", "--tokens", "300", "--p99", "300", "--cost-per-hour", "2"]
    done = RUN.invoke(app, ["plan", *flags])
    assert done.exit_code == 0
    assert done.output.splitlines()[0] == "replicas                30 (1 of them spare)"
    assert "cost per month          43,800" in done.output


@pytest.mark.parametrize("absurd", ["1e300", "1e12", "1e-300"])
@pytest.mark.parametrize(
    "flag", ["--texts-per-day", "--tokens", "--p99", "--tokens-p99", "--peak", "--cost-per-hour"]
)
def test_whatever_a_plan_is_asked_for_it_is_made_or_refused(flag: str, absurd: str) -> None:
    """Never a traceback."""
    usual = {"--texts-per-day": "5e6", "--tokens": "300", "--p99": "300"} | {flag: absurd}
    done = RUN.invoke(app, ["plan", *(word for each in usual.items() for word in each)])
    assert done.exit_code in {0, 2}, done.output
