"""The functions behind the commands, imported only when one runs, so that `--help` stays fast."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedfleet.runtime.settings import EngineSettings, Settings

if TYPE_CHECKING:
    from embedfleet.models.description import ModelDescription
    from embedfleet.models.source import ResolvedModel


def _run_gateway(
    settings: Settings, given: tuple[str, ...] = (), api_keys: tuple[str, ...] | None = None
) -> int:
    """`given` are keys of the command line, `api_keys` those of the environment."""
    from embedfleet.server.gateway.process import run  # noqa: PLC0415

    keys = None if api_keys is None and not given else (*(api_keys or ()), *given)
    return run(settings, keys, _suits)


def _suits(model: ModelDescription, engine: EngineSettings) -> None:
    from embedfleet.engines.loading import EngineOptions, refuse_unsupported  # noqa: PLC0415

    options = EngineOptions(device=engine.device, dtype=engine.dtype, task=model.identity.task)
    refuse_unsupported(model.directory, options)


def _run_replica(settings: Settings) -> int:
    # Until the model is there almost nothing is garbage, and looking for it takes a seventh of the
    # time in which torch is imported. `collect_rarely` ends that.
    gc.disable()
    from embedfleet.server.replica import run  # noqa: PLC0415

    return run(settings)


def _fetch(model: str) -> ResolvedModel:
    from embedfleet.models.source import resolve  # noqa: PLC0415

    return resolve(model, progress=True)


def _make_golden(model: str, output: Path, engine: EngineSettings) -> None:
    from embedfleet.cli.golden import make  # noqa: PLC0415

    found = _fetch(model)
    make(found.directory, output, engine, found.name)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the commands call; tests hand in their own."""

    gateway: Callable[[Settings, tuple[str, ...]], int] = _run_gateway
    replica: Callable[[Settings], int] = _run_replica
    fetch: Callable[[str], ResolvedModel] = _fetch
    make_golden: Callable[[str, Path, EngineSettings], None] = _make_golden


def calls(api_keys: tuple[str, ...] | None) -> Calls:
    """The real ones; a gateway takes these keys beside those of its file. None: none are given."""
    return Calls(gateway=partial(_run_gateway, api_keys=api_keys))
