"""The loop that looks at replicas, with replicas that are functions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.health import WRONG_GLANCES, Expected
from embedfleet.fleet.prober import Prober
from embedfleet.fleet.states import Event
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import (
    DrainingError,
    LoadingReplicaError,
    ModelError,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
)
from tests.fleet.test_health import DESCRIPTION, EXPECTED
from tests.loops import running, settle

S = ReplicaState


class FakeContact:
    """A replica that answers what the test says."""

    def __init__(self) -> None:
        self.description: ReplicaDescription | None = DESCRIPTION
        self.wrong = ""
        self.stuck = False
        self.refuses = False
        """Whether it answers 429 to whatever it is to compute."""
        self.error: BaseException | None = None
        self.glances = 0
        self.fleet = Fleet()

    async def describe(self, url: str) -> ReplicaDescription:
        if url != "http://a":
            return DESCRIPTION
        if self.description is None:
            raise ReplicaError("connection refused")
        return self.description

    async def expected(self, url: str, description: ReplicaDescription) -> Expected:
        if self.error is not None and url == "http://a":
            raise self.error
        return EXPECTED

    async def touch(self, url: str) -> int:
        if self.stuck and url == "http://a":
            await asyncio.sleep(3600)
        if self.error is not None and url == "http://a":
            raise self.error
        if self.refuses and url == "http://a":
            raise DrainingError("too many", retry_after_s=0.01)
        return 3

    async def glance(self, url: str) -> str:
        self.glances += url == "http://a"
        return await self.verify(url)

    async def verify(self, url: str) -> str:
        if self.stuck and url == "http://a":
            await asyncio.sleep(3600)
        if self.error is not None and url == "http://a":
            raise self.error
        if self.refuses and url == "http://a":
            raise DrainingError("too many", retry_after_s=0.01)
        return self.wrong if url == "http://a" else ""


@contextlib.asynccontextmanager
async def watching(
    contact: FakeContact, *, verify_interval_s: float = 0.05, verify_timeout_s: float = 0.05
) -> AsyncIterator[Member]:
    fleet = contact.fleet
    prober = Prober(
        fleet,
        contact,
        interval_s=0.01,
        verify_interval_s=verify_interval_s,
        verify_timeout_s=verify_timeout_s,
        times=Backoff(0.05, 0.05),
    )
    for name in ("b", "c"):
        fleet.add(name, f"http://{name}", time.monotonic())
    async with running(prober.run()):
        yield fleet.add("a", "http://a", time.monotonic())


async def becomes(member: Member, state: ReplicaState) -> None:
    async with asyncio.timeout(60):
        while member.state is not state:
            await asyncio.sleep(0.002)


async def test_a_replica_gets_traffic_after_its_vectors_were_found_right() -> None:
    """starting, verifying, ready."""
    async with watching(FakeContact()) as member:
        await becomes(member, S.READY)

        assert member.description is DESCRIPTION


async def test_wrong_vectors_keep_a_replica_out_until_they_are_right() -> None:
    """With the reason, and tried again after a while."""
    contact = FakeContact()
    contact.wrong = "cosine 0.2: other weights"
    async with watching(contact) as member:
        await becomes(member, S.EJECTED)
        assert member.reason == "cosine 0.2: other weights"

        contact.wrong = ""
        await becomes(member, S.READY)


async def test_a_replica_that_never_gives_its_golden_vectors_is_ejected() -> None:
    """One that was stopped while it was verified must not hang there for ever."""
    contact = FakeContact()
    contact.stuck = True
    async with watching(contact) as member:
        await becomes(member, S.EJECTED)
        assert "no golden vectors within 0.05 s" in member.reason

        contact.stuck = False
        await becomes(member, S.READY)


async def test_a_replica_that_goes_on_after_it_hung_is_asked_again_within_its_trial() -> None:
    """It never answers what it was asked while it hung, and its trial may take minutes."""

    class Forgetful(FakeContact):
        asked = 0

        async def verify(self, url: str) -> str:
            if url == "http://a":
                self.asked += 1
                if self.asked == 1:
                    await asyncio.Event().wait()
            return ""

    contact = Forgetful()
    async with watching(contact, verify_timeout_s=8.0) as member:  # 2 s to the second question
        await becomes(member, S.READY)
        assert contact.asked >= 2
        assert member.ejections == 0


async def test_vectors_that_become_wrong_in_traffic_are_noticed() -> None:
    """The golden vectors are asked for again from time to time."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.wrong = "cosine 0.9"
        await becomes(member, S.EJECTED)


async def test_a_replica_that_stops_answering_is_ejected_and_comes_back() -> None:
    """Suspect after one missed look, ejected after two, verified anew when it answers."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.description = None
        await becomes(member, S.EJECTED)
        assert "connection refused" in member.reason

        contact.description = DESCRIPTION
        await becomes(member, S.READY)


async def test_another_model_behind_the_same_address_gets_no_traffic() -> None:
    """An engine that changes its model behind our back."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.description = msgspec.structs.replace(DESCRIPTION, revision="other")
        await becomes(member, S.EJECTED)

        assert "revision is other" in member.reason


async def test_a_replica_that_drains_is_asked_again_later() -> None:
    """Its successor may answer at the same address."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.description = msgspec.structs.replace(DESCRIPTION, draining=True)
        await becomes(member, S.DRAINING)

        contact.description = DESCRIPTION
        await becomes(member, S.READY)


async def test_a_replica_that_is_known_to_go_is_not_given_another_chance() -> None:
    """A third-party engine answers its probes to the end; traffic would come back to it."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        member.leaving.add("autoscaler")
        contact.description = msgspec.structs.replace(DESCRIPTION, draining=True)
        await becomes(member, S.DRAINING)
        contact.description = DESCRIPTION
        await settle(0.2)  # several times as long as a drain lasts here

        assert member.state is S.DRAINING


async def test_a_replica_that_is_to_go_before_it_served_gets_no_traffic() -> None:
    """It was chosen while it was starting; its vectors are found right afterwards."""
    async with watching(FakeContact()) as member:
        member.leaving.add("autoscaler")
        await becomes(member, S.DRAINING)
        await settle(0.1)
        assert member.state is S.DRAINING


async def test_a_full_disk_does_not_end_the_probing() -> None:
    """The model's files are fetched here; a replica that serves is one that was not looked at."""
    contact = FakeContact()
    contact.error = OSError(errno.ENOSPC, "No space left on device")
    async with watching(contact) as member:
        await settle(0.05)
        assert member.state is S.STARTING

        contact.error = None
        await becomes(member, S.READY)
        contact.error = OSError(errno.ENOSPC, "No space left on device")
        await becomes(member, S.EJECTED)
        assert "No space left" in member.reason


class PanicException(BaseException):
    """As libraries in Rust raise it: no Exception."""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), RecursionError("1,000 lists"), PanicException("a panic")]
)
async def test_a_watch_survives_whatever_a_probe_raises(error: BaseException) -> None:
    """It counts as a missed look; a watch that ended would leave the replica ready for ever."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.error = error
        await becomes(member, S.EJECTED)
        assert type(error).__name__ in member.reason

        contact.error = None
        await becomes(member, S.READY)


async def test_a_replica_that_is_kept_in_reserve_goes_on_standby_once_its_vectors_are_right() -> (
    None
):
    """It is looked at like any other, and never gets traffic by itself."""
    contact = FakeContact()
    async with watching(contact) as member:
        member.reserve = True
        await becomes(member, S.STANDBY)
        await settle(0.1)
        assert member.state is S.STANDBY

        contact.description = None
        await becomes(member, S.EJECTED)
        contact.description = DESCRIPTION
        await becomes(member, S.STANDBY)


async def test_who_is_woken_is_verified_at_once_and_serves() -> None:
    """Not at the next look, however far away that is."""
    fleet, contact = Fleet(), FakeContact()
    prober = Prober(fleet, contact, interval_s=30.0, verify_interval_s=60, verify_timeout_s=5)
    member = fleet.add("a", "http://a", time.monotonic())
    member.reserve = True
    fleet.apply(member, Event.ANSWERED, 0.0)
    async with running(prober.run()):
        await becomes(member, S.STANDBY)
        await settle()

        member.reserve = False
        fleet.apply(member, Event.WOKEN, 0.0)
        await becomes(member, S.READY)


async def test_a_replica_on_its_way_to_standby_is_left_alone_until_it_is_empty() -> None:
    """Who keeps it says when."""
    fleet, contact = Fleet(), FakeContact()
    prober = Prober(
        fleet,
        contact,
        interval_s=0.01,
        verify_interval_s=60,
        verify_timeout_s=5,
        times=Backoff(0.01, 0.01),
    )
    member = fleet.add("a", "http://a", time.monotonic())
    async with running(prober.run()):
        await becomes(member, S.READY)
        member.reserve = True
        fleet.apply(member, Event.DRAIN, time.monotonic())
        await settle(0.1)
        assert member.state is S.DRAINING


async def test_a_replica_that_does_not_come_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    """In the fleet's table, in the log when it changes, and in other words to clients."""
    contact = FakeContact()
    contact.description = None
    async with watching(contact) as member:
        await settle(0.2)
        assert (member.state, member.reason) == (S.STARTING, "connection refused")
        assert member.trouble == "what answers at its address is not a replica"
        lines = [line for line in caplog.messages if "replica a is not available" in line]
        assert lines == ["replica a is not available: connection refused"]

        contact.description = DESCRIPTION
        await becomes(member, S.READY)
        assert member.trouble == ""


async def test_a_replica_that_loads_its_model_is_no_trouble_for_the_first_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is what every start looks like: callers are told, and nobody is warned."""
    contact = FakeContact()
    contact.error = LoadingReplicaError("http://a answers 503: it is still starting")
    async with watching(contact) as member:
        async with asyncio.timeout(60):
            while not member.reason:
                await asyncio.sleep(0.002)
        assert member.reason == "http://a answers 503: it is still starting"
        assert member.trouble == "it is still starting"
        contact.error = None
        await becomes(member, S.READY)
    assert not [line for line in caplog.messages if "replica a is not available" in line]


async def test_a_replica_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Its words are one line, without a terminal's escapes, and not without end."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.error = ReplicaError("x)\n03:00:00 CRITICAL \x1b[31mforged\u2028" + "y" * 10_000)
        await becomes(member, S.EJECTED)

    assert len(member.reason) <= 500
    assert all(line.isprintable() for line in caplog.messages)


async def test_what_waiting_does_not_mend_is_ejected_with_its_reason() -> None:
    """Golden vectors of another model, another version of the wire, a damaged file."""
    contact = FakeContact()
    contact.error = ModelError("golden.safetensors is damaged")
    async with watching(contact) as member:
        await becomes(member, S.EJECTED)
        assert member.reason == "golden.safetensors is damaged"
        assert member.trouble == "it does not fit its pool"


async def test_a_replica_that_hangs_behind_a_living_server_gets_no_traffic() -> None:
    """It describes itself well; its oldest batch and its failed trials tell."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.description = msgspec.structs.replace(
            DESCRIPTION, oldest_batch_s=9.0, oldest_batch_predicted_s=0.1
        )
        await becomes(member, S.EJECTED)
        await becomes(member, S.STARTING)
        await settle(0.1)
        assert "oldest batch" in member.reason
        assert member.state is S.STARTING


async def test_probes_go_on_while_golden_vectors_are_computed() -> None:
    """A replica that drains meanwhile is noticed."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.stuck = True
        await settle(0.06)
        contact.description = msgspec.structs.replace(DESCRIPTION, draining=True)
        await becomes(member, S.DRAINING)


async def test_after_a_failed_call_a_trial_decides() -> None:
    """A second failure of another kind is proof."""
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.stuck = True
        contact.fleet.failed(member, time.monotonic(), "a hedge was lost")
        await becomes(member, S.EJECTED)
        assert "no golden vectors" in member.reason


async def test_a_replica_with_too_much_to_do_for_a_check_has_not_failed_it() -> None:
    """A new one is asked again later; one in traffic stays, as its calls decide."""
    contact = FakeContact()
    contact.refuses = True
    async with watching(contact) as member:
        await becomes(member, S.DRAINING)
        assert member.reason == "verification failed: too many"
        assert member.ejections == 0
        contact.refuses = False
        await becomes(member, S.READY)
        contact.refuses = True
        async with asyncio.timeout(60):
            while not member.failing_checks:
                await asyncio.sleep(0.002)
        assert member.state is S.READY


async def test_an_idle_replica_that_hangs_is_found_out_while_others_answer() -> None:
    """No text would show it before it waits there; looks are answered by another thread."""
    contact = FakeContact()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        contact.stuck = True
        async with asyncio.timeout(60):
            while member.state is S.READY:
                contact.fleet.succeeded(contact.fleet["b"], time.monotonic())
                await asyncio.sleep(0.01)
        assert member.reason == "no vector of a short text within 0.05 s"


async def test_an_idle_replica_is_touched_and_measured_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedfleet.fleet.prober.IDLE_S", 0.02)
    contact = FakeContact()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        async with asyncio.timeout(60):
            while not member.measured.known:
                contact.fleet.succeeded(contact.fleet["b"], time.monotonic())
                await asyncio.sleep(0.002)
        assert member.state is S.READY
        assert member.measured.works[-1].tokens == 3


async def test_wrong_vectors_amid_traffic_are_found_long_before_the_next_golden_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica without traffic is left alone: its next golden check is early enough."""
    monkeypatch.setattr("embedfleet.fleet.prober.GLANCE_S", 0.02)
    contact = FakeContact()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        await settle(0.1)
        assert not contact.glances
        contact.wrong = "cosine 0.2: it confuses its answers"
        async with asyncio.timeout(30):
            while member.state is S.READY:
                contact.fleet.succeeded(member, time.monotonic())
                await asyncio.sleep(0.002)
        assert (member.state, member.reason) == (S.EJECTED, contact.wrong)

        contact.wrong = ""
        await becomes(member, S.READY)


@pytest.mark.parametrize("every", [2, 7, 20, 64])
async def test_an_engine_that_errs_now_and_then_is_not_readmitted_by_one_right_answer(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be in traffic nearly all the time."""
    monkeypatch.setattr("embedfleet.fleet.prober.GLANCE_S", 0.001)
    contact = Erring(every)
    entered: list[ReplicaState] = []
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        async with asyncio.timeout(60):
            while member.state is S.READY:
                contact.fleet.succeeded(member, time.monotonic())
                await asyncio.sleep(0.002)
            contact.fleet.listen(lambda _member, _left: entered.append(member.state))
            while contact.calls < 4 * every + 20:
                await asyncio.sleep(0.002)
        assert entered.count(S.VERIFYING) > 1
        assert S.READY not in entered

        contact.every, before = 1_000_000, contact.glances
        await becomes(member, S.READY)
        assert contact.glances - before >= WRONG_GLANCES - every
        assert not member.conduct.wrong


class Erring(FakeContact):
    """A replica that gives one wrong answer in so many."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.calls = every, 0

    async def verify(self, url: str) -> str:
        self.calls += url == "http://a"
        wrong = url == "http://a" and self.calls % self.every == 0
        return "cosine 0.2: it confuses its answers" if wrong else ""


@pytest.mark.parametrize("trouble", ["stuck", "refuses", "error"])
async def test_a_glance_that_brings_no_vectors_is_of_no_consequence(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load it may wait for long; calls and golden checks tell of a replica that is ill."""
    monkeypatch.setattr("embedfleet.fleet.prober.GLANCE_S", 0.02)
    contact = Unseen()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        contact.trouble = trouble
        async with asyncio.timeout(30):
            while contact.glances < 3:
                contact.fleet.succeeded(member, time.monotonic())
                await asyncio.sleep(0.002)
        assert (member.state, member.reason) == (S.READY, "its vectors are verified")
        assert not member.failing_checks


class Unseen(FakeContact):
    """A replica that glances alone do not reach."""

    trouble = ""

    async def glance(self, url: str) -> str:
        self.glances += url == "http://a"
        if self.trouble == "stuck":
            await asyncio.sleep(3600)
        if self.trouble == "refuses":
            raise DrainingError("too many", retry_after_s=0.01)
        if self.trouble == "error":
            raise ReplicaLostError("it broke off")
        return ""


async def test_every_change_of_a_replica_within_a_minute_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else the last line of the log would be that it is gone."""
    caplog.set_level("INFO")
    contact = FakeContact()
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.description = None
        await becomes(member, S.EJECTED)
        contact.description = DESCRIPTION
        await becomes(member, S.READY)
    told = [line.split(":")[0] for line in caplog.messages if line.startswith("replica a is")]
    states = ["verifying", "ready", "ejected", "starting", "verifying", "ready"]
    assert [each for each in told if not each.endswith("suspect")] == [
        f"replica a is {state}" for state in states
    ]


async def test_a_replica_far_slower_than_its_peers_is_ejected_if_others_can_take_its_work() -> None:
    contact = FakeContact()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        for name in ("b", "c"):
            await becomes(contact.fleet[name], S.READY)
        contact.description = msgspec.structs.replace(DESCRIPTION, cost=(1.0, 0.1, 0.0))
        await becomes(member, S.EJECTED)
        assert "times slower than similar replicas" in member.reason


async def test_a_slow_replica_that_can_not_be_spared_is_left_as_it_is() -> None:
    """Suspect it would get no texts while another is ready, and be acquitted by the next one."""
    contact, seen = FakeContact(), list[ReplicaState]()
    async with watching(contact, verify_interval_s=1000) as member:
        await becomes(member, S.READY)
        for name in ("b", "c"):
            await becomes(contact.fleet[name], S.READY)
            contact.fleet.apply(contact.fleet[name], Event.REFUSED, time.monotonic())
        contact.fleet.listen(
            lambda each, _left: seen.append(each.state) if each is member else None
        )
        contact.description = msgspec.structs.replace(DESCRIPTION, cost=(1.0, 0.1, 0.0))
        await settle(0.03)
        assert S.SUSPECT not in seen


class BusyContact(FakeContact):
    """A replica whose calls are answered between any two checks of it."""

    def __init__(self, failing: str, error: Callable[[], BaseException]) -> None:
        super().__init__()
        self.failing, self.next_error = failing, error
        self.well = True
        self.failures = 0

    def _check(self, check: str, url: str) -> None:
        if url != "http://a":
            return
        if self.fleet["a"].state is S.READY:
            self.fleet.succeeded(self.fleet["a"], time.monotonic())
        if check == self.failing and not self.well:
            self.failures += 1
            raise self.next_error()

    async def describe(self, url: str) -> ReplicaDescription:
        self._check("describe", url)
        return await super().describe(url)

    async def expected(self, url: str, description: ReplicaDescription) -> Expected:
        self._check("expected", url)
        return await super().expected(url, description)

    async def verify(self, url: str) -> str:
        self._check("verify", url)
        return await super().verify(url)

    async def failed(self, more: int) -> None:
        enough = self.failures + more
        async with asyncio.timeout(60):
            while self.failures < enough:
                await asyncio.sleep(0.002)


WRONG: dict[str, Callable[[], BaseException]] = {
    "nonsense": lambda: ReplicaError("what it says of itself is no JSON"),
    "lost": lambda: ReplicaLostError("the answer ended in the middle"),
    "a bug": lambda: RecursionError("too deep"),
    "a panic": lambda: BaseException("a library in Rust panicked"),
    "no room": lambda: OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("failing", ["describe", "expected", "verify"])
@pytest.mark.parametrize("kind", WRONG)
async def test_checks_that_fail_while_calls_are_answered_are_reported_and_eject_no_replica(
    failing: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the fleet's table and in the log, once a minute; and it is told when that is over."""
    contact = BusyContact(failing, WRONG[kind])
    async with watching(contact, verify_interval_s=0.02) as member:
        await becomes(member, S.READY)
        contact.well = False
        await contact.failed(6)

        assert (member.state, member.reason) == (S.READY, "its vectors are verified")
        check = "golden check" if failing == "verify" else "probe"
        assert list(member.failing_checks) == [check]
        assert member.explained.startswith(
            f"its vectors are verified, but it fails checks ({check}: "
        )
        (line,) = [each for each in caplog.messages if "stays ready" in each]
        assert f"replica a fails its {check}" in line

        contact.well = True
        with caplog.at_level("INFO"):
            async with asyncio.timeout(60):
                while member.failing_checks:
                    await asyncio.sleep(0.002)
        assert member.explained == "its vectors are verified"
        assert f"replica a passes its {check} again" in caplog.messages


async def test_checks_that_fail_with_another_message_each_time_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a replica says is not trusted: a few lines a minute, and the last words in the table."""
    numbers = itertools.count()
    contact = BusyContact("describe", lambda: ReplicaError(f"answer {next(numbers)}"))
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.well = False
        await contact.failed(12)

        told = member.failing_checks["probe"]
        assert int(told.removeprefix("answer ")) >= 8
    lines = [each for each in caplog.messages if "stays ready" in each]
    assert 1 <= len(lines) <= 3


async def test_a_probe_that_is_missed_once_is_no_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A busy machine misses one; as many in a row as would eject an idle replica are told."""
    contact = BusyContact("describe", WRONG["lost"])
    async with watching(contact) as member:
        await becomes(member, S.READY)
        contact.well = False
        await contact.failed(1)
        contact.well = True
        async with asyncio.timeout(60):
            while member.failing_checks:
                await asyncio.sleep(0.002)
    assert not [each for each in caplog.messages if "stays ready" in each]
