"""Runs a task while this process holds a Lease, and only then.

A shell around `lease.py`. The task runs inside a time-out that ends with the term of the last
renewal: whatever the API server does, or fails to do, the task is cancelled before another
candidate may take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random

from embedfleet.fleet.kubernetes.cluster import Cluster, ClusterError, Document
from embedfleet.fleet.kubernetes.lease import TIME, Candidacy, LeaseAction, Times, written

log = logging.getLogger(__name__)

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
                await self._look()
                if self.leads:
                    log.info("this gateway holds the lease %s", self._name)
                    await self._lead()
                    log.warning("this gateway lost the lease %s", self._name)
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
            await self._look()
        work.cancel()

    def _left_s(self) -> float:
        """Seconds until we must not act any more."""
        return max(0.0, self._candidacy.ends_at - self._clock())

    async def _pause(self) -> None:
        await asyncio.sleep(self._times.retry_s * (0.8 + 0.4 * self._rng.random()))

    async def _look(self) -> None:
        """Read the lease, and take or renew it if it is ours to take."""
        try:
            async with asyncio.timeout(self._times.act_s):
                await self._contend()
        except ClusterError as error:
            log.warning("the lease %s: %s", self._name, error.message)
        except TimeoutError:
            log.warning("the lease %s: the API server is slow", self._name)

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
            return  # somebody was quicker; the next look says who
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
    raise RuntimeError("the work of a lease's holder ended, and it still holds the lease")
