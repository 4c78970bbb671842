"""`GET /fleet`: the current state of every pool and replica."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from embedfleet.fleet.fleet import Member
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.admin.cache import figures_of, summed
from embedfleet.server.gateway.admin.fleet import drained
from embedfleet.server.gateway.server import Gateway
from embedfleet.vocabulary import Lane


def overview(gateway: Gateway, now: float) -> dict[str, Any]:
    """The document; `now` is in monotonic seconds, unknown values are null."""
    state = "draining" if gateway.draining else "ready" if gateway.ready() else "starting"
    cache = None if gateway.cache is None else figures_of(gateway.cache)
    return {
        "version": version("embedfleet"),
        "state": state,
        "active_requests": gateway.endpoint.active,
        "pools": [_pool(gateway, pool, now) for pool in gateway.pools],
        "cache": cache,
    }


def merged(primary: dict[str, Any], workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The documents of a primary and its workers merged: counters are added, and the replicas are
    the primary's.
    """
    every = [primary, *workers]
    caches = [each["cache"] for each in every if each["cache"] is not None]
    pools = []
    for number, pool in enumerate(primary["pools"]):
        each = [document["pools"][number] for document in every if document["pools"][number:]]
        added = summed([{key: one[key] for key in COUNTED} for one in each])
        pools.append(pool | added)
    return primary | {
        "active_requests": sum(each["active_requests"] for each in every),
        "pools": pools,
        "cache": summed(caches) if caches else None,
    }


COUNTED = ("tokens_per_s", "queued_texts", "queued_tokens", "in_flight_tokens")
"""Fields of a pool that each process reports for itself."""


def _pool(gateway: Gateway, pool: Pool, now: float) -> dict[str, Any]:
    observer = gateway.scaling.observers[pool.name]
    served = {name for name, model in gateway.models.items() if pool.name in model.names}
    scaler = gateway.scaling.scalers.get(pool.name)
    last = None if scaler is None else scaler.journal.last
    return {
        "name": pool.name,
        "served_names": sorted(served - {pool.name}),
        "tokens_per_s": round(observer.arriving(now), 1),
        "queued_texts": pool.queued_texts,
        "queued_tokens": {lane.value: pool.queued_tokens(lane) for lane in Lane},
        "in_flight_tokens": pool.in_flight_tokens,
        "replicas": [_replica(pool, member, now) for member in pool.fleet],
        "last_decision": None
        if last is None
        else {
            "at": last.at,
            "mode": last.mode.value,
            "replicas": last.ordered,
            "reason": last.decision.reason,
            "trouble": last.trouble,
        },
    }


def _replica(pool: Pool, member: Member, now: float) -> dict[str, Any]:
    described = member.description
    per_token_s = described.cost[1] if described and described.batches else 0.0
    return {
        "name": member.name,
        "url": member.url,
        "state": member.state.value,
        "for_s": round(now - member.since, 3),
        "reason": member.explained,
        "drained": drained(member),
        "engine": described.device if described else None,
        "precision": described.precision.value if described else None,
        "measured_tokens_per_s": round(1 / per_token_s, 1) if per_token_s > 0 else None,
        "in_flight_tokens": pool.outstanding(member.name),
    }
