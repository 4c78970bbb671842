"""The cache benchmark's medians as bars: texts/s and engine work saved at each hit rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    ("texts_per_s", "texts/s of one core", "{:,.0f}"),
    ("p99_ms", "p99, ms", "{:,.3g}"),
    ("work_saved", "engine work saved", "{:.0%}"),
)
COLOURS = {"none": "#9aa8b5", "memory": "#1b6ca8", "redis": "#69a7d1", "litellm": "#c98a4b"}
NAMES = {
    "none": "embedfleet, no cache",
    "memory": "embedfleet, memory",
    "redis": "embedfleet, Redis alone",
    "litellm": "LiteLLM, Redis",
}


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw what was measured; without matplotlib (the extra `plots`), say so."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only here, and only if it is there
    except ImportError:
        print("no plot: matplotlib is not installed (pip install embedfleet[plots])")
        return
    rates = [name for name in report["medians"] if name.endswith("%")]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for number, (key, title, form) in enumerate(PANELS, 1):
        axes = figure.add_subplot(1, len(PANELS), number)
        names = [name for name in COLOURS if any(name in report["medians"][r] for r in rates)]
        for at, name in enumerate(names):
            places = [place + at / (len(names) + 1) for place in range(len(rates))]
            values = [report["medians"][rate][name][key] for rate in rates]
            bars = axes.bar(
                places, values, 0.95 / (len(names) + 1), color=COLOURS[name], label=NAMES[name]
            )
            axes.bar_label(bars, [form.format(value) for value in values], fontsize=6, padding=2)
        axes.set_xticks([place + 0.3 for place in range(len(rates))], rates)
        axes.set_xlabel("hit rate")
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 1:
            axes.legend(fontsize=7, frameon=False)
    machine = report["machine"]
    figure.suptitle(f"{report['date']}, {machine['processor']}, {machine['cores']} cores", size=9)
    figure.savefig(path, dpi=110)
