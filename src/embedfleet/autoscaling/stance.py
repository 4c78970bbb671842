"""How much reserve a pool keeps, and for how long: what an operator sets or traffic teaches."""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.runtime.settings import AutoscalingSettings

USUAL_UTILISATION = 0.6
USUAL_DELAY_S = 600.0
MEMORY_OF_DELAYS = 6.0
"""Memory of peaks over the scale-down delay, where it is not set: an hour beside ten minutes."""
LONGEST_MEMORY_S = 3600.0
"""Most of it: what long delays keep needs no memory beside."""


@dataclass(frozen=True, slots=True)
class Stance:
    """One way of scaling."""

    utilisation: float
    """Share of its ability that a replica is planned to give."""
    delay_s: float
    """Quiet seconds before the fleet shrinks."""
    memory_s: float
    """Seconds in which the memory of a peak fades to 37 %."""
    season: str = ""
    """Period whose usual traffic is provided for before it comes; empty for none."""


def stance(
    settings: AutoscalingSettings,
    utilisation: float | None = None,
    delay_s: float | None = None,
    season: str = "",
) -> Stance:
    """The stance of these settings; what they leave open is as given, else the usual."""
    if settings.target_utilisation is not None:
        utilisation = settings.target_utilisation
    if settings.down_cooldown_s is not None:
        delay_s = settings.down_cooldown_s
    delay_s = USUAL_DELAY_S if delay_s is None else delay_s
    memory_s = settings.peak_memory_s
    if memory_s is None:
        # Who knows what comes, or lets go at once, need not remember what was.
        brief = season or delay_s < USUAL_DELAY_S
        memory_s = delay_s if brief else min(MEMORY_OF_DELAYS * delay_s, LONGEST_MEMORY_S)
    used = USUAL_UTILISATION if utilisation is None else utilisation
    return Stance(used, delay_s, memory_s, season)
