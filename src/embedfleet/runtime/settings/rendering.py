"""Renders settings: as a TOML file, as rows of a table, and as a page of documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedfleet.runtime.settings.catalogue import Settings
from embedfleet.runtime.settings.converting import expected
from embedfleet.runtime.settings.loading import Provenance
from embedfleet.runtime.settings.options import AREAS, POOLS, Option, options


@dataclass(frozen=True, slots=True)
class Effective:
    """One effective value, ready to be shown."""

    path: str
    value: str
    source: str


def effective(settings: Settings, provenance: Provenance) -> list[Effective]:
    """List every value with where it came from, in the order of the catalogue."""
    return [
        Effective(path, shown(option, value), provenance[path])
        for path, option, value in _walk(settings)
    ]


def as_toml(settings: Settings) -> str:
    """Write a settings file that, loaded alone, gives exactly these settings."""
    lines: list[str] = []
    for area, kind in AREAS.items():
        chosen = [option for option in options().values() if option.area == area]
        held = getattr(settings, area)
        for row in held if area == POOLS else [held]:
            header = f"[[{area}]]" if area == POOLS else f"[{area}]"
            lines += ["", f"# {' '.join((kind.__doc__ or '').split())}", header]
            lines += [f"{each.name} = {_toml(each, getattr(row, each.name))}" for each in chosen]
    return "\n".join(lines[1:]) + "\n"


def shown(option: Option, value: Any) -> str:
    """Spell a value as a person would type it into a variable."""
    if value is None:
        return option.rule.none or ""
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else item for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_markdown() -> str:
    """Write the documentation page of every option."""
    lines = [PREAMBLE]
    for area, kind in AREAS.items():
        title = f"[[{area}]]" if area == POOLS else f"[{area}]"
        lines += [f"## `{title}`", "", " ".join((kind.__doc__ or "").split()), ""]
        for option in options().values():
            if option.area == area:
                lines += [_entry(option), ""]
    return "\n".join(lines).rstrip() + "\n"


def _entry(option: Option) -> str:
    default = shown(option, option.default) or "empty"
    names = f"`{option.variable}`"
    if option.rule.flag:
        names += f", `{option.rule.flag}`"
    return (
        f"### `{option.path}`\n\n{option.description}\n\n"
        f"Accepts {expected(option)}. Default: `{default}`. Also: {names}."
    )


def _walk(settings: Settings) -> Iterator[tuple[str, Option, Any]]:
    for option in options().values():
        if option.area != POOLS:
            yield option.path, option, getattr(getattr(settings, option.area), option.name)
    for index, pool in enumerate(settings.pools):
        for option in options().values():
            if option.area == POOLS:
                yield f"{POOLS}[{index}].{option.name}", option, getattr(pool, option.name)


def _toml(option: Option, value: Any) -> str:
    if value is None:
        value = option.rule.none
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float):
        return repr(value)
    # JSON's strings, numbers, booleans and lists of strings are TOML too, once DEL is escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


PREAMBLE = """\
# Settings

Every option has a default that works. A value is taken from the first of these that names it:

1. a flag on the command line;
2. an environment variable, `EMBEDFLEET_<AREA>_<FIELD>`; lists are separated by commas;
3. the one TOML file that `--config FILE` (or `EMBEDFLEET_CONFIG`) names;
4. the default.

A name that does not exist is an error that suggests the nearest one, and so is a value of the
wrong type or out of range. `embedfleet config` shows the effective values and where each came
from; `embedfleet config --toml` prints them as a file. Durations are in seconds.

With a single pool, its options can be given as variables (`EMBEDFLEET_POOL_MODEL`) and flags too;
with several, each has its own `[[pools]]` table in the file.

This page is generated: `python -m embedfleet config --docs > docs/settings.md`.
"""
