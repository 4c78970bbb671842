"""`embedfleet cache`: show the statistics of a gateway's cache, clear it, or warm it from a file.

Warming sends the texts of the file through the gateway as ordinary traffic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedfleet.cli.admin_client import Admin, Answer, KeyFile, ask, reached
from embedfleet.cli.flags import ConfigFile
from embedfleet.cli.printing import AsJson, show, show_json
from embedfleet.runtime.text_files import read_text
from embedfleet.vocabulary import SetupError, counted

TIMEOUT_S = 600.0
"""A batch of long texts on a processor takes minutes, and so does clearing a large Redis."""

MOST_BYTES = 4 << 30
"""Of a file of texts, which is read whole."""

AT_ONCE = 64
"""Texts in a request: enough to fill batches, few enough that progress is seen."""

InputType = Annotated[
    str | None,
    typer.Option(metavar="query|document", help="What the texts are, as in your requests."),
]
Instruction = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Instruction before each text, as in your requests."),
]
Truncate = Annotated[bool, typer.Option(help="Cut texts that are too long for the model.")]

cache = typer.Typer(
    no_args_is_help=True, help="Show, fill or clear a running gateway's cache of vectors."
)


@cache.command()
def stats(
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show the contents of the cache and its hit rate.

    embedfleet cache stats
    """
    url, key = reached(admin, key_file, config)
    found = ask(url, "/cache", key).body
    if as_json:
        show_json(found)
        return
    rows = Table(box=None, pad_edge=False, show_header=False)
    for row in described(found):
        rows.add_row(*row)
    show(rows)


@cache.command()
def clear(
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Delete every vector, in memory and in Redis.

    Never needed for a new model or new weights: their vectors are found by other keys.
    """
    url, key = reached(admin, key_file, config)
    found = ask(url, "/cache/clear", key, b"", timeout_s=TIMEOUT_S).body
    if as_json:
        show_json(found)
        return
    redis = "could not be cleared" if found["redis"] is None else counted(found["redis"], "text")
    typer.echo(f"memory: {counted(found['memory'], 'text')}; Redis: {redis}")


@cache.command()
def warm(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File with one text per line, or JSON Lines.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME", help="Name by which requests select the model."),
    ],
    admin: Admin = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    input_type: InputType = None,
    instruction: Instruction = None,
    truncate: Truncate = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Compute the texts of a file that are not in the cache yet.

    A line is a text, or JSON: a string, a list of token ids, or an object with `text` or `input`.
    Prompts are part of what a text is found by: give the same `--input-type` or `--instruction`
    as your traffic does. The texts run in the bulk lane, behind interactive requests.

        embedfleet cache warm questions.txt --model m --input-type query
    """
    url, key = reached(admin, key_file, config)
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
        answer = ask(
            url,
            "/cache/warm",
            key,
            body,
            headers={"x-embedfleet-lane": "bulk"},
            timeout_s=TIMEOUT_S,
        )
        hit, miss = _known(answer)
        hits, misses = hits + hit, misses + miss
    if as_json:
        show_json({"texts": len(texts), "known": hits, "computed": misses})
        return
    typer.echo(f"{counted(len(texts), 'text')}: {hits:,} known, {misses:,} computed")


def read_texts(file: Path) -> list[str | list[int]]:
    """The texts of a file, blank lines left out. Raises SetupError that names a wrong line."""
    lines = read_text(file, "the file", most_bytes=MOST_BYTES).split("\n")
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
        f"{counted(memory['texts'], 'text')}, {_mib(memory['bytes'])} of "
        + _mib(memory["most_bytes"]),
    )
    yield "", f"{_share(memory)}, {memory['evicted']:,} evicted"
    if redis is not None:
        yield "Redis", f"{reachable(redis['state'])}, {redis['written']:,} written, {_share(redis)}"
        lost = ("unasked", "refused", "unwritten", "rejected")
        yield "", ", ".join(f"{redis[name]:,} {name}" for name in lost)
    yield (
        "in flight",
        f"{counted(found['in_flight'], 'text')}; {found['shared']:,} shared a computation",
    )


def _known(answer: Answer) -> tuple[int, int]:
    """Texts of a request that the cache knew, and that it did not."""
    counts = dict(re.findall(r"(\w+)=(\d+)", answer.headers.get("x-embedfleet-cache", "")))
    return int(counts.get("hit", 0)), int(counts.get("miss", 0))


def _parsed(file: Path, number: int, line: str) -> str | list[int]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SetupError(f"{file}, line {number}: invalid JSON: {error}") from error
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


def reachable(breaker: str) -> str:
    """What the state of its circuit breaker says of Redis."""
    words = {"closed": "connected", "open": "unreachable", "half-open": "being tried again"}
    return f"{words.get(breaker, 'unknown')} (breaker {breaker})"


def _share(tier: dict[str, Any]) -> str:
    asked = tier["hits"] + tier["misses"]
    return f"{tier['hits']:,} of {counted(asked, 'text')} known" + (
        f" ({tier['hits'] / asked:.1%})" if asked else ""
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
