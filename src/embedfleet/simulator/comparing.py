"""Compares policies on one trace with several seeds: the work of `embedfleet simulate`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedfleet.autoscaling import recording
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.runtime.text_files import expect_writable, write_file
from embedfleet.simulator import flow, oracle, plot, profiles, recorded, texts, traffic
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import RIVALS
from embedfleet.simulator.scalers import Ours, Scaler, Scheduled, Static
from embedfleet.simulator.score import Score
from embedfleet.vocabulary import SettingError

OURS = "embedfleet"
ORACLE = "oracle"
STATIC = "static-"
SIZE = re.compile("[0-9]{1,9}")
MOST_STATIC = 4096
"""As `autoscaling.max_replicas` has it."""
TABLE_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to simulate."""

    trace: Path | None
    """Texts with their times; or else a recording."""
    policies: tuple[str, ...]
    settings: AutoscalingSettings
    profile: Path | None = None
    copies: int = 1
    cold_start_s: float | None = None
    seeds: int = 1
    as_flow: bool = False
    recorded: recording.Recording | None = None
    """Observations of a pool, instead of a trace; simulated as a flow."""
    speed: float = 1.0
    """How many times as fast replicas compute."""
    price: float | None = None
    """Of a replica for an hour."""
    json: Path | None = None
    plot: Path | None = None


def make(name: str, settings: AutoscalingSettings) -> Scaler:
    """A policy by its name, new and without memory."""
    if name == OURS:
        return Ours(settings)
    if name in RIVALS:
        return RIVALS[name](settings.min_replicas, settings.max_replicas)
    size = name.removeprefix(STATIC)
    if name.startswith(STATIC) and SIZE.fullmatch(size) and 0 < int(size) <= MOST_STATIC:
        return Static(int(size))
    known = ", ".join([OURS, *RIVALS, ORACLE, f"{STATIC}8"])
    raise SettingError(
        f'--policy: "{name}" is unknown; known are {known} (any number up to {MOST_STATIC:,})'
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Where texts come from, and what they come to."""

    asked: Comparison
    profile: Profile
    arriving: traffic.Trace | recording.Recording
    ready: int
    """Replicas at the start."""

    @classmethod
    def of(cls, asked: Comparison, arriving: traffic.Trace | recording.Recording) -> _Source:
        ready = asked.settings.min_replicas
        if isinstance(arriving, recording.Recording):
            ready = min(max(ready, arriving.lines[0].planned), asked.settings.max_replicas)
        return cls(asked, profile_of(asked, arriving), arriving, ready)

    def texts(self, seed: int) -> traffic.Trace | None:
        """Single texts, where there are any."""
        if isinstance(self.arriving, recording.Recording):
            return None
        return self.arriving.copies(self.asked.copies, np.random.default_rng(seed))

    def flow(self, seed: int) -> flow.Flow:
        if isinstance(self.arriving, recording.Recording):
            return recorded.flow(self.arriving, seed, self.asked.copies)
        copied = self.arriving.copies(self.asked.copies, np.random.default_rng(seed))
        return flow.Flow.of_trace(copied)


def arriving(asked: Comparison) -> traffic.Trace | recording.Recording:
    """What to simulate, read. SettingError, with the line, for what can't be."""
    match asked.trace, asked.recorded:
        case None, recording.Recording() as kept:
            return kept
        case Path() as trace, None:
            return traffic.read(trace)
        case _:
            raise SettingError("a simulation takes a TRACE or --recorded FILE, one of the two")


def profile_of(asked: Comparison, arriving: traffic.Trace | recording.Recording) -> Profile:
    """What a replica is like: as the file says, else as it was recorded, else as published."""
    if asked.profile is not None:
        profile = profiles.read(asked.profile)
    elif isinstance(arriving, recording.Recording):
        profile = recorded.profile(arriving)
    else:
        profile = Profile()
    profile = recorded.faster(profile, asked.speed)
    return profile if asked.cold_start_s is None else replace(profile, start_s=asked.cold_start_s)


def run(source: _Source) -> list[Score]:
    """Every policy with every seed."""
    asked = source.asked
    todo = [(name, seed) for name in asked.policies for seed in range(asked.seeds)]
    shown = Console(stderr=True)
    scores = []
    for name, seed in track(todo, "simulating", console=shown, disable=not shown.is_terminal):
        try:
            if name == ORACLE:
                found = _oracle(source, seed)
            else:
                found = _one(source, make(name, asked.settings), seed)
        except oracle.UnattainableError as error:
            if len(asked.policies) == 1:
                raise
            shown.print(error.message)  # the others have their rows
            continue
        cost = None if asked.price is None else found.replica_hours * asked.price
        scores.append(replace(found, policy=name, cost=cost))
    return scores


def _oracle(source: _Source, seed: int) -> Score:
    """The schedule of who knows the traffic, carried out; it is made on the flow in either case."""
    settings = source.asked.settings
    found = oracle.plan(
        oracle.Question(
            source.flow(seed),
            source.profile,
            slo_s=settings.slo_s,
            least=settings.min_replicas,
            most=settings.max_replicas,
        )
    )
    score = _one(source, Scheduled(found.replicas, source.profile.start_s), seed)
    return replace(score, least_hours=found.bound_s / 3600.0)


def _one(source: _Source, scaler: Scaler, seed: int) -> Score:
    asked, ready, standby = source.asked, source.ready, 0
    if isinstance(scaler, Scheduled):
        ready = int(scaler.replicas[0])
    elif isinstance(scaler, Static):
        ready = scaler.replicas
    elif isinstance(scaler, Ours):
        standby = asked.settings.standby
    slo_s = asked.settings.slo_s
    single = None if asked.as_flow else source.texts(seed)
    if single is None:
        return flow.simulate(
            source.flow(seed),
            scaler,
            source.profile,
            ready=ready,
            standby=standby,
            slo_s=slo_s,
            seed=seed,
        )
    return texts.simulate(
        single, scaler, source.profile, ready=ready, standby=standby, slo_s=slo_s, seed=seed
    )


def show(asked: Comparison) -> None:
    """Run, print the table, write what was asked for."""
    if asked.plot is not None:
        plot.expect_format(asked.plot)  # refused before minutes have passed
        plot.pyplot()
    for name in asked.policies:
        if name != ORACLE:
            make(name, asked.settings)  # refused before anything is read
    source = _Source.of(asked, arriving(asked))
    for file in filter(None, (asked.json, asked.plot)):
        expect_writable(file)
    scores = run(source)
    shown = Console(soft_wrap=True)
    shown.width = max(shown.width, TABLE_WIDTH)  # a pipe is no reason to cut figures off
    shown.print(table(scores))
    bounds = [score.least_hours for score in scores if score.least_hours is not None]
    if bounds:
        shown.print(
            f"oracle: knows the trace; no schedule that answers {oracle.SHARE:.1%} in time takes "
            f"fewer than {np.mean(bounds):.1f} replica-hours"
        )
    if asked.recorded is not None:
        for line in _then(asked.recorded, asked.price):
            shown.print(line)
    if asked.json is not None:
        rows = [score.as_row() for score in scores]
        write_file(asked.json, f"{json.dumps(rows, indent=1)}\n".encode())
    if asked.plot is not None:
        first = [score for score in scores if score.seed == 0]
        plot.timelines(first, source.profile.tokens_per_s, asked.settings.slo_s, asked.plot)


def _then(kept: recording.Recording, price: float | None) -> Iterator[str]:
    """The line about the time of a recording."""
    hours = kept.replica_hours
    cost = "" if price is None else f", which cost {hours * price:.2f}"
    yield f"recorded: {hours:.1f} replica-hours were ordered then{cost}"
    if kept.cut is not None:
        yield f"{kept.path}, line {kept.cut}: it has no end and was left out"


def table(scores: Sequence[Score]) -> Table:
    """One row for each policy: means over its seeds."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("policy", no_wrap=True)
    priced = any(score.cost is not None for score in scores)
    names = ["in time", "replicas", "hours", *["cost"][: 1 if priced else 0]]
    for name in (*names, "wait p50", "p99", "p99.9", "events", "refused"):
        shown.add_column(name, justify="right", no_wrap=True)
    for policy in dict.fromkeys(score.policy for score in scores):
        group = [score for score in scores if score.policy == policy]
        shown.add_row(
            policy,
            f"{_mean(group, 'slo_attainment'):.2%}",
            f"{_mean(group, 'mean_replicas'):.2f}",
            f"{_mean(group, 'replica_hours'):.1f}",
            *([f"{_mean(group, 'cost'):.2f}"] if priced else []),
            f"{_mean(group, 'wait_p50_s'):.3f} s",
            f"{_mean(group, 'wait_p99_s'):.3f} s",
            f"{_mean(group, 'wait_p999_s'):.3f} s",
            f"{_mean(group, 'scale_events'):.0f}",
            f"{_mean(group, 'rejected'):.0f}",
        )
    return shown


def _mean(group: Sequence[Score], name: str) -> float:
    return float(np.mean([getattr(score, name) for score in group]))
