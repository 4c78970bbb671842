"""`embedfleet simulate` and `embedfleet plan`.

What a command calls is imported only when it runs, so `--help` stays fast.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedfleet.cli.flags import number
from embedfleet.cli.flags import read as read_settings
from embedfleet.cli.printing import AsJson, show_json
from embedfleet.runtime.settings import AutoscalingSettings, load

if TYPE_CHECKING:
    from embedfleet.autoscaling.recording import Settings as RecordedSettings

DEFAULT = AutoscalingSettings()
MOST = 1e12
"""Larger numbers of texts, tokens, seconds or money are typing errors."""
MOST_REPLICAS = 32
"""Bound of a fleet where nothing says it."""


Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Policy to compare; repeat for several: embedfleet, article, hpa, hpa-rate, kpa, "
        "kpa-600, ray, skyserve, aibrix, llm-d-queue, llm-d-tokens, llm-d-slo, static-12, …; "
        "oracle knows the whole trace and tells what would have been enough.",
    ),
]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--replica-profile",
        metavar="FILE",
        help="Measured speed of a replica (TOML): per_batch_s, tokens_per_s, batch_tokens, …",
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Argument(metavar="TRACE", help="Trace to replay (CSV): Azure's format or embedfleet's."),
]
RecordedFile = Annotated[
    Path | None,
    typer.Option(
        "--recorded",
        metavar="FILE",
        help="Replay a file of `embedfleet autoscale record` instead of a trace, with the speed "
        "of replicas, the bounds and the SLO that are in it.",
    ),
]
Speed = Annotated[
    float,
    typer.Option(
        parser=number(0.01, 1e4),
        metavar="X",
        help="Speed of replicas, as a multiple of the profile's.",
    ),
]
Price = Annotated[
    float | None,
    typer.Option(parser=number(0, MOST), metavar="P", help="Price of one replica for an hour."),
]
CostPerHour = Annotated[
    float, typer.Option(parser=number(0, MOST), metavar="P", help="Price of one GPU for an hour.")
]
TextsPerDay = Annotated[
    float, typer.Option(parser=number(0, MOST), metavar="N", help="Texts per day.")
]
MeanTokens = Annotated[
    float, typer.Option(parser=number(0, MOST), metavar="N", help="Mean tokens per text.")
]
LongTokens = Annotated[
    float | None,
    typer.Option(
        parser=number(0, MOST),
        metavar="N",
        help="99th percentile of tokens per text; by default 4 times the mean.",
    ),
]
P99 = Annotated[
    float,
    typer.Option(parser=number(0, MOST), metavar="MS", help="Target for the p99 latency, in ms."),
]
Peak = Annotated[
    float,
    typer.Option(
        parser=number(0, MOST),
        metavar="X",
        help="Load of the busiest hour, as a multiple of the mean.",
    ),
]
Copies = Annotated[
    int,
    typer.Option(min=1, max=100_000, metavar="N", help="Number of times that each text arrives."),
]
ColdStart = Annotated[
    float | None,
    typer.Option(parser=number(0, MOST), metavar="S", help="Start time of a replica, in seconds."),
]
Slo = Annotated[
    float | None,
    typer.Option(parser=number(0, MOST), metavar="MS", help="Target for latency, in ms."),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1, max=10_000, metavar="N", help="Runs of each policy, each with its own seed."
    ),
]
Fewest = Annotated[int | None, typer.Option(metavar="N", help="Minimum number of replicas.")]
Most = Annotated[
    int | None,
    typer.Option(metavar="N", help="Maximum number of replicas; by default 32 or the file's."),
]
Standby = Annotated[
    int | None, typer.Option(metavar="N", help="Number of spare replicas to keep warm.")
]
AsFlow = Annotated[
    bool,
    typer.Option(
        "--flow", help="Simulate a flow of work instead of single texts: fast, approximate."
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write every run as JSON.")
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Plot the runs (PNG, SVG or PDF).")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; only [autoscaling] is read."),
]


def simulate(
    trace: TraceFile = None,
    policy: Policies = None,
    replica_profile: ProfileFile = None,
    copies: Copies = 1,
    cold_start: ColdStart = None,
    slo_ms: Slo = None,
    seeds: Seeds = 1,
    min_replicas: Fewest = None,
    max_replicas: Most = None,
    standby: Standby = None,
    flow: AsFlow = False,
    recorded: RecordedFile = None,
    speed: Speed = 1.0,
    price: Price = None,
    json: JsonFile = None,
    plot: PlotFile = None,
    config: ConfigFile = None,
) -> None:
    """Replay a trace against autoscaling policies, in virtual time.

        embedfleet simulate conv.csv --copies 8 --policy embedfleet --policy kpa

    The production queue, balancing and policy run unmodified; only replicas are simulated. To
    try another policy, start time, SLO or GPU on the last day of your own service:

        embedfleet simulate --recorded day.jsonl --cold-start 30 --speed 2
    """
    from embedfleet.autoscaling import recording  # noqa: PLC0415
    from embedfleet.simulator.comparing import OURS, Comparison, show  # noqa: PLC0415

    kept = None if recorded is None else recording.read(recorded)  # once: it may be a pipe
    chosen = (min_replicas, max_replicas, standby, slo_ms)
    show(
        Comparison(
            trace=trace,
            policies=tuple(policy or [OURS]),
            settings=_settings(chosen, None if kept is None else kept.settings, config),
            profile=replica_profile,
            copies=copies,
            cold_start_s=cold_start,
            seeds=seeds,
            as_flow=flow,
            recorded=kept,
            speed=speed,
            price=price,
            json=json,
            plot=plot,
        )
    )


def _settings(
    chosen: tuple[int | None, int | None, int | None, float | None],
    then: RecordedSettings | None,
    config: Path | None,
) -> AutoscalingSettings:
    """As flags have them, else the file, else as they were when it was recorded."""
    least, most, standby, slo_ms = chosen
    slo_s = None if slo_ms is None else slo_ms / 1000.0
    usual: dict[str, Any] = {}
    if config is None:
        usual = {"max_replicas": MOST_REPLICAS}
        if then is not None:
            usual = {"min_replicas": then.min_replicas, "max_replicas": then.max_replicas}
            usual["slo_s"] = then.slo_s
        # What may wait is a part of the SLO, and no flag sets it.
        promised_s = slo_s or usual.get("slo_s", DEFAULT.slo_s)
        usual["max_wait_s"] = DEFAULT.max_wait_s * min(1.0, promised_s / DEFAULT.slo_s)
    flags = {"min_replicas": least, "max_replicas": most, "standby": standby, "slo_s": slo_s}
    given = {name: value for name, value in flags.items() if value is not None}
    told = {f"autoscaling.{name}": value for name, value in (usual | given).items()}
    return load(read_settings(config), {}, told).autoscaling


def plan(
    texts_per_day: TextsPerDay,
    tokens: MeanTokens,
    p99: P99,
    tokens_p99: LongTokens = None,
    peak: Peak = 2.0,
    replica_profile: ProfileFile = None,
    gpus: Annotated[int, typer.Option(min=0, metavar="N", help="GPUs of one replica.")] = 1,
    cost_per_hour: CostPerHour = 0.0,
    as_json: AsJson = False,
) -> None:
    """Plan capacity: how many replicas and GPUs a load needs, and what they cost.

        embedfleet plan --texts-per-day 50e6 --tokens 300 --p99 200

    Give the profile that you measured; the default is the replica of the published comparison.
    """
    from embedfleet.simulator import planning, profiles  # noqa: PLC0415

    profile = profiles.Profile() if replica_profile is None else profiles.read(replica_profile)
    demand = planning.Demand(texts_per_day, tokens, p99 / 1000.0, peak, tokens_p99)
    found = planning.plan(demand, profile, gpus=gpus, cost_per_hour=cost_per_hour)
    if as_json:
        show_json(asdict(found))
        return
    rows = [
        ("replicas", f"{found.replicas} ({found.spare} of them spare)"),
        ("GPUs", f"{found.gpus}"),
        ("busy in the peak hour", f"{found.utilisation:.0%}"),
        (
            "p99",
            f"{found.latency_p99_s * 1000:.0f} ms ({found.wait_p99_s * 1000:.0f} ms of it wait)",
        ),
        ("a replica does", f"{found.tokens_per_s:,.0f} tokens/s"),
    ]
    if cost_per_hour:
        rows.append(("cost per month", f"{found.cost_per_month:,.0f}"))
    for name, value in rows:
        typer.echo(f"{name:24}{value}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(simulate)
    app.command()(plan)
