"""Several policies on one trace with several seeds: the command `embedfleet simulate`.

Decides which policies exist by name and what a comparison prints. Refuses to know flags.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, oracle, plot, profiles, texts, traffic
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import RIVALS
from embedfleet.simulator.scalers import Ours, Scaler, Scheduled, Static
from embedfleet.simulator.score import Score
from embedfleet.vocabulary import SettingError

OURS = "embedfleet"
ORACLE = "oracle"
STATIC = "static-"
TABLE_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to simulate."""

    trace: Path
    policies: tuple[str, ...]
    settings: AutoscalingSettings
    profile: Path | None = None
    copies: int = 1
    cold_start_s: float | None = None
    seeds: int = 1
    as_flow: bool = False
    json: Path | None = None
    plot: Path | None = None


def make(name: str, settings: AutoscalingSettings) -> Scaler:
    """A policy by its name, new and without memory."""
    if name == OURS:
        return Ours(settings)
    if name in RIVALS:
        return RIVALS[name](settings.min_replicas, settings.max_replicas)
    size = name.removeprefix(STATIC)
    if name.startswith(STATIC) and size.isdecimal() and int(size):
        return Static(int(size))
    known = ", ".join([OURS, *RIVALS, ORACLE, f"{STATIC}8"])
    raise SettingError(f'--policy: "{name}" is unknown; known are {known} (any number)')


def run(asked: Comparison) -> list[Score]:
    """Every policy with every seed."""
    profile = Profile() if asked.profile is None else profiles.read(asked.profile)
    if asked.cold_start_s is not None:
        profile = replace(profile, start_s=asked.cold_start_s)
    for name in asked.policies:
        if name != ORACLE:
            make(name, asked.settings)  # refused before anything runs
    trace = traffic.read(asked.trace)
    todo = [(name, seed) for name in asked.policies for seed in range(asked.seeds)]
    shown = Console(stderr=True)
    scores = []
    for name, seed in track(todo, "simulating", console=shown, disable=not shown.is_terminal):
        copied = trace.copies(asked.copies, np.random.default_rng(seed))
        if name == ORACLE:
            found = _oracle(copied, profile, seed, asked)
        else:
            found = _one(copied, make(name, asked.settings), profile, seed, asked)
        scores.append(replace(found, policy=name))
    return scores


def _oracle(trace: traffic.Trace, profile: Profile, seed: int, asked: Comparison) -> Score:
    """The schedule of who knows the trace, carried out; it is made on the flow in either case."""
    settings = asked.settings
    found = oracle.plan(
        oracle.Question(
            flow.Flow.of_trace(trace),
            profile,
            slo_s=settings.slo_s,
            least=settings.min_replicas,
            most=settings.max_replicas,
        )
    )
    score = _one(trace, Scheduled(found.replicas, profile.start_s), profile, seed, asked)
    return replace(score, least_hours=found.bound_s / 3600.0)


def _one(
    trace: traffic.Trace, scaler: Scaler, profile: Profile, seed: int, asked: Comparison
) -> Score:
    ready, standby = asked.settings.min_replicas, 0
    if isinstance(scaler, Scheduled):
        ready = int(scaler.replicas[0])
    elif isinstance(scaler, Static):
        ready = scaler.replicas
    elif isinstance(scaler, Ours):
        standby = asked.settings.standby
    slo_s = asked.settings.slo_s
    if asked.as_flow:
        summed = flow.Flow.of_trace(trace)
        return flow.simulate(
            summed, scaler, profile, ready=ready, standby=standby, slo_s=slo_s, seed=seed
        )
    return texts.simulate(
        trace, scaler, profile, ready=ready, standby=standby, slo_s=slo_s, seed=seed
    )


def show(asked: Comparison) -> None:
    """Run, print the table, write what was asked for."""
    if asked.plot is not None:
        plot.pyplot()  # refused before minutes have passed
    scores = run(asked)
    shown = Console(soft_wrap=True)
    shown.width = max(shown.width, TABLE_WIDTH)  # a pipe is no reason to cut figures off
    shown.print(table(scores))
    bounds = [score.least_hours for score in scores if score.least_hours is not None]
    if bounds:
        shown.print(
            f"oracle: knows the trace; no schedule that answers {oracle.SHARE:.1%} in time takes "
            f"fewer than {np.mean(bounds):.1f} replica-hours"
        )
    if asked.json is not None:
        rows = [score.as_row() for score in scores]
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if asked.plot is not None:
        first = [score for score in scores if score.seed == 0]
        tokens_per_s = Profile() if asked.profile is None else profiles.read(asked.profile)
        plot.timelines(first, tokens_per_s.tokens_per_s, asked.settings.slo_s, asked.plot)


def table(scores: Sequence[Score]) -> Table:
    """One row for each policy: means over its seeds."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("policy", no_wrap=True)
    for name in ("in time", "replicas", "hours", "wait p50", "p99", "p99.9", "events", "refused"):
        shown.add_column(name, justify="right", no_wrap=True)
    for policy in dict.fromkeys(score.policy for score in scores):
        group = [score for score in scores if score.policy == policy]
        shown.add_row(
            policy,
            f"{_mean(group, 'slo_attainment'):.2%}",
            f"{_mean(group, 'mean_replicas'):.2f}",
            f"{_mean(group, 'replica_hours'):.1f}",
            f"{_mean(group, 'wait_p50_s'):.3f} s",
            f"{_mean(group, 'wait_p99_s'):.3f} s",
            f"{_mean(group, 'wait_p999_s'):.3f} s",
            f"{_mean(group, 'scale_events'):.0f}",
            f"{_mean(group, 'rejected'):.0f}",
        )
    return shown


def _mean(group: Sequence[Score], name: str) -> float:
    return float(np.mean([getattr(score, name) for score in group]))
