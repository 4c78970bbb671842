"""Does work while this process holds a Lease, and only then.

A shell around `lease.py`. Refuses to know what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random

from embedfleet.kubernetes.cluster import Cluster, ClusterError, Document
from embedfleet.kubernetes.lease import TIME, Candidacy, Times, Turn, written

log = logging.getLogger(__name__)


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
    ) -> None:
        """`work` is started when the lease is won and cancelled when it is lost; one that ends is
        started again. `me` must be another for every process.
        """
        self._cluster = cluster
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._work = work
        self._times = times or Times()
        self._rng = rng or Random()
        self._candidacy = Candidacy(me, self._times)
        self._working: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        return self._candidacy.leads(time.monotonic())

    def start(self) -> None:
        self._task = asyncio.create_task(self._contend())

    async def close(self) -> None:
        """Stop acting, and let the others know at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._stop_working()
        if self.leads:
            with contextlib.suppress(ClusterError):
                await self._write(await self._read(), "")

    async def _contend(self) -> None:
        while True:
            try:
                await self._renew()
                await self._follow()
            except Exception:  # who no longer renews must not act: others will
                log.exception("holding the lease %s failed. This is a bug.", self._name)
                await self._stop_working()
            pause_s = self._times.retry_s * (0.8 + 0.4 * self._rng.random())
            await asyncio.sleep(self._remaining_s(pause_s))

    async def _renew(self) -> None:
        try:
            # A slow server must not keep us from noticing that our time is over.
            async with asyncio.timeout(self._remaining_s(self._times.act_s)):
                await self._look()
        except ClusterError as error:
            log.warning("the lease %s: %s", self._name, error.message)
        except TimeoutError:
            log.warning("the lease %s: the API server is slow", self._name)

    def _remaining_s(self, most_s: float) -> float:
        """Seconds to spend before it must be known whether we still lead."""
        left_s = self._candidacy.ends_at - time.monotonic()
        return min(most_s, left_s) if left_s > 0 else most_s

    async def _look(self) -> None:
        lease = await self._read()
        now = time.monotonic()
        self._candidacy = self._candidacy.read(lease, now)
        if self._candidacy.turn(now) is Turn.WAIT:
            return
        try:
            lease = await self._write(lease, self._candidacy.me)
        except ClusterError as error:
            if not error.conflict:
                raise
            return  # somebody was quicker; the next look says who
        self._candidacy = self._candidacy.wrote(lease, now)

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

    async def _follow(self) -> None:
        """Begin or stop working, as the lease says."""
        if self._working is not None and self._working.done():
            failure = None if self._working.cancelled() else self._working.exception()
            log.error(
                "what the lease %s is for ended; it begins again", self._name, exc_info=failure
            )
            self._working = None
        if self.leads and self._working is None:
            log.info("this gateway holds the lease %s", self._name)
            self._working = asyncio.ensure_future(self._work())
        elif not self.leads and self._working is not None:
            log.warning("this gateway lost the lease %s", self._name)
            await self._stop_working()

    async def _stop_working(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            self._working = None
