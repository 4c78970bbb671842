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
    """What a worker needs to start; sent over the channel, so that `ps` shows none of it."""

    settings: str
    """The settings file of the primary."""
    api_keys: tuple[str, ...] | None
    pools: tuple[str, ...]
    """Their names."""
    workers: int
    """How many there are: bounds of the gateway are divided among them."""
    number: int
    ledger: int | None
    """The file descriptor of the shared ledger of quotas, if there are keys."""


class MemberUpdate(msgspec.Struct, tag=True, gc=False):
    """A replica's current entry in the primary's fleet; GONE: it was removed."""

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
    failing_checks: dict[str, str]


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


class VersionUpdate(msgspec.Struct, tag=True):
    """The version of the model that a pool serves."""

    pool: int
    revision: str
    precision: Precision


class CheckUpdate(msgspec.Struct, tag=True):
    """The state of a golden check of a replica: whether its cached vectors can be trusted."""

    pool: int
    url: str
    verdict: Literal["checking", "trusted", "distrusted"]


class Synced(msgspec.Struct, tag=True):
    """The worker has the primary's full state and may serve clients."""


class Leaving(msgspec.Struct, tag=True):
    """The gateway is about to stop: report not ready, and continue serving."""


class Drain(msgspec.Struct, tag=True):
    """Accept no more connections, finish accepted requests, and exit."""


class Cut(msgspec.Struct, tag=True):
    """Stop waiting: answer every open request with the error of a stopping server."""


class CallReport(msgspec.Struct, tag=True):
    """Results of a worker's calls to a replica since its last report."""

    pool: int
    member: str
    succeeded: int
    """Calls that succeeded."""
    failed: int
    """Consecutive failures since the last success."""
    reason: str
    """Why the last one failed."""
    lost: bool
    """Whether the connection broke or the process died."""
    refused_s: float | None = None
    """For how long it asks to be left alone, as it drains or has too much to do; 0 where it does
    not say; None if it refused nothing."""
    works: list[Work] = []
    """The latest measurements of its speed."""


class Serving(msgspec.Struct, tag=True):
    """The worker has started to serve."""


class Alive(msgspec.Struct, tag=True):
    """The worker's event loop turns."""


class Counted(msgspec.Struct, tag=True):
    """All counters of the worker; its last message."""

    families: list[Family]
    requests: dict[int, int]
    """Requests that ended, by HTTP status."""


ToWorker = (
    Begin
    | MemberUpdate
    | ModelUpdate
    | VersionUpdate
    | CheckUpdate
    | Synced
    | Leaving
    | Drain
    | Cut
)
ToPrimary = CallReport | Serving | Alive | Counted
