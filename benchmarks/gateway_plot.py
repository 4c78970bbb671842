"""The gateway benchmark's medians as bars: one panel per question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    ("a", "query_p99_ms", "(a) p99 of queries beside bulk, ms"),
    ("a", "tokens_per_s", "(a) tokens/s of two replicas"),
    ("b", "tokens_per_s", "(b) tokens/s, replicas 1 : 3"),
    ("c 1024 ids", "texts_per_s", "(c) single texts/s, one core"),
    ("d", "errors", "(d) errors when a replica dies"),
    ("e", "p50_ms", "(e) p50 of a lone query, ms"),
    ("f", "query_p99_ms", "(f) p99 of queries, replicas on processors, ms"),
)


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw what was measured; without matplotlib (the extra `plots`), say so."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only here, and only if it is there
    except ImportError:
        print("no plot: matplotlib is not installed (pip install embedfleet[plots])")
        return
    medians = report["medians"]
    panels = [panel for panel in PANELS if panel[0] in medians]
    figure = Figure(figsize=(11, 2.6 * -(-len(panels) // 2)), layout="constrained")
    for number, (measure, key, title) in enumerate(panels, 1):
        axes = figure.add_subplot(-(-len(panels) // 2), 2, number)
        names = list(medians[measure])[::-1]
        values = [medians[measure][name][key] for name in names]
        colours = ["#1b6ca8" if name == "embedfleet" else "#b8c4cf" for name in names]
        labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
        axes.bar_label(axes.barh(names, values, color=colours), labels, padding=3)
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
    machine = report["machine"]
    figure.suptitle(f"{report['date']}, {machine['processor']}, {machine['cores']} cores", size=9)
    figure.savefig(path, dpi=110)
