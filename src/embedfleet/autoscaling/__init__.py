"""How many replicas a pool should have: decided here, carried out elsewhere."""

from embedfleet.autoscaling.adapting import Experience, decide, outcomes
from embedfleet.autoscaling.journal import Entry, Journal, Mode
from embedfleet.autoscaling.policy import Decision, PolicyState, Term
from embedfleet.autoscaling.scaler import ObservationSource, Scaler, Target
from embedfleet.autoscaling.schedule import Schedule, Window, parse
from embedfleet.autoscaling.signals import Observation, ability, total
from embedfleet.autoscaling.sliding_windows import Arrivals, Busy, Latencies

__all__ = [
    "Arrivals",
    "Busy",
    "Decision",
    "Entry",
    "Experience",
    "Journal",
    "Latencies",
    "Mode",
    "Observation",
    "ObservationSource",
    "PolicyState",
    "Scaler",
    "Schedule",
    "Target",
    "Term",
    "Window",
    "ability",
    "decide",
    "outcomes",
    "parse",
    "total",
]
