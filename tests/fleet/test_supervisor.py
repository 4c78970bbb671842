"""Keeping replicas alive, with a provider whose replicas end when told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.providers.provider import End
from embedfleet.fleet.states import Event
from embedfleet.fleet.supervisor import Supervisor, SupervisorListener
from embedfleet.vocabulary import ReplicaState, SetupError
from tests.conformance.scaling_conformance import TargetConformance
from tests.loops import running, settle


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it is so; a test that waits in vain fails by the time-out."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.002)


class FakeReplica:
    """Lives until it is told to end."""

    def __init__(self, number: int) -> None:
        self.url = f"http://replica-{number}"
        self.stopped_with: float | None = None
        self.lingers = False
        """Whether a stop lasts until the test says that it is `gone`."""
        self.gone = asyncio.Event()
        self._end = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return self._end.is_set()

    def end(self, *, hopeless: bool = False) -> None:
        self._hopeless = hopeless
        self._end.set()

    async def ended(self) -> End:
        await self._end.wait()
        return End("exit code 2" if self._hopeless else "killed by SIGKILL", self._hopeless)

    async def stop(self, grace_s: float) -> None:
        self.stopped_with = grace_s
        if self.lingers:
            await self.gone.wait()
        self.end()


class FakeProvider:
    """Starts fake replicas; the first `broken` starts fail."""

    def __init__(self, broken: int = 0, error: Exception | None = None) -> None:
        self.started: list[FakeReplica] = []
        self.broken = broken
        self.error = error or SetupError("no memory")

    async def start(self, name: str) -> FakeReplica:
        if self.broken:
            self.broken -= 1
            raise self.error
        self.started.append(FakeReplica(len(self.started)))
        return self.started[-1]


class Rig:
    """A supervisor whose replicas are well as soon as they are there, if the test wants it."""

    def __init__(self, provider: FakeProvider, *, well: bool = True) -> None:
        self.provider = provider
        self.fleet = Fleet()
        self.restarts = 0
        self.arrived: list[str] = []
        self.work: dict[str, int] = {}
        self.well = well
        self.supervisor = Supervisor(
            self.fleet,
            provider,
            Backoff(0.001, 0.01),
            outstanding=lambda name: self.work.get(name, 0),
            grace_s=7.0,
            listener=SupervisorListener(
                restarted=self._restart, arrived=lambda came, _: self.arrived.append(came)
            ),
        )
        self.fleet.listen(self._attend)

    def _restart(self) -> None:
        self.restarts += 1

    def _attend(self, member: Member, _left: ReplicaState) -> None:
        """What the prober would do, at once."""
        if not self.well:
            return
        if member.state is ReplicaState.STARTING:
            asyncio.get_running_loop().call_soon(self._apply, member, Event.ANSWERED)
        elif member.state is ReplicaState.VERIFYING:
            asyncio.get_running_loop().call_soon(self._verify, member)

    def _verify(self, member: Member) -> None:
        # What is wanted of it may have changed since its check began.
        self._apply(member, Event.RESERVED if member.reserve else Event.VERIFIED)

    def _apply(self, member: Member, event: Event) -> None:
        self.fleet.apply(member, event, 0.0)

    def states(self) -> dict[str, str]:
        return {member.name: member.state.value for member in self.fleet}

    async def become(self, planned: int, standby: int = 0) -> None:
        await self.supervisor.scale_to(planned, standby, "a test")
        await settle()


@contextlib.asynccontextmanager
async def rigged(count: int, *, broken: int = 0, well: bool = True) -> AsyncIterator[Rig]:
    rig = Rig(FakeProvider(broken), well=well)
    rig.supervisor.start(count)
    async with running(rig.supervisor.run()):
        await settle()
        try:
            yield rig
        finally:
            await rig.supervisor.stop(7.0)


@contextlib.asynccontextmanager
async def keeping(count: int, provider: FakeProvider) -> AsyncIterator[tuple[Fleet, list[int]]]:
    fleet, restarts = Fleet(), []
    listener = SupervisorListener(restarted=lambda: restarts.append(1))
    supervisor = Supervisor(fleet, provider, Backoff(0.001, 0.01), listener=listener)
    supervisor.start(count)
    async with running(supervisor.run()):
        await settle()
        try:
            yield fleet, restarts
        finally:
            await supervisor.stop(7.0)


async def test_as_many_replicas_are_started_as_asked_for() -> None:
    """Each enters the fleet with its address."""
    async with keeping(3, FakeProvider()) as (fleet, _):
        assert sorted(member.name for member in fleet) == ["local-0", "local-1", "local-2"]


async def test_a_replica_that_ends_is_started_again() -> None:
    """Under its name, at its new address; the end is counted."""
    provider = FakeProvider()
    async with keeping(1, provider) as (fleet, restarts):
        provider.started[0].end()
        await until(lambda: bool(restarts) and len(fleet) == 1)

        assert [(member.name, member.url) for member in fleet] == [("local-0", "http://replica-1")]
        assert len(restarts) == 1


async def test_a_replica_that_can_never_start_is_given_up() -> None:
    """A wrong setting does not become right by trying again."""
    provider = FakeProvider()
    async with keeping(1, provider) as (fleet, _):
        provider.started[0].end(hopeless=True)
        await until(lambda: len(fleet) == 0)
        await settle()  # several times the pause before another start

        assert len(provider.started) == 1


async def test_a_start_that_fails_is_tried_again() -> None:
    """A full memory may have room later."""
    async with keeping(1, FakeProvider(broken=2)) as (fleet, _):
        await until(lambda: len(fleet) == 1)


async def test_stopping_lets_replicas_finish_and_starts_none() -> None:
    """With the grace that the settings give."""
    provider = FakeProvider()
    async with keeping(2, provider):
        pass

    assert [replica.stopped_with for replica in provider.started] == [7.0, 7.0]
    assert len(provider.started) == 2


async def test_a_replica_that_never_answers_is_ended_and_started_again() -> None:
    """A load that hangs would else keep its place for ever; one that serves is left alone."""
    async with rigged(1) as rig:
        rig.supervisor.start_timeout_s = 0.1
        rig.well = False
        await rig.become(2)
        assert rig.states() == {"local-0": "ready", "local-1": "starting"}
        await until(lambda: rig.restarts >= 1)
        assert rig.provider.started[0].stopped_with is None
        assert rig.provider.started[1].stopped_with is not None

        rig.well = True
        await until(lambda: rig.states() == {"local-0": "ready", "local-1": "ready"})


async def test_a_replica_that_hangs_after_it_has_served_is_ended_and_started_again() -> None:
    """The only one is never ejected; it would stay suspect for ever."""
    async with rigged(0) as rig:
        rig.supervisor.start_timeout_s = 0.05
        await rig.become(1)
        await settle(0.1)
        assert rig.provider.started[0].stopped_with is None

        rig.fleet.failed(rig.fleet["local-0"], time.monotonic(), "no answer", lost=True)
        await until(lambda: len(rig.provider.started) == 2)
        await until(lambda: rig.states() == {"local-0": "ready"})
        assert rig.provider.started[0].stopped_with is not None
        assert rig.restarts == 1


async def test_a_start_for_which_the_machine_has_no_room_is_tried_again() -> None:
    """No memory to fork, no room on the disk: it may have some later."""
    provider = FakeProvider(broken=2, error=OSError(errno.ENOSPC, "No space left on device"))
    async with keeping(1, provider) as (fleet, _):
        await until(lambda: len(fleet) == 1)


async def test_a_bug_while_a_replica_is_tended_to_comes_out() -> None:
    """The process ends by it: nobody would start the replica again."""
    provider = FakeProvider(broken=1, error=ZeroDivisionError("a bug"))
    supervisor = Supervisor(Fleet(), provider, Backoff(0.001, 0.01))
    supervisor.start(1)
    with pytest.raises(ExceptionGroup) as raised:
        await supervisor.run()
    assert raised.group_contains(ZeroDivisionError)


async def test_a_supervisor_that_drains_starts_nothing_again() -> None:
    """Neither what ends from now on nor what waits to be started again."""
    async with rigged(2) as rig:
        rig.supervisor.backoff = Backoff(0.5, 0.5)
        rig.provider.started[0].end()
        await until(lambda: rig.states() == {"local-1": "ready"})
        rig.supervisor.drain()
        rig.provider.started[1].end()
        await until(lambda: rig.states() == {})
        await settle(0.6)
        assert len(rig.provider.started) == 2


class TestScaling:
    async def test_growth_starts_more_replicas_under_the_lowest_free_names(self) -> None:
        """Numbers are GPUs where third-party engines are started."""
        async with rigged(1) as rig:
            await rig.become(3)
            assert rig.states() == {"local-0": "ready", "local-1": "ready", "local-2": "ready"}
            assert rig.supervisor.planned == 3

    async def test_what_goes_is_out_of_traffic_at_once_and_ends_when_its_texts_are_done(
        self,
    ) -> None:
        """The one with the least to do; its process lives until then."""
        async with rigged(2) as rig:
            rig.work = {"local-0": 10, "local-1": 90}
            await rig.become(1)
            assert rig.states() == {"local-0": "draining", "local-1": "ready"}
            assert rig.provider.started[0].stopped_with is None
            assert rig.supervisor.planned == 1

            rig.work["local-0"] = 0
            await until(lambda: rig.states() == {"local-1": "ready"})
            assert rig.provider.started[0].stopped_with == 7.0
            assert rig.restarts == 0

    async def test_one_that_dies_while_it_drains_is_not_started_again(self) -> None:
        """It was to go anyway."""
        async with rigged(2) as rig:
            rig.work = {"local-1": 5}
            rig.work["local-0"] = 9
            await rig.become(1)
            rig.provider.started[1].end()
            rig.work["local-1"] = 0
            await until(lambda: rig.states() == {"local-0": "ready"})
            assert len(rig.provider.started) == 2

    async def test_one_that_drains_is_called_back_when_it_is_needed(self) -> None:
        """Nothing is started."""
        async with rigged(2) as rig:
            rig.work = {"local-0": 9, "local-1": 9}
            await rig.become(1)
            await rig.become(2)
            assert rig.states() == {"local-0": "ready", "local-1": "ready"}
            assert len(rig.provider.started) == 2
            rig.work = {}
            await settle(0.1)
            assert len(rig.states()) == 2

    async def test_one_that_starts_and_is_not_needed_any_more_ends_at_once(self) -> None:
        """Before those that serve."""
        async with rigged(1) as rig:
            rig.well = False
            await rig.become(2)
            assert rig.states() == {"local-0": "ready", "local-1": "starting"}
            await rig.become(1)
            assert rig.states() == {"local-0": "ready"}

    async def test_one_that_was_about_to_end_is_started_anew_when_it_is_needed(self) -> None:
        """In its own place, once that is free: no more replicas than places."""
        async with rigged(2) as rig:
            rig.provider.started[1].lingers = True
            rig.work = {"local-0": 9}
            await rig.become(1)
            await rig.become(2)
            assert rig.supervisor.planned == 2
            assert len(rig.provider.started) == 2

            rig.provider.started[1].gone.set()
            await until(lambda: rig.states() == {"local-0": "ready", "local-1": "ready"})
            assert len(rig.provider.started) == 3

    async def test_a_dead_replica_is_restarted_in_the_part_it_had(self) -> None:
        """A standby stays one."""
        async with rigged(1) as rig:
            await rig.become(1, 1)
            rig.provider.started[1].end()
            await until(lambda: rig.restarts == 1)
            await until(lambda: rig.states() == {"local-0": "ready", "local-1": "standby"})
            assert rig.restarts == 1

    async def test_start_up_is_measured_from_the_order_to_the_first_traffic(self) -> None:
        """Unknown before the first; a wake-up is none."""
        async with rigged(0) as rig:
            assert math.isnan(rig.supervisor.start_up_s)
            await rig.become(1, 1)
            assert rig.supervisor.start_up_s > 0
            await rig.become(2)
            assert rig.arrived == ["start", "standby"]

    async def test_stopping_ends_those_on_standby_and_those_that_drain_as_well(self) -> None:
        """No process is left over."""
        async with rigged(3) as rig:
            rig.work = {"local-0": 9, "local-1": 9, "local-2": 9}
            await rig.become(1, 1)
        assert [replica.stopped_with for replica in rig.provider.started] == [7.0] * 3


class Hasty(FakeProvider):
    """Starts take a moment, and fail when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False

    async def start(self, name: str) -> FakeReplica:
        await asyncio.sleep(0)
        if self.failing:
            raise SetupError("no memory")
        await asyncio.sleep(0)
        return await super().start(name)

    @property
    def living(self) -> list[FakeReplica]:
        return [each for each in self.started if not each.is_over]


STEPS = st.one_of(
    st.tuples(st.just("become"), st.integers(0, 4), st.integers(0, 2)),
    st.tuples(st.just("die"), st.integers(0, 9)),
    st.tuples(st.just("busy"), st.integers(0, 5), st.sampled_from([0, 9])),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 8)),
)


async def take(step: tuple[Any, ...], rig: Rig, provider: Hasty) -> None:
    match step:
        case ("become", planned, standby):
            await rig.supervisor.scale_to(planned, standby, "a test")
        case ("die", number) if provider.living:
            provider.living[number % len(provider.living)].end()
        case ("busy", number, tokens):
            rig.work[f"local-{number}"] = tokens
        case ("fail", failing):
            provider.failing = failing
        case ("wait", turns):
            for _ in range(turns):
                await asyncio.sleep(0)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_in_which_order_the_number_that_is_wanted_lives_in_the_end(
    steps: list[tuple[Any, ...]],
) -> None:
    """Plans that change, deaths while replicas start, serve, drain and end, starts that fail: none
    is forgotten, none is started twice, and nothing outlives the stop.
    """

    async def happen() -> None:
        provider = Hasty()
        rig = Rig(provider)
        wanted = (0, 0)
        async with running(rig.supervisor.run()):
            for step in steps:
                await take(step, rig, provider)
                wanted = step[1:] if step[0] == "become" else wanted
            provider.failing, rig.work = False, {}
            expected = ["ready"] * wanted[0] + ["standby"] * wanted[1]
            await until(
                lambda: (
                    sorted(rig.states().values()) == expected
                    and len(provider.living) == len(expected)
                )
            )
            assert (rig.supervisor.planned, rig.supervisor.standby) == wanted
            await rig.supervisor.stop(7.0)
            assert provider.living == []

    asyncio.run(happen())


class TestAsTarget(TargetConformance):
    """What the autoscaler relies on."""

    @pytest.fixture
    async def target(self) -> AsyncIterator[Supervisor]:
        async with rigged(2) as rig:
            yield rig.supervisor


class TestStandby:
    async def test_it_is_started_and_verified_and_gets_no_traffic(self) -> None:
        """Beside those that do."""
        async with rigged(1) as rig:
            await rig.become(1, 2)
            assert sorted(rig.states().values()) == ["ready", "standby", "standby"]
            assert (rig.supervisor.planned, rig.supervisor.standby) == (1, 2)

    async def test_growth_wakes_it_and_replaces_it(self) -> None:
        """By way of the golden vectors; a new one is started for the next time."""
        async with rigged(1) as rig:
            await rig.become(1, 1)
            await rig.become(2, 1)
            assert rig.states() == {"local-0": "ready", "local-1": "ready", "local-2": "standby"}

    async def test_what_leaves_traffic_fills_it_once_its_texts_are_done(self) -> None:
        """The process stays."""
        async with rigged(2) as rig:
            rig.work = {"local-0": 9, "local-1": 3}
            await rig.become(1, 1)
            assert rig.states() == {"local-0": "ready", "local-1": "draining"}
            rig.work["local-1"] = 0
            await until(lambda: rig.states() == {"local-0": "ready", "local-1": "standby"})
            assert len(rig.provider.started) == 2

    async def test_it_can_leave_without_ever_having_served(self) -> None:
        """When it is not wanted any more."""
        async with rigged(1) as rig:
            await rig.become(1, 1)
            await rig.become(1, 0)
            assert rig.states() == {"local-0": "ready"}


def test_restarts_wait_longer_each_time_up_to_a_ceiling() -> None:
    """A model that can't load must not keep a processor busy failing."""
    backoff = Backoff(0.5, 30.0)

    assert [backoff.after(ends) for ends in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
