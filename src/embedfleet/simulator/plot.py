"""Plots of runs: arrivals, planned and ready replicas, waits. Needs the extra `plots`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.text_files import write_file
from embedfleet.simulator.score import Score
from embedfleet.vocabulary import SettingError, SetupError

FORMATS = (".png", ".svg", ".pdf")
COLUMNS = 3
"""Plots beside each other."""
LEAST_LATE = 0.01
"""Per cent late from which a logarithmic plot begins."""
MINOR = (2.0, 3.0, 5.0)
"""Labelled ticks of a logarithmic axis between two powers of ten."""


def expect_format(output: Path) -> None:
    """SettingError where the name of a file tells no format to plot in."""
    if output.suffix.lower() not in FORMATS:
        raise SettingError(
            f"--plot: {output} must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )


def pyplot() -> Any:
    """Matplotlib without a screen; SetupError where it is not installed."""
    try:
        import_module("matplotlib").use("Agg")
        return import_module("matplotlib.pyplot")
    except ImportError:
        raise SetupError(
            f"plots need matplotlib: {how_to_add('plots')} (tables and --json do not)"
        ) from None


def timelines(scores: Sequence[Score], tokens_per_s: float, slo_s: float, output: Path) -> None:
    """One column for each policy: arrivals and replicas above, wait and p99 below."""
    plt = pyplot()
    figure, axes = plt.subplots(
        2, len(scores), sharex=True, sharey="row", squeeze=False, figsize=(5 * len(scores), 6)
    )
    for column, each in enumerate(scores):
        above, below = axes[0][column], axes[1][column]
        hours = [point.at_s / 3600 for point in each.line]
        above.set_title(
            f"{each.policy}\n{each.slo_attainment:.1%} in time, {each.mean_replicas:.1f} replicas"
        )
        arriving = [point.arriving / tokens_per_s for point in each.line]
        above.plot(hours, arriving, lw=0.5, color="0.6", label="arriving, in replicas")
        above.step(hours, [point.planned for point in each.line], lw=0.8, label="planned")
        above.step(hours, [point.ready for point in each.line], lw=1.2, label="ready")
        below.plot(hours, [point.p99_s for point in each.line], lw=0.7, label="p99")
        below.plot(hours, [point.wait_s for point in each.line], lw=0.7, label="wait (p95)")
        late = [point.p99_s > slo_s for point in each.line]
        red = {"alpha": 0.2, "color": "red", "label": "SLO missed"}
        below.fill_between(hours, 1e-3, slo_s, where=late, **red)
        below.axhline(slo_s, color="red", lw=0.7)
        below.set_yscale("log")
        below.set_xlabel("hours")
    axes[0][0].set_ylabel("replicas")
    axes[1][0].set_ylabel("seconds")
    axes[0][0].legend()
    axes[1][0].legend()
    _save(plt, figure, output)


def curves(
    points: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    output: Path,
    *,
    least: float = 0.0,
) -> None:
    """Attainment against mean replicas: a line for each policy, through its parameter's values.

    `least` is the share in time at which the plot begins.
    """
    plt = pyplot()
    colours = plt.get_cmap("tab20").colors
    figure, axis = plt.subplots(figsize=(9, 6))
    for place, (policy, values) in enumerate(points.items()):
        ordered = sorted(values)
        ours = policy.startswith("embedfleet")
        axis.plot(
            [replicas for replicas, _ in ordered],
            [100 * attained for _, attained in ordered],
            marker="o",
            ms=5 if ours else 3,
            lw=2.5 if ours else 1,
            color="black" if policy == "embedfleet" else colours[place % len(colours)],
            ls="--" if policy == "static" else "-",
            label=policy,
        )
    axis.set_xlabel("mean replicas, all that exist")
    axis.set_ylabel("texts answered within the SLO, %")
    axis.set_ylim(100 * least, 100.2)
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(plt, figure, output)


def panels(
    points: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str, output: Path
) -> None:
    """A plot for each kind of traffic: the share that was late (logarithmic) against mean
    replicas, a line for each policy through its parameter's values.
    """
    plt, ticker = pyplot(), import_module("matplotlib.ticker")
    colours = plt.get_cmap("tab20").colors
    policies = list(dict.fromkeys(name for each in points.values() for name in each))
    rows = -(-len(points) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, squeeze=False, figsize=(5.5 * COLUMNS, 4.2 * rows + 1.2)
    )
    known: dict[str, Any] = {}
    for axis, (kind, found) in zip(axes.flat, points.items(), strict=False):
        for policy, values in found.items():
            style = _style(policy, colours[policies.index(policy) % len(colours)])
            replicas, attained = zip(*sorted(values), strict=True)
            late = [max(LEAST_LATE, 100.0 * (1.0 - each)) for each in attained]
            (known[policy],) = axis.plot(replicas, late, label=policy, **style)
        axis.axhline(0.5, color="red", lw=0.8, ls=":")
        axis.set_yscale("log")
        axis.set_xscale("log")
        for each, told in ((axis.xaxis, "{x:g}"), (axis.yaxis, "{x:g} %")):
            each.set_major_formatter(told)
            each.set_minor_locator(ticker.LogLocator(subs=MINOR))
            each.set_minor_formatter(told)
        axis.tick_params(which="both", labelsize=8)
        axis.invert_yaxis()
        axis.set_title(kind)
        axis.set_xlabel("mean replicas, all that exist")
        axis.set_ylabel("texts that were late")
        axis.grid(alpha=0.3, which="both")
    for axis in list(axes.flat)[len(points) :]:
        axis.axis("off")
    figure.suptitle(f"{title}; dotted: 99.5 % in time")
    figure.tight_layout(rect=(0.0, 0.06, 1.0, 0.98))
    figure.legend(known.values(), known.keys(), loc="lower center", ncols=6, fontsize=9)
    figure.savefig(output, dpi=80)
    plt.close(figure)


def _style(policy: str, colour: Any) -> dict[str, Any]:
    """Ours, the clairvoyant and fixed fleets stand out."""
    if policy.startswith("embedfleet"):
        return {"color": "black", "marker": "*", "ms": 14, "lw": 2, "zorder": 5}
    if policy.startswith("oracle"):
        return {"color": "green", "marker": "D", "ms": 8, "lw": 0, "zorder": 4}
    if policy.startswith("fixed"):
        return {"color": "red", "marker": "s", "ms": 7, "lw": 0, "zorder": 4}
    return {"color": colour, "marker": "o", "ms": 4, "lw": 1}


def _save(plt: Any, figure: Any, output: Path) -> None:
    figure.tight_layout()
    drawn = io.BytesIO()  # so that an error of writing is known from one of drawing
    figure.savefig(drawn, dpi=90, format=output.suffix[1:].lower())
    plt.close(figure)
    write_file(output, drawn.getvalue())
