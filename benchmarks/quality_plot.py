"""Draws recall by dimension from a result of quality.py; needs the extra `plots`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console


def plot(result: Path, console: Console) -> None:
    """Write the plot beside the result as SVG, or say why not."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra
    except ImportError:
        console.print("No plot: matplotlib is not installed (extra `plots`).")
        return
    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    best = content["measured"][0]
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for number, scored in enumerate(one for one in best["sets"].values() if one["instructed"]):
        colour = f"C{number}"
        widths = sorted(map(int, scored["instructed"]))
        recalls = [scored["instructed"][str(width)]["recall"] for width in widths]
        axes.plot(widths, recalls, "o-", color=colour, label=scored["title"])
        if scored["bm25"]:
            axes.axhline(scored["bm25"]["recall"], color=colour, linestyle=":", linewidth=0.8)
    axes.axvline(best["width"] // 5, color="grey", linestyle="--", linewidth=0.8)
    axes.set_xscale("log", base=2)
    powers = [1 << power for power in range(5, best["width"].bit_length() - 1)]
    ticks = [*powers, best["width"]]  # without the power just below the width: no room
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_xlabel("dimensions kept (dashed line: a fifth)")
    axes.set_ylabel("recall@10 (dotted lines: BM25)")
    axes.set_title(f"{content['model']}, {best['precision']}, with the query instruction")
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)
    path = result.with_suffix(".svg")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    console.print(f"Wrote {path}")
