"""Leader election among gateways by a Lease: runs a task while this process holds it.

What a candidate does next is decided by pure functions (`Candidacy`). The task runs inside a
time-out that ends with the term of the last renewal: whatever the API server does, or fails to do,
the task is cancelled before another candidate may take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from random import Random
from typing import Any

from embedfleet.fleet.kubernetes.cluster import Cluster, ClusterError, Document

log = logging.getLogger(__name__)


TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
"""Kubernetes' MicroTime."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a lease holds, in seconds; client-go's defaults."""

    lease_s: float = 15.0
    """After so long without a sign of life others take over."""
    act_s: float = 10.0
    """A holder that could not renew for so long stops acting: earlier than others begin."""
    retry_s: float = 2.0
    """Between two reads of the Lease."""


class LeaseAction(StrEnum):
    """What a candidate does now."""

    TAKE = "take"
    """It is free, or its holder did not renew in time: write our name."""
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Candidacy:
    """What one candidate knows."""

    me: str
    times: Times = Times()
    seen: tuple[str, str] = ("", "")
    """Holder and time of renewal, as last read."""
    seen_at: float = -math.inf
    """When that was first seen, by our clock."""
    renewed_at: float = -math.inf
    """When we last wrote it."""

    def read(self, lease: Mapping[str, Any] | None, now: float) -> Candidacy:
        """Having seen the lease as it is; None when there is none yet."""
        spec = (lease or {}).get("spec") or {}
        found = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if found == self.seen and lease is not None:
            return self
        return replace(self, seen=found, seen_at=now)

    def wrote(self, lease: Mapping[str, Any], asked_at: float) -> Candidacy:
        """Having written it: it holds from when that was asked for, not from the answer."""
        return replace(self.read(lease, asked_at), renewed_at=asked_at)

    def next_action(self, now: float) -> LeaseAction:
        holder, _ = self.seen
        if holder == self.me:
            return LeaseAction.RENEW
        silent = now - self.seen_at > self.times.lease_s
        return LeaseAction.TAKE if not holder or silent else LeaseAction.WAIT

    @property
    def ends_at(self) -> float:
        """Until when we may act, if we may; in the past otherwise."""
        return self.renewed_at + self.times.act_s if self.seen[0] == self.me else -math.inf

    def leads(self, now: float) -> bool:
        """Whether we may act."""
        return now < self.ends_at


def written(
    before: Mapping[str, Any] | None, name: str, me: str, at: str, lease_s: float
) -> dict[str, Any]:
    """The lease with our name in it. Its version stays, so that the write fails (409) when somebody
    else was quicker. An empty `me` gives it up.
    """
    spec = dict((before or {}).get("spec") or {})
    transitions = int(spec.get("leaseTransitions") or 0)
    if me and spec.get("holderIdentity") != me:
        spec["acquireTime"] = at
        transitions += before is not None
    spec |= {
        "holderIdentity": me,
        "leaseDurationSeconds": math.ceil(lease_s) if me else 1,
        "renewTime": at,
        "leaseTransitions": transitions,
    }
    metadata = dict((before or {}).get("metadata") or {}) or {"name": name}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }


RESIGN_S = 2.0
"""A process that stops waits no longer for its lease to be given up; it runs out by itself."""


class Leadership:
    """One candidate for one Lease."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        me: str,
        work: Callable[[], Awaitable[None]],
        *,
        times: Times | None = None,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`work` is started when the lease is won and cancelled when it is lost. `me` must be
        another for every process.
        """
        self._cluster = cluster
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._work = work
        self._times = times or Times()
        self._rng = rng or Random()
        self._clock = clock
        self._candidacy = Candidacy(me, self._times)

    @property
    def leads(self) -> bool:
        return self._candidacy.leads(self._clock())

    async def run(self) -> None:
        """Contend for the lease and work while it is held, until cancelled; then let the others
        know at once. What the work raises comes out.
        """
        try:
            while True:
                await self._try_acquire()
                if self.leads:
                    log.info("acquired the lease %s", self._name)
                    await self._lead()
                    log.warning("lost the lease %s", self._name)
                await self._pause()
        finally:
            await self._resign()

    async def _lead(self) -> None:
        """Work for as long as the lease can be renewed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._left_s()) as term, asyncio.TaskGroup() as tasks:
                work = tasks.create_task(_for_ever(self._work()))
                # Beside the work and not around it: a request that hangs, even in its
                # cancellation, holds up the end of nothing but itself.
                tasks.create_task(self._renew(term, work))

    async def _renew(self, term: asyncio.Timeout, work: asyncio.Task[None]) -> None:
        while self.leads and not term.expired():
            term.reschedule(asyncio.get_running_loop().time() + self._left_s())
            await self._pause()
            await self._try_acquire()
        work.cancel()

    def _left_s(self) -> float:
        """Seconds until we must not act any more."""
        return max(0.0, self._candidacy.ends_at - self._clock())

    async def _pause(self) -> None:
        await asyncio.sleep(self._times.retry_s * (0.8 + 0.4 * self._rng.random()))

    async def _try_acquire(self) -> None:
        """Read the lease, and take or renew it if it is ours to take."""
        try:
            async with asyncio.timeout(self._times.act_s):
                await self._contend()
        except ClusterError as error:
            log.warning("the lease %s could not be read or renewed: %s", self._name, error.message)
        except TimeoutError:
            log.warning("the lease %s was not renewed in time: the API server is slow", self._name)

    async def _contend(self) -> None:
        lease = await self._read()
        now = self._clock()
        self._candidacy = self._candidacy.read(lease, now)
        if self._candidacy.next_action(now) is LeaseAction.WAIT:
            return
        try:
            lease = await self._write(lease, self._candidacy.me)
        except ClusterError as error:
            if not error.conflict:
                raise
            return  # another candidate was faster; the next read shows which
        self._candidacy = self._candidacy.wrote(lease, now)

    async def _resign(self) -> None:
        if not self.leads:
            return
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(min(RESIGN_S, self._left_s())):
                await self._write(await self._read(), "")
        self._candidacy = Candidacy(self._candidacy.me, self._times)

    async def _read(self) -> Document | None:
        try:
            return await self._cluster.ask("GET", f"{self._path}/{self._name}")
        except ClusterError as error:
            if error.missing:
                return None
            raise

    async def _write(self, lease: Document | None, me: str) -> Document:
        at = datetime.now(UTC).strftime(TIME)
        body = written(lease, self._name, me, at, self._times.lease_s)
        if lease is None:
            return await self._cluster.ask("POST", self._path, body=body)
        return await self._cluster.ask("PUT", f"{self._path}/{self._name}", body=body)


async def _for_ever(work: Awaitable[None]) -> None:
    await work
    raise RuntimeError("the leader's task ended while it still holds the lease")
