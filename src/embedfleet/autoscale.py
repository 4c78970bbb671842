"""`embedfleet autoscale`: what the autoscaler decided, and the number of replicas by hand.

Decides what is printed and which order is sent to a gateway's admin address. Refuses to know how
anything is decided.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from embedfleet.vocabulary import SetupError

TIMEOUT_S = 10.0
ADMIN = "http://127.0.0.1:8081"
"""Where a gateway's admin address is unless the settings say otherwise."""

autoscale = typer.Typer(
    no_args_is_help=True,
    help="What the autoscaler of a running gateway decides, and the number of replicas by hand.",
)

Admin = Annotated[str, typer.Option("--admin", metavar="URL", help="The gateway's admin address.")]
PoolName = Annotated[
    str | None, typer.Option("--pool", metavar="NAME", help="Which pool, where there are several.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="File with the key that the address asks for."),
]


@autoscale.command()
def explain(
    pool: PoolName = None,
    admin: Admin = ADMIN,
    key_file: KeyFile = None,
    last: Annotated[int, typer.Option("--last", metavar="N", help="How many.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show the last decisions: every reason to have replicas, which one won, and why.

        embedfleet autoscale explain

    Decisions that repeat are one row, with how often.
    """
    found = _ask(admin, "/autoscaling", key_file)["pools"]
    pools = [each for each in found if pool in {None, each["name"]}]
    if not pools:
        names = ", ".join(each["name"] for each in found) or "none"
        raise SetupError(f"no pool{'' if pool is None else f' {pool}'} is scaled there: {names}")
    if as_json:
        typer.echo(json.dumps(pools, indent=1))
        return
    console = Console(soft_wrap=True, width=max(Console().width, 140))
    for each in pools:
        for line in described(each, last):
            console.print(line, markup=False)


@autoscale.command()
def pause(pool: PoolName = None, admin: Admin = ADMIN, key_file: KeyFile = None) -> None:
    """Leave the number of replicas as it is; decisions are still made, and shown.

    embedfleet autoscale pause
    """
    _order(admin, "pause", key_file, pool)


@autoscale.command()
def resume(pool: PoolName = None, admin: Admin = ADMIN, key_file: KeyFile = None) -> None:
    """Let the policy decide again.

    embedfleet autoscale resume
    """
    _order(admin, "resume", key_file, pool)


@autoscale.command()
def scale(
    replicas: Annotated[int, typer.Argument(metavar="N", help="How many there should be.", min=0)],
    pool: PoolName = None,
    admin: Admin = ADMIN,
    key_file: KeyFile = None,
) -> None:
    """Have N replicas, whatever the load, until `resume`.

    embedfleet autoscale scale 4
    """
    _order(admin, "scale", key_file, pool, replicas)


def described(pool: dict[str, Any], last: int) -> Iterator[str | Table]:
    """What is printed of a pool: who decides, a table of its last decisions, and their reasons."""
    by_hand = f" at {pool['pinned']}" if pool["pinned"] is not None else ""
    yield (
        f"{pool['name']}: {pool['mode']}{by_hand}, {pool['min_replicas']} to "
        f"{pool['max_replicas']} replicas, {pool['standby']} on standby"
    )
    decisions = pool["decisions"][-last:]
    if not decisions:
        yield "nothing was decided yet"
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
    admin: str, verb: str, key_file: Path | None, pool: str | None, replicas: int | None = None
) -> None:
    order = {"pool": pool} | ({} if replicas is None else {"replicas": replicas})
    answer = _ask(admin, f"/autoscaling/{verb}", key_file, order)
    by_hand = "" if answer["pinned"] is None else f" at {answer['pinned']}"
    typer.echo(f"{answer['name']}: {answer['mode']}{by_hand}")


def _ask(admin: str, path: str, key_file: Path | None, order: dict[str, Any] | None = None) -> Any:
    """Ask a gateway; SetupError says what is wrong."""
    url = admin.rstrip("/") + path
    if not url.startswith(("http://", "https://")):
        raise SetupError(f'--admin: "{admin}" is no address such as {ADMIN}')
    request = urllib.request.Request(  # noqa: S310  it is HTTP, as checked above
        url,
        None if order is None else json.dumps(order).encode(),
        {"content-type": "application/json"},
    )
    if key_file is not None:
        request.add_header("authorization", f"Bearer {_read(key_file)}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SetupError(f"{url}: {_told(error)}") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"no gateway answers at {url}: {error}; name it with --admin") from error


def _told(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"]["message"])
        except (OSError, ValueError, LookupError, TypeError):
            return f"status {error.code}"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the key file {file} can't be read: {error}") from error
