"""Autoscaling policies beside each other: a day of ServeGen, Azure's two hours, five seeds.

    python benchmarks/autoscaling.py [--traces servegen,conv,code] [--parts flows,singles] [--quick]

Sweeps one parameter of each policy and writes every run to `benchmarks/results/autoscaling-….json`
and the curves of attainment against replicas as PNG; a second start goes on where the first ended.
ServeGen's day has 50 to 80 million texts and is simulated as a flow; Azure's traces are swept as a
flow too, and each policy's first value is run again text by text through the production queue.
Seed n of ServeGen is day n of its second week; the policy was tuned on the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import Progress

from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, plot, servegen, texts, traffic
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import aibrix, article, hpa, kpa, llm_d, ray_serve, skyserve
from embedfleet.simulator.scalers import Ours, Scaler, Static

HERE = Path(__file__).parent
DATA = Path(os.environ.get("EMBEDFLEET_DATA", HERE.parents[1] / "shared" / "data")) / "traces"
RESULTS = HERE / "results"
LEAST, MOST, SLO_S = 2, 32, 0.5
MEAN_LOAD = 6.0
SEEDS: Final = (0, 1, 2, 3, 4)
DAY_WINDOWS = 144
SECOND_WEEK = 7
AZURE: Final = {"conv": 8, "code": 6}
"""Copies of each trace."""


def ours(standby: int = 0, **chosen: float) -> Scaler:
    settings: dict[str, Any] = {"min_replicas": LEAST, "max_replicas": MOST, **chosen}
    name = "embedfleet" + (f", {standby} standby" if standby else "")
    return Ours(AutoscalingSettings(standby=standby, **settings), name=name)


SWEEPS: Final[dict[str, tuple[tuple[float, ...], Callable[[float], Scaler]]]] = {
    "embedfleet": ((0.6, 0.5, 0.45, 0.7), lambda v: ours(target_utilisation=v)),
    "embedfleet, 1 standby": ((0.6, 0.5, 0.7), lambda v: ours(1, target_utilisation=v)),
    "embedfleet, 2 standby": ((0.6, 0.5, 0.7), lambda v: ours(2, target_utilisation=v)),
    "article": ((1, 4, 8), lambda v: article.Article(step=int(v))),
    "article, utilisation only": (
        (1, 4),
        lambda v: article.Article(step=int(v), utilisation_only=True),
    ),
    "HPA utilisation": ((0.8, 0.65, 0.5, 0.4), lambda v: hpa.Hpa(target=v)),
    "HPA token rate": ((0.7, 0.6, 0.5, 0.4), lambda v: hpa.HpaRate(utilisation=v)),
    "Knative KPA": ((0.7, 0.6, 0.5, 0.45), lambda v: kpa.Kpa(utilisation=v)),
    "Knative KPA, 600 s delay": (
        (0.7, 0.6, 0.5),
        lambda v: kpa.Kpa(utilisation=v, delay_s=600.0),
    ),
    "Ray Serve": ((2, 1), lambda v: ray_serve.RayServe(target=v)),
    "SkyServe": ((0.7, 0.5, 0.4), lambda v: skyserve.SkyServe(utilisation=v)),
    "AIBrix APA": ((0.7, 0.5), lambda v: aibrix.Apa(target=v)),
    "llm-d queue": ((1, 16), lambda v: llm_d.Queue(queued=v, running=16 * v)),
    "llm-d tokens": ((0.2, 0.05, 1.0), lambda v: llm_d.Tokens(wait_s=v)),
    "llm-d SLO": ((0.5, 0.25), lambda v: llm_d.Slo(slo_s=v)),
    "static": ((12, 10, 8, 14, 16, 17, 18, 20, 22), lambda v: Static(int(v))),
}
"""What is swept of each policy: its own default or the usual value first."""
PLOTTED: Final = {"servegen": 0.95, "conv": 0.6, "code": 0.3}
"""Where the plots begin; what is worse is not shown."""
NEAREST: Final = "Knative KPA, 600 s delay"
"""The rival whose curve comes nearest on ServeGen's days."""


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation to do."""

    trace: str
    policy: str
    value: float
    seed: int
    cold_s: float
    exact: bool

    def scaler(self) -> Scaler:
        return SWEEPS[self.policy][1](self.value)

    def go(self, source: Source) -> dict[str, Any]:
        scaler = self.scaler()
        ready = int(self.value) if self.policy == "static" else LEAST
        standby = scaler.settings.standby if isinstance(scaler, Ours) else 0
        profile = Profile(start_s=self.cold_s)
        began = time.perf_counter()
        options: dict[str, Any] = {
            "ready": ready,
            "standby": standby,
            "slo_s": SLO_S,
            "seed": self.seed,
        }
        if self.exact:
            found = texts.simulate(source.trace_of(self), scaler, profile, **options)
        else:
            found = flow.simulate(source.flow_of(self), scaler, profile, **options)
        row = found.as_row() | {"policy": self.policy, "value": self.value, "trace": self.trace}
        row |= {"cold_start_s": self.cold_s, "exact": self.exact}
        return row | {"took_s": round(time.perf_counter() - began, 2)}


class Source:
    """Traces by name and seed; the last flow is kept, because runs of one follow each other."""

    def __init__(self) -> None:
        self._flow: tuple[tuple[str, int], flow.Flow] | None = None
        self._statistics: servegen.ServeGen | None = None

    def trace_of(self, run: Run) -> traffic.Trace:
        path = DATA / "azure_llm_2023" / f"AzureLLMInferenceTrace_{run.trace}.csv"
        return traffic.read(path).copies(AZURE[run.trace], np.random.default_rng(run.seed))

    def flow_of(self, run: Run) -> flow.Flow:
        if self._flow is None or self._flow[0] != (run.trace, run.seed):
            self._flow = ((run.trace, run.seed), self._draw(run))
        return self._flow[1]

    def _draw(self, run: Run) -> flow.Flow:
        if run.trace != "servegen":
            return flow.Flow.of_trace(self.trace_of(run))
        if self._statistics is None:
            self._statistics = servegen.read(DATA / "servegen_m_small.tar.xz")
        first = (SECOND_WEEK + run.seed) * DAY_WINDOWS
        mean = self._statistics.tokens_per_s(first, DAY_WINDOWS)
        scale = MEAN_LOAD * Profile().tokens_per_s / mean
        parts = self._statistics.windows(first, DAY_WINDOWS, scale, run.seed)
        return flow.Flow.of(parts, DAY_WINDOWS * servegen.WINDOW_S)


def flows(traces: list[str], *, quick: bool) -> Iterator[Run]:
    """Sweeps, day by day, because drawing one of ServeGen's takes longer than running a policy.

    Starts of 30 s are run with each policy's first value, and swept for the nearest two.
    """
    for trace in traces:
        for seed in SEEDS[:1] if quick else SEEDS:
            for policy, (values, _) in SWEEPS.items():
                for value in values[:1] if quick else values:
                    yield Run(trace, policy, value, seed, 120.0, exact=False)
                if policy != "static":
                    near = trace == "servegen" and policy in {"embedfleet", NEAREST}
                    for value in values if near and not quick else values[:1]:
                        yield Run(trace, policy, value, seed, 30.0, exact=False)


def singles(traces: list[str], *, quick: bool) -> Iterator[Run]:
    """Text by text, minutes each: all seeds for ours, two for what it is compared with."""
    for few in (False, True):
        for trace in (each for each in traces if each in AZURE):
            for policy, (values, _) in SWEEPS.items():
                if policy.startswith("embedfleet") == few:
                    continue
                for value in (12, 16, 24) if policy == "static" else values[:1]:
                    for seed in SEEDS[: 1 if quick else 2 if few else 5]:
                        yield Run(trace, policy, value, seed, 120.0, exact=True)


def report(rows: list[dict[str, Any]]) -> None:
    groups = defaultdict(list)
    for row in rows:
        key = (row["trace"], row["cold_start_s"], row["exact"], row["policy"], row["value"])
        groups[key].append(row)
    print(f"{'trace':9}{'cold':>5}{'exact':>6}  {'policy':28}{'value':>6}{'in time':>9}", end="")
    print(f"{'least':>8}{'replicas':>9}{'wait p99':>10}{'events':>8}{'seeds':>6}")
    for (trace, cold, exact, policy, value), group in groups.items():
        mean = {
            name: statistics.mean(row[name] for row in group)
            for name in ("slo_attainment", "mean_replicas", "wait_p99_s", "scale_events")
        }
        least = min(row["slo_attainment"] for row in group)
        print(
            f"{trace:9}{cold:5.0f}{'yes' if exact else 'no':>6}  {policy:28}{value:6g}"
            f"{mean['slo_attainment']:9.2%}{least:8.2%}{mean['mean_replicas']:9.2f}"
            f"{mean['wait_p99_s']:10.2f}{mean['scale_events']:8.0f}{len(group):6}"
        )


def draw(rows: list[dict[str, Any]], traces: list[str]) -> None:
    for trace in traces:
        found: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row["trace"] == trace and row["cold_start_s"] == 120 and not row["exact"]:
                found[row["policy"]][row["value"]].append(row)
        points = {
            policy: [
                (
                    statistics.mean(row["mean_replicas"] for row in group),
                    statistics.mean(row["slo_attainment"] for row in group),
                )
                for group in values.values()
            ]
            for policy, values in found.items()
        }
        title = f"{trace}: cold start 120 s, SLO 500 ms, mean of the seeds"
        plot.curves(points, title, RESULTS / f"autoscaling-{trace}.png", least=PLOTTED[trace])


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        row[name] for name in ("trace", "policy", "value", "seed", "cold_start_s", "exact")
    )


def do(runs: list[Run], output: Path) -> list[dict[str, Any]]:
    """Run what an earlier start has not done yet; keep all in `output`."""
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"] if output.exists() else []
    done = {key(row) for row in rows}
    runs = [
        run
        for run in runs
        if (run.trace, run.policy, run.value, run.seed, run.cold_s, run.exact) not in done
    ]
    source = Source()
    with Progress() as progress:
        task = progress.add_task("runs", total=len(runs))
        for run in runs:
            progress.update(task, description=f"{run.trace} {run.policy} {run.value:g}")
            rows.append(run.go(source))
            progress.advance(task)
            document = {"python": platform.python_version(), "rows": rows}
            output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--traces", default="servegen,conv,code")
    parser.add_argument("--parts", default="flows,singles")
    parser.add_argument("--quick", action="store_true", help="one seed, one value each")
    parser.add_argument("--report", action="store_true", help="only show what has been run")
    options = parser.parse_args()
    traces = options.traces.split(",")
    if not DATA.exists():
        raise SystemExit(f"no {DATA}: set EMBEDFLEET_DATA to the folder of traces")
    RESULTS.mkdir(exist_ok=True)
    rows = []
    for part in options.parts.split(","):
        runs = list({"flows": flows, "singles": singles}[part](traces, quick=options.quick))
        name = f"autoscaling-{part}{'-quick' if options.quick else ''}.json"
        rows += do([] if options.report else runs, RESULTS / name)
    report(rows)
    draw(rows, [trace for trace in traces if any(row["trace"] == trace for row in rows)])


if __name__ == "__main__":
    main()
