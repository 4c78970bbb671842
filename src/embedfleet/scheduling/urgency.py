"""The order in which waiting texts run, shared by the gateway's queue and by batch packing. Pure.

Determined by lane, arrival, length and deadline.
"""

from __future__ import annotations

from embedfleet.vocabulary import Lane

LANE_SHARES = {Lane.INTERACTIVE: 0.9, Lane.BULK: 0.1}
"""How work is divided while both lanes wait. Bulk work keeps a tenth, so that it always moves; a
lane that has nothing waiting leaves its share to the other."""

BULK_LEAD = 1024 / LANE_SHARES[Lane.INTERACTIVE]
"""Interactive texts go first until they are so many tokens ahead of their share: some fifty
questions. Else a bulk text that is next, and waits for room that a question does not need, holds
them up."""

SLACK_S_PER_TOKEN = 5e-4
"""How much later than it arrived a text may rank, for each of its tokens.

A text of 8,000 tokens lets short ones pass that arrived up to 4 s after it, and then passes them:
short texts wait little for long ones, and long ones are never starved. (Shortest first with
ageing; on one H200 a 4B model reads 8,000 tokens in about 0.1 s, so the slack is generous.)"""


def urgency(arrived: float, tokens: int, deadline: float | None = None) -> float:
    """When the text should be running at the latest, in seconds on the clock of `arrived`.

    The smaller, the earlier it leaves. A deadline that comes sooner counts instead.
    """
    latest = arrived + tokens * SLACK_S_PER_TOKEN
    return latest if deadline is None else min(latest, deadline)
