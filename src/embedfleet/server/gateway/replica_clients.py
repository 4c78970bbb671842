"""Builds the clients and launch options of replicas that are third-party engines, from settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from embedfleet.fleet.providers.engine_commands import Launch
from embedfleet.models.description import ModelDescription
from embedfleet.models.families import UNKNOWN, family_of
from embedfleet.models.json_files import read_object
from embedfleet.models.sentence_transformers import read_pooling
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings
from embedfleet.server.gateway.third_party.client import ForeignClient
from embedfleet.server.gateway.third_party.http import EngineHttp, read_key
from embedfleet.server.gateway.third_party.unknown import Attached
from embedfleet.server.gateway.upstream import Upstream
from embedfleet.vocabulary import ModelError, Pooling, SettingError


def replica_client(
    own: Upstream, settings: PoolSettings, model: ModelDescription | None
) -> Attached:
    """`model` is known where its tokenizer is on this machine. Raises SettingError."""
    key = read_key(settings.replica_key_file)
    own = replace(own, key=key)
    http = EngineHttp(own.session, own.probe_timeout_s, key)
    if model is None:
        return Attached(own, None, http)
    foreign = ForeignClient(
        http,
        model,
        precision=settings.precision,
        window_tokens=settings.replica_window_tokens,
        metrics_required=settings.replica_metrics_required,
    )
    return Attached(own, foreign, http)


def launch(
    settings: Settings, pool: PoolSettings, model: ModelDescription, names: tuple[str, ...]
) -> Launch:
    """What an engine is started for on this machine. Raises SettingError."""
    file = str(model.directory)
    if pool.engine == "llamacpp":
        found = sorted(model.directory.glob("*.gguf"))
        if len(found) != 1:
            raise SettingError(
                f"pools.engine is llamacpp, and {model.directory} holds {len(found)} GGUF files: "
                "it needs exactly one"
            )
        file = str(found[0])
    chosen = settings.launch
    return Launch(
        model=file,
        gpus=chosen.gpus,
        memory_share=chosen.memory_share,
        max_tokens=model.identity.max_tokens,
        fp8=chosen.fp8,
        pooling=_pooling(model.directory),
        name=names[0],
    )


def _pooling(directory: Path) -> Pooling | None:
    """Which states become a vector; None where it is for the engine to read of the model's files.

    Some models go on from there by layers of their own, and nobody knows the usual way of a model
    of no known family.
    """
    family = family_of(read_object(directory / "config.json"))
    told = any((directory / name).exists() for name in ("modules.json", "1_Pooling/config.json"))
    if family is UNKNOWN and not told:
        return None
    try:
        return read_pooling(directory, family.pooling)
    except ModelError:
        return None
