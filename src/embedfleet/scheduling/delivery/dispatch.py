"""Dispatches queued texts to replicas with late binding, and keeps the leases on texts.

Events in, calls out; no clock and no I/O. A text stays in the queue until a replica has room in its
window of outstanding work, so none is stuck behind a long text that was dispatched first, or on a
replica that died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice

from embedfleet.fleet.balancing import Balancer, Candidate, Load
from embedfleet.scheduling.delivery.decisions import (
    ABANDONED_S,
    HEDGE_SHARE,
    RETRY_SHARE,
    SHUT_S,
    UNTRIED,
    Event,
    RetryBudget,
    Step,
    most_quiet_s,
    next_step,
)
from embedfleet.scheduling.delivery.queue import TextQueue
from embedfleet.scheduling.texts import Lease, Place, Text
from embedfleet.vocabulary import Lane, ReplicaError

LOOKED_AT = 8
"""How many replicas are compared for one text in larger pools, so that a choice among hundreds
costs no more than one among these. (The best of d drawn is close to the best of all already for
small d: Mitzenmacher 2001.)"""


class Call:
    """Texts of any requests that go to one replica together: a lease on each of them."""

    __slots__ = (
        "asked",
        "handed_s",
        "isolated",
        "load",
        "outrun",
        "progressed_s",
        "texts",
        "told_s",
    )

    def __init__(self, load: Load, texts: Sequence[Text], now: float, *, isolated: bool) -> None:
        self.load = load
        self.texts = dict(enumerate(texts))
        """Those not answered yet, by their id in the call."""
        self.asked = len(texts)
        """Ids below this one were sent."""
        self.handed_s = self.progressed_s = now
        """When it was sent, and when it last made progress, monotonic seconds."""
        self.told_s = float("-inf")
        """When it was found late last."""
        self.isolated = isolated
        """Whether one of its texts may be what kills replicas."""
        self.outrun = False
        """Whether a hedge answered one of its texts first."""

    @property
    def replica(self) -> str:
        return self.load.replica

    @property
    def cores(self) -> str:
        return self.load.cores

    def ids(self, texts: Collection[Text]) -> list[int]:
        """What these are called in the call."""
        return [number for number, text in self.texts.items() if text in texts]

    def late(self, now: float) -> bool:
        """Whether it has brought nothing for longer than it should, since it was found late last.

        A replica that answers other calls may let theirs pass: bulk texts for as long as others
        come, interactive ones until they are the most urgent.
        """
        load, quiet_from, most_quiet = (
            self.load,
            self.progressed_s,
            most_quiet_s(self.load.outstanding_s),
        )
        if now - max(quiet_from, self.told_s) < most_quiet:
            return False
        if load.progressed_s > quiet_from:
            slack = [
                text.urgency - text.arrived
                for text in self.texts.values()
                if text.lane is Lane.INTERACTIVE
            ]
            if not slack:
                quiet_from = load.progressed_s
            most_quiet += max(slack, default=0.0)
        return now - max(quiet_from, self.told_s) >= most_quiet


class Dispatcher:
    """The queue of a pool, the loads of its usable replicas, and the leases between the two."""

    def __init__(self, balancer: Balancer, *, attempts: int) -> None:
        self.queue = TextQueue()
        self.calls: dict[Call, None] = {}
        self.retries, self.hedges = RetryBudget(RETRY_SHARE), RetryBudget(HEDGE_SHARE)
        self._balancer = balancer
        self._attempts = attempts
        self._loads: dict[str, Load] = {}
        self._usable: dict[Load, None] = {}
        self._tokens_per_s = 0.0
        self._open: dict[Load, None] = {}
        """Usable replicas that have room for any text, in the order in which they are looked at."""
        self._groups: deque[list[Text]] = deque()
        """Texts that run apart from others: one of each group may be what kills replicas."""
        self._quarantine: Load | None = None
        """The replica that is kept free for them; one at a time."""
        self._unwanted: dict[Lease, list[Text]] = {}
        """Texts of calls that are no longer needed; the pool cancels them at the replicas."""
        self.members: frozenset[str] = frozenset()
        """Names of all replicas of the pool, those that are not usable now among them."""
        self._outstanding_tokens = self._largest = 0
        """Tokens in all calls, and the most texts that one has held."""

    def __repr__(self) -> str:
        loads = ", ".join(
            f"{load.replica} {load.outstanding_tokens}/{load.window_tokens}"
            for load in self._loads.values()
        )
        return f"<Dispatcher {self.queue!r} [Outstanding: {loads}]>"

    def __iter__(self) -> Iterator[Text]:
        """Every text that is queued or leased; some more than once."""
        leased = (call.texts.values() for call in self.calls)
        return chain(self.queue, *self._groups, *leased)

    # -- replicas ----------------------------------------------------------------------

    @property
    def loads(self) -> Iterable[Load]:
        return self._loads.values()

    @property
    def outstanding_tokens(self) -> int:
        """Tokens in all calls, those of replicas that left included."""
        return self._outstanding_tokens

    def join(self, load: Load) -> None:
        """A replica became usable."""
        self._loads[load.replica] = load
        self.refresh()

    def leave(self, replica: str) -> None:
        """A replica is not usable any more; what it has is still expected of it."""
        if self._loads.pop(replica, None) is not None:
            self.refresh()

    def load_of(self, replica: str) -> Load | None:
        return self._loads.get(replica)

    def refresh(self) -> None:
        """Take note that a load's cost model or last resort changed."""
        every = self._loads.values()
        usable = [load for load in every if not load.last_resort] or every
        self._usable = dict.fromkeys(usable)
        self._tokens_per_s = sum(1 / max(load.cost.per_token_s, 1e-9) for load in self._usable)
        self._open = {load: None for load in self._usable if load.open}

    def drain_s(self, lane: Lane | None = None) -> float:
        """Seconds that the usable replicas need for what waits (of a lane) and what they have."""
        waiting = self.queue.tokens if lane is None else self.queue.tokens_of(lane)
        tokens = waiting + self._outstanding_tokens
        return tokens / self._tokens_per_s if self._usable else float("inf")

    # -- texts to replicas -------------------------------------------------------------

    def assign(self, now: float) -> list[Call]:
        """Match waiting texts with replicas that have room, until one of the two runs out.

        Few texts are spread, so that replicas share them; many are cut into batches. A text that
        finds no room keeps its claim on the replicas that it may take: less urgent ones get only
        the others.
        """
        calls = self._assign_groups(now) if self._groups or self._quarantine else []
        share = -(-self.queue.tokens // max(1, len(self._open)))
        passed: set[Place] = set()
        claimed: set[Load] = set()
        while (head := self.queue.peek(passed)) is not None:
            load = self._pick(head, now, claimed)
            if load is not None:
                most = min(max(share, load.least_share), load.batch_tokens)
                calls.append(self._fill(load, most, now, passed))
                continue
            claimed.update(self._eligible(self._usable, head))
            if head.place is None or len(claimed) >= len(self._usable):
                break
            passed.add(head.place)
        return calls

    def _assign_groups(self, now: float) -> list[Call]:
        """Give the next group to a replica that has nothing else, once there is one."""
        while self._groups and not any(text.open for text in self._groups[0]):
            self._groups.popleft()
        if not self._groups:
            if self._quarantine is not None and not self._quarantine.outstanding_tokens:
                self._quarantine = None
            return []
        if self._quarantine not in self._usable or now < self._quarantine.shut_until:
            reached = [load for load in self._usable if now >= load.shut_until]
            fewest = min(reached, key=lambda load: load.outstanding_tokens, default=None)
            self._quarantine = fewest
        load = self._quarantine
        if load is None or load.outstanding_tokens:
            return []
        group = [text for text in self._groups.popleft() if text.open]
        return [self._hand_over(load, group, now, isolated=True)]

    def _pick(self, head: Text, now: float, claimed: Collection[Load]) -> Load | None:
        queue_s = self.queue.tokens / max(self._tokens_per_s, 1e-9)
        text = Candidate(head.tokens, now, queue_s, head.client)
        loads: Iterable[Load] = self._usable
        if len(self._usable) > LOOKED_AT and not self._balancer.affine:
            loads = list(islice(self._open, LOOKED_AT))
            for load in loads:  # the next text looks at others
                del self._open[load]
                self._open[load] = None
        eligible = self._eligible(loads, head)
        if claimed:
            eligible = [load for load in eligible if load not in claimed]
        return self._balancer.pick(eligible, text)

    def _eligible(self, loads: Iterable[Load], text: Text) -> list[Load]:
        """Without the quarantine and the cores that have the text, and without those that failed it
        if others are left.
        """
        found = [load for load in loads if load is not self._quarantine]
        if text.leases:
            held = {lease.cores for lease in text.leases}
            found = [load for load in found if load.cores not in held]
        if text.failed:
            found = [load for load in found if load.replica not in text.failed] or found
        return found

    def _fill(self, load: Load, most_tokens: int, now: float, passed: Collection[Place]) -> Call:
        """Take texts off the queue for one call; a single one may be longer than `most_tokens`."""
        texts: list[Text] = []
        taken = 0
        queue, room = self.queue, load.window(now) - load.outstanding_tokens
        while (text := queue.peek(passed)) is not None:
            if texts and (
                taken + text.tokens > most_tokens
                or taken + text.tokens > room
                or ((text.failed or text.leases) and load not in self._eligible(self._usable, text))
            ):
                break
            queue.pop(text)
            texts.append(text)
            taken += text.tokens
        return self._hand_over(load, texts, now)

    def _hand_over(
        self, load: Load, texts: list[Text], now: float, *, isolated: bool = False
    ) -> Call:
        call = Call(load, texts, now, isolated=isolated)
        lease = (call,)
        tokens = squares = 0
        for text in texts:
            text.leases = text.leases + lease if text.leases else lease
            tokens += text.tokens
            squares += text.tokens * text.tokens
        load.take(tokens, squares)
        self._outstanding_tokens += tokens
        load.begin(now)
        self.calls[call] = None
        if call.asked > self._largest:
            self._largest = call.asked
            self.retries.cover(call.asked)
            self.hedges.cover(call.asked)
        if not load.open:
            self._open.pop(load, None)
        return call

    # -- what becomes of leases --------------------------------------------------------

    def settle(self, call: Call, text_id: int) -> Text | None:
        """As `settle_all`, of one text."""
        return self.settle_all(call, (text_id,))[0]

    def settle_all(self, call: Call, ids: Sequence[int]) -> list[Text | None]:
        """Texts of a call were answered, by their ids; None of one for which that is known already.

        One without waiters is returned once, too: its batch had begun.
        ReplicaError when the call never had such a text; then none of them is settled.
        """
        if ids and not (min(ids) >= 0 and max(ids) < call.asked):
            stranger = next(each for each in ids if not 0 <= each < call.asked)
            raise ReplicaError(f"it answered text {stranger}, which was not in the call")
        tokens = squares = 0
        found: list[Text | None] = []
        for each in ids:
            text = call.texts.pop(each, None)
            if text is None:
                found.append(None)
                continue
            tokens += text.tokens
            squares += text.tokens * text.tokens
            text.leases = () if len(text.leases) == 1 else _without(call, text.leases)
            if text.settled:
                found.append(None)
                continue
            text.settled = True
            text.open = False
            if text.leases or text.place is not None:
                self._drop(text)
                for other in text.leases:
                    other.outrun = other.outrun or other.handed_s < call.handed_s
            found.append(text)
        self._release(call.load, tokens, squares)
        return found

    def fail(self, call: Call, text_id: int, event: Event, now: float) -> tuple[Text, Step]:
        """A text of a call has no answer there; what becomes of it is done already, but for telling
        whoever waits for it that it failed. KeyError where the call has no such text.
        """
        text = call.texts.pop(text_id)
        text.leases = _without(call, text.leases)
        self._release(call.load, text.tokens, text.tokens * text.tokens)
        step = self._after(text, call, event, now)
        if step is Step.ISOLATE:
            self._groups.append([text])
        return text, step

    def end(self, call: Call, event: Event, now: float) -> list[tuple[Text, Step]]:
        """A call ended: as `fail`, for each text that it left unanswered and that is open."""
        load = call.load
        load.end(now)
        del self.calls[call]
        self._unwanted.pop(call, None)
        if event is Event.UNREACHED:
            load.shut_until = now + SHUT_S
        texts, call.texts = list(call.texts.values()), {}
        steps, suspects = [], []
        tokens = squares = 0
        for text in texts:
            tokens += text.tokens
            squares += text.tokens * text.tokens
            text.leases = _without(call, text.leases)
        self._release(load, tokens, squares)
        for text in texts:
            if text.open:
                step = self._after(text, call, event, now)
                steps.append((text, step))
                if step is Step.ISOLATE:
                    suspects.append(text)
        half = len(suspects) // 2 if event is Event.LOST else 0
        self._groups.extend(group for group in (suspects[:half], suspects[half:]) if group)
        return steps

    def withdraw(self, texts: Iterable[Text]) -> int:
        """Withdraw texts that are no longer awaited; return how many were open."""
        closed = 0
        for text in texts:
            if text.open:
                text.open, text.withdrawn = False, True
                closed += 1
                self._drop(text)
        return closed

    def unwanted(self) -> dict[Lease, list[int]]:
        """Leases to cancel at their replicas, each returned once: ids by call."""
        if not self._unwanted:
            return {}
        unwanted, self._unwanted = self._unwanted, {}
        found = {call: call.ids(frozenset(texts)) for call, texts in unwanted.items()}
        return {call: ids for call, ids in found.items() if ids}

    def late(self, now: float) -> list[Call]:
        """Calls that have made no progress for too long, each returned once in that time."""
        found = [call for call in self.calls if call.texts and call.late(now)]
        for call in found:
            call.told_s = now
        return found

    def hedge(self, call: Call, now: float) -> int:
        """Queue the texts of a late call for other replicas too, as far as the budget goes; return
        how many those are.
        """
        elsewhere = any(load.cores != call.load.cores for load in self._usable)
        hedged = 0
        for text in call.texts.values():
            if not text.open:
                continue
            step = self._judge(text, Event.LATE, now, elsewhere=elsewhere, budget=self.hedges)
            if step is Step.HEDGE:
                self.hedges.spend()
                text.hedged = True
                hedged += 1
                self.queue.put(text)
        return hedged

    def abandoned(self, now: float) -> list[Call]:
        """Calls to abort: none of their texts is awaited, and they make no progress."""
        return [
            call
            for call in self.calls
            if now - call.progressed_s >= ABANDONED_S
            and not any(text.open for text in call.texts.values())
        ]

    def _after(self, text: Text, call: Call, event: Event, now: float) -> Step:
        """Note the end of a lease in the text's record, decide, and queue a text that continues."""
        together = call.isolated and call.asked > 1  # then it is not this text's failure
        excused = event in UNTRIED or (event is Event.EXPIRED and text.extended)
        # Each replica may say once that it takes no such text; what is asked again is tried again.
        told_first = event is Event.UNSENDABLE and call.replica not in text.invalid
        text.extended = False
        if not excused:
            text.attempts += not ((together and event is Event.LOST) or told_first)
            text.failed |= {call.replica}
        text.crashes += event is Event.LOST
        if event in {Event.INVALID, Event.UNSENDABLE}:
            text.invalid |= {call.replica}
        if not text.open:
            return Step.WAIT
        elsewhere = not text.invalid.issuperset(self.members.union(self._loads))
        step = self._judge(text, event, now, elsewhere=elsewhere, budget=self.retries)
        if step is Step.FAIL:
            text.open, text.settled = False, True
        elif step is Step.REQUEUE:
            if event is Event.FAILED:
                self.retries.spend()
            self.queue.put(text)
        elif step is Step.WAIT and text.place is not None:
            self.queue.discard(text)  # it may take other replicas than before
            self.queue.put(text)
        return step

    def _judge(
        self, text: Text, event: Event, now: float, *, elsewhere: bool, budget: RetryBudget
    ) -> Step:
        return next_step(
            text,
            event,
            now,
            attempts=self._attempts,
            elsewhere=elsewhere,
            affordable=budget.affords,
        )

    def _release(self, load: Load, tokens: int, squares: int) -> None:
        """Leases on texts of so many tokens have ended; `squares` is the sum of their squares."""
        load.release(tokens, squares)
        self._outstanding_tokens -= tokens
        if load not in self._open and load.open and load in self._usable:
            self._open[load] = None

    def _drop(self, text: Text) -> None:
        """It need not be computed where it still is."""
        self.queue.discard(text)
        for call in text.leases:
            self._unwanted.setdefault(call, []).append(text)


def _without(call: Call, leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
    """The leases of a text when that of a call has ended."""
    return () if len(leases) == 1 else tuple(each for each in leases if each is not call)
