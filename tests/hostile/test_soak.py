"""Hostile clients beside well-behaved ones for a minute: nobody is harmed, and nothing grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.clients import LARGE, SMALL
from tests.hostile.soak import soak

MINUTES = 1.0

MOST_MIB = 1_000
"""At any time: the gateway itself, and bodies of 64 MiB from two clients at once."""

MOST_KEPT_MIB = 350
"""More than before the attacks, when they are over: memory that was freed, and that the allocator
keeps in its arenas. In forty minutes it comes to rest at some 100."""


@pytest.mark.slow
def test_a_minute_of_attacks_harms_no_client_and_leaves_nothing(tmp_path: Path) -> None:
    """Every answer is right, descriptors are as before, memory is bounded, and it goes on."""
    report = soak(tmp_path, minutes=MINUTES)

    assert not report.wrong, report.wrong[:5]
    assert report.asked > 100
    assert report.right == report.asked, report.refused
    assert report.answers
    assert len(report.attacks) > len(SMALL + LARGE) // 2
    assert report.settled_descriptors <= report.calm_descriptors, report.descriptors
    assert report.most_memory_mib < MOST_MIB
    assert report.settled_mib - report.memory_mib[0] < MOST_KEPT_MIB, report.memory_mib
    assert report.threads[-1] < 64
