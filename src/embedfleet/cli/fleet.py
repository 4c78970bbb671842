"""`embedfleet fleet`: take a replica out of traffic by hand, and let it back.

Every command changes the state of a running gateway through its admin address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from embedfleet.cli.admin_client import Admin, KeyFile, ask, reached
from embedfleet.cli.flags import ConfigFile
from embedfleet.cli.printing import AsJson, show_json

fleet = typer.Typer(
    no_args_is_help=True,
    help="Drain and readmit replicas of a running gateway.",
)

Replica = Annotated[
    str,
    typer.Argument(
        metavar="REPLICA",
        help="Name of the replica as in `embedfleet status`, or POOL/NAME as in the log.",
    ),
]
PoolName = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="NAME", help="The pool; needed if several have a replica of that name."
    ),
]


@fleet.command()
def drain(
    replica: Replica,
    pool: PoolName = None,
    force: Annotated[  # noqa: FBT002
        bool, typer.Option("--force", help="Drain it even if no other replica is ready.")
    ] = False,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Let a replica finish what it has and give it nothing new, until `readmit`.

        embedfleet fleet drain local-0

    It holds for the gateway that is asked, and until that gateway ends.
    """
    order = {"replica": replica, "pool": pool, "force": force}
    _order(*reached(admin, key_file, config), "drain", order, as_json=as_json)


@fleet.command()
def readmit(
    replica: Replica,
    pool: PoolName = None,
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Let a replica that was drained back into traffic; its vectors are verified first.

    embedfleet fleet readmit local-0
    """
    order = {"replica": replica, "pool": pool}
    _order(*reached(admin, key_file, config), "readmit", order, as_json=as_json)


def _order(
    admin: str, key_file: Path | None, verb: str, order: Mapping[str, object], *, as_json: bool
) -> None:
    answer = ask(admin, f"/fleet/{verb}", key_file, json.dumps(order).encode()).body
    if as_json:
        show_json(answer)
        return
    typer.echo(f"{answer['replica']} of {answer['pool']}: {answer['state']} ({answer['reason']})")
