"""Ten minutes of random faults: no text is lost or wrong, nothing grows, few are computed twice."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.chaos.storm import HANG_S, storm

pytestmark = pytest.mark.slow


def test_a_storm_of_ten_minutes_loses_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Replicas and Redis are killed, stopped, hung and lie; clients disconnect."""
    report = storm(tmp_path, texts=160_000, minutes=10)

    assert not report.wrong, report.wrong[:5]
    assert report.right + sum(report.refused.values()) == report.asked
    assert sum(report.refused.values()) < report.asked / 100, report.refused
    assert report.computed_per_text < 1.1
    assert report.faults["hang"] > 5
    assert not report.stayed, "a hung replica stayed in traffic"
    assert median(report.out_of_traffic_s or [0.0]) < HANG_S / 2
    settled, last = report.memory_mib[20:30], report.memory_mib[-10:]
    assert median(last) < median(settled) + 16, report.memory_mib
    assert median(report.descriptors[-10:]) < max(report.descriptors[:30]) + 20
    assert report.threads[-1] <= max(report.threads[:30])
