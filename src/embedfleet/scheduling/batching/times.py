"""Measures how long batches take where they overlap on one device. Pure; `now` is handed in.

A batch submitted to a busy device is charged from the end of the batch before it. A long text is
not charged for the batches that ran beside it.
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
