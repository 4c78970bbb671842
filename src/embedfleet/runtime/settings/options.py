"""The catalogue as data: path, variable, flag, type, rule and description of each option."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from embedfleet.runtime.settings import access, autoscaling, batches, catalogue, gateway
from embedfleet.runtime.settings import cache as caching
from embedfleet.runtime.settings.access import AccessSettings
from embedfleet.runtime.settings.autoscaling import AutoscalingSettings
from embedfleet.runtime.settings.batches import BatchesSettings
from embedfleet.runtime.settings.cache import CacheSettings
from embedfleet.runtime.settings.catalogue import (
    AdminSettings,
    EngineSettings,
    FleetSettings,
    LaunchSettings,
    LogSettings,
    Pool,
    ReplicaSettings,
    TracingSettings,
)
from embedfleet.runtime.settings.gateway import GatewaySettings
from embedfleet.runtime.settings.rules import Rule

PREFIX = "EMBEDFLEET_"
POOLS = "pools"
AREAS: dict[str, type[Any]] = {
    "gateway": GatewaySettings,
    "admin": AdminSettings,
    "replica": ReplicaSettings,
    "engine": EngineSettings,
    "fleet": FleetSettings,
    "autoscaling": AutoscalingSettings,
    "cache": CacheSettings,
    "batches": BatchesSettings,
    "launch": LaunchSettings,
    "access": AccessSettings,
    "log": LogSettings,
    "tracing": TracingSettings,
    POOLS: Pool,
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as files, variables, flags and documentation see it."""

    area: str
    name: str
    type: Any
    """Its type without `None`."""
    default: Any
    rule: Rule
    description: str

    @property
    def path(self) -> str:
        """Its name in the TOML file, for instance `gateway.port`."""
        return f"{self.area}.{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable, for instance `EMBEDFLEET_GATEWAY_PORT`."""
        area = "pool" if self.area == POOLS else self.area
        return f"{PREFIX}{area}_{self.name}".upper()

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it accepts, where these are few."""
        if get_origin(self.type) is Literal:
            return tuple(get_args(self.type))
        return tuple(getattr(self.type, "__members__", {}).values())


MODULES = (catalogue, gateway, autoscaling, access, batches, caching)
"""Where options are described."""


@cache
def options() -> dict[str, Option]:
    """Return every option by its path, in the order of the catalogue."""
    texts = _descriptions()
    return {
        option.path: option for area in AREAS for option in _options_of(area, texts, AREAS[area])
    }


def _options_of(area: str, texts: dict[tuple[str, str], str], kind: type[Any]) -> Iterator[Option]:
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield Option(
            area=area,
            name=each.name,
            type=_without_none(hints[each.name]),
            default=each.default,
            rule=each.metadata.get("rule", Rule()),
            description=texts[kind.__name__, each.name],
        )


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in {UnionType, Union}:
        return hint
    (only,) = (kind for kind in get_args(hint) if kind is not NoneType)
    return only


def _descriptions() -> dict[tuple[str, str], str]:
    """Read the docstrings under the fields from the source; Python itself drops them."""
    found: dict[tuple[str, str], str] = {}
    sources = [inspect.getsource(module) for module in MODULES]
    for node in [node for source in sources for node in ast.parse(source).body]:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[node.name, name] = " ".join(text.split())
    return found
