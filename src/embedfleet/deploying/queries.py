"""The PromQL queries by which KEDA reads the wanted number of replicas. Pure.

Only a fresh value of the gateway that holds the lease counts.
"""

from __future__ import annotations

STALE_S = 90
"""An older answer is none: six rounds of the HPA, eighteen decisions."""


def wanted(namespace: str, pool: str) -> str:
    """The wanted number of replicas; empty without a recent decision."""
    return f"max({_fresh('embedfleet_autoscaling_planned_replicas', namespace, pool)})"


def nudged(namespace: str, pool: str, tolerance: float) -> str:
    """The same for an HPA that ignores changes within a tolerance.

    One replica more than ten is a tenth more: "near enough", and would never happen. So what is
    above the present number, and near it, becomes the least number that is not near. What is below
    stays: it happens once it is far enough, and until then a replica or two are kept too long.
    """
    want = wanted(namespace, pool)
    now = f"max({_fresh('embedfleet_autoscaling_deployment_replicas', namespace, pool)})"
    least = f"floor({1 + tolerance:g} * {now}) + 1"
    return f"(({want}) > ({now}) < ({least})) * 0 + ({least}) or ({want})"


def _fresh(metric: str, namespace: str, pool: str) -> str:
    labels = f'{{namespace="{namespace}",pool="{pool}"}}'
    at = f"embedfleet_autoscaling_decision_timestamp_seconds{labels}"
    return f"{metric}{labels} and (time() - {at} < {STALE_S})"
