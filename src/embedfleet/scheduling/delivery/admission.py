"""Admission control: whether a request's texts may be queued, or are refused with 429. Pure.

Takes into account the tokens that are queued, the rate at which they are served, and the deadline.
"""

from __future__ import annotations

import msgspec

from embedfleet.vocabulary import Lane, OverloadedError, retry_after_s

BULK_SHARE = 0.5
"""How full the queue may be before bulk texts are refused: the rest is for those who wait."""


class Pressure(msgspec.Struct, frozen=True):
    """How busy a pool is."""

    tokens: int
    """Tokens that wait or are being computed."""
    lane_s: float
    """Seconds until a text of this lane that is queued now would be computed."""


def admit(tokens: int, lane: Lane, left_s: float, pressure: Pressure, most_tokens: int) -> None:
    """Return if `tokens` more may be queued; OverloadedError with the time to try again if not.

    `left_s` is the time until the request's deadline. A request that meets an idle pool is never
    refused, however large it is.
    """
    if not pressure.tokens:
        return
    most = int(most_tokens * (BULK_SHARE if lane is Lane.BULK else 1.0))
    if pressure.tokens + tokens > most:
        over = (pressure.tokens + tokens - most) / pressure.tokens
        raise OverloadedError(
            f"{pressure.tokens} tokens are in progress and {tokens} more would exceed the limit "
            f"of {most} for {lane} texts (gateway.max_queued_tokens); try again later",
            retry_after_s=retry_after_s(over * pressure.lane_s),
        )
    if pressure.lane_s > left_s:
        raise OverloadedError(
            f"the wait for a replica is about {pressure.lane_s:.1f} s, the request's deadline "
            f"comes in {left_s:.1f} s; try again later or allow more time",
            retry_after_s=retry_after_s(pressure.lane_s - left_s),
        )
