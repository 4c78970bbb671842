"""`embedfleet cache`: what a gateway's cache holds and did; empty it; fill it from a file.

Decides what is printed, and how a file's lines become requests. Refuses to know how entries are
found: a gateway is asked as traffic would ask it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedfleet.vocabulary import SetupError

ADMIN = "http://127.0.0.1:8081"
"""Where a gateway's admin address is unless the settings say otherwise."""

TIMEOUT_S = 600.0
"""A batch of long texts on a processor takes minutes."""

AT_ONCE = 64
"""Texts in a request: enough to fill batches, few enough that progress is seen."""

cache = typer.Typer(
    no_args_is_help=True, help="What a running gateway's cache of vectors holds; empty or fill it."
)

Admin = Annotated[str, typer.Option("--admin", metavar="URL", help="The gateway's admin address.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="File with the key that the address asks for."),
]


@cache.command()
def stats(
    admin: Admin = ADMIN,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show what the cache holds and how often it knew a text.

    embedfleet cache stats
    """
    found = _asked(admin, key_file, "/cache").body
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in described(found):
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


@cache.command()
def clear(admin: Admin = ADMIN, key_file: KeyFile = None) -> None:
    """Forget every vector, in memory and in Redis.

    Never needed for a new model or new weights: their vectors are found by other keys.
    """
    found = _asked(admin, key_file, "/cache/clear", b"").body
    redis = "could not be cleared" if found["redis"] is None else f"{found['redis']} texts"
    typer.echo(f"memory: {found['memory']} texts; Redis: {redis}")


@cache.command()
def warm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Texts, one a line, or JSON lines.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="As requests name it.")],
    admin: Admin = ADMIN,
    key_file: KeyFile = None,
    input_type: Annotated[str | None, typer.Option(metavar="query|document")] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    truncate: Annotated[bool, typer.Option(help="Cut texts that are too long.")] = False,  # noqa: FBT002
) -> None:
    """Have the texts of a file computed that the cache does not know yet.

    A line is a text, or JSON: a string, a list of token ids, or an object with `text` or `input`.
    Prompts are part of what a text is found by: give the same `--input-type` or `--instruction`
    as your traffic does. They run in the bulk lane, behind people who wait.

        embedfleet cache warm questions.txt --model embeddings --input-type query
    """
    texts = read_texts(file)
    fields: dict[str, Any] = {"model": model, "encoding_format": "base64", "truncate": truncate}
    chosen = {"input_type": input_type, "instruction": instruction}
    fields |= {name: value for name, value in chosen.items() if value is not None}
    hits = misses = 0
    requests = list(requested(texts))
    quiet = not Console(stderr=True).is_terminal
    console = Console(stderr=True)
    for batch in track(requests, "computing", console=console, disable=quiet):
        body = json.dumps(fields | {"input": batch}).encode()
        told = _asked(admin, key_file, "/cache/warm", body)
        hits, misses = hits + told.hits, misses + told.misses
    typer.echo(f"{len(texts)} texts: {hits} were known, {misses} were computed")


def read_texts(file: Path) -> list[str | list[int]]:
    """The texts of a file, blank lines left out. Raises SetupError that names a wrong line."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} can't be read: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not all(line.lstrip()[0] in '"[{' for _, line in numbered):
        return [line.rstrip("\r") for _, line in numbered]
    return [_parsed(file, number, line) for number, line in numbered]


def requested(texts: Sequence[str | list[int]]) -> Iterator[list[str | list[int]]]:
    """The texts by requests: a request holds strings or lists of ids, not both."""
    for kind in (str, list):
        alike = [text for text in texts if isinstance(text, kind)]
        for start in range(0, len(alike), AT_ONCE):
            yield alike[start : start + AT_ONCE]


def described(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is printed of a cache, row by row."""
    memory, redis = found["memory"], found["redis"]
    yield (
        "memory",
        f"{memory['texts']:,} texts, {_mib(memory['bytes'])} of " + _mib(memory["most_bytes"]),
    )
    yield "", f"{_share(memory)}, {memory['evicted']:,} let go"
    if redis is not None:
        yield "Redis", f"{redis['state']}, {redis['written']:,} written, {_share(redis)}"
        lost = ("unasked", "refused", "unwritten", "rejected")
        yield "", ", ".join(f"{redis[name]:,} {name}" for name in lost)
    yield "in flight", f"{found['in_flight']:,} texts; {found['shared']:,} did not run twice"


@dataclass(frozen=True, slots=True)
class _Told:
    body: dict[str, Any]
    hits: int = 0
    misses: int = 0


def _asked(admin: str, key_file: Path | None, path: str, body: bytes | None = None) -> _Told:
    """Ask the admin address; POST with a body. Raises SetupError with what it answers."""
    request = urllib.request.Request(admin.rstrip("/") + path, body)  # noqa: S310
    request.add_header("content-type", "application/json")
    request.add_header("x-embedfleet-lane", "bulk")
    if key_file is not None:
        request.add_header("authorization", f"Bearer {_key(key_file)}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            header = answer.headers.get("x-embedfleet-cache", "")
            counts = dict(part.split("=") for part in header.split("; ") if part)
            hits, misses = int(counts.get("hit", 0)), int(counts.get("miss", 0))
            return _Told(json.load(answer), hits, misses)
    except urllib.error.HTTPError as error:
        raise SetupError(f"{admin} answers {error.code}: {_message(error)}") from error
    except (OSError, ValueError) as error:
        raise SetupError(
            f"no gateway answers at {admin} ({error}); --admin says where it is"
        ) from error


def _key(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} can't be read: {error}") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        message: str = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return error.reason
    return message


def _parsed(file: Path, number: int, line: str) -> str | list[int]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SetupError(f"{file}, line {number}: no JSON: {error}") from error
    if isinstance(value, dict):
        value = value.get("text", value.get("input"))
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return value
    raise SetupError(
        f"{file}, line {number}: it must be a string, a list of token ids, or an object that has "
        "one of them as `text` or `input`"
    )


def _share(tier: dict[str, Any]) -> str:
    asked = tier["hits"] + tier["misses"]
    return f"{tier['hits']:,} of {asked:,} texts known" + (
        f" ({tier['hits'] / asked:.1%})" if asked else ""
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
