"""Traffic drawn from ServeGen's statistics keeps their rates, burstiness and lengths."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from embedfleet.simulator import servegen
from embedfleet.simulator.servegen import Law
from embedfleet.simulator.traffic import TraceError
from tests.real_texts import DATA


def archive(directory: Path, rows: str, lengths: dict[str, str]) -> Path:
    """An archive of one client, laid out as theirs."""
    path = directory / "m.tar.xz"
    dataset = {start: {"input_tokens": text} for start, text in lengths.items()}
    with tarfile.open(path, "w:xz") as out:
        for name, text in (("trace.csv", rows), ("dataset.json", json.dumps(dataset))):
            data = text.encode()
            member = tarfile.TarInfo(f"m/chunk-3-{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("law", [Law("Gamma", 5.0, 0.5), Law("Weibull", 5.0, 0.6)])
def test_gaps_have_the_requested_rate_and_the_burstiness_of_the_law(law: Law) -> None:
    """Squared coefficient of variation: 1/k for Gamma, from gamma functions for Weibull."""
    gaps = law.gaps(200_000, 5.0, np.random.default_rng(1))
    scv = float(gaps.var() / gaps.mean() ** 2)
    k = law.shape
    weibull = math.gamma(1 + 2 / k) / math.gamma(1 + 1 / k) ** 2 - 1
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert scv == pytest.approx(1 / k if law.name == "Gamma" else weibull, rel=0.05)


def test_a_window_has_its_rate_and_its_lengths(tmp_path: Path) -> None:
    """Windows without a law are silent, lengths are those of the six hours."""
    rows = "0,10.0,1.0,Gamma,1.0,0.1\n600,0.0,0.0,\n1200,20.0,1.0,Gamma,1.0,0.05\n"
    found = servegen.read(archive(tmp_path, rows, {"0": "{7: 0.25, 90: 0.75}"}))
    trace = found.trace(0, 3, 1.0, seed=4)
    counts, _ = np.histogram(trace.arrival_s, [0, 600, 1200, 1800])
    assert counts[1] == 0
    assert counts[[0, 2]] == pytest.approx([6_000, 12_000], rel=0.05)
    assert set(trace.tokens.tolist()) == {7, 90}
    assert np.mean(trace.tokens == 90) == pytest.approx(0.75, abs=0.02)
    assert found.tokens_per_s(0, 3) == pytest.approx(30.0 * (7 * 0.25 + 90 * 0.75) / 3)


def test_scaling_changes_the_rate_alone(tmp_path: Path) -> None:
    """Half the rate, the same law."""
    rows = "0,10.0,2.0,Gamma,0.25,0.4\n"
    found = servegen.read(archive(tmp_path, rows, {"0": "{7: 1.0}"}))
    assert len(found.trace(0, 1, 0.5, seed=0).tokens) == pytest.approx(3_000, rel=0.15)


def test_the_same_seed_draws_the_same_texts(tmp_path: Path) -> None:
    """And another one others."""
    found = servegen.read(archive(tmp_path, "0,9.0,1.0,Gamma,1.0,0.1\n", {"0": "{5: 1.0}"}))
    one, same, other = (found.trace(0, 1, 1.0, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s[:50], other.arrival_s[:50])


def test_a_malformed_window_is_refused_with_its_line(tmp_path: Path) -> None:
    """Its file is named too."""
    path = archive(tmp_path, "0,9.0,1.0,Gamma,1.0,0.1\n600,many,1.0,Gamma\n", {"0": "{5: 1.0}"})
    with pytest.raises(TraceError, match=r"chunk-3-trace\.csv, line 2"):
        servegen.read(path)


@pytest.mark.slow
def test_the_published_statistics_add_up_to_their_rates() -> None:
    """A window of the second week at a hundredth of its rate, over all clients with lengths."""
    path = DATA / "traces" / "servegen_m_small.tar.xz"
    if not path.exists():
        pytest.skip(f"no {path}: set EMBEDFLEET_DATA to the folder of data")
    found = servegen.read(path)
    assert len(found.clients) == 38
    trace = found.trace(1100, 6, 0.05, seed=0)
    assert trace.tokens.sum() / 3600 == pytest.approx(0.05 * found.tokens_per_s(1100, 6), rel=0.1)
