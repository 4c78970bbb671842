"""The loop that keeps a pool at the wanted number, with a pool and a target that are fakes."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.autoscaling import Entry, Mode, Observation, Scaler
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.vocabulary import CallerError, EmbedfleetError, SettingError, SetupError
from tests.conformance.scaling_conformance import ObservationSourceConformance, TargetConformance
from tests.loops import settle

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
V = 10_000.0
"""What a replica of these tests can do, tokens per second."""
SETTINGS = AutoscalingSettings(
    min_replicas=1, max_replicas=8, tick_s=5.0, target_utilisation=0.6, down_cooldown_s=600.0
)
"""As an operator sets them: what traffic teaches is left out here."""


class FakeTarget:
    """Orders are noted; replicas are ready when the test says so."""

    def __init__(self, planned: int = 2) -> None:
        self.planned = planned
        self.standby = 0
        self.start_up_s = 30.0
        self.orders: list[tuple[int, int, str]] = []
        self.error: Exception | None = None

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        if self.error is not None:
            raise self.error
        self.orders.append((planned, standby, reason))
        self.planned, self.standby = planned, standby


class FakeSource:
    """A healthy pool with as much traffic as the test says; all that is planned is ready."""

    def __init__(self, target: FakeTarget, rate: float = 0.0) -> None:
        self.target = target
        self.rate = rate
        self.changed: dict[str, Any] = {}
        self.error: BaseException | None = None

    async def observe(self, now: float) -> Observation:
        if self.error is not None:
            raise self.error
        seen = Observation(
            now,
            ready=self.target.planned,
            arriving_fast=self.rate,
            arriving_slow=self.rate,
            waiting_tokens=0.0,
            tokens_per_s=V,
        )
        return replace(seen, **self.changed)


class TestFakeTarget(TargetConformance):
    """The fake is held to what the real ones are."""

    @pytest.fixture
    def target(self) -> FakeTarget:
        return FakeTarget(planned=2)


class TestFakeSource(ObservationSourceConformance):
    """The fake is held to what the real ones are."""

    @pytest.fixture
    def source(self) -> FakeSource:
        return FakeSource(FakeTarget())


class Rig:
    """A scaler, what it works with, and a clock that the test turns."""

    def __init__(self, settings: AutoscalingSettings = SETTINGS, planned: int = 2) -> None:
        self.target = FakeTarget(planned)
        self.source = FakeSource(self.target)
        self.entries: list[Entry] = []
        self.scaler = Scaler(
            "p", self.source, self.target, settings, on_decision=self.entries.append
        )
        self.now = 0.0

    async def tick(self, after_s: float = 5.0) -> Entry:
        self.now += after_s
        return await self.scaler.tick(self.now, START + timedelta(seconds=self.now))

    async def through(self, seconds: float) -> None:
        for _ in range(round(seconds / 5.0)):
            await self.tick()


async def test_traffic_that_grows_is_followed_and_what_goes_is_let_go_slowly() -> None:
    """Up at once, down after the quiet window, in small steps, to the fewest."""
    rig = Rig()
    rig.source.rate = 3 * V
    entry = await rig.tick()
    assert (entry.ordered, entry.decision.winner) == (5, "reserve")
    assert rig.target.planned == 5

    rig.source.rate = 0.0
    await rig.through(590)
    assert rig.target.planned == 5
    # The memory of the peak fades within hours.
    await rig.through(6 * 3600)
    assert rig.target.planned == 1
    assert [planned for planned, _, _ in rig.target.orders] == [5, 4, 3, 2, 1]


async def test_a_step_down_is_not_taken_back_while_who_goes_still_serves() -> None:
    """In a cluster he is ready for minutes yet: the number that was ordered counts."""
    rig = Rig(planned=8)
    rig.source.rate = 4 * V
    rig.source.changed = {"ready": 8}
    await rig.through(1800)
    assert [planned for planned, _, _ in rig.target.orders] == [7]


async def test_an_order_carries_its_reason() -> None:
    """The target's own log can tell why."""
    rig = Rig()
    rig.source.rate = 3 * V
    await rig.tick()
    assert rig.target.orders == [
        (5, 0, "2 -> 5: reserve asks for 5 (30,000 tokens/s at 60% of ability)")
    ]


async def test_what_is_starting_is_not_ordered_twice() -> None:
    """Replicas on their way are credited: planned, and not ready yet."""
    rig = Rig()
    rig.source.rate = 3 * V
    rig.source.changed = {"ready": 2}
    await rig.through(60)
    assert len(rig.target.orders) == 1
    last = rig.scaler.journal.last
    assert last is not None
    assert (last.seen.ready, last.seen.starting) == (2, 3)


async def test_standby_is_ordered_beside_as_far_as_there_is_room() -> None:
    """Ready and standby together never pass the most replicas."""
    rig = Rig(replace(SETTINGS, standby=3))
    await rig.tick()
    assert (rig.target.planned, rig.target.standby) == (2, 3)
    rig.scaler.pin(7)
    await rig.tick()
    assert (rig.target.planned, rig.target.standby) == (7, 1)


async def test_the_schedule_holds_by_the_clock_on_the_wall() -> None:
    """A floor in some zone is met before its window starts: by a start-up time and a tick."""
    window = "mon 10:01-12:00 Europe/Berlin min=4"  # 09:01 in UTC
    rig = Rig(replace(SETTINGS, schedule=(window,)), planned=1)
    assert (await rig.tick(20.0)).decision.winner == "minimum"
    entry = await rig.tick(10.0)
    assert (entry.decision.winner, entry.ordered) == ("schedule", 4)


async def test_a_full_host_gets_no_further_replica() -> None:
    """It would end others; what is there stays."""
    rig = Rig()
    rig.source.rate = 3 * V
    rig.source.changed = {"memory_used": (0.95,)}
    entry = await rig.tick()
    assert (entry.decision.winner, entry.ordered) == ("memory", 2)
    assert rig.target.orders == []


class TestDoubt:
    @pytest.mark.parametrize(
        ("error", "complaint"),
        [
            (EmbedfleetError("no gateway answers"), "no observation: no gateway answers"),
            (ZeroDivisionError("a bug"), "the decision failed: ZeroDivisionError('a bug')"),
        ],
    )
    async def test_a_source_that_fails_holds_and_says_why(
        self, error: Exception, complaint: str
    ) -> None:
        """And the loop goes on with the next tick."""
        rig = Rig(planned=4)
        rig.source.error = error
        entry = await rig.tick()
        assert entry.decision.held
        assert entry.decision.reason == f"held: {complaint}"
        assert rig.target.orders == []

        rig.source.error = None
        assert not (await rig.tick()).decision.held

    @pytest.mark.parametrize("ready", [math.nan, math.inf, -math.inf, -1.0, 1e300])
    async def test_an_invalid_number_of_ready_replicas_holds(self, ready: float) -> None:
        """It is not mistaken for those that were ordered."""
        rig = Rig()
        rig.source.changed = {"ready": ready}
        entry = await rig.tick()
        assert entry.decision.reason.startswith("held: ready is")

    async def test_a_source_that_never_answers_is_given_up(self) -> None:
        """After as long as signals would be stale."""
        rig = Rig(replace(SETTINGS, stale_s=0.01, tick_s=0.01))

        async def wait(now: float) -> Observation:
            await asyncio.sleep(3600)
            raise AssertionError

        rig.source.observe = wait  # type: ignore[method-assign]
        assert (await rig.tick()).decision.reason == "held: no observation within 0.01 s"

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    *("ready", "arriving_fast", "arriving_slow", "waiting_tokens"),
                    *("tokens_per_s", "latency_p99_s", "utilisation", "age_s"),
                ]
            ),
            st.one_of(
                st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300])
            ),
        )
    )
    async def test_no_signal_however_absurd_ends_the_loop(self, absurd: dict[str, float]) -> None:
        """What comes out is within the bounds, whatever went in."""
        rig = Rig()
        rig.source.changed = absurd
        for _ in range(3):
            entry = await rig.tick()
            assert 1 <= entry.ordered <= 8 or entry.decision.held
        assert 1 <= rig.target.planned <= 8

    async def test_the_fewest_are_ordered_though_nothing_is_known(self) -> None:
        """A Deployment of none has no replica that says how fast it is, and would have none for
        ever."""
        rig = Rig(replace(SETTINGS, min_replicas=2), planned=0)
        rig.source.changed = {"tokens_per_s": math.nan}
        entry = await rig.tick()
        assert entry.decision.held
        assert rig.target.planned == 2

        rig.target.planned = 5
        await rig.through(60)
        assert rig.target.planned == 5

    async def test_a_number_of_none_that_was_set_by_hand_is_left_at_once(self) -> None:
        """Also where the host's memory is full, as a start of the service does not ask for it."""
        rig = Rig()
        rig.scaler.pin(0)
        await rig.through(60)
        assert rig.target.planned == 0
        rig.source.changed = {"memory_used": (0.99,)}
        rig.source.rate = 3 * V
        rig.scaler.resume()
        entry = await rig.tick()
        assert (rig.target.planned, entry.decision.winner) == (1, "memory")

    async def test_an_order_that_fails_is_tried_again(self) -> None:
        """It is told, counts as one decision however often, and is no growth that happened."""
        rig = Rig()
        rig.target.error = SetupError("the API server says 409")
        rig.source.rate = 3 * V
        entries = [await rig.tick() for _ in range(30)]
        assert {entry.trouble for entry in entries} == {"the API server says 409"}
        assert len(rig.scaler.journal) == 1

        rig.target.error = None
        await rig.tick()
        assert rig.target.planned == 5

    async def test_a_target_that_refuses_is_logged_once_for_each_reason(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Every five seconds would hide the rest."""
        rig = Rig()
        rig.source.rate = 3 * V
        for reason in ("another autoscaler owns it", "the API server says 503"):
            rig.target.error = SetupError(reason)
            await rig.through(60)
        assert [record.message for record in caplog.records] == [
            "pool p: can't scale to 5 replicas: another autoscaler owns it",
            "pool p: can't scale to 5 replicas: the API server says 503",
        ]


class TestByHand:
    async def test_paused_it_decides_and_orders_nothing(self) -> None:
        """What it would do is told."""
        rig = Rig()
        rig.scaler.pause()
        rig.source.rate = 3 * V
        entry = await rig.tick()
        assert (entry.mode, entry.decision.planned, entry.ordered) == (Mode.PAUSED, 5, 2)
        assert rig.target.orders == []

    async def test_what_was_not_ordered_while_it_was_paused_does_not_slow_it_later(self) -> None:
        """The pace counts what was ordered, not what would have been."""
        rig = Rig(replace(SETTINGS, max_replicas=64, up_most=4.0))
        rig.scaler.pause()
        rig.source.rate = 12 * V
        await rig.through(30)
        rig.scaler.resume()
        assert (await rig.tick()).ordered == 10  # one minute allows four times as many more

    async def test_a_number_set_by_hand_holds_until_it_is_resumed(self) -> None:
        """Against what traffic asks for, in both directions."""
        rig = Rig()
        rig.scaler.pin(7)
        await rig.through(3600)
        assert rig.target.planned == 7
        rig.scaler.pin(1)
        rig.source.rate = 3 * V
        await rig.through(600)
        assert rig.target.planned == 1
        assert rig.scaler.journal.last is not None
        assert rig.scaler.journal.last.mode is Mode.PINNED

        rig.scaler.resume()
        await rig.tick()
        assert rig.target.planned == 5

    @pytest.mark.parametrize("count", [-1, 9, 10**9])
    def test_a_number_out_of_bounds_is_refused(self, count: int) -> None:
        """With the bounds and where they are set."""
        rig = Rig()
        with pytest.raises(CallerError, match=r"takes 0 to 8 \(pools.max_replicas"):
            rig.scaler.pin(count)
        assert rig.scaler.mode is Mode.AUTOMATIC

    async def test_what_a_person_says_is_done_at_once(self) -> None:
        """Not at the next tick, which may be a minute away."""
        rig = Rig(replace(SETTINGS, tick_s=29.0))
        loop = asyncio.create_task(rig.scaler.run())
        await settle(0.01)
        rig.scaler.pin(6)
        async with asyncio.timeout(60):
            while rig.target.planned != 6:
                await asyncio.sleep(0.001)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


class TestJournal:
    async def test_decisions_that_repeat_are_one_entry(self) -> None:
        """With how often and since when; a change stays an entry of its own."""
        rig = Rig(replace(SETTINGS, up_most=4.0), planned=1)
        await rig.through(50)
        rig.source.rate = 3 * V
        await rig.through(50)

        quiet, change, paced, after = rig.scaler.journal
        assert (quiet.times, quiet.since, quiet.at) == (
            10,
            START + timedelta(seconds=5),
            START + timedelta(seconds=50),
        )
        assert (change.seen.planned, change.ordered, change.times) == (1, 5, 1)
        assert (paced.decision.winner, paced.ordered, paced.times) == ("pace", 5, 5)
        assert (after.decision.winner, after.ordered, after.times) == ("reserve", 5, 4)
        assert len(rig.entries) == 20

    async def test_keeps_the_last_200_entries(self) -> None:
        """Two hundred entries, the last ones."""
        rig = Rig()
        for number in range(500):
            rig.scaler.pin(1 + number % 8)
            await rig.tick()
        assert len(rig.scaler.journal) == 200

    async def test_changes_are_logged_with_their_reason_and_doubt_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An operator reads the log first."""
        caplog.set_level("INFO")
        rig = Rig()
        rig.source.error = EmbedfleetError("no gateway answers")
        await rig.through(30)
        rig.source.error = None
        rig.source.rate = 3 * V
        await rig.through(30)
        assert [record.message for record in caplog.records] == [
            "pool p: autoscaling is held: no observation: no gateway answers",
            "pool p: metrics are available again; autoscaling resumed",
            "pool p: replicas 2 -> 5: reserve asks for 5 (30,000 tokens/s at 60% of ability)",
        ]


def test_a_schedule_that_can_not_be_read_is_refused_at_the_start() -> None:
    """Not at seven in the morning."""
    with pytest.raises(SettingError, match="is not a time of day such as 07:00"):
        Rig(replace(SETTINGS, schedule=("mon 07:00-25:00 UTC min=2",)))
