"""A Deployment as the autoscaler's target: scaled directly, or exported for KEDA and the HPA.

`Direct` sets the replica count once the pods to be removed have drained. `Exported` publishes the
number as a metric. Neither acts while another autoscaler targets the Deployment; the caller makes
sure that this gateway holds the lease. How long pods take from the order to serving is measured
here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.kubernetes.cluster import ClusterError
from embedfleet.fleet.kubernetes.deletion_cost import VICTIM, Candidate, changes, victims
from embedfleet.fleet.kubernetes.deployment import Deployment
from embedfleet.vocabulary import ReplicaState

log = logging.getLogger(__name__)


KEPT = 32
"""Starts that are remembered: enough for a quantile, few enough to follow a change."""
LONGEST_S = 3600.0
"""An order that brought nothing for an hour is forgotten: its pod was taken back, or never came."""


@dataclass(slots=True)
class StartUps:
    """Orders that are open, and how long the last ones took."""

    _open: deque[float] = field(default_factory=deque)
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def ordered(self, before: int, after: int, now: float) -> None:
        """The number asked for has changed; fewer take the latest orders back."""
        for _ in range(after - before):
            self._open.append(now)
        for _ in range(min(before - after, len(self._open))):
            self._open.pop()

    def ready(self, now: float) -> float | None:
        """A replica got its first traffic; return how long its order took, if it was one."""
        while self._open and self._open[0] < now - LONGEST_S:
            self._open.popleft()
        if not self._open:
            return None
        self._took.append(now - self._open.popleft())
        return self._took[-1]

    @property
    def usual_s(self) -> float:
        """Three of four of the last starts were quicker; NaN before the first."""
        if not self._took:
            return math.nan
        ordered = sorted(self._took)
        return ordered[math.ceil(0.75 * len(ordered)) - 1]


DRAIN_OWNER = "autoscaler"
"""Who lets a replica go that was chosen here."""
REFRESH_S = 5.0
"""Between two reads of the Deployment's wanted size."""
COSTS_S = 30.0
"""Between two updates of the pods' deletion costs."""
SETTLED_S = 120.0
"""A published number counts as ordered for so long: eight rounds of the HPA. What Kubernetes has
made of it by then counts afterwards, be it for a quota, a maximum or nobody who listens."""
GONE_S = 120.0
"""A drained replica that Kubernetes has not taken by then is used again."""
POLL_S = 0.1
"""Between two checks of the outstanding work of draining replicas."""


Start: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Pods:
    """The replicas of a pool as pods of one Deployment."""

    fleet: Fleet
    deployment: Deployment
    outstanding: Callable[[str], int]
    """Tokens of work that a replica has, by its name."""
    costs: dict[str, int] = field(default_factory=dict)
    """Deletion costs as last written by this gateway."""

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(member.name, member.state, self.outstanding(member.name))
            for member in self.fleet
        ]

    async def set_cost(self, name: str, cost: int) -> None:
        """Tell how much a pod would be missed, and remember it. Raises ClusterError."""
        self.costs.pop(name, None)  # a write that fails may have been done nevertheless
        await self.deployment.set_cost(name, cost)
        self.costs[name] = cost


def _ignore(_: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ScalingListener:
    """Callbacks of `DeploymentSize`."""

    replicas: Callable[[int], None] = _ignore
    """How many the Deployment is to have."""
    started: Callable[[float], None] = _ignore
    """Seconds from an order to a pod's first traffic."""


class DeploymentSize:
    """How many replicas the Deployment is to have, as last read, and how long starts take."""

    def __init__(self, pods: Pods, listener: ScalingListener | None = None) -> None:
        self.replicas = 0
        self.start_ups = StartUps()
        self._listener = listener or ScalingListener()
        self._deployment = pods.deployment
        self._ready: set[str] = set()
        pods.fleet.listen(self._follow)

    async def refresh(self) -> None:
        """Read it. Raises ClusterError."""
        self.became(await self._deployment.replicas())

    def became(self, replicas: int) -> None:
        self.start_ups.ordered(self.replicas, replicas, time.monotonic())
        self.replicas = replicas
        self._listener.replicas(replicas)

    async def first(self) -> None:
        """Read it until it is known; what there is already was not ordered now."""
        while True:
            try:
                self.replicas = await self._deployment.replicas()
            except ClusterError as error:
                log.warning("%s: %s", self._deployment, error.message)
                await asyncio.sleep(REFRESH_S)
            else:
                self._listener.replicas(self.replicas)
                return

    async def keep(self) -> None:
        """Keep it true, until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except ClusterError as error:
                log.warning("%s: %s", self._deployment, error.message)

    def _follow(self, member: Member, _left: ReplicaState) -> None:
        if member.state is ReplicaState.GONE:
            self._ready.discard(member.name)
        elif member.state is ReplicaState.READY and member.name not in self._ready:
            self._ready.add(member.name)
            took_s = self.start_ups.ready(time.monotonic())
            if took_s is not None:
                self._listener.started(took_s)


class Exported:
    """The number is published; KEDA's ScaledObject or an HPA reads it."""

    standby = 0

    def __init__(self, count: DeploymentSize, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._wanted: int | None = None
        self._wanted_at = 0.0

    @property
    def planned(self) -> int:
        fresh = self._clock() - self._wanted_at < SETTLED_S
        return self._wanted if self._wanted is not None and fresh else self._count.replicas

    @property
    def start_up_s(self) -> float:
        return self._count.start_ups.usual_s

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        """Remember what is published. The metrics of decisions tell it, with their time."""
        _no_standby(standby)
        log.info("%d replicas wanted: %s", planned, reason)
        self._wanted, self._wanted_at = planned, self._clock()


class Direct:
    """The number is set, after those that go were chosen and have finished."""

    standby = 0

    def __init__(self, pods: Pods, count: DeploymentSize, drain_s: float, start: Start) -> None:
        """`start` runs a shrinking: the `create_task` of a group that a bug in it ends."""
        self._pods = pods
        self._start = start
        self._count = count
        self._drain_s = drain_s
        self._shrinking: asyncio.Task[None] | None = None
        self._shrinking_to = 0

    @property
    def planned(self) -> int:
        return self._shrinking_to if self._is_shrinking else self._count.replicas

    @property
    def start_up_s(self) -> float:
        return self._count.start_ups.usual_s

    @property
    def _is_shrinking(self) -> bool:
        return self._shrinking is not None and not self._shrinking.done()

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        _no_standby(standby)
        deployment = self._pods.deployment
        owners = await deployment.owners()
        if owners:
            raise ClusterError(
                f"{deployment} belongs to {' and '.join(owners)}: "
                "the number of replicas was not changed"
            )
        if self._is_shrinking and planned <= self._shrinking_to:
            # Broken off at every step down, a drain that outlasts their pace would never end.
            log.info(
                "%s: scaling from %d to %d replicas once the current scale-down is done: %s",
                deployment,
                self._shrinking_to,
                planned,
                reason,
            )
            self._shrinking_to = planned
            return
        await self.close()
        await self._count.refresh()
        log.info(
            "%s: scaling from %d to %d replicas: %s",
            deployment,
            self._count.replicas,
            planned,
            reason,
        )
        if planned >= self._count.replicas:
            self._count.became(await deployment.scale(planned))
            return
        going = await self._chosen(planned)
        self._shrinking_to = planned
        self._shrinking = self._start(self._shrink(planned, going))

    async def close(self) -> None:
        """Cancel a scale-down: replicas that were to go stay."""
        if self._shrinking is not None:
            self._shrinking.cancel()
            await asyncio.gather(self._shrinking, return_exceptions=True)
            self._shrinking = None

    async def _chosen(self, planned: int) -> list[str]:
        """Choose those to go, and name them to Kubernetes. Raises ClusterError."""
        going = victims(self._pods.candidates(), self._count.replicas - planned)
        await asyncio.gather(*(self._pods.set_cost(name, VICTIM) for name in going))
        return going

    async def _shrink(self, planned: int, going: list[str]) -> None:
        try:
            await self._let_go(planned, going)
            while self._shrinking_to < min(planned, self._count.replicas):
                planned = self._shrinking_to  # fewer were ordered meanwhile
                await self._let_go(planned, await self._chosen(planned))
        except ClusterError as error:
            log.warning("scaling down failed: %s", error.message)

    async def _let_go(self, planned: int, going: list[str]) -> None:
        """Have them finish and taken; who is not taken stays after all. Raises ClusterError."""
        members = [member for member in self._pods.fleet if member.name in going]
        for member in members:
            self._pods.fleet.drain(
                member, DRAIN_OWNER, time.monotonic(), "it was chosen for removal"
            )
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    while any(self._pods.outstanding(name) for name in going):
                        await asyncio.sleep(POLL_S)
            self._count.became(await self._pods.deployment.scale(planned))
            await self._until_gone(members)
        finally:
            self._keep(members)

    async def _until_gone(self, members: list[Member]) -> None:
        """Give Kubernetes time: a ReplicaSet removes pods that are not ready first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE_S):
                while any(member.state is not ReplicaState.GONE for member in members):
                    await asyncio.sleep(POLL_S)

    def _keep(self, members: list[Member]) -> None:
        for member in members:
            if member.state is not ReplicaState.GONE:
                # Unless Kubernetes has taken it meanwhile.
                now = time.monotonic()
                self._pods.fleet.readmit(member, DRAIN_OWNER, now, "its removal was cancelled")


def _no_standby(standby: int) -> None:
    if standby:
        raise ClusterError("standby replicas are not kept as pods; use placeholder pods")


class Costs:
    """Tells Kubernetes which pods would be missed most, for when an HPA chooses who goes."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    async def keep(self) -> None:
        """Until cancelled."""
        self._pods.costs.clear()  # what another gateway wrote meanwhile is not known
        while True:
            await self.tell()
            await asyncio.sleep(COSTS_S)

    async def tell(self) -> None:
        """Write what changed; what can't be written is tried again the next time."""
        pods = self._pods
        for name in pods.costs.keys() - {member.name for member in pods.fleet}:
            del pods.costs[name]
        chosen = {member.name for member in pods.fleet if DRAIN_OWNER in member.leaving}
        others = [each for each in pods.candidates() if each.name not in chosen]
        for name, cost in changes(others, pods.costs).items():
            try:
                await pods.set_cost(name, cost)
            except ClusterError as error:
                log.warning("could not set the deletion cost of %s: %s", name, error.message)
                return
