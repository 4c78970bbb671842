"""What the CPU engine's benchmark measured: tables, the JSON file and the plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.cpu_gemm import PROCESSOR
from benchmarks.cpu_processes import Worker
from benchmarks.cpu_workloads import GEOMETRIES, WORKLOADS, Workload
from numpy.typing import NDArray

RESULTS: Final = Path(__file__).parent / "results"
PACKED: Final = ("embedfleet", "onnxruntime")
"""Those that compute neither padding nor what the last layer's other tokens need."""
LIMITS: Final = {
    "share_of_products": "the best library's products",
    "share_of_processor": "what the processor multiplies on registers alone",
}
CLOCK: Final = "seconds"
"""Wall time; processor time is in the file, too."""


Rates = dict[str, dict[str, float]]
"""Of matrix products in Gop/s, by precision and library."""


@dataclass(slots=True)
class Measured:
    """A contender in its process, and what was measured of it."""

    name: str
    every: int
    worker: Worker
    load_s: float
    size_mib: float
    took: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    cosines: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    peak_mib: float = 0.0
    anonymous_mib: float = 0.0

    def run(
        self, workload: Workload, every: int | None = None, output: str = ""
    ) -> dict[str, float]:
        every = every or self.every_of(workload)
        answer = self.worker.ask(workload.name, str(every), output)
        self.peak_mib, self.anonymous_mib = answer["peak_mib"], answer["anonymous_mib"]
        return {clock: answer[clock] for clock in ("seconds", "processor_s")}

    def every_of(self, workload: Workload) -> int:
        """Of how many texts it computes one: a part of mixed lengths would be another mix."""
        return self.every if workload.even else 1

    def tokens_per_s(self, workload: Workload, clock: str = CLOCK) -> float:
        times = [took[clock] for took in self.took[workload.name]]
        return workload.tokens(self.every_of(workload)) / statistics.median(times)

    def spread(self, workload: Workload) -> float:
        """Of the middle half of the times, relative to the median."""
        times = [took[CLOCK] for took in self.took[workload.name]]
        low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
        return float((high - low) / middle)

    def geometric_mean(self) -> float:
        return statistics.geometric_mean(self.tokens_per_s(workload) for workload in WORKLOADS)


def report(measured: list[Measured], record: dict[str, Any]) -> None:
    """Print tables."""
    _print_speed(measured)
    _print_facts(measured)
    print("\nmatrix products alone, Gop/s: " + json.dumps(record["matrix_products_gops"]))
    for limit, name in LIMITS.items():
        print(f"share of {name} that is reached")
        _print_shares({one["name"]: one[limit] for one in record["contenders"]})


def record_of(
    measured: list[Measured], rates: list[Rates], geometry: str, layers: int
) -> dict[str, Any]:
    """What the JSON file says of the rounds so far."""
    limits = _limits(rates)
    return {
        "geometry": geometry,
        "layers": layers,
        "matrix_products_gops": limits,
        "contenders": [_record(m) | _shares(m, geometry, layers, limits) for m in measured],
    }


def _packed(measured: Measured) -> bool:
    return measured.name.split()[0] in PACKED


def _limits(rates: list[Rates]) -> Rates:
    """Medians over the rounds."""
    found: Rates = {}
    for dtype in rates[0] if rates else {}:
        libraries = rates[0][dtype]
        found[dtype] = {
            library: round(statistics.median(rate[dtype][library] for rate in rates), 1)
            for library in libraries
        }
    return found


def _work(workload: Workload, geometry: str, layers: int) -> float:
    """Additions and multiplications of the linear layers that a workload needs."""
    g = GEOMETRIES[geometry]
    layer = g.linear_parameters // g.layers
    keys_values = 2 * g.hidden * g.kv_heads * g.head_dim
    texts, tokens = len(workload.lengths), workload.tokens()
    return 2.0 * (tokens * (layer * (layers - 1) + keys_values) + texts * (layer - keys_values))


def _shares(
    measured: Measured, geometry: str, layers: int, limits: Rates
) -> dict[str, dict[str, float]]:
    """How near each workload comes to nothing but multiplications at the limits' rates."""
    rates = dict(limits.get(measured.name.split()[-1], {})) if _packed(measured) else {}
    processor = rates.pop(PROCESSOR, None)
    found = (max(rates.values(), default=None), processor)
    return {
        name: {
            w.name: round(
                _work(w, geometry, layers) / w.tokens() * measured.tokens_per_s(w) / limit / 1e9, 3
            )
            for w in WORKLOADS
        }
        if limit
        else {}
        for name, limit in zip(LIMITS, found, strict=True)
    }


def _print_speed(measured: list[Measured]) -> None:
    print("\ntokens per second, median (milliseconds for single texts); ratio to the first")
    heads = [w.name for w in WORKLOADS] + ["geometric mean"]
    print(f"{'':28}" + "".join(f"{name:>18}" for name in heads))
    first = measured[0]
    for m in measured:
        cells = []
        for w in WORKLOADS:
            rate = m.tokens_per_s(w)
            figure = f"{w.tokens() / rate * 1e3:.1f} ms" if w.single else f"{rate:,.0f}"
            cells.append(f"{figure:>10} {rate / first.tokens_per_s(w):>6.2f}x")
        mean = m.geometric_mean()
        cells.append(f"{mean:>10,.0f} {mean / first.geometric_mean():>6.2f}x")
        print(f"{m.name:28}" + "".join(cells))
    print("middle half of the times, of the median:")
    for m in measured:
        print(f"{m.name:28}" + "".join(f"{m.spread(w):>17.1%} " for w in WORKLOADS))


def _print_facts(measured: list[Measured]) -> None:
    heads = ("load s", "peak MiB", "anonymous", "installed MiB", "cosine", "least cosine")
    print(f"\n{'':28}" + "".join(f"{head:>15}" for head in heads))
    for m in measured:
        print(
            f"{m.name:28}{m.load_s:>15.2f}{m.peak_mib:>15,.0f}{m.anonymous_mib:>15,.0f}"
            f"{m.size_mib:>15,.0f}{m.cosines.mean():>15.6f}{m.cosines.min():>15.6f}"
        )


def _print_shares(shares: dict[str, dict[str, float]]) -> None:
    for name, share in shares.items():
        cells = [f"{workload}: {part:.0%}" for workload, part in share.items()]
        if cells:
            print(f"{name:28}" + "   ".join(cells))


def _record(m: Measured) -> dict[str, Any]:
    return {
        "name": m.name,
        "every": m.every,
        "tokens_per_s": {
            clock: {w.name: round(m.tokens_per_s(w, clock), 1) for w in WORKLOADS}
            for clock in ("seconds", "processor_s")
        },
        "geometric_mean": round(m.geometric_mean(), 1),
        "load_s": round(m.load_s, 2),
        "peak_mib": round(m.peak_mib),
        "anonymous_mib": round(m.anonymous_mib),
        "installed_mib": round(m.size_mib),
        "mean_cosine": float(m.cosines.mean()),
        "least_cosine": float(m.cosines.min()),
        "took": m.took,
    }


def save(record: dict[str, Any], options: Namespace) -> Path:
    """Write the JSON file and the plot; where they are."""
    RESULTS.mkdir(exist_ok=True)
    label = f"cpu_engine-{options.geometry}-{options.layers}-layers-{options.threads}-threads"
    path = RESULTS / f"{label}.json"
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": " ".join(["python", "-m", "benchmarks.cpu_engine", *sys.argv[1:]]),
        "processor": processor(),
        "threads": options.threads,
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }
    path.write_text(json.dumps(facts | record, indent=1) + "\n", encoding="utf-8")
    plot(facts | record, path.with_suffix(".png"))
    return path


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def plot(record: dict[str, Any], path: Path) -> None:
    """Speed against exactness: nobody above and to the right means nobody better."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only here, and only if it is there
    except ImportError:
        print("no plot: matplotlib is not installed (pip install embedfleet[plots])")
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for contender in record["contenders"]:
        # An exact contender would lie infinitely far to the right.
        away = max(1 - contender["mean_cosine"], 1e-6)
        ours = contender["name"].startswith("embedfleet")
        axes.plot(away, contender["geometric_mean"], "o", color="#1b6ca8" if ours else "#8794a0")
        axes.annotate(
            contender["name"], (away, contender["geometric_mean"]),
            xytext=(6, 5), textcoords="offset points", fontsize=9,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_yscale("log")
    axes.set_xlabel("1 − mean cosine to float32 (0 drawn as 1e-6)")
    axes.set_ylabel("tokens/s, geometric mean of six workloads")
    axes.margins(x=0.2, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"Qwen3-Embedding-0.6B's geometry, {record['layers']} layers, {record['threads']} threads, "
        f"{record['processor']}, {record['date'][:10]}",
        loc="left", fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=110)
