"""Admin routes of the fleet: drain a replica by hand, readmit it, and list recent batches.

Used by `embedfleet fleet` and the fleet page. The orders apply to this gateway until it exits;
gateways of one pool each have their own table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import orjson

from embedfleet.fleet.fleet import Member
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.admin.scaling import order_in
from embedfleet.transport.asgi import Request, Response, Route
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import CallerError, ReplicaState

if TYPE_CHECKING:
    from embedfleet.api.batches.routes import BatchRoutes

log = logging.getLogger(__name__)

OPERATOR: Final = "operator"
"""The name in `Member.leaving` of a drain by hand."""


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an order."""

    replica: str
    pool: str | None = None
    force: bool = False


def fleet_routes(
    pools: Sequence[Pool], batches: BatchRoutes | None
) -> Mapping[tuple[str, str], Route]:
    """Orders for single replicas, and the list of recent batches."""

    async def drain(request: Request) -> Response:
        order = await order_in(request, _Order, '{"replica": "local-0"}')
        pool, member = _found(pools, order)
        if not order.force and _is_last(pool, member):
            raise CallerError(
                f"{member.name} is the only ready replica of {pool.name}: without it requests "
                'would wait for another; "force": true drains it all the same',
                param="force",
            )
        log.warning("replica %s is drained by an operator", member.name)
        pool.fleet.drain(member, OPERATOR, time.monotonic(), "it was drained by an operator")
        return _answer(pool, member)

    async def readmit(request: Request) -> Response:
        order = await order_in(request, _Order, '{"replica": "local-0"}')
        pool, member = _found(pools, order)
        log.warning("replica %s is readmitted by an operator", member.name)
        pool.fleet.readmit(member, OPERATOR, time.monotonic(), "it was readmitted by an operator")
        return _answer(pool, member)

    async def recent(_request: Request) -> Response:
        listed = [] if batches is None else await asyncio.to_thread(batches.recent)
        return Response(orjson.dumps({"enabled": batches is not None, "batches": listed}))

    return {
        ("POST", "/fleet/drain"): drain,
        ("POST", "/fleet/readmit"): readmit,
        ("GET", "/batches"): recent,
    }


def drained(member: Member) -> bool:
    """Whether an operator has drained it."""
    return OPERATOR in member.leaving


def _found(pools: Sequence[Pool], order: _Order) -> tuple[Pool, Member]:
    """The replica that an order names. Raises CallerError for none or several."""
    known = [(pool, member) for pool in pools for member in pool.fleet]
    found = [
        (pool, member)
        for pool, member in known
        if order.replica in {member.name, f"{pool.name}/{member.name}"}
        and order.pool in {None, pool.name}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{pool.name}/{member.name}" for pool, member in found)
        raise CallerError(
            f"several pools have a replica {shown(order.replica)}: name one of {names}",
            param="replica",
        )
    where = "" if order.pool is None else f" in pool {shown(order.pool)}"
    names = ", ".join(sorted(f"{pool.name}/{member.name}" for pool, member in known)) or "none"
    raise CallerError(
        f"there is no replica {shown(order.replica)}{where}; there are: {names}", param="replica"
    )


def _is_last(pool: Pool, member: Member) -> bool:
    return member.state is ReplicaState.READY and pool.fleet.count(ReplicaState.READY) == 1


def _answer(pool: Pool, member: Member) -> Response:
    told = {
        "pool": pool.name,
        "replica": member.name,
        "state": member.state.value,
        "reason": member.explained,
        "drained": drained(member),
    }
    return Response(orjson.dumps(told))
