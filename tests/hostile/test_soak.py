"""Hostile and well-behaved clients together for five minutes: only the hostile ones notice."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.hostile.soak import soak

pytestmark = pytest.mark.slow


def test_hostile_clients_cost_the_others_nothing(tmp_path: Path) -> None:
    """No request of theirs fails, and neither memory nor descriptors nor threads grow."""
    report = soak(tmp_path, minutes=5)

    assert not report.wrong, report.wrong[:5]
    assert not report.refused
    assert report.right == report.asked
    assert report.attacks["connect"] > 0
    settled, last = report.memory_mib[10:20], report.memory_mib[-3:]
    assert median(last) < median(settled) + 64, report.memory_mib
    assert report.most_memory_mib < 1024
    assert report.descriptors[-1] < report.descriptors[3] + 20
    assert report.threads[-1] <= max(report.threads[:20])
