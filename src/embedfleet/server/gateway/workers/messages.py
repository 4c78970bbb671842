"""Messages between the primary and its workers.

Times are monotonic seconds; on one machine all processes share that clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from embedfleet.fleet.measured import Work
from embedfleet.runtime.telemetry.merging import Family
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import Precision, ReplicaState, Task


class Begin(msgspec.Struct, tag=True):
    """What a worker needs to start; it is sent first, so that nothing of it shows in `ps`."""

    settings: str
    """The settings file of the primary."""
    api_keys: tuple[str, ...] | None
    pools: tuple[str, ...]
    """Their names."""
    workers: int
    """How many there are: each has its share of what is bounded for all."""
    number: int
    ledger: int | None
    """The descriptor of what keys have left, where there are keys."""


class MemberUpdate(msgspec.Struct, tag=True, gc=False):
    """A replica as the primary sees it now; GONE: it is in the fleet no more."""

    pool: int
    """The place of the pool in the settings."""
    name: str
    url: str
    state: ReplicaState
    since: float
    reason: str
    trouble: str
    weight: float
    description: ReplicaDescription | None


class ModelUpdate(msgspec.Struct, tag=True):
    """The model of a pool whose replicas brought it; its small files are on this machine."""

    pool: int
    names: tuple[str, ...]
    """What callers may call it."""
    directory: str
    name: str
    """Its own."""
    max_tokens: int
    task: Task
    revision: str


class PromiseUpdate(msgspec.Struct, tag=True):
    """What a pool promises of every vector."""

    pool: int
    revision: str
    precision: Precision


class CheckUpdate(msgspec.Struct, tag=True):
    """How far a golden check of a replica is: what its vectors in the cache are worth."""

    pool: int
    url: str
    verdict: Literal["checking", "trusted", "distrusted"]


class Synced(msgspec.Struct, tag=True):
    """The worker has the primary's full state and may serve clients."""


class Leaving(msgspec.Struct, tag=True):
    """The gateway will stop: say that it is not ready, and go on."""


class Drain(msgspec.Struct, tag=True):
    """Take no more connections, answer what was accepted, and end."""


class Cut(msgspec.Struct, tag=True):
    """Wait for nothing any more: answer every open request that the server stops."""


class CallReport(msgspec.Struct, tag=True):
    """Results of a worker's calls to a replica since its last report."""

    pool: int
    member: str
    succeeded: int
    """Calls that brought right answers."""
    failed: int
    """Calls that failed after the last one that did not."""
    reason: str
    """Why the last one failed."""
    lost: bool
    """Whether the connection broke or the process died."""
    refused: bool
    """Whether it takes nothing new, because it drains."""
    works: list[Work] = []
    """What the calls show of its speed, the last of them."""


class Serving(msgspec.Struct, tag=True):
    """The worker answers callers from now on."""


class Counted(msgspec.Struct, tag=True):
    """What the worker has counted in its life; the last thing that it tells."""

    families: list[Family]
    requests: dict[int, int]
    """Requests that ended, by HTTP status."""


ToWorker = (
    Begin
    | MemberUpdate
    | ModelUpdate
    | PromiseUpdate
    | CheckUpdate
    | Synced
    | Leaving
    | Drain
    | Cut
)
ToPrimary = CallReport | Serving | Counted
