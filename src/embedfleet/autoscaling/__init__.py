"""How many replicas a pool should have: decided here, carried out elsewhere."""

from embedfleet.autoscaling.policy import Decision, Memory, Term, decide
from embedfleet.autoscaling.schedule import Schedule, Window, parse
from embedfleet.autoscaling.signals import Arrivals, Observation, ability

__all__ = [
    "Arrivals",
    "Decision",
    "Memory",
    "Observation",
    "Schedule",
    "Term",
    "Window",
    "ability",
    "decide",
    "parse",
]
