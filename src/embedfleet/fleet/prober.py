"""The probing loop: asks replicas to describe themselves, and verifies those in doubt.

A shell around `health.py`: it probes, passes on what it saw, and logs the transitions that follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field

import msgspec

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.contact import Contact
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.health import (
    EJECTION,
    FAILURES,
    IDLE_S,
    MOST_SLOWDOWN,
    SERVING,
    SLOW_PROBES,
    WRONG_GLANCES,
    Expected,
    Sign,
    hung,
    implausible,
    mismatch,
    released,
    slowdown,
    touch_timeout_s,
    trial_repeats,
    trial_timeout_s,
)
from embedfleet.fleet.measured import Work
from embedfleet.fleet.states import Event
from embedfleet.fleet.trials import TrialError, asked, repeated
from embedfleet.runtime.telemetry.log_rate_limit import Repeats
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import (
    EmbedfleetError,
    LoadingReplicaError,
    ReplicaLostError,
    ReplicaState,
    ReplicaUnreachableError,
    ServiceError,
    SetupError,
    UnfitReplicaError,
)

log = logging.getLogger(__name__)

TRIAL_S = 5.0
"""After a failed call a replica is tried at once, and not again for so long."""

LOADING_QUIET_S = 60.0
"""Of a replica that is loading nothing is said for so long."""

LOADING = "it is still starting"

GLANCE_S = 5.0
"""A replica that answers traffic is glanced at so often: two short golden texts are compared. An
engine that confuses its answers would be trusted until the next golden check otherwise."""

PROBE, TRIAL, TOUCH = "probe", "golden check", "short text"
"""Names of the checks of a replica beside its traffic, as logs show them."""

KEPT_OUT = frozenset({ReplicaState.EJECTED, ReplicaState.DRAINING})
"""In these a replica is left alone until its pause is over."""

BAD = frozenset({ReplicaState.EJECTED, ReplicaState.SUSPECT})


@dataclass(slots=True, eq=False)
class _Watch:
    """What belongs to the watch over one replica."""

    tasks: asyncio.TaskGroup
    looking: asyncio.Task[None] | None = None
    trying: asyncio.Task[None] | None = None
    """Computes the golden vectors, while probes go on."""
    tried: float = field(default_factory=time.monotonic)
    """When the last trial began, monotonic seconds."""
    glancing: asyncio.Task[None] | None = None
    """Computes a few of them, while trials and touches go on."""
    glanced: float = field(default_factory=time.monotonic)
    """When the last glance began, monotonic seconds."""
    slow: int = 0
    """Looks in a row at which it was far slower than its like."""
    touched: float = field(default_factory=time.monotonic)
    """When it was touched last."""
    missed: int = 0
    """Consecutive probes that were not answered, whatever its traffic says."""
    proven_s: float | None = None
    """How long its last passed trial took, in seconds; None if it was silent since."""
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have it probed at once."""

    def cancel(self) -> None:
        for task in (self.looking, self.trying, self.glancing):
            if task is not None:
                task.cancel()


class Prober:
    """Watches every member of one fleet."""

    def __init__(
        self,
        fleet: Fleet,
        contact: Contact,
        *,
        interval_s: float,
        verify_interval_s: float,
        verify_timeout_s: float,
        times: Backoff = EJECTION,
        pool: str = "",
        outstanding: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """`pool` is what the log calls the pool; `outstanding` tells the tokens that a replica, by
        name, still has to answer.
        """
        self._outstanding = outstanding
        self._fleet = fleet
        self._contact = contact
        self._interval_s = interval_s
        self._verify_interval_s = verify_interval_s
        self._verify_timeout_s = verify_timeout_s
        self._times = times
        self._pool = pool
        self._tasks: asyncio.TaskGroup | None = None
        self._watches: dict[Member, _Watch] = {}
        self._said = Repeats(burst=1)
        self._told = Repeats()
        """Bounds the lines about one replica whose words differ each time."""
        fleet.listen(self._follow)

    async def run(self) -> None:
        """Watch all replicas of the fleet until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for member in self._fleet:
                self._begin(member, self._tasks)
            await asyncio.Event().wait()

    def _follow(self, member: Member, left: ReplicaState) -> None:
        if self._tasks is None:
            return  # `run` looks who is there
        if left is ReplicaState.GONE:
            self._begin(member, self._tasks)
            return
        if member.state is ReplicaState.GONE:
            self._watches.pop(member).cancel()
            return
        watch = self._watches[member]
        level = logging.WARNING if member.state in BAD else logging.INFO
        # Not `_say`, which limits the rate: every change of state is logged.
        log.log(level, "replica %s %s", self._called(member), f"is {member.state}: {member.reason}")
        if watch.trying is not None and (left not in SERVING or member.state not in SERVING):
            watch.trying.cancel()  # what it finds would be of another time
            watch.trying = None
        if watch.glancing is not None and member.state not in SERVING:
            watch.glancing.cancel()
            watch.glancing = None
        if left in {ReplicaState.STANDBY, ReplicaState.DRAINING}:
            watch.nudge.set()

    def _begin(self, member: Member, tasks: asyncio.TaskGroup) -> None:
        watch = self._watches[member] = _Watch(tasks)
        watch.looking = tasks.create_task(self._watch(member, watch))

    async def _watch(self, member: Member, watch: _Watch) -> None:
        while True:
            before = member.state
            try:
                await self._attend(member, watch)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  a watch does not end
                self._surprised(member, error)
            if member.state is before:
                # A starting replica is probed more often, since its users wait for it.
                share = 0.1 if before is ReplicaState.STARTING else 1.0
                await _rest(watch, self._interval_s * share)

    def _surprised(self, member: Member, error: BaseException) -> None:
        """Count any failure of a probe as a missed one: a watch that ends would leave the
        replica in its state for ever.
        """
        log.error("probing replica %s failed", member.name, exc_info=error)
        self._missed(member, f"probing it failed: {type(error).__name__}", lost=False)

    async def _attend(self, member: Member, watch: _Watch) -> None:
        now = time.monotonic()
        if member.state in KEPT_OUT:
            emptied = member.reserve and member.state is ReplicaState.DRAINING
            if not (member.leaving or emptied) and self._released(member, now):
                self._apply(member, Event.RELEASED, "it is probed again")
            return
        if watch.trying is None and self._to_be_tried(member, watch, now):
            watch.tried = now
            watch.trying = watch.tasks.create_task(self._try(member, watch))
        elif watch.trying is None and self._to_be_touched(member, watch, now):
            watch.touched = now
            watch.trying = watch.tasks.create_task(self._touch(member, watch))
        if watch.glancing is None and self._to_be_glanced_at(member, watch, now):
            watch.glanced = now
            watch.glancing = watch.tasks.create_task(self._glance(member, watch))
        if member.state is ReplicaState.VERIFYING and watch.trying is not None:
            # Most finish soon, and a caller waits for it.
            await asyncio.wait({watch.trying}, timeout=self._interval_s)
            if member.state is not ReplicaState.VERIFYING:
                return
        await self._probe_once(member)

    def _released(self, member: Member, now: float) -> bool:
        return released(
            member.state,
            member.since,
            member.conduct,
            now,
            times=self._times,
            wanted=self._fleet.wanted(member),
        )

    def _to_be_tried(self, member: Member, watch: _Watch, now: float) -> bool:
        """Whether a replica must prove its vectors now."""
        if member.state is ReplicaState.VERIFYING:
            return True
        if member.state is ReplicaState.SUSPECT:
            return self._released(member, now)
        if member.state is ReplicaState.READY:
            pause = TRIAL_S if member.conduct.failures else self._verify_interval_s
            return now - watch.tried >= min(pause, self._verify_interval_s)
        return False

    def _to_be_touched(self, member: Member, watch: _Watch, now: float) -> bool:
        """Whether nothing else would show that a replica hangs."""
        return (
            member.state is ReplicaState.READY
            and now - max(watch.touched, watch.tried) >= IDLE_S
            and self._fleet.idle_beside_others(member, now, IDLE_S)
            and not self._outstanding(member.name)
        )

    def _to_be_glanced_at(self, member: Member, watch: _Watch, now: float) -> bool:
        """Whether it has answered traffic for a while without a look at its vectors."""
        return (
            member.state is ReplicaState.READY
            and now - max(watch.glanced, watch.tried) >= GLANCE_S
            and member.answered_at > watch.glanced
        )

    async def _probe_once(self, member: Member) -> None:
        try:
            description = await self._contact.describe(member.url)
            expected = await self._contact.expected(member.url, description)
        except (UnfitReplicaError, SetupError) as error:  # waiting does not mend it
            member.trouble = "it does not fit its pool"
            self._apply(member, Event.REFUSED, error.message)
            return
        except EmbedfleetError as error:
            lost = isinstance(error, ReplicaUnreachableError)
            member.trouble = _for_clients(error)
            self._missed(member, error.message, lost=lost)
            return
        except OSError as error:  # no room for the model's files, no file left to open
            self._missed(member, str(error), lost=False)
            return
        member.description, member.silent_since, member.trouble = description, None, ""
        self._watches[member].missed = 0
        self._passed(member, PROBE)
        self._seen(member, description, expected)

    def _seen(self, member: Member, description: ReplicaDescription, expected: Expected) -> None:
        now = time.monotonic()
        if description.draining:
            self._apply(member, Event.DRAIN, "it reports that it is draining")
            return
        difference = mismatch(expected, description) or implausible(description)
        if difference:
            member.trouble = "it does not fit its pool"
            self._apply(member, Event.REFUSED, difference)
            return
        overdue = hung(description)
        if overdue:
            member.trouble = "it hangs"
            self._lost(member, overdue)
            return
        if member.state is ReplicaState.STARTING:
            self._apply(member, Event.ANSWERED, "it answered a probe")
            return
        others = [_believed(other, now) for other in self._fleet if other is not member]
        factor = slowdown(
            _believed(member, now) or description, [each for each in others if each is not None]
        )
        watch = self._watches[member]
        watch.slow = watch.slow + 1 if factor > MOST_SLOWDOWN else 0
        if watch.slow >= SLOW_PROBES and self._fleet.peers(member).can_spare_one:
            self._lost(member, f"it is {factor:.0f} times slower than similar replicas")
        else:  # where it can't be spared, being slow makes it no worse than it is
            self._fleet.observe(member, Sign.ANSWERED, now, "it answers")

    def _lost(self, member: Member, reason: str) -> None:
        """It answers, and is no good for traffic."""
        if member.state is ReplicaState.STARTING:
            self._tell_trouble(member, reason)
        else:
            self._fleet.observe(member, Sign.LOST, time.monotonic(), reason)

    def _tell_trouble(self, member: Member, reason: str) -> None:
        """Log why a starting replica is not available."""
        self._fleet.note(member, reason)
        loading = member.trouble == LOADING
        if not loading or time.monotonic() - member.since > LOADING_QUIET_S:
            level = logging.INFO if loading else logging.WARNING
            self._say(member, level, f"is not available: {member.reason}")

    def _failed(self, member: Member, check: str, reason: str, *, tell: bool = True) -> None:
        """A check failed and the replica is still in traffic, because its calls are answered: say
        so, for nothing else would.
        """
        self._fleet.check_failed(member, check, reason)
        if tell and check in member.failing_checks:
            self._say(
                member,
                logging.WARNING,
                f"fails its {check}, and stays {member.state} as its calls are answered: "
                f"{member.failing_checks[check]}",
            )

    def _passed(self, member: Member, check: str) -> None:
        if self._fleet.check_passed(member, check):
            self._say(member, logging.INFO, f"passes its {check} again")

    def _say(self, member: Member, level: int, text: str) -> None:
        """Write a line to the log, unless the same one, or several others about this replica, were
        written within a minute.
        """
        name, now = self._called(member), time.monotonic()
        if self._said.admit((name, text), now) is None:
            return
        if self._told.admit((name, level), now) is not None:
            log.log(level, "replica %s %s", name, text)

    def _called(self, member: Member) -> str:
        return f"{self._pool}/{member.name}" if self._pool else member.name

    def _missed(self, member: Member, reason: str, *, lost: bool) -> None:
        now = time.monotonic()
        watch = self._watches[member]
        watch.proven_s = None  # another process may answer next
        if member.silent_since is None:
            member.silent_since = now
        if member.state is ReplicaState.STARTING:
            self._tell_trouble(member, reason)
        else:
            self._fleet.observe(member, Sign.LOST if lost else Sign.MISSED, now, reason)
            watch.missed += 1
            # Where traffic does not acquit it, so many eject it, and that is told.
            self._failed(member, PROBE, reason, tell=watch.missed >= FAILURES)

    async def _try(self, member: Member, watch: _Watch) -> None:
        """A trial: have it compute the golden vectors, and judge them."""
        limit_s = trial_timeout_s(
            _believed(member, time.monotonic()),
            self._verify_timeout_s,
            doubtful=member.conduct.failures > 0,
        )
        wrong, failed = "", None
        pauses = trial_repeats(watch.proven_s, self._verify_timeout_s)
        began = time.monotonic()

        async def verify(url: str) -> str:
            return await repeated(lambda: self._contact.verify(url), pauses)

        try:
            wrong = await asked(member, verify, limit_s, "golden vectors")
            watch.proven_s = time.monotonic() - began
            glances = WRONG_GLANCES if member.conduct.wrong else 0
            while glances and not wrong:
                wrong = await asked(member, self._contact.glance, limit_s, "golden vectors")
                glances -= 1
        except TrialError as error:
            failed = error
        # The state that follows must not cancel this task: it is done.
        watch.trying = None
        if failed is not None:
            self._failed_trial(member, failed)
        elif wrong:
            self._apply(member, Event.REFUSED, wrong)
        else:
            self._proven(member)
        watch.nudge.set()

    async def _touch(self, member: Member, watch: _Watch) -> None:
        """Have an idle replica compute a short text; one that does not is lost."""
        began = time.monotonic()
        description = _believed(member, began)
        limit_s = self._verify_timeout_s
        if description is not None:
            limit_s = touch_timeout_s(description, limit_s)
        try:
            tokens = await asked(member, self._contact.touch, limit_s, "vector of a short text")
        except TrialError as error:
            watch.trying = None
            if error.refusal is None:  # else it does not hang
                sign = Sign.LOST if error.silent else Sign.FAILED
                self._fleet.observe(member, sign, time.monotonic(), str(error))
            self._failed(member, TOUCH, str(error))
            watch.nudge.set()
        else:
            watch.trying = None
            self._passed(member, TOUCH)
            now = time.monotonic()
            work = Work(1, tokens, tokens * tokens, now - began)
            self._fleet.measure(member, work, now)

    async def _glance(self, member: Member, watch: _Watch) -> None:
        """Compare a few vectors. Wrong ones are as bad as those of a trial; of a replica that gives
        none, its calls and trials tell.
        """
        wrong = ""
        with contextlib.suppress(TrialError):
            wrong = await asked(
                member, self._contact.glance, self._verify_timeout_s, "few golden vectors"
            )
        # The state that follows must not cancel this task: it is done.
        watch.glancing = None
        if wrong:
            self._fleet.found_wrong(member, time.monotonic(), wrong)
            watch.nudge.set()

    def _failed_trial(self, member: Member, error: TrialError) -> None:
        now, trouble, refusal = time.monotonic(), str(error), error.refusal
        if refusal is not None and not member.conduct.failures:
            if member.state is ReplicaState.VERIFYING:  # of others traffic decides
                self._fleet.refused(member, now, trouble, wait_s=refusal.retry_after_s or 0.0)
            self._failed(member, TRIAL, trouble)
            return
        suspect = member.state is ReplicaState.SUSPECT
        # After a failed call it is the second opinion, and decides.
        sign = Sign.LOST if member.conduct.failures else Sign.FAILED
        self._fleet.observe(member, sign, now, trouble)
        if suspect and member.state is ReplicaState.SUSPECT:
            self._fleet.tried(member, now)
        self._failed(member, TRIAL, trouble)

    def _proven(self, member: Member) -> None:
        for check in (TRIAL, TOUCH):
            self._passed(member, check)
        if member.leaving and member.state is ReplicaState.VERIFYING:
            self._apply(member, Event.DRAIN, "its vectors are verified; it is being removed")
        elif member.reserve and member.state is ReplicaState.VERIFYING:
            self._apply(member, Event.RESERVED, "its vectors are verified; it is on standby")
        else:
            now = time.monotonic()
            self._fleet.observe(member, Sign.PROVEN, now, "its vectors are verified")

    def _apply(self, member: Member, event: Event, reason: str) -> None:
        self._fleet.apply(member, event, time.monotonic(), reason)


def _believed(member: Member, now: float) -> ReplicaDescription | None:
    """What a replica says of itself, its cost held to what was measured."""
    description = member.description
    if description is None:
        return None
    return msgspec.structs.replace(description, cost=astuple(member.cost(now)))


def _for_clients(error: EmbedfleetError) -> str:
    """A kind of trouble, without addresses and what the replica said."""
    if isinstance(error, ServiceError | LoadingReplicaError):  # 503
        return LOADING
    if isinstance(error, ReplicaUnreachableError):
        return "nothing listens at its address"
    if isinstance(error, ReplicaLostError):
        return "it does not answer"
    return "what answers at its address is not a replica"


async def _rest(watch: _Watch, seconds: float) -> None:
    """The pause between two probes; a replica that is wanted in traffic again is probed at once."""
    # Not wait_for: before Python 3.12 it may swallow a cancellation that meets its time-out.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await watch.nudge.wait()
    watch.nudge.clear()
