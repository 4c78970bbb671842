"""The chaos suite in seconds: all faults at once, a few thousand texts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.chaos.faults import ALL
from tests.chaos.fleet import chaos_fleet
from tests.chaos.reckoning import Asker


def test_a_few_thousand_texts_under_all_faults_at_once(tmp_path: Path) -> None:
    """None lost, none wrong, none answered twice."""
    with chaos_fleet(tmp_path, replicas=2) as fleet:
        fleet.misbehave(0.02, *ALL)
        asker = Asker(fleet.service.base_url)
        asyncio.run(asker.ask_many(3000, clients=8))

    asker.reckoning.check()
    assert asker.reckoning.refused_share < 0.1, asker.reckoning.refused
