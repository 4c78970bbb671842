"""Texts do not wait for replicas that are all gone.

Decides when a pool without any usable replica is given up: its texts, and those that come until one
is back, get a clear answer (503) instead of their deadline. A shell around a pool; refuses to know
why replicas are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from embedfleet.cache.single_flight import Arrived
from embedfleet.endpoint import Backend, Caller, Computed
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.vocabulary import Encoding, NoReplicaError, ReplicaState


class Patience:
    """A backend that waits so long for a replica, and no longer."""

    def __init__(self, pool: Backend, name: str, fleet: Fleet, patience_s: float) -> None:
        self._pool = pool
        self._name = name
        self._fleet = fleet
        self._patience_s = patience_s
        self._working: set[asyncio.Task[object]] = set()
        self._let_go: set[asyncio.Task[object]] = set()
        """Those of them that were cancelled here."""
        self._gone = False
        """Whether all replicas have been gone for longer than that."""
        self._end: asyncio.TimerHandle | None = None
        fleet.listen(self._follow)
        self._watch()

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Arrived | None = None
    ) -> Computed:
        """As the pool does; NoReplicaError where that can't be hoped for."""
        if self._gone:
            raise self._error()
        task = asyncio.current_task()
        if task is None:  # a coroutine always runs in one
            return await self._pool.compute(encodings, caller, arrived)
        self._working.add(task)
        try:
            return await self._pool.compute(encodings, caller, arrived)
        except asyncio.CancelledError:
            if task in self._let_go and not task.uncancel():
                raise self._error() from None
            raise
        finally:
            self._working.discard(task)
            self._let_go.discard(task)

    def _follow(self, _member: Member, _left: ReplicaState) -> None:
        self._watch()

    def _watch(self) -> None:
        """Start to count while nobody is there, and stop when somebody is.

        A suspect replica does not count: the only one of a pool stays suspect while it is gone, and
        one that answers is ready again with the next look at it.
        """
        if self._fleet.count(ReplicaState.READY):
            self._gone = False
            if self._end is not None:
                self._end.cancel()
                self._end = None
        elif self._end is None:
            loop = asyncio.get_running_loop()
            self._end = loop.call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        self._gone = True
        for task in self._working - self._let_go:
            self._let_go.add(task)
            task.cancel()

    def _error(self) -> NoReplicaError:
        return NoReplicaError(
            f"no replica of {self._name} can be reached, and this text is not in the cache; try "
            "again soon",
            retry_after_s=max(1.0, self._patience_s),
        )


def patient(pool: Backend, name: str, fleet: Fleet, patience_s: float | None) -> Backend:
    """The pool itself where texts are to wait until their deadline."""
    return pool if patience_s is None else Patience(pool, name, fleet, patience_s)
