"""Checks before a gateway listens or starts a process: refuses what could never become ready.

Without them every replica would fail with the same error on every restart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from embedfleet.fleet.providers.engine_commands import command, words
from embedfleet.fleet.providers.third_party import missing_program
from embedfleet.models.description import ModelDescription
from embedfleet.models.golden import vectors as golden_vectors
from embedfleet.runtime.folders import LocalStore
from embedfleet.runtime.settings import EngineSettings, Settings
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.server.gateway.pools.model import golden_file
from embedfleet.server.gateway.pools.setup import launch
from embedfleet.vocabulary import SettingError

Suits = Callable[[ModelDescription, EngineSettings], None]
"""Checks that embedfleet's own engine can load a model with these options; raises SetupError."""


def refuse_hopeless(
    settings: Settings, models: Sequence[ModelDescription | None], suits: Suits
) -> None:
    """Check each pool with its model, None if replicas bring it, and that the state directory of
    the autoscaler is writable. Raises SetupError.
    """
    if settings.autoscaling.state_directory is not None:
        _writable(Path(settings.autoscaling.state_directory))
    for pool, model in zip(settings.pools, models, strict=True):
        path = pool.golden
        if model is not None:
            path = golden_file(pool, model.identity.revision, model.directory)
        if path is not None:
            _golden(path, model)
        if model is not None and pool.replicas:
            _engine(settings, pool, model, suits)


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = LocalStore(folder, alone=False)
        store.write(".writable", [b""])
        store.remove(".writable")
    except OSError as error:
        raise SettingError(
            f"autoscaling.state_directory: nothing can be written in {folder}: "
            f"{error.strerror or error}"
        ) from error


def _golden(path: Path, model: ModelDescription | None) -> None:
    if not path.is_file():
        raise SettingError(
            f"pools.golden: there is no file {path}; `embedfleet golden make MODEL -o {path}` "
            "makes it, and `auto` takes golden.safetensors beside the weights"
        )
    golden = golden_vectors.read(path)
    revision = "" if model is None else model.identity.revision
    if revision and golden.revision != revision:
        raise SettingError(
            f"{path} was made for revision {golden.revision} of a model, and "
            f"{model.identity.name if model else ''} is {revision}: make it again with "
            "`embedfleet golden make`"
        )


def _engine(settings: Settings, pool: PoolSettings, model: ModelDescription, suits: Suits) -> None:
    if pool.engine == "embedfleet":
        suits(model, settings.engine)
        return
    names = pool.served_names or (model.identity.name,)
    program = words(command(pool.engine, launch(settings, pool, model, names)))[0]
    if shutil.which(program) is None:
        raise missing_program(pool.engine, program)
