"""Merges defaults, a TOML file, the environment and flags into one `Settings`. Pure.

Later sources override earlier ones. Text and mappings are handed in: nothing here opens a file or
reads the process environment.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from embedfleet.runtime.settings.addresses import service_root
from embedfleet.runtime.settings.catalogue import Pool, Settings
from embedfleet.runtime.settings.contradictions import MOST_TOLD, refuse
from embedfleet.runtime.settings.converting import UnfitError, convert, expected, one_line
from embedfleet.runtime.settings.options import AREAS, POOLS, PREFIX, Option, options
from embedfleet.vocabulary import Precision, SettingError

NOT_SETTINGS = re.compile(r"EMBEDFLEET_(CONFIG|API_KEYS|URL|DATA|TEST_\w+)")
"""Variables with our prefix that are no settings: the file's own path, keys, which no settings file
may hold, where clients find the service, and what tests and benchmarks read."""
SERVICE_LINKS = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)|EMBEDFLEET_SERVICE_\w+|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?"
)
"""Kubernetes puts such variables into every pod for a Service called `embedfleet…`."""

Provenance = Mapping[str, str]
"""Where each effective value came from, by path: `default`, `file`, a variable or a flag."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A value's slot: the path of its option, and which pool where it belongs to one."""

    path: str
    pool: int | None = None

    def __str__(self) -> str:
        return self.path if self.pool is None else self.path.replace(".", f"[{self.pool}].", 1)


_NAMES = f"{POOLS}.served_names"

_Given = dict[_Place, tuple[Any, str]]


def load(toml: str | None, environment: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Return the effective settings.

    `flags` go by the option's path (`gateway.port`, `pools.model`); None means not given.
    """
    return trace(toml, environment, flags)[0]


def trace(
    toml: str | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Settings, Provenance]:
    """Return the effective settings and where each of them came from."""
    given: _Given = {}
    pools = _read_file(toml, given)
    models = _several(flags.get("pools.model"))
    if models:
        flags = {path: raw for path, raw in flags.items() if path != "pools.model"}
    first = _read_environment(environment, given) | _read_flags(flags, given)
    if models:
        _spread(models, given, pools)
        return _assemble(given, len(models))
    if first and pools > 1:
        stray = next(
            source for place, (_, source) in given.items() if place.pool == 0 if source != "file"
        )
        raise SettingError(
            f"{stray} is for a single pool, but the settings file names {pools}; "
            "say it there, in the pool it is meant for"
        )
    return _assemble(given, max(pools, int(first)))


def _read_file(toml: str | None, given: _Given) -> int:
    """Take what the file says; return how many pools it names."""
    try:
        tables = tomllib.loads(toml or "")
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and depth
        raise SettingError(f"the settings file is not valid TOML: {error}") from error
    for area, table in tables.items():
        if area not in AREAS and isinstance(table, dict):
            raise _unknown(f"[{area}] in the settings file", area, AREAS)
        if area not in AREAS:  # a setting without its area
            raise _unknown(f"{area} in the settings file", area, AREAS, _elsewhere(area))
        many = area == POOLS
        rows = table if many else [table]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            shape = (
                f"an array of tables, each begun by [[{area}]]"
                if many
                else f"a table, begun by [{area}]"
            )
            raise SettingError(f"{area} in the settings file must be {shape}")
        for index, row in enumerate(rows):
            for name, raw in row.items():
                place = _Place(f"{area}.{name}", index if many else None)
                option = options().get(place.path)
                if option is None:
                    known = [each.name for each in options().values() if each.area == area]
                    raise _unknown(f"{place} in the settings file", name, known, _elsewhere(name))
                given[place] = (_fit(option, raw, f"{place} in the settings file"), "file")
    return len(tables.get(POOLS, ()))


def _read_environment(environment: Mapping[str, str], given: _Given) -> bool:
    """Take what the environment says; return whether it speaks of a pool."""
    by_variable = {option.variable: option for option in options().values()}
    for variable, raw in environment.items():
        if not variable.startswith(PREFIX) or _is_foreign(variable, raw):
            continue
        option = by_variable.get(variable)
        where = f"environment variable {variable}"
        if option is None:
            raise _unknown(where, variable, by_variable, _of_its_flag(variable))
        if not raw and option.rule.guards:
            raise SettingError(
                f"{where} is empty, and without it nothing is protected: give "
                f"{expected(option)}, or unset the variable"
            )
        if not raw:
            continue  # compose's ${VARIABLE:-} and an empty ConfigMap entry mean: not set
        given[_place(option)] = (_fit(option, raw, where, text=True), variable)
    return any(place.pool is not None for place, (_, source) in given.items() if source != "file")


def _read_flags(flags: Mapping[str, object], given: _Given) -> bool:
    """Take what the command line says; return whether it speaks of a pool."""
    spoken = False
    for path, raw in flags.items():
        if raw is None:
            continue
        option = options().get(path)
        if option is None:
            raise _unknown(f"flag {path}", path, options())
        source = f"flag {option.rule.flag or path}"
        given[_place(option)] = (_fit(option, raw, source, text=True), source)
        spoken |= option.area == POOLS
    return spoken


def _several(model: object) -> list[str]:
    """The models of a command line that names more than one."""
    return list(model) if isinstance(model, list | tuple) and len(model) > 1 else []


def _spread(models: list[str], given: _Given, pools: int) -> None:
    """Give each model of the command line a pool, with what is said of pools beside it."""
    if pools:
        raise SettingError(
            "several models are named on the command line, and the settings file has pools; name "
            "all models in one of them"
        )
    names = next((src for place, (_, src) in given.items() if place.path == _NAMES), "")
    if names:
        raise SettingError(
            f"{names} is for a single model, and {len(models)} are named; callers may use each "
            "model's own name, or [[pools]] in a settings file gives each its served_names"
        )
    said = [(place.path, value) for place, value in given.items() if place.pool is not None]
    option = options()["pools.model"]
    for index, model in enumerate(models):
        for path, value in said:
            given[_Place(path, index)] = value
        place = _Place(option.path, index)
        given[place] = (_fit(option, model, "argument MODEL", text=True), "argument MODEL")


def _assemble(given: _Given, pools: int) -> tuple[Settings, Provenance]:
    origins: dict[str, str] = {}

    def value(place: _Place, default: Any) -> Any:
        found, origins[str(place)] = given.get(place, (default, "default"))
        return found

    areas: dict[str, Any] = {
        area: kind(
            **{
                option.name: value(_Place(option.path), option.default)
                for option in options().values()
                if option.area == area
            }
        )
        for area, kind in AREAS.items()
        if area != POOLS
    }
    rows = []
    for index in range(pools):
        attached = any(
            given.get(_Place(f"{POOLS}.{name}", index), (None, ""))[0]
            for name in ("replica_urls", "replica_service")
        )
        row = {
            option.name: value(
                _Place(option.path, index),
                0 if attached and option.name == "replicas" else option.default,
            )
            for option in options().values()
            if option.area == POOLS
        }
        row["replica_urls"] = tuple(map(service_root, row["replica_urls"]))
        rows.append(Pool(**row))
    if areas["engine"].dtype == "auto" and any(row.precision is Precision.F32 for row in rows):
        areas["engine"] = replace(areas["engine"], dtype="f32")  # auto could choose less
    settings = Settings(**areas, pools=tuple(rows))
    refuse(settings)
    return settings, origins


def _place(option: Option) -> _Place:
    return _Place(option.path, 0 if option.area == POOLS else None)


def _is_foreign(variable: str, raw: str) -> bool:
    if NOT_SETTINGS.fullmatch(variable) or SERVICE_LINKS.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and "://" in raw  # a service link such as tcp://10.0.0.1:80


def _fit(option: Option, raw: object, where: str, *, text: bool = False) -> Any:
    try:
        return convert(option, raw, text=text)
    except UnfitError as error:
        raise SettingError(f"{where}: {error}") from None


def _of_its_flag(variable: str) -> str | None:
    """EMBEDFLEET_PORT for --port: the variable of the setting whose flag has that name."""
    word = variable.removeprefix(PREFIX)
    spelled = {word, "--" + word.lower().replace("_", "-")}
    found = [each.variable for each in options().values() if each.rule.flag in spelled]
    return found[0] if found else None


def _elsewhere(name: str) -> str | None:
    """The settings of that name in other areas."""
    return " or ".join(path for path, each in options().items() if each.name == name) or None


def _unknown(where: str, word: str, known: Iterable[str], meant: str | None = None) -> SettingError:
    nearest = [meant] if meant else get_close_matches(word, list(known), n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return SettingError(one_line(f"{where} is unknown{hint}", MOST_TOLD))
