"""When a text that a replica has should be given to another one as well.

Pure. Decides by how long the replica should have taken. Refuses to know what the budget allows.
"""

from __future__ import annotations

HEDGE_FACTOR = 4.0
"""A replica is late when it needs four times what its own cost model predicts for all it has."""

HEDGE_LEAST_S = 1.0
"""And at least this long: predictions of milliseconds are noise on a busy machine."""


def late(quiet_s: float, outstanding_s: float) -> bool:
    """Whether a call that brought nothing for `quiet_s` seconds is late, at a replica that has
    `outstanding_s` seconds of work by its own cost model.
    """
    return quiet_s > max(HEDGE_LEAST_S, HEDGE_FACTOR * outstanding_s)
