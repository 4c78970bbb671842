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
from embedfleet.runtime.folders import LocalStore, StoreError, is_remote, local_path
from embedfleet.runtime.settings import EngineSettings, Settings
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.text_files import reason
from embedfleet.server.gateway.pools.model import golden_file
from embedfleet.server.gateway.pools.setup import launch
from embedfleet.vocabulary import SettingError

Suits = Callable[[ModelDescription, EngineSettings], None]
"""Checks that embedfleet's own engine can load a model with these options; raises SetupError."""


def refuse_hopeless(
    settings: Settings, models: Sequence[ModelDescription | None], suits: Suits
) -> None:
    """Check each pool with its model, None if replicas bring it, and that the directories of what
    is kept are writable. Raises SetupError.
    """
    directories = {
        "autoscaling.state_directory": settings.autoscaling.state_directory,
        "batches.directory": settings.batches.directory,
    }
    for setting, address in directories.items():
        if address is not None and not is_remote(address):
            _writable(setting, local_path(address))
    for pool, model in zip(settings.pools, models, strict=True):
        path = pool.golden
        if model is not None:
            path = golden_file(pool, model.identity.revision, model.directory)
        if path is not None:
            _golden(path, model)
        if model is not None and pool.replicas:
            _engine(settings, pool, model, suits)


def _writable(setting: str, folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise SettingError(f"{setting}: {folder} is a dangling symbolic link")
    try:
        store = LocalStore(folder, alone=False)
        folder.mkdir(parents=True, exist_ok=True)
        store.write(".writable", [b""])
        store.remove(".writable")
    except StoreError as error:  # a file in its place
        raise SettingError(f"{setting}: {error}") from error
    except OSError as error:
        raise SettingError(
            f"{setting}: nothing can be written in {folder}: {reason(error)}; give a directory "
            "that this user may write to"
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
