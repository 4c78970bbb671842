"""How long batches take on one device, and which of them takes too long. Pure; `now` is handed in.

Where batches overlap, one that was submitted to a busy device is charged from the end of the batch
before it, and a long text is not charged for the batches that ran beside it. An engine that hangs
is told from one that is slow by the age of its oldest batch, on a clock that stands still while
this process is not scheduled: time during which it was stopped (SIGSTOP, a debugger, suspend) or
starved does not count.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Span:
    """One batch on the device."""

    begun: float
    beside: bool
    """Whether it is a long text that others run beside."""
    tells: bool
    """Whether its time says what such a batch costs: it does not if a long text ran beside it."""
    others_s: float = 0.0
    """Of its own time, charged to batches that ran beside it."""


class Times:
    """All batches of one device; `now` are monotonic seconds."""

    def __init__(self) -> None:
        self._last_end = float("-inf")
        self._beside: Span | None = None

    def begin(self, now: float, *, beside: bool) -> Span:
        span = Span(now, beside, tells=beside or self._beside is None)
        if beside:
            self._beside = span
        return span

    def end(self, span: Span, now: float) -> float:
        """Seconds that the batch took."""
        if span.beside:
            self._beside = None
            return max(0.0, now - span.begun - span.others_s)
        begun = max(span.begun, self._last_end)
        self._last_end = now
        if self._beside is not None:
            span.tells = False
            self._beside.others_s += now - max(begun, self._beside.begun)
        return now - begun


TICK_S = 0.25
"""How often the clock is to be read."""

MOST_TICK_S = 4 * TICK_S
"""What a longer pause between two readings counts: the process was not scheduled meanwhile."""

HUNG_TIMES = 10.0
"""A batch that takes so many times what was predicted will not end: costs are learned from what was
measured, and neither a busy machine nor a hot one makes so much of a difference."""

UNMEASURED_S = 600.0
"""As long may one take before there is a prediction: kernels are compiled at their first use, and a
large model on few cores takes minutes."""


@dataclass(slots=True, eq=False)
class Running:
    """One batch from its preparation to its end."""

    begun_s: float
    """On the clock of `Ages`."""
    predicted_s: float | None
    """Together with all that was running when it began; None where it is unknown."""


class Ages:
    """The ages of the batches that run; `now` are monotonic seconds."""

    def __init__(self, now: float, *, floor_s: float) -> None:
        """A batch that ends within `floor_s` does not hang, whatever was predicted."""
        self._floor_s = floor_s
        self._read_at = now
        self._clock_s = 0.0
        self._running: dict[Running, None] = {}

    def advance(self, now: float) -> None:
        """Read the clock; to be done every TICK_S."""
        self._clock_s += max(0.0, min(now - self._read_at, MOST_TICK_S))
        self._read_at = now

    def begin(self, now: float, predicted_s: float | None) -> Running:
        """A batch begins that would take so long alone."""
        self.advance(now)
        if predicted_s is not None:
            for other in self._running:  # they may be before it on the device
                if other.predicted_s is None:
                    predicted_s = None
                    break
                predicted_s += other.predicted_s
        running = Running(self._clock_s, predicted_s)
        self._running[running] = None
        return running

    def end(self, running: Running) -> None:
        self._running.pop(running, None)

    @property
    def oldest_s(self) -> float | None:
        """Age of the oldest batch; None while none runs."""
        oldest = next(iter(self._running), None)
        return None if oldest is None else self._clock_s - oldest.begun_s

    @property
    def oldest_predicted_s(self) -> float | None:
        """What was predicted of the oldest batch."""
        oldest = next(iter(self._running), None)
        return None if oldest is None else oldest.predicted_s

    @property
    def hung(self) -> Running | None:
        """A batch that will not end; None while there is none."""
        for running in self._running:
            predicted = running.predicted_s
            allowed = UNMEASURED_S if predicted is None else HUNG_TIMES * predicted
            if self._clock_s - running.begun_s > max(self._floor_s, allowed):
                return running
        return None
