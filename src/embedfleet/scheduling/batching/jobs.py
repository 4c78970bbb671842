"""Jobs of the batcher: one text waiting for its vector, its result, and measurements of a batch.

Also translates an engine's exceptions into the errors that callers receive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from embedfleet.scheduling.urgency import urgency
from embedfleet.vocabulary import (
    DeadlineError,
    EmbedfleetError,
    Encoding,
    Lane,
    ReplicaError,
    VectorError,
    Vectors,
)


@dataclass(slots=True, eq=False)
class Job:
    """One text waiting for its vector."""

    id: int
    encoding: Encoding
    lane: Lane
    deadline: float | None
    """On the monotonic clock, seconds."""
    arrived: float
    deliver: Deliver
    """Called once, on the event loop, with every part of the batch that is of the same call."""
    alone: bool = False
    """Whether it must not share a batch, because it may be what kills engines."""
    tokens: int = field(init=False)
    urgency: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.encoding)
        self.urgency = urgency(self.arrived, self.tokens, self.deadline)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch gave to the jobs that share one `deliver`."""

    jobs: Sequence[Job]
    """Those that have a vector, in row order."""
    vectors: Vectors
    """[len(jobs), width]"""
    failures: Sequence[tuple[Job, EmbedfleetError]]
    queue_s: float
    """Longest wait among these jobs."""
    compute_s: float


Deliver: TypeAlias = Callable[[BatchResult], None]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was measured of one batch."""

    texts: int
    tokens: int
    padding_tokens: int
    """Computed beside them to fill a fixed size."""
    prepare_s: float
    compute_s: float
    queue_s: Sequence[float]
    failed_texts: int = 0
    """Of `texts`, those for which no finite vector came out."""


def as_known(error: Exception) -> EmbedfleetError:
    """The error that clients see for it."""
    if isinstance(error, EmbedfleetError):
        return error
    return ReplicaError(f"the engine failed: {type(error).__name__}")


def too_late() -> DeadlineError:
    return DeadlineError("the deadline passed before the text's batch started")


def no_vector(job: Job) -> VectorError:
    return VectorError(
        f"the model returned no finite vector for a text of {job.tokens} tokens; "
        "a wider number format may help (f32 or bf16 instead of fp16)"
    )
