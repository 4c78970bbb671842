"""`embedfleet autoscale`: show the autoscaler's decisions, and pause, resume or override it.

Every command reads or changes the state of a running gateway through its admin address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from embedfleet.cli.admin_client import Admin, KeyFile, ask, reached
from embedfleet.cli.flags import ConfigFile
from embedfleet.cli.printing import AsJson, show, show_json
from embedfleet.vocabulary import SetupError

autoscale = typer.Typer(
    no_args_is_help=True,
    help="What the autoscaler of a running gateway decides, and the number of replicas by hand.",
)

PoolName = Annotated[
    str | None, typer.Option("--pool", metavar="NAME", help="Which pool, where there are several.")
]


@autoscale.command()
def explain(
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    last: Annotated[int, typer.Option("--last", metavar="N", help="How many.", min=1)] = 10,
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
            raise SetupError(
                "no pool is scaled there; `serve` does it with --min-replicas and --max-replicas"
            )
        names = ", ".join(each["name"] for each in found)
        raise SetupError(f"no pool {pool} is scaled there; there are: {names}")
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
    replicas: Annotated[int, typer.Argument(metavar="N", help="How many there should be.", min=0)],
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Have N replicas, whatever the load, until `resume`.

    embedfleet autoscale scale 4
    """
    _order(*reached(admin, key_file, config), "scale", pool, replicas, as_json=as_json)


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
