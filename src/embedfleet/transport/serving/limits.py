"""Client limits: connections, bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.runtime.settings import GatewaySettings
from embedfleet.vocabulary import HeadersTooLargeError

LEAST_BYTES_PER_S = 1000
"""A body may take longer than its time-out, a second for so many bytes: whoever sends at least as
fast is not cut off, and a byte now and then holds no connection open. (As Apache's MinRate.)"""

LINGER_S = 2.0
"""How long a client may go on sending what is discarded, after an answer that came before the end
of its request: to close at once would take that answer away from it."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits on one server's clients; the settings of a gateway say why they are what they are."""

    connections: int = 8192
    head_bytes: int = 64 * 2**10
    headers: int = 100
    """As many as Apache takes."""
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    """Seconds that a connection may rest between requests."""
    stall_s: float = 30.0
    """Seconds over which the rate of a client that reads its answer is taken."""
    answer_bytes_per_s: int = 1000
    """Least rate at which an answer must be taken."""
    answer_bytes: int = 256 * 2**20
    """Most bytes of answers that wait for their clients at once."""

    @classmethod
    def of(cls, settings: GatewaySettings) -> ClientLimits:
        """Those of a gateway's clients."""
        return cls(
            connections=settings.max_connections,
            head_bytes=settings.max_header_bytes,
            head_s=settings.header_timeout_s,
            body_s=settings.body_timeout_s,
            idle_s=settings.idle_timeout_s,
            stall_s=settings.send_timeout_s,
            answer_bytes_per_s=settings.min_answer_rate,
            answer_bytes=settings.max_answer_bytes,
        )

    def body_due(self, began: float, last: float, received: int) -> float:
        """When a body must be whole, or have brought more bytes.

        `began` when its head was whole; `last` when the last of the `received` bytes came: what
        came fast gives no right to a long pause.
        """
        return min(began + self.body_s + received / LEAST_BYTES_PER_S, last + self.body_s)

    def too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(
            f"request line and headers may have {self.head_bytes} bytes and {self.headers} "
            "headers; send less"
        )

    def too_much_between(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(
            f"chunk extensions and trailers of a body may have {self.head_bytes} bytes; send less"
        )
