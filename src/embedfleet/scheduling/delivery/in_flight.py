"""A call in flight: its replica, and its texts as they are sent."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import AbstractContextManager
from itertools import count

from embedfleet.fleet.fleet import Member
from embedfleet.runtime.telemetry.tracing import OpenSpan, calling
from embedfleet.scheduling.delivery.decisions import CRASHES_TO_ISOLATE, Event
from embedfleet.scheduling.delivery.dispatch import Call
from embedfleet.transport.frames import CallText, encoding_bytes
from embedfleet.vocabulary import Lane

_PROCESS, _calls = secrets.token_hex(8), count()
"""Together they name a call: other gateways have other names for theirs."""


class InFlight:
    """A call, the replica that has it, and the task that waits for its frames."""

    __slots__ = ("call", "key", "member", "recalled", "task")

    def __init__(self, member: Member, call: Call) -> None:
        self.member = member
        self.call = call
        self.key = f"{_PROCESS}{next(_calls):x}"
        self.task: asyncio.Task[None] | None = None
        self.recalled: Event | None = None
        """Why the gateway broke it off."""

    def recall(self, why: Event) -> None:
        """Break it off."""
        self.recalled = why
        if self.task is not None:
            self.task.cancel()

    def on_wire(self, now: float) -> list[CallText]:
        """Its texts as they travel."""
        alone = self.call.asked == 1
        return [
            CallText(
                number,
                encoding_bytes(text.encoding),
                bulk=text.lane is Lane.BULK,
                deadline_ms=max(1, math.ceil((text.deadline - now) * 1000)),
                alone=alone and text.crashes >= CRASHES_TO_ISOLATE,
            )
            for number, text in self.call.texts.items()
        ]

    def traced(self) -> AbstractContextManager[OpenSpan | None]:
        """The span of this call: a part of the requests whose texts it carries."""
        texts = self.call.texts.values()
        requests = dict.fromkeys(text.trace for text in texts)
        tokens = sum(text.tokens for text in texts) if any(requests) else 0
        return calling(self.member.name, requests, texts=len(texts), tokens=tokens)
