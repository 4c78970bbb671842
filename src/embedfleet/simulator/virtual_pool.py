"""A pool in virtual time: the production queue, dispatch and balancing over simulated replicas.

Every decision where a text goes is the gateway's own code, unmodified; the batches are simulated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import cast

import numpy as np

from embedfleet.fleet.balancing import POLICIES, Load
from embedfleet.runtime.settings import FleetSettings, GatewaySettings
from embedfleet.scheduling.delivery.admission import Pressure, admit
from embedfleet.scheduling.delivery.decisions import Event, Step
from embedfleet.scheduling.delivery.dispatch import Call, Dispatcher
from embedfleet.scheduling.texts import Text
from embedfleet.simulator.profiles import Profile
from embedfleet.vocabulary import Encoding, Lane, OverloadedError
from embedfleet.work import CostFit


class NumberedText(Text):
    """A simulated text, by its number in the traffic."""

    __slots__ = ("number",)

    def __init__(self, number: int, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.number = number


@dataclass(slots=True, eq=False)
class Replica:
    """A simulated one: it computes batches in the order in which texts came."""

    name: str
    load: Load
    waiting: deque[tuple[Call, int, Text]] = field(default_factory=deque)
    running: list[tuple[Call, int, Text]] = field(default_factory=list)
    started_s: float = 0.0
    leaving: bool = False
    dead: bool = False

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that was answered."""

    text: NumberedText
    wait_s: float
    """Until its batch began."""
    latency_s: float


class VirtualPool:
    """Texts in, batches with their ends out; the caller advances the time."""

    def __init__(self, profile: Profile, balancing: str, seed: int) -> None:
        gateway = GatewaySettings()
        self.profile = profile
        self.dispatcher = Dispatcher(
            POLICIES[balancing](Random(seed)), attempts=FleetSettings().attempts
        )
        self.replicas: dict[str, Replica] = {}
        self.fit = CostFit()
        """All replicas are of one kind, so they share what is learned."""
        self.busy_s = 0.0
        """Seconds that batches took, all replicas together."""
        self.waiting_texts = 0
        self.running_texts = 0
        self.failed = 0
        self._timeout_s = gateway.request_timeout_s
        self._most_tokens = gateway.max_queued_tokens
        self._encodings: dict[int, Encoding] = {}
        self._learned_s = 0.0

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue or with a replica."""
        return self.dispatcher.queue.tokens + self.dispatcher.outstanding_tokens

    def offer(self, index: int, tokens: int, now: float) -> bool:
        """Queue a text, unless admission refuses it."""
        pressure = Pressure(self.waiting_tokens, self.dispatcher.drain_s(Lane.INTERACTIVE))
        try:
            admit(tokens, Lane.INTERACTIVE, self._timeout_s, pressure, self._most_tokens)
        except OverloadedError:
            return False
        encoding = self._encodings.get(tokens)
        if encoding is None:
            # What a text says is not simulated: one number stands for all of its tokens.
            encoding = self._encodings[tokens] = np.broadcast_to(np.int32(0), tokens)
        text = NumberedText(index, encoding)
        text.submitted(Lane.INTERACTIVE, now + self._timeout_s, now)
        self.dispatcher.queue.put(text)
        self.waiting_texts += 1
        return True

    def join(self, name: str, now: float, *, warm: bool = False) -> None:
        """A replica gets traffic from now on; `warm` ones are not ramped up."""
        load = Load(name, self.profile.window_tokens, self.profile.batch_tokens)
        load.cost = self.fit.model
        load.joined = float("-inf") if warm else now
        self.replicas[name] = Replica(name, load)
        self.dispatcher.join(load)

    def leave(self, name: str) -> bool:
        """A replica gets nothing new; return whether it has nothing left to do."""
        self.dispatcher.leave(name)
        replica = self.replicas[name]
        replica.leaving = True
        if replica.idle:
            del self.replicas[name]
        return replica.idle

    def kill(self, name: str, now: float) -> None:
        """A replica dies: what it had goes back to the queue."""
        self.dispatcher.leave(name)
        replica = self.replicas.pop(name)
        replica.dead = True
        self.running_texts -= len(replica.running)
        self.waiting_texts += len(replica.running)
        calls = {id(each[0]): each[0] for each in (*replica.running, *replica.waiting)}
        for call in calls.values():
            steps = self.dispatcher.end(call, Event.LOST, now)
            failed = sum(step is Step.FAIL for _, step in steps)
            self.failed += failed
            self.waiting_texts -= failed

    def work_of(self, name: str) -> float:
        """Tokens that a replica has outstanding."""
        return self.replicas[name].load.outstanding_tokens

    def refresh(self) -> None:
        """Let balancing know what replicas cost, as the gateway does now and then."""
        for replica in self.replicas.values():
            replica.load.cost = self.fit.model
        self.dispatcher.refresh()

    def match(self, now: float) -> list[tuple[float, Replica]]:
        """Hand texts over; return the replicas that began a batch, with its end."""
        begun = []
        for call in self.dispatcher.assign(now):
            replica = self.replicas[call.replica]
            replica.waiting.extend((call, *each) for each in call.texts.items())
            if not replica.running:
                begun.append((self._begin(replica, now), replica))
        return begun

    def finish(self, replica: Replica, now: float) -> tuple[list[Answer], float | None]:
        """A batch ended: return its answers, and the end of the next one, if there is work."""
        answers = []
        for call, index, text in replica.running:
            self.dispatcher.settle(call, index)
            if not call.texts:
                self.dispatcher.end(
                    call, Event.REFUSED, now
                )  # nothing is left: nothing comes of it
            numbered = cast("NumberedText", text)  # as `offer` makes them
            answers.append(Answer(numbered, replica.started_s - text.arrived, now - text.arrived))
        if now - self._learned_s >= LEARN_EVERY_S:
            self._learned_s = now
            lengths = [text.tokens for _, _, text in replica.running]
            self.fit.learn(lengths, now - replica.started_s)
        self.running_texts -= len(replica.running)
        replica.running = []
        if replica.waiting:
            return answers, self._begin(replica, now)
        if replica.leaving:
            self.replicas.pop(replica.name, None)
        return answers, None

    def _begin(self, replica: Replica, now: float) -> float:
        room = self.profile.batch_tokens
        waiting, running = replica.waiting, replica.running
        while waiting and (not running or waiting[0][2].tokens <= room):
            each = waiting.popleft()
            running.append(each)
            room -= each[2].tokens
        replica.started_s = now
        self.waiting_texts -= len(running)
        self.running_texts += len(running)
        seconds = self.profile.cost.seconds([each[2].tokens for each in running])
        self.busy_s += seconds
        return now + seconds


LEARN_EVERY_S = 0.25
"""One batch in so many seconds teaches the cost model; all are alike, and learning takes time."""
