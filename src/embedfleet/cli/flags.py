"""Command-line flags, generated from the settings catalogue.

Chooses which settings have a flag of their own; values are validated by the settings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from embedfleet.runtime.settings import Settings, load, options
from embedfleet.runtime.settings.rendering import shown
from embedfleet.runtime.text_files import read_text
from embedfleet.vocabulary import SettingError


def _help(path: str) -> str:
    return options()[path].description


def _flag(path: str, metavar: str, *also: str) -> Any:
    """Describe a flag by its entry in the settings catalogue: its first sentence and the default.

    docs/settings.md has the whole description. `also` are names that it has elsewhere.
    """
    option = options()[path]
    first = _help(path).partition(". ")[0].rstrip(".") + "."
    default = shown(option, option.default)
    help_text = f"{first} [default: {default}]" if default else first
    return typer.Option(option.rule.flag, *also, metavar=metavar, help=help_text)


MODEL_HELP = _help("pools.model").partition(". ")[0] + "."
Model = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL...", help=f"{MODEL_HELP} Each gets a pool of its own."),
]
NamedModel = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Replicas = Annotated[str | None, _flag("pools.replicas", "N")]
MinReplicas = Annotated[str | None, _flag("autoscaling.min_replicas", "N")]
MaxReplicas = Annotated[str | None, _flag("autoscaling.max_replicas", "N")]
ReplicaUrls = Annotated[list[str] | None, _flag("pools.replica_urls", "URL")]
TokenizerDir = Annotated[str | None, _flag("pools.tokenizer_dir", "DIR")]
ServedNames = Annotated[list[str] | None, _flag("pools.served_names", "NAME")]
GatewayHost = Annotated[str | None, _flag("gateway.host", "ADDRESS")]
GatewayPort = Annotated[str | None, _flag("gateway.port", "PORT")]
AdminPort = Annotated[str | None, _flag("admin.port", "PORT")]
ReplicaHost = Annotated[str | None, _flag("replica.host", "ADDRESS")]
ReplicaPort = Annotated[str | None, _flag("replica.port", "PORT")]
Engine = Annotated[str | None, _flag("pools.engine", "embedfleet|sglang|vllm|tei|llamacpp")]
MaxTokens = Annotated[str | None, _flag("engine.max_tokens", "N", "--max-model-len")]
LogLevel = Annotated[str | None, _flag("log.level", "debug|info|warning|error")]
KeysFile = Annotated[str | None, _flag("access.keys_file", "FILE")]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="API key that callers must send, repeatable. Visible in process listings; "
        "EMBEDFLEET_API_KEYS and --keys-file are not.",
    ),
]
Device = Annotated[str | None, _flag("engine.device", "auto|cpu|cuda|cuda:N")]
Dtype = Annotated[str | None, _flag("engine.dtype", "auto|f32|bf16|fp8|int8")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="EMBEDFLEET_CONFIG",
        help="Settings file (TOML). Flags take precedence over variables, variables over the file.",
    ),
]
FileOnly = Annotated[
    bool,
    typer.Option(
        "--file-only",
        help="Take settings from the file alone and none from the environment; a gateway, whose "
        "file holds them all, starts its replicas so.",
    ),
]


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """A parser of a flag's number between two bounds. Typer's own takes NaN and infinity."""

    def parsed(typed: str) -> float:
        try:
            value = float(typed)  # a default is a number already
        except ValueError:
            value = math.nan
        if math.isfinite(value) and least <= value <= most:
            return value
        bounds = [f"at least {least:g}"] * math.isfinite(least)
        bounds += [f"at most {most:g}"] * math.isfinite(most)
        raise typer.BadParameter(
            f"{typed!r} is not a number of {' and '.join(bounds) or 'any size'}."
        )

    parsed.__name__ = "number"  # what help shows as the type
    return parsed


def read(config: Path | None) -> str | None:
    """The text of a settings file. Raises SettingError where it can't be read."""
    return None if config is None else read_text(config, "the settings file", SettingError)


def around(config: Path | None) -> Settings:
    """The settings that a process which is started right here would have. Raises SettingError."""
    return load(read(config), os.environ, {})
