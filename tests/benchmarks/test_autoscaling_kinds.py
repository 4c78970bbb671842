"""The comparison on seeded traffic: what it runs, who is beaten, and what its table says."""

from __future__ import annotations

from typing import Any

from benchmarks import autoscaling_kinds as kinds_of
from embedfleet.simulator import kinds


def row(policy: str, attained: float, replicas: float, **other: Any) -> dict[str, Any]:
    given = {"kind": "flash", "seed": 0, "start_s": 30.0, "value": 0.0}
    return given | {"policy": policy, "attained": attained, "mean_replicas": replicas} | other


def test_every_member_is_run_by_every_policy_with_all_of_its_values() -> None:
    """Those that last for days by the nearest rivals only."""
    runs = list(kinds_of.wanted(["flash", "day"], [0, 1], [30, 120]))
    swept = sum(len(values) for values, _ in kinds_of.SWEEPS.values())
    assert len([run for run in runs if run.kind == "flash"]) == 4 * (4 + swept)
    assert len([run for run in runs if run.kind == "day"]) == 4 * (4 + kinds_of.NEAR)
    assert len({run.key for run in runs}) == len(runs)


def test_a_policy_that_attains_more_for_less_wins() -> None:
    """On the same traffic; more for as much, or as much for less, does not."""
    ours = [row("embedfleet", 0.99, 10.0)]
    others = [
        row("a", 0.991, 9.9),
        row("b", 0.991, 10.0),
        row("c", 0.99, 5.0),
        row("d", 1.0, 1.0, seed=7),
    ]
    assert [each["policy"] for each in kinds_of.beaten(ours, others)] == ["a"]


def test_the_table_compares_on_the_seeds_that_all_have() -> None:
    """A seed on which ours has not run yet says nothing."""
    rows = [
        row("embedfleet", 0.99, 10.0),
        row("oracle", 0.995, 5.0),
        row("oracle, bound", 0.995, 4.9),
        row("oracle", 0.995, 50.0, seed=5),
        row("fixed, known beforehand", 0.995, 12.0),
        row("Knative KPA", 0.98, 9.0, value=0.7),
        row("Knative KPA", 0.999, 2.0, value=0.7, seed=5),
    ]
    shown = kinds_of.table(rows, [0, 5]).splitlines()[-1]
    assert shown == (
        "| flash | 30 s | 1 | 99.00% at 10.00 | not run on all | Knative KPA 0.7: 98.00% at 9.00 | "
        "5.00 (4.90) | 12.0 | 2.00 | nobody |"
    )


def test_the_first_fleet_carries_the_first_minute() -> None:
    """At 60 % utilisation."""
    traffic = kinds.draw("square-600", 0)
    load = kinds.load("square-600", 0).replicas[:60].mean()
    assert kinds_of.first_fleet(traffic) - 1 <= 1.1 * load / 0.6
    assert kinds_of.first_fleet(traffic) >= 0.9 * load / 0.6
