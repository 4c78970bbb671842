"""`embedfleet autoscale`: show the autoscaler's decisions, and pause, resume or override it.

Every command reads or changes the state of a running gateway through its admin address.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from embedfleet.cli.admin_client import NOTHING_SCALED, Admin, KeyFile, ask, reached
from embedfleet.cli.flags import ConfigFile, number
from embedfleet.cli.printing import AsJson, show, show_json
from embedfleet.vocabulary import SetupError

autoscale = typer.Typer(
    no_args_is_help=True,
    help="Show and override the decisions of a running gateway's autoscaler.",
)

PoolName = Annotated[
    str | None,
    typer.Option("--pool", metavar="NAME", help="The pool; needed if there are several."),
]


@autoscale.command()
def explain(
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    last: Annotated[
        int, typer.Option("--last", metavar="N", help="Number of decisions to show.", min=1)
    ] = 10,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show the last decisions: every reason to have replicas, which one won, and why.

        embedfleet autoscale explain

    Decisions that repeat are one row, with how often.
    """
    url, key = reached(admin, key_file, config)
    found = ask(url, "/autoscaling", key).body["pools"]
    pools = [each for each in found if pool in {None, each["name"]}]
    if not pools:
        if not found:
            raise SetupError(NOTHING_SCALED)
        names = ", ".join(each["name"] for each in found)
        raise SetupError(f"no pool {pool} is autoscaled there; there are: {names}")
    if as_json:
        show_json(pools)
        return
    for each in pools:
        show(*described(each, last))


@autoscale.command()
def pause(
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Leave the number of replicas as it is; decisions are still made, and shown.

    embedfleet autoscale pause
    """
    _order(*reached(admin, key_file, config), "pause", pool, as_json=as_json)


@autoscale.command()
def resume(
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Let the policy decide again.

    embedfleet autoscale resume
    """
    _order(*reached(admin, key_file, config), "resume", pool, as_json=as_json)


@autoscale.command()
def scale(
    replicas: Annotated[int, typer.Argument(metavar="N", help="Number of replicas to run.", min=0)],
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Set the number of replicas to N, regardless of the load, until `resume`.

    embedfleet autoscale scale 4
    """
    _order(*reached(admin, key_file, config), "scale", pool, replicas, as_json=as_json)


@autoscale.command()
def record(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it must not exist.")],
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    hours: Annotated[
        float,
        typer.Option(
            parser=number(0, 1e6),
            metavar="H",
            help="Hours to record; 0 writes only the last hour, which the gateway keeps.",
        ),
    ] = 24.0,
    most_mb: Annotated[
        float,
        typer.Option(parser=number(0.01, 1e6), metavar="MB", help="Stop at this size, in MB."),
    ] = 64.0,
    every: Annotated[
        float,
        typer.Option(
            parser=number(1, 600), metavar="S", help="Seconds between two looks at the gateway."
        ),
    ] = 60.0,
) -> None:
    """Keep what the autoscaler sees and orders, for `simulate --recorded`.

        embedfleet autoscale record day.jsonl

    No text is in it: rates, queues, latencies and numbers of replicas, a line for each tick. It
    ends after so many hours, at so many MB, or with Ctrl+C.
    """
    from embedfleet.cli.recorder import Recorder, Remembered  # noqa: PLC0415

    url, key = reached(admin, key_file, config)
    remembered = Remembered(url, key, pool)
    found = remembered.first()
    with Recorder(file, int(most_mb * 1e6), found) as kept:
        ends = time.monotonic() + hours * 3600.0
        with contextlib.suppress(KeyboardInterrupt):
            while kept.keep(found) and time.monotonic() < ends:
                wait_s = min(every, found.lasts_s, ends - time.monotonic())
                time.sleep(max(0.0, wait_s))
                found = remembered.again(found)
    full = "" if not kept.full else f"; it is as large as --most-mb {most_mb:g} lets it be"
    typer.echo(f"{file}: {kept.lines} observations of {found.name}{full}")


def described(pool: dict[str, Any], last: int) -> Iterator[str | Table]:
    """What is printed of a pool: who decides, a table of its last decisions, and their reasons."""
    by_hand = f" at {pool['pinned']}" if pool["pinned"] is not None else ""
    yield (
        f"{pool['name']}: {pool['mode']}{by_hand}, {pool['min_replicas']} to "
        f"{pool['max_replicas']} replicas, {pool['standby']} on standby"
    )
    decisions = pool["decisions"][-last:]
    if not decisions:
        yield "no decision yet"
        return
    names = list(
        dict.fromkeys(term["name"] for each in decisions for term in each["decision"]["terms"])
    )
    table = Table(box=None, pad_edge=False)
    for title in ("at", "times", "ready", "starting", *names, "winner", "order"):
        table.add_column(title, justify="right" if title not in {"at", "winner"} else "left")
    for each in decisions:
        seen, decision = each["seen"], each["decision"]
        asked = {term["name"]: str(term["replicas"]) for term in decision["terms"]}
        table.add_row(
            each["at"][11:19],
            str(each["times"]),
            str(seen["ready"]),
            str(seen["starting"]),
            *(asked.get(name, "") for name in names),
            decision["winner"],
            f"{seen['ready'] + seen['starting']} -> {each['ordered']}",
        )
    yield table
    for each in decisions:
        trouble = f" (not carried out: {each['trouble']})" if each["trouble"] else ""
        mode = "" if each["mode"] == "automatic" else f"[{each['mode']}] "
        yield f"{each['at'][11:19]}  {mode}{each['decision']['reason']}{trouble}"
    found = pool.get("alternatives") or []
    if len({(each["replicas"], each["late"]) for each in found}) > 1:
        yield "What other ways of scaling would have cost and answered late (* is followed):"
        yield _alternatives(found)
    elif found:
        yield f"So far all {len(found)} ways of scaling would have cost and served the same."


def _alternatives(found: list[dict[str, Any]]) -> Table:
    """Every stance, the cheapest first; the one that is followed is marked."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "planned use", "quiet for", "promise of", "foresees", "replicas", "late"):
        table.add_column(title, justify="left" if title in {"", "foresees"} else "right")
    for each in found:
        table.add_row(
            "*" if each["followed"] else "",
            f"{each['utilisation']:.0%}",
            f"{each['delay_s']:,.0f} s",
            f"{each['promise_s']:,.0f} s" if each.get("promise_s") else "",
            each["season"],
            f"{each['replicas']:.2f}",
            f"{each['late']:.2%}",
        )
    return table


def _order(
    admin: str,
    key_file: Path | None,
    verb: str,
    pool: str | None,
    replicas: int | None = None,
    *,
    as_json: bool,
) -> None:
    order = {"pool": pool} | ({} if replicas is None else {"replicas": replicas})
    answer = ask(admin, f"/autoscaling/{verb}", key_file, json.dumps(order).encode()).body
    if as_json:
        show_json(answer)
        return
    by_hand = "" if answer["pinned"] is None else f" at {answer['pinned']}"
    typer.echo(f"{answer['name']}: {answer['mode']}{by_hand}")
