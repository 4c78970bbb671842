"""Output of commands: tables that are never cut off, and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

UNBOUNDED = 10_000
"""Columns: more than any table has, so that nothing is cut off; a terminal wraps long lines."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def table(*titles: str, right: frozenset[str] = frozenset()) -> Table:
    """Columns that are never cut or folded: an id that is cut is no id."""
    found = Table(box=None, pad_edge=False)
    for title in titles:
        justify = "right" if title in right else "left"
        found.add_column(title, no_wrap=True, justify=justify)  # type: ignore[arg-type]
    return found


def show(*parts: RenderableType) -> None:
    """Print each on lines of its own, without blanks at their ends."""
    console = Console(width=UNBOUNDED)
    for part in parts:
        with console.capture() as captured:
            console.print(part, markup=False, highlight=False)
        for line in captured.get().splitlines():
            sys.stdout.write(line.rstrip() + "\n")


def complain(problem: str) -> None:
    """Print an error. What files and services put into it can't move a terminal's cursor."""
    shown = "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in problem
    )
    typer.echo(f"embedfleet: error: {shown}", err=True)


def show_json(document: Any) -> None:
    """Print a document as JSON; what JSON has no form for is printed as text, or as null."""
    readable = sys.stdout.encoding.lower().startswith("utf")
    typer.echo(json.dumps(_finite(document), indent=1, ensure_ascii=not readable, default=str))


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return value
