"""`embedfleet status`: a gateway's pools, replicas, queues and last decisions as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from embedfleet.cli.admin_client import Admin, KeyFile, ask, reached
from embedfleet.cli.cache import reachable
from embedfleet.cli.flags import ConfigFile, number
from embedfleet.cli.printing import AsJson, show, show_json, table
from embedfleet.vocabulary import SetupError, counted

Watch = Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")]

UNHEALTHY = 1
"""The exit code where a pool has no ready replica, or a replica is in trouble."""

WELL = {"ready", "draining", "standby"}
"""States of replicas that need no attention."""


def status(
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    watch: Watch = False,  # noqa: FBT002
    every: Annotated[
        float,
        typer.Option(
            "--every",
            metavar="S",
            help="Seconds between refreshes, with --watch.",
            parser=number(0.1, 86_400),
        ),
    ] = 2.0,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show the fleet: pools, replicas with their states and reasons, load and last decisions.

        embedfleet status

    The exit code is 0 when every replica is well, 1 when one is not, 2 when no gateway answers.
    """
    url, key = reached(admin, key_file, config)
    if watch:
        _watch(url, key, every, as_json=as_json)
        return
    found = ask(url, "/fleet", key).body
    if as_json:
        show_json(found)
    else:
        show(*described(found))
    raise typer.Exit(0 if healthy(found) else UNHEALTHY)


def healthy(found: dict[str, Any]) -> bool:
    """Whether the gateway takes requests and no replica needs attention."""
    states = [{each["state"] for each in pool["replicas"]} for pool in found["pools"]]
    return found["state"] == "ready" and all(pool and pool <= WELL for pool in states)


def described(found: dict[str, Any]) -> Iterator[RenderableType]:
    """What is printed, from top to bottom."""
    yield (
        f"embedfleet {found['version']}: {found['state']}, "
        f"{counted(found['active_requests'], 'request')} in flight{_cache(found['cache'])}"
    )
    for pool in found["pools"]:
        yield ""
        yield from _pool(pool)


def _pool(pool: dict[str, Any]) -> Iterator[RenderableType]:
    replicas = pool["replicas"]
    ready = sum(each["state"] == "ready" for each in replicas)
    also = f" (also {', '.join(pool['served_names'])})" if pool["served_names"] else ""
    yield f"{pool['name']}{also}: {ready} of {counted(len(replicas), 'replica')} ready"
    lanes = ", ".join(f"{lane} {tokens:,}" for lane, tokens in pool["queued_tokens"].items())
    yield (
        f"  {pool['tokens_per_s']:,.0f} tokens/s arriving, {pool['in_flight_tokens']:,} tokens in "
        f"flight, queued tokens: {lanes}"
    )
    titles = ("  replica", "state", "for", "tokens/s", "in flight", "engine", "address", "reason")
    rows = table(*titles, right=frozenset({"for", "tokens/s", "in flight"}))
    for each in replicas:
        speed = each["measured_tokens_per_s"]
        rows.add_row(
            f"  {each['name']}",
            each["state"],
            _duration(each["for_s"]),
            "-" if speed is None else f"{speed:,.0f}",
            f"{each['in_flight_tokens']:,}",
            " ".join(filter(None, (each["engine"], each["precision"]))) or "-",
            each["url"],
            each["reason"],
        )
    if replicas:
        yield rows
    last = pool["last_decision"]
    if last is not None:
        trouble = f" (not carried out: {last['trouble']})" if last["trouble"] else ""
        mode = "" if last["mode"] == "automatic" else f"[{last['mode']}] "
        yield f"  scaling {last['at'][11:19]}: {mode}{last['reason']}{trouble}"


def _cache(cache: dict[str, Any] | None) -> str:
    if cache is None:
        return ", no cache"
    memory, redis = cache["memory"], cache["redis"]
    known = memory["hits"] + (redis["hits"] if redis else 0)
    asked = memory["hits"] + memory["misses"]
    rate = (
        f"{known / asked:.1%} of {counted(asked, 'text')} known"
        if asked
        else "no text looked up yet"
    )
    return f"; cache: {rate}" + (f", Redis {reachable(redis['state'])}" if redis else "")


def _duration(seconds: float) -> str:
    """Two units at most: 12s, 4m05s, 3h12m, 5d04h."""
    whole = int(seconds)
    for size, unit, below, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02}{smaller}"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"


def _watch(admin: str, key_file: Any, every: float, *, as_json: bool) -> None:
    """On a terminal in place, in a pipe one after the other."""
    console = Console()
    try:
        if as_json or not console.is_terminal:
            while True:
                found = ask(admin, "/fleet", key_file).body
                if as_json:
                    typer.echo(json.dumps(found))
                else:
                    show(*described(found), "")
                time.sleep(every)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_shown(admin, key_file), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def _shown(admin: str, key_file: Any) -> RenderableType:
    """The table, or why there is none just now: a watch outlives a restart."""
    try:
        found = ask(admin, "/fleet", key_file).body
    except SetupError as error:
        return Text(str(error))
    rows = [Text(each) if isinstance(each, str) else each for each in described(found)]
    return Group(*rows)
