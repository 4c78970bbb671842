"""`embedfleet keys`: create, list and revoke API keys in the keys file.

A new key is printed alone on standard output, once.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import ValidationError, convert, to_builtins
from msgspec.structs import replace

from embedfleet.cli.printing import AsJson, show, show_json, table
from embedfleet.transport.access.key_file import Records, change, load
from embedfleet.transport.access.keys import mint
from embedfleet.transport.access.records import KeyFileError, KeyRecord, record_of
from embedfleet.vocabulary import Lane

keys = typer.Typer(
    no_args_is_help=True,
    help="Manage API keys and their limits. A running gateway rereads the file by itself.",
)

KeyFile = Annotated[
    Path,
    typer.Option(
        "--file",
        metavar="FILE",
        envvar="EMBEDFLEET_ACCESS_KEYS_FILE",
        help="File of keys; the setting access.keys_file names it to a gateway.",
    ),
]


Models = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Model that the key may use, repeatable; by default all."),
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Day on which it expires, such as 2027-06-30 (UTC), or a time from now: `90d`.",
    ),
]
Comment = Annotated[str, typer.Option(metavar="TEXT", help="Comment to keep with the key.")]


def _limit(what: str) -> Any:
    return typer.Option(min=1, metavar="N", help=what, show_default="no limit")


@keys.command()
def create(  # noqa: PLR0913, PLR0917  each is a flag
    file: KeyFile,
    name: Annotated[str, typer.Option(metavar="TEXT", help="Name of the holder.")],
    tokens_per_minute: Annotated[int | None, _limit("Maximum tokens per minute.")] = None,
    requests_per_minute: Annotated[int | None, _limit("Maximum requests per minute.")] = None,
    concurrent_texts: Annotated[
        int | None, _limit("Maximum texts waiting or being computed at once.")
    ] = None,
    lane: Annotated[
        Lane | None, typer.Option(help="Lane that requests are confined to.", show_default="either")
    ] = None,
    model: Models = None,
    expires: Expires = None,
    comment: Comment = "",
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Create a key and print it. It cannot be shown again: the file holds its hash.

    embedfleet keys create --file keys.json --name search
    """
    now = datetime.now(UTC).replace(microsecond=0)
    key = mint(secrets.token_bytes)
    record = _checked(
        replace(
            record_of(key, name, now),
            expires=None if expires is None else moment(expires, now),
            lane=lane,
            tokens_per_minute=tokens_per_minute,
            requests_per_minute=requests_per_minute,
            concurrent_texts=concurrent_texts,
            models=tuple(model or ()),
            comment=comment,
        )
    )
    text = json.dumps(_shown(record, now) | {"key": key.text}, indent=1) if as_json else key.text
    # A key is neither printed without being stored, nor stored without being printed.
    change(file, lambda before: (*before, record), confirm=lambda: _hand_over(text))
    typer.echo(f"{file}: key {key.id} for {name}; it is shown only now", err=True)


@keys.command("list")
def show_all(file: KeyFile, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Show every key without its secret.

    embedfleet keys list --file keys.json
    """
    now = datetime.now(UTC)
    if as_json:
        show_json([_shown(each, now) for each in load(file)])
        return
    columns = ("id", "name", "state", "lane", "tokens/min", "requests/min", "texts", "models")
    rows = table(*columns, "created", "expires", "comment")
    for each in load(file):
        ended = each.ended(now)
        limits = (each.tokens_per_minute, each.requests_per_minute, each.concurrent_texts)
        rows.add_row(
            each.id,
            each.name,
            ended or "active",
            each.lane or "either",
            *("-" if limit is None else f"{limit:,}" for limit in limits),
            ", ".join(each.models) or "all",
            f"{each.created:%Y-%m-%d}",
            "never" if each.expires is None else f"{each.expires:%Y-%m-%d}",
            each.comment,
            style="dim" * (ended is not None),
        )
    show(rows)


@keys.command()
def revoke(
    file: KeyFile,
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, or the whole key.")],
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Revoke a key; running gateways refuse it within two seconds.

    embedfleet keys revoke --file keys.json abcdefgh2345
    """
    now = datetime.now(UTC).replace(microsecond=0)
    key_id = key.split("-")[1] if key.startswith("ef-") and key.count("-") > 1 else key
    load(file)  # raises where there is none; a change would take that for an empty one
    change(file, revoking(key_id, now))
    if as_json:
        show_json(next(_shown(each, now) for each in load(file) if each.id == key_id))
        return
    typer.echo(f"{file}: key {key_id} is revoked", err=True)


def _hand_over(text: str) -> None:
    """Write a new key to standard output, for certain. Raises KeyFileError."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise KeyFileError(
            f"standard output can't be written ({error.strerror}), so no key was made"
        ) from error


def _shown(record: KeyRecord, now: datetime) -> dict[str, Any]:
    """All of a key but what it is told by."""
    known = to_builtins(record)
    return {"state": record.ended(now) or "active"} | {
        name: value for name, value in known.items() if name != "digest"
    }


def revoking(key_id: str, now: datetime) -> Callable[[Records], Records]:
    """The change that ends one key; a key that was revoked before keeps its date."""

    def decide(before: Records) -> Records:
        if all(each.id != key_id for each in before):
            known = ", ".join(each.id for each in before) or "none"
            raise KeyFileError(f"there is no key with the id {key_id}; there are: {known}")
        return tuple(
            replace(each, revoked=each.revoked or now) if each.id == key_id else each
            for each in before
        )

    return decide


def moment(text: str, now: datetime) -> datetime:
    """When a key ends that is to end at the end of a day, or so many days from now."""
    days = re.fullmatch(r"(\d{1,4})d", text)
    if days is not None and int(days[1]):
        return now + timedelta(days=int(days[1]))
    try:
        end = datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
    except (ValueError, OverflowError):  # the last day that there is has none after it
        raise KeyFileError(
            f'--expires: "{text}" is neither a day such as 2027-06-30 nor a number of days such as '
            "90d"
        ) from None
    if end <= now:
        raise KeyFileError(f"--expires: {text} is in the past")
    return end


def _checked(record: KeyRecord) -> KeyRecord:
    """The record, as it could be read back. Raises KeyFileError."""
    try:
        return convert(to_builtins(record), KeyRecord)
    except ValidationError as error:
        raise KeyFileError(f"this makes no key: {error}") from error
