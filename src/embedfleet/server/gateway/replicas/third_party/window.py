"""Adaptive concurrency limit for engines that grant no window, in outstanding tokens. Pure.

The limit grows while latency stays near its minimum for requests of that size and is halved when
the engine refuses one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TOLERANCE = 2.0
"""How many times its least latency an engine may take before it counts as having too much: one
batch that computes and one that is next, as embedfleet's own replicas want it."""

SMOOTHING = 0.2
"""How much of the way to what it should be the window goes at each answer."""

STEEPEST = 0.5
"""The least that one answer may say of the window: a single late one is no measurement."""

FORGETTING = 1.0002
"""How much the least latency grows with each answer, until one is as fast again: engines get slower
as well, with other texts or other neighbours. After 3,500 answers it has doubled. Until then the
window is two batches at least, which keeps one engine busy."""


@dataclass(slots=True)
class LearnedWindow:
    """Tokens of work that one engine may have outstanding.

    A limit by gradient: the window is multiplied with the ratio of the least latency to that of the
    answer, and what one batch needs is added, so that it finds out whether more would do. (After
    Netflix' concurrency-limits, Gradient2, and Envoy's adaptive concurrency.) Latencies are those
    of requests of about the same size: a large one takes longer for no fault of its own.
    """

    most_tokens: int
    least_tokens: int
    """A batch: with less the engine would idle."""
    tokens: int = 0
    _least_s: dict[int, float] = field(default_factory=dict)
    """Least latency of requests by their size class, the power of two above their tokens."""

    def __post_init__(self) -> None:
        self.least_tokens = min(self.least_tokens, self.most_tokens)
        self.tokens = self.most_tokens

    def answered(self, tokens: int, seconds: float) -> int:
        """It answered a request of so many tokens; the window now."""
        size = tokens.bit_length()
        least_s = min(seconds, self._least_s.get(size, seconds) * FORGETTING)
        self._least_s[size] = least_s
        gradient = max(STEEPEST, min(1.0, TOLERANCE * least_s / max(seconds, 1e-9)))
        wanted = self.tokens * gradient + self.least_tokens
        self.tokens = self._within(self.tokens + SMOOTHING * (wanted - self.tokens))
        return self.tokens

    def refused(self) -> int:
        """It had too much to do; the window now."""
        self.tokens = self._within(self.tokens / 2)
        return self.tokens

    def _within(self, tokens: float) -> int:
        return max(self.least_tokens, min(self.most_tokens, round(tokens)))
