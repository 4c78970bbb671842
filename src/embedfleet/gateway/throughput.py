"""How fast a pool has been lately, in tokens per second.

Pure: the time is handed in. Refuses to know what is done with the figure.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
"""Long enough to span several batches of a slow engine, short enough to follow a changed load."""


class Throughput:
    """Tokens finished over the last seconds."""

    def __init__(self) -> None:
        self._finished: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, tokens: int, now: float) -> None:
        """Count finished tokens; what is older than the window is forgotten."""
        self._finished.append((now, tokens))
        self._tokens += tokens
        while self._finished[0][0] < now - WINDOW_S:
            self._tokens -= self._finished.popleft()[1]

    def seconds(self, tokens: int) -> float:
        """How long the pool needs for so many tokens; 1 s before anything was measured."""
        if len(self._finished) < 2 or not self._tokens:
            return 1.0
        span = self._finished[-1][0] - self._finished[0][0]
        # The first entry's own time lies before the span.
        return tokens * span / max(1, self._tokens - self._finished[0][1])
