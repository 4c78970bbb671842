"""Autoscaling on traffic that nobody tuned for: every seeded kind, beside rivals and a clairvoyant.

    python -m benchmarks.autoscaling_kinds --seeds 0,1,2,3,4 --starts 30,120 --processes 2
    python -m benchmarks.autoscaling_kinds --report
    python -m benchmarks.autoscaling_kinds --final --again embedfleet,without --processes 2

Each member of each kind (`embedfleet.simulator.kinds`) is simulated as a flow with our policy as it
comes, with every rival with one parameter swept, with the smallest fixed fleet that keeps 99.5 % in
time (known beforehand only by who knows the traffic), and with the clairvoyant's schedule beside
its lower bound. All runs begin with the fleet that the first minute needs at 60 % utilisation. Runs
are kept in `benchmarks/results/autoscaling-kinds.json`; a second start does what is missing, and
with `--again embedfleet,without` our own anew. Seeds 15 to 18 are held out: with `--final` they are
run, when the policy is finished, and the tables of `docs/autoscaling.md` are written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.simulator import flow, kinds, oracle, plot
from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.rivals import aibrix, article, hpa, kpa, llm_d, ray_serve, skyserve
from embedfleet.simulator.scalers import Ours, Scaler

RESULTS = Path(__file__).parent / "results"
OUTPUT = RESULTS / "autoscaling-kinds.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "autoscaling.md"
LEAST, SLO_S = 2, 0.5
OURS, ORACLE, BOUND, FIXED = "embedfleet", "oracle", "oracle, bound", "fixed, known beforehand"
NO_RHYTHM = "without rhythm"
"""Ours with `learn_rhythm = false`."""
LONG_S = kinds.DAY_S
"""Kinds that last longer are run with each rival's first values only."""
UNTUNED = (
    "superposed",
    "sawtooth",
    "jittered",
    "drift",
    "long-bursts",
    "on-off",
    "decay",
    "stairs",
)
"""Kinds that came after the policy, of which it has seen seeds 1 and 2 since; of the others it saw
those up to 10, and 11 to 14 once."""
Row = dict[str, Any]
Make = Callable[[float, int], Scaler]

SWEEPS: Final[dict[str, tuple[tuple[float, ...], Make]]] = {
    "Knative KPA, 600 s delay": (
        (0.7, 0.5, 0.85),
        lambda v, most: kpa.Kpa(utilisation=v, delay_s=600.0, most=most),
    ),
    "article": ((4, 1, 8), lambda v, most: article.Article(step=int(v), most=most)),
    "HPA token rate": ((0.7, 0.5, 0.85), lambda v, most: hpa.HpaRate(utilisation=v, most=most)),
    "llm-d SLO": ((0.5, 0.25), lambda v, most: llm_d.Slo(slo_s=v, most=most)),
    "Knative KPA, 1,800 s delay": (
        (0.7, 0.85),
        lambda v, most: kpa.Kpa(utilisation=v, delay_s=1800.0, most=most),
    ),
    "HPA utilisation": ((0.65, 0.8, 0.5), lambda v, most: hpa.Hpa(target=v, most=most)),
    "llm-d tokens": ((0.2, 0.05), lambda v, most: llm_d.Tokens(wait_s=v, most=most)),
    "Knative KPA": ((0.7, 0.5, 0.85), lambda v, most: kpa.Kpa(utilisation=v, most=most)),
    "article, utilisation only": (
        (1, 4),
        lambda v, most: article.Article(step=int(v), most=most, utilisation_only=True),
    ),
    "SkyServe": ((0.7, 0.5), lambda v, most: skyserve.SkyServe(utilisation=v, most=most)),
    "AIBrix APA": ((0.7, 0.5), lambda v, most: aibrix.Apa(target=v, most=most)),
    "llm-d queue": ((1,), lambda v, most: llm_d.Queue(queued=v, running=16 * v, most=most)),
    "Ray Serve": ((2,), lambda v, most: ray_serve.RayServe(target=v, most=most)),
}
"""Each rival's usual value first, and those first that come nearest."""
NEAR: Final = 8
"""So many of them are run on the long kinds."""


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one member of a kind."""

    kind: str
    seed: int
    start_s: float
    policy: str
    value: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        return self.kind, self.seed, self.start_s, self.policy, self.value

    def scaler(self) -> Scaler:
        most = kinds.KINDS[self.kind].most_replicas
        if self.policy in {OURS, NO_RHYTHM}:
            rhythm = self.policy == OURS
            settings = AutoscalingSettings(
                min_replicas=LEAST, max_replicas=most, learn_rhythm=rhythm
            )
            return Ours(settings)
        return SWEEPS[self.policy][1](self.value, most)

    def rows(self, traffic: flow.Flow) -> Iterator[Row]:
        """What it attained and cost; both ends of the bracket for the oracle."""
        began = time.perf_counter()
        profile = Profile(start_s=self.start_s)
        if self.policy in {ORACLE, FIXED}:
            most = kinds.KINDS[self.kind].most_replicas
            asked = oracle.Question(traffic, profile, slo_s=SLO_S, least=LEAST, most=most)
            if self.policy == FIXED:
                count = oracle.fixed(asked)
                share = asked.attained(count * asked.able(1))
                yield self._row(traffic, share, count * traffic.seconds / 3600.0, began)
                return
            found = oracle.plan(asked)
            yield self._row(traffic, found.attained, found.replica_s / 3600.0, began)
            bound = self._row(traffic, oracle.SHARE, found.bound_s / 3600.0, began)
            yield bound | {"policy": BOUND}
            return
        share, hours = flow.attained(
            traffic, self.scaler(), profile, ready=first_fleet(traffic), slo_s=SLO_S, seed=self.seed
        )
        yield self._row(traffic, share, hours, began)

    def _row(self, traffic: flow.Flow, share: float, hours: float, began: float) -> Row:
        return {
            "kind": self.kind,
            "seed": self.seed,
            "start_s": self.start_s,
            "policy": self.policy,
            "value": self.value,
            "attained": round(share, 6),
            "replica_hours": round(hours, 4),
            "mean_replicas": round(hours * 3600.0 / traffic.seconds, 4),
            "took_s": round(time.perf_counter() - began, 2),
        }


def key_of(row: Row) -> tuple[Any, ...]:
    """As `Run.key`."""
    return tuple(row[name] for name in ("kind", "seed", "start_s", "policy", "value"))


def first_fleet(traffic: flow.Flow) -> int:
    """What the first minute needs at 60 % utilisation."""
    bins = round(60.0 / flow.BIN_S)
    rate = float(traffic.tokens[:bins].sum()) / 60.0
    return max(LEAST, math.ceil(rate / Profile().tokens_per_s / 0.6))


def wanted(names: Sequence[str], seeds: Sequence[int], starts: Sequence[float]) -> Iterator[Run]:
    """Everything to run: what others are measured by first, and the short kinds first."""
    short_first = sorted(names, key=lambda name: kinds.KINDS[name].seconds)
    for seed in seeds:
        for kind in short_first:
            for start_s in starts:
                for policy in (FIXED, ORACLE, OURS, NO_RHYTHM):
                    yield Run(kind, seed, start_s, policy)
    for seed in seeds:
        for kind in short_first:
            long = kinds.KINDS[kind].seconds > LONG_S
            for start_s in starts:
                for policy in list(SWEEPS)[: NEAR if long else None]:
                    for value in SWEEPS[policy][0][: 1 if long else None]:
                        yield Run(kind, seed, start_s, policy, value)


def work(kind: str, seed: int, runs: list[Run]) -> list[Row]:
    """Some runs on the same traffic, which is drawn once."""
    traffic = kinds.draw(kind, seed)
    return [row for run in runs for row in run.rows(traffic)]


def do(runs: list[Run], rows: list[Row], output: Path, processes: int, until: float) -> list[Row]:
    """Run what is missing, for `until` seconds at most; keep all rows after every part."""
    have = set(map(key_of, rows))
    parts: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if run.key not in have:
            parts[run.kind, run.seed, run.policy in SWEEPS].append(run)
    began = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        todo = [pool.submit(work, kind, seed, part) for (kind, seed, _), part in parts.items()]
        for place, each in enumerate(as_completed(todo), start=1):
            rows += each.result()
            save(rows, output)
            spent_s = time.monotonic() - began
            print(f"{place} of {len(todo)} parts after {spent_s:.0f} s", flush=True)
            if spent_s > until:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return rows


def save(rows: list[Row], output: Path) -> None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(": ")[2] for line in lines if "model name" in line), "")
    document = {
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "command": "python -m benchmarks.autoscaling_kinds",
        "hardware": f"{os.cpu_count()} cores, {model or platform.processor()}",
        "python": platform.python_version(),
        "slo_s": SLO_S,
        "share": oracle.SHARE,
        "rows": sorted(
            rows, key=lambda r: (r["kind"], r["start_s"], r["seed"], r["policy"], r["value"])
        ),
    }
    text = json.dumps(document, indent=None).replace('{"kind"', '\n{"kind"')
    partial = output.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(output)


def load(paths: Sequence[Path]) -> list[Row]:
    """Rows of earlier starts, each run once: that of the last file counts."""
    found: dict[tuple[Any, ...], Row] = {}
    for path in paths:
        if path.exists():
            for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
                found[key_of(row)] = row
    return list(found.values())


def means(rows: Sequence[Row]) -> tuple[float, float]:
    """Attainment and replicas over the seeds."""
    return (
        statistics.mean(row["attained"] for row in rows),
        statistics.mean(row["mean_replicas"] for row in rows),
    )


def beaten(ours: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Runs of rivals that attained more and cost less than ours on the same traffic."""
    mine = {(row["kind"], row["seed"], row["start_s"]): row for row in ours}
    return [
        row
        for row in others
        if (own := mine.get((row["kind"], row["seed"], row["start_s"]))) is not None
        and row["attained"] > own["attained"]
        and row["mean_replicas"] < own["mean_replicas"]
    ]


def table(rows: list[Row], seeds: Sequence[int]) -> str:
    """Markdown: a line for each kind and start-up time, means over the seeds that all have."""
    titles = (
        "| kind | start | seeds | embedfleet | without rhythm | best rival at no more cost | "
        "clairvoyant (bound) | fixed | ours / clairvoyant | beaten by |"
    )
    lines = [titles, "|---|---|---|---|---|---|---|---|---|---|"]
    for kind in kinds.KINDS:
        for start_s in sorted({row["start_s"] for row in rows}):
            here = [r for r in rows if (r["kind"], r["start_s"]) == (kind, start_s)]
            by: dict[Any, list[Row]] = defaultdict(list)
            for row in here:
                by[row["policy"], row["value"]].append(row)
            common = set(seeds) & {row["seed"] for row in by[OURS, 0.0]}
            common &= {row["seed"] for row in by[ORACLE, 0.0]}
            if common:
                lines.append(_line(kind, start_s, by, common))
    return "\n".join(lines)


def _line(kind: str, start_s: float, by: dict[Any, list[Row]], common: set[int]) -> str:
    def of(policy: str, value: float = 0.0) -> list[Row]:
        return [row for row in by[policy, value] if row["seed"] in common]

    share, size = means(of(OURS))
    rivals = [row for key in by if key[0] in {*SWEEPS, FIXED} for row in of(*key)]
    better = beaten(of(OURS), rivals)
    swept = {key: of(*key) for key in by if key[0] in SWEEPS and len(of(*key)) == len(common)}
    within = {key: means(found) for key, found in swept.items() if means(found)[1] <= size}
    best = max(within, key=lambda key: within[key][0], default=None)
    rival = "none" if swept else "not run on all seeds"
    if best is not None:
        rival = f"{best[0]} {best[1]:g}: {_shown(within[best])}"
    tried = len({row["seed"] for row in rivals if row["policy"] in SWEEPS})
    blind = of(NO_RHYTHM)
    without = _shown(means(blind)) if len(blind) == len(common) else "not run on all"
    clear, bound, fixed = means(of(ORACLE)), means(of(BOUND)), means(of(FIXED))
    names = ", ".join(sorted({f"{row['policy']} {row['value'] or ''}".strip() for row in better}))
    runs = len({row["seed"] for row in better})
    beat = f"on {runs} of {len(common)} seeds: {names}" if better else "nobody"
    part = "" if tried == len(common) else f" (rivals ran on {tried})"
    return (
        f"| {kind} | {start_s:.0f} s | {len(common)} | {_shown((share, size))} | "
        f"{without} | {rival} | "
        f"{clear[1]:.2f} ({bound[1]:.2f}) | {fixed[1]:.1f} | {size / clear[1]:.2f} | "
        f"{beat}{part} |"
    )


def _shown(point: tuple[float, float]) -> str:
    return f"{point[0]:.2%} at {point[1]:.2f}"


def draw(rows: list[Row], start_s: float = 30.0) -> None:
    """Attainment against cost: one picture with a plot for each kind."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for kind in kinds.KINDS:
        here = [r for r in rows if (r["kind"], r["start_s"]) == (kind, start_s)]
        ours = {row["seed"] for row in here if row["policy"] == OURS}
        grouped: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in here:
            if row["seed"] in ours:
                grouped[row["policy"]][row["value"]].append(row)
        panels[kind] = {
            policy: [(size, share) for share, size in map(means, whole)]
            for policy, values in grouped.items()
            # A mean over other seeds is not to be compared.
            if (whole := [found for found in values.values() if len(found) == len(ours)])
            and policy != BOUND
        }
    plot.panels(
        {kind: found for kind, found in panels.items() if found},
        f"Attainment against cost, starts of {start_s:.0f} s, SLO {SLO_S:g} s, mean of the seeds",
        RESULTS / f"autoscaling-kinds-{start_s:.0f}.png",
    )


def final() -> Iterator[Run]:
    """What the documentation shows: the held-out seeds, one of the long kinds, of those that the
    policy was not made on the first."""
    tuned = [name for name in kinds.KINDS if name not in UNTUNED]
    short = [name for name in tuned if kinds.KINDS[name].seconds <= LONG_S]
    yield from wanted(short, kinds.HELD_OUT, (30.0, 120.0))
    yield from wanted(tuned, kinds.HELD_OUT[:1], (30.0, 120.0))
    yield from wanted(UNTUNED, (0,), (30.0, 120.0))


def write(document: Path, rows: list[Row], day: str) -> None:
    """Put the tables of a day's runs between their marks in the documentation, with how often ours
    is beaten."""
    held_out = [row for row in rows if row["kind"] not in UNTUNED]
    untuned = [row for row in rows if row["kind"] in UNTUNED]
    text = document.read_text(encoding="utf-8")
    for name, part, seeds in (("held out", held_out, [*kinds.HELD_OUT]), ("untuned", untuned, [0])):
        begin, end = f"<!-- {name}: benchmarks.autoscaling_kinds -->\n", "\n<!-- end -->"
        before, _, rest = text.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"{document}: no place for the table, {begin.strip()} … {end.strip()}")
        shown = f"{table(part, seeds)}\n\nOf {day}. {summary(part, seeds)}"
        text = f"{before}{begin}{shown}{end}{after}"
    document.write_text(text, encoding="utf-8")


def summary(rows: list[Row], seeds: Sequence[int]) -> str:
    """On how many runs who attains more for less, by start-up time."""
    told = []
    for start_s in sorted({row["start_s"] for row in rows}):
        here = [row for row in rows if row["start_s"] == start_s and row["seed"] in seeds]
        ours = [row for row in here if row["policy"] == OURS]
        better = beaten(ours, [row for row in here if row["policy"] in {*SWEEPS, FIXED}])
        by: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for row in better:
            by[row["policy"]].add((row["kind"], row["seed"]))
        runs = len({(row["kind"], row["seed"]) for row in better})
        names = ", ".join(f"{name} on {len(found)}" for name, found in sorted(by.items()))
        told.append(f"Starts of {start_s:.0f} s: beaten on {runs} of {len(ours)} runs")
        told[-1] += f" ({names})." if names else "."
    return " ".join(told)


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", default=",".join(kinds.KINDS))
    parser.add_argument("--seeds", type=numbers, default=[*kinds.TUNING])
    parser.add_argument("--starts", type=numbers, default=[30, 120])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", default="", help="policies, by the beginning of their names")
    parser.add_argument("--again", default="", help="policies whose runs are done anew, likewise")
    parser.add_argument("--final", action="store_true", help="held-out seeds; writes the docs")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after these")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="rows of other outputs")
    parser.add_argument("--report", action="store_true", help="only show what has been run")
    options = parser.parse_args()
    rows = load([*options.merge, options.output])
    if options.final:
        runs = list(dict.fromkeys(final()))
    else:
        runs = list(wanted(options.kinds.split(","), options.seeds, options.starts))
    if options.again:
        names = tuple(options.again.split(","))
        anew = {run.key for run in runs if run.policy.startswith(names)}
        rows = [row for row in rows if key_of(row) not in anew]
    if not options.report:
        chosen = [r for r in runs if r.policy.startswith(tuple(options.only.split(",")))]
        rows = do(chosen, rows, options.output, options.processes, options.seconds)
    if options.merge:
        save(rows, options.output)
    if options.final:
        write(DOCUMENT, rows, json.loads(options.output.read_text(encoding="utf-8"))["date"])
        keys = {run.key for run in runs}
        rows = [row for row in rows if key_of(row) in keys]
    else:
        print(table(rows, options.seeds))
    for start_s in options.starts:
        draw(rows, float(start_s))


if __name__ == "__main__":
    main()
