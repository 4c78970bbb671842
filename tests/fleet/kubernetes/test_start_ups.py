"""How long pods take."""

from __future__ import annotations

import math

from embedfleet.fleet.kubernetes.targets import StartUps


def test_nothing_is_known_before_the_first_start() -> None:
    assert math.isnan(StartUps().usual_s)


def test_a_start_is_timed_from_the_oldest_open_order() -> None:
    starts = StartUps()
    starts.ordered(2, 4, 100.0)
    starts.ready(160.0)
    starts.ready(190.0)

    assert starts.usual_s == 90.0


def test_three_of_four_starts_were_quicker() -> None:
    starts = StartUps()
    for number in range(1, 9):
        starts.ordered(0, 1, 0.0)
        starts.ready(10.0 * number)

    assert starts.usual_s == 60.0


def test_a_replica_that_was_not_ordered_here_is_not_measured() -> None:
    """After a restart of the gateway all are found ready at once."""
    starts = StartUps()
    starts.ready(1.0)

    assert math.isnan(starts.usual_s)


def test_orders_that_were_withdrawn_or_had_no_effect_are_forgotten() -> None:
    starts = StartUps()
    starts.ordered(2, 4, 0.0)
    starts.ordered(4, 3, 10.0)
    starts.ready(30.0)
    starts.ready(31.0)
    assert starts.usual_s == 30.0

    starts.ordered(3, 4, 100.0)
    starts.ready(9000.0)
    assert starts.usual_s == 30.0
