"""What a balancing policy sees: the load of each usable replica, and the text to place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from embedfleet.fleet.measured import Work
from embedfleet.work import PRIOR, CostModel

RAMP_S = 10.0
RAMP_FROM = 0.25
"""A replica that just joined starts with a quarter of its window and has all of it after 10 s:
caches and clocks are cold, and what is wrong with it should show on few texts."""


@dataclass(slots=True, eq=False)
class Load:
    """What a usable replica has to do."""

    replica: str
    window_tokens: int
    """Tokens it may have outstanding, as it granted last."""
    batch_tokens: int
    """Tokens of a batch that fills its engine."""
    outstanding_tokens: int = 0
    """Tokens outstanding there."""
    last_resort: bool = False
    """Only used when no other replica is usable."""
    outstanding_s: float = 0.0
    """Seconds of work outstanding there, by its own cost model."""
    calls: int = 0
    """Calls in flight."""
    cost: CostModel = PRIOR
    """What it costs this replica to compute a batch."""
    joined: float = float("-inf")
    """When it became usable, monotonic seconds."""
    weight: float = 1.0
    """Its share where shares are set by hand."""
    shut_until: float = float("-inf")
    """No connection to it could be made; until then, monotonic seconds, none is tried."""
    progressed_s: float = float("-inf")
    """When it answered a text last, monotonic seconds."""
    busy_since: float | None = None
    """Since when it has had calls; None while it has none, monotonic seconds."""
    frames: int = 0
    """Frames since the last measurement; `tokens` and `squares` are what they answered."""
    tokens: int = 0
    squares: int = 0
    busy_s: float = 0.0
    """Seconds that it had calls since then, up to `busy_since`."""
    cores: str = ""
    """What computes: replicas of the same cores take time from each other. Its own name where it
    shares them with none."""

    def __post_init__(self) -> None:
        self.cores = self.cores or self.replica

    @property
    def open(self) -> bool:
        """Whether any text fits, however long, once it has warmed up."""
        return 2 * self.outstanding_tokens <= self.window_tokens

    @property
    def least_share(self) -> int:
        """Tokens that cost as much as the batch itself: to spread fewer over replicas would make
        each of them do the work of a batch, and save no time."""
        return round(self.cost.per_batch_s / max(self.cost.per_token_s, 1e-9))

    def window(self, now: float) -> float:
        """Tokens it may have outstanding now, less while it warms up."""
        age = now - self.joined
        if age >= RAMP_S:
            return self.window_tokens
        return self.window_tokens * (RAMP_FROM + (1.0 - RAMP_FROM) * max(0.0, age) / RAMP_S)

    def fits(self, tokens: int, now: float) -> bool:
        """Whether a text may be sent now.

        A text longer than the room still goes once at most half of the window is outstanding: its
        turn is next then, and waiting for an empty replica would let the engine run dry.
        """
        if now < self.shut_until:
            return False
        window = self.window(now)
        return self.outstanding_tokens + tokens <= window or 2 * self.outstanding_tokens <= window

    def seconds(self, tokens: int) -> float:
        """What a text adds to its work, in seconds; the batch's own cost is shared by many."""
        cost = self.cost
        return tokens * (cost.per_token_s + cost.per_squared_token_s * tokens)

    def take(self, tokens: int, squares: int) -> None:
        """Count texts that are sent: their tokens, and the sum of the squares of these."""
        cost = self.cost
        self.outstanding_tokens += tokens
        self.outstanding_s += tokens * cost.per_token_s + squares * cost.per_squared_token_s

    def release(self, tokens: int, squares: int) -> None:
        """Count texts that were answered, or taken back; as in `take`."""
        cost = self.cost
        self.outstanding_tokens -= tokens
        left_s = tokens * cost.per_token_s + squares * cost.per_squared_token_s
        left_s = self.outstanding_s - left_s
        # The cost model may have moved meanwhile.
        self.outstanding_s = left_s if left_s > 0.0 and self.outstanding_tokens else 0.0

    def answered(self, tokens: int, squares: int) -> None:
        """Count a frame that answered texts; as in `take`."""
        self.frames += 1
        self.tokens += tokens
        self.squares += squares

    def begin(self, now: float) -> None:
        """A call goes to it."""
        self.calls += 1
        if self.busy_since is None:
            self.busy_since = now

    def end(self, now: float) -> None:
        """A call at it has ended."""
        self.calls -= 1
        if not self.calls and self.busy_since is not None:
            self.busy_s += now - self.busy_since
            self.busy_since = None

    def measured(self, now: float) -> Work | None:
        """What it has answered since this was asked last; None where that was nothing yet."""
        if not self.tokens:
            return None
        if self.busy_since is not None:
            self.busy_s += now - self.busy_since
            self.busy_since = now
        work = Work(self.frames, self.tokens, self.squares, self.busy_s)
        self.frames = self.tokens = self.squares = 0
        self.busy_s = 0.0
        return work


class Candidate(NamedTuple):
    """A text that needs a replica, and what its choice may depend on."""

    tokens: int
    now: float
    """Monotonic seconds."""
    drain_s: float = 0.0
    """How long the whole pool needs for everything that waits."""
    client: str = ""
    """Address of the client that sent it."""


class Balancer(Protocol):
    """Chooses among replicas that can be used."""

    affine: ClassVar[bool]
    """Whether it ties texts to replicas, and so must be shown all of them. Others are shown a few
    of a large pool, for a choice among few is close to the best and costs less."""

    def pick(self, loads: Sequence[Load], text: Candidate) -> Load | None:
        """The replica for a text, None to let it wait. `loads` are those that may get it at all;
        a policy must not choose one whose window it does not fit."""
        ...
