"""What is recorded of requests, pools and replicas: the access log and the metrics.

Neither a text nor a key is ever logged. Values that clients choose freely are left out or
normalised: routes as in the routing table, models by their first name, request ids and addresses
only if they are well-formed. So label values stay bounded whatever clients send.
"""

from __future__ import annotations

import logging
import re
from collections import Counter as Counts

from embedfleet.api.answer_memory import AnswerRoom
from embedfleet.api.served_model import Answered
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.runtime.settings import GatewaySettings
from embedfleet.runtime.telemetry.logs import dropped_lines
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.runtime.telemetry.tally import Count, Series
from embedfleet.scheduling.delivery.counting import DeferredCalls
from embedfleet.transport.access import Access, KeyRing
from embedfleet.transport.asgi import ClientGoneError, Request, Response
from embedfleet.transport.headers import TrustedProxies, client_address
from embedfleet.transport.serving.write_buffers import Answers
from embedfleet.vocabulary import ReplicaState

log = logging.getLogger(__name__)
access_log = logging.getLogger("embedfleet.access")

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{1,45}(%\w{1,15})?")
_METHOD = re.compile(r"[A-Z]{1,16}")

OF_MACHINES = {"/metrics", "/targets", "/health", "/health/live", "/health/ready"}
"""Routes that monitoring polls; only their failures are logged."""

NO_POOL = "none"
"""The `pool` label of requests for unknown models."""


class AccessLog:
    """Writes a line for each request of an app."""

    def __init__(self, trusted_proxies: TrustedProxies) -> None:
        self._trusted_proxies = trusted_proxies
        access_log.setLevel(logging.INFO)  # access logging was requested, whatever the log level

    def __call__(
        self, route: str, request: Request, response: Response | None, seconds: float
    ) -> None:
        if route in OF_MACHINES and response is not None and response.status < 400:
            return
        answered = request.notes.get("answered")
        method = request.scope["method"]
        address = client_address(request, self._trusted_proxies)
        fields: dict[str, object] = {
            "method": method if _METHOD.fullmatch(method) else "-",
            "route": route,
            "status": ClientGoneError.status if response is None else response.status,
        }
        if isinstance(answered, Answered):
            fields |= {
                "model": answered.model or "-",
                "texts": answered.texts,
                "tokens": answered.tokens,
                "hits": "-" if answered.hits is None else answered.hits,
            }
        key = answered.key if isinstance(answered, Answered) else request.notes.get("key", "")
        fields |= {
            "seconds": round(seconds, 6),
            "client": address if _ADDRESS.fullmatch(address) else "-",
            "key": key or "-",
            "request": request.id,
        }
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        access_log.info("%s", line, extra={"fields": fields})


class RequestCounter:
    """Counts answered requests, and logs each at the level `debug`."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._later = DeferredCalls()
        self._labelled: dict[tuple[str | None, int], tuple[Count, Series, Series]] = {}

    def totals(self) -> dict[int, int]:
        """Requests that ended, by HTTP status."""
        self._later.now()
        found: dict[int, int] = {}
        for (_, status), (requests, _, _) in self._labelled.items():
            found[status] = found.get(status, 0) + requests.value
        return found

    def count(self, answered: Answered) -> None:
        self._later.do(self._count, answered)

    def _count(self, answered: Answered) -> None:
        # Looked up once per pool and status, since this runs for every request.
        kind = (answered.model, answered.status)
        requests, duration, texts = self._labelled.get(kind) or self._label(*kind)
        requests.inc()
        duration.observe(answered.seconds)
        if answered.texts:
            texts.observe(answered.texts)
        if self._debug:
            log.debug(
                "%s from %s: %d texts, %d tokens, %.3f s",
                answered.status,
                answered.address,
                answered.texts,
                answered.tokens,
                answered.seconds,
            )

    def _label(self, model: str | None, status: int) -> tuple[Count, Series, Series]:
        pool, metrics = model or NO_POOL, self._metrics
        found = (
            metrics.requests.labels(pool, str(status)),
            metrics.request_duration.labels(pool),
            metrics.request_texts.labels(pool),
        )
        self._labelled[model, status] = found
        return found


class KeyCounter:
    """Copies the usage of keys into the metrics when these are scraped; requests only increment
    plain integers. Labels are ids of existing or former keys; requests without a valid key count as
    `none`.
    """

    def __init__(self, access: Access, metrics: GatewayMetrics) -> None:
        self._usage = access.usage if isinstance(access, KeyRing) else {}
        self._metrics = metrics
        self._told: Counts[tuple[str, str]] = Counts()

    def observe(self) -> None:
        metrics = self._metrics
        for key, usage in self._usage.items():
            metrics.key_requests.labels(key).inc(self._news(key, "requests", usage.requests))
            metrics.key_tokens.labels(key).inc(self._news(key, "tokens", usage.tokens))
            for reason, count in usage.refusals.items():
                news = self._news(key, f"refused for {reason}", count)
                metrics.key_refusals.labels(key, reason).inc(news)

    def _news(self, key: str, what: str, count: int) -> int:
        """The increase since the last scrape."""
        before = self._told[key, what]
        self._told[key, what] = count
        return count - before


class ClientLimitCounter:
    """Copies into the metrics what slow clients and slow readers of the log have lost."""

    def __init__(self, limits: GatewaySettings, room: AnswerRoom, metrics: GatewayMetrics) -> None:
        """`room` bounds answers that are being rendered."""
        self.answers = Answers(limits.max_answer_bytes)
        """Bounds answers that are being sent."""
        self._room = room
        self._metrics = metrics
        self._told: Counts[str] = Counts()

    def observe(self) -> None:
        metrics = self._metrics
        metrics.shed_answers.inc(self._news("shed", self.answers.shed + self._room.shed))
        metrics.slow_clients.inc(self._news("slow", self.answers.cut_off))
        metrics.dropped_lines.inc(self._news("lines", dropped_lines()))

    def _news(self, what: str, count: int) -> int:
        before, self._told[what] = self._told[what], count
        return count - before


MOST_GONE = 64
"""Removed replicas whose series are kept, at zero, so that alerts about them resolve; bounded,
since the names of replicas that come and go would accumulate."""


class StateGauge:
    """Exports the state of every replica of a fleet."""

    def __init__(self, pool: str, fleet: Fleet, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._gauge, self._entered = metrics.replica_state, metrics.replica_entered
        self._fleet, self._failing = fleet, metrics.replica_failing_checks
        self._info = metrics.replica_info
        self._told: dict[str, tuple[str, ...]] = {}
        """Labels of each replica's info series."""
        self._gone: dict[str, None] = {}
        """Names of removed replicas, oldest first."""
        self._checked: set[str] = set()
        """Replicas that have a gauge of failing checks."""
        for state in ReplicaState:  # from the start, so that the first event is an increase
            self._entered.labels(pool, state.value)
        fleet.listen(self._follow)

    def observe(self) -> None:
        """Update gauges that change without a change of state, before a scrape."""
        members = {member.name: member for member in self._fleet}
        for name, member in members.items():
            self._failing.labels(self._pool, name).set(len(member.failing_checks))
        for name in self._checked - members.keys():
            self._failing.remove(self._pool, name)
        self._checked = set(members)

    def _follow(self, member: Member, _left: ReplicaState) -> None:
        # All states, also of a removed replica: a missing series can't be compared with zero.
        for state in ReplicaState:
            if state is not ReplicaState.GONE:
                self._gauge.labels(self._pool, member.name, state.value).set(0)
        if (
            member.state is not ReplicaState.GONE or not member.leaving
        ):  # a planned removal is no loss
            self._entered.labels(self._pool, member.state.value).inc()
        if member.state is not ReplicaState.GONE:
            self._gauge.labels(self._pool, member.name, member.state.value).set(1)
        description = member.description
        if description is not None and member.state is ReplicaState.READY:
            labels = (self._pool, member.name, description.device, description.precision.value)
            self._forget_info(member.name)
            self._info.labels(*labels).set(1)
            self._told[member.name] = labels
        self._gone.pop(member.name, None)
        if member.state is ReplicaState.GONE:
            self._forget_info(member.name)
            self._gone[member.name] = None
        while len(self._gone) > MOST_GONE:
            longest = next(iter(self._gone))
            del self._gone[longest]
            for state in ReplicaState:
                self._gauge.remove(self._pool, longest, state.value)

    def _forget_info(self, replica: str) -> None:
        if replica in self._told:
            self._info.remove(*self._told.pop(replica))
