"""Whether a body comes as fast as it must.

Pure. Decides what counts: bytes of the body, pauses between them, bytes that are none of it. The
time for which the client was made to wait does not count. Refuses to know sockets and timers.
"""

from __future__ import annotations

from embedfleet.serving.limits import ClientLimits


class BodyPace:
    """Follows the bodies of one connection, one after the other."""

    __slots__ = ("_barren", "_began", "_last", "_limits", "_paused", "_received", "_seen")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._paused: float | None = None
        self.begin(0.0)

    @property
    def paused(self) -> bool:
        """Whether the client is made to wait."""
        return self._paused is not None

    def begin(self, now: float) -> None:
        """The head of a request is whole; its body comes next."""
        self._received = self._seen = self._barren = 0
        self._began = self._last = now
        if self._paused is not None:
            self._paused = now

    def arrived(self, size: int, now: float) -> None:
        """More of the body."""
        self._received += size
        self._last = now

    def read(self, size: int) -> bool:
        """Count what was read; False where too much in a row brought nothing of the body.

        A body in small chunks has more bytes around them than in them, so each byte of it counts.
        """
        grew, self._seen = self._received > self._seen, self._received
        self._barren = 0 if grew else self._barren + size
        return self._barren <= self._limits.head_bytes

    def pause(self, now: float) -> None:
        """The client is made to wait."""
        self._paused = now

    def resume(self, now: float) -> None:
        """It may send again."""
        if self._paused is not None:
            waited_s, self._paused = now - self._paused, None
            self._began += waited_s
            self._last += waited_s

    def left_s(self, now: float) -> float:
        """Seconds until more must have come; none are left where the client is too slow."""
        due = self._limits.body_due(self._began, self._last, self._received)
        return due - (now if self._paused is None else self._paused)
