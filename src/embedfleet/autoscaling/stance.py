"""How much reserve a pool keeps, and for how long: what an operator sets or traffic teaches."""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.runtime.settings import AutoscalingSettings

USUAL_UTILISATION = 0.6
USUAL_DELAY_S = 600.0


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
    promise_s: float = 0.0
    """Seconds in which no fewer replicas would have kept the promise than are kept now; 0 for what
    was needed at any moment of the quiet ones."""


def stance(
    settings: AutoscalingSettings,
    utilisation: float | None = None,
    delay_s: float | None = None,
    season: str = "",
    promise_s: float = 0.0,
) -> Stance:
    """The stance of these settings; what they leave open is as given, else the usual."""
    if settings.target_utilisation is not None:
        utilisation = settings.target_utilisation
    if settings.down_cooldown_s is not None:
        delay_s = settings.down_cooldown_s
    delay_s = USUAL_DELAY_S if delay_s is None else delay_s
    memory_s = delay_s if settings.peak_memory_s is None else settings.peak_memory_s
    used = USUAL_UTILISATION if utilisation is None else utilisation
    return Stance(used, delay_s, memory_s, season, promise_s)
