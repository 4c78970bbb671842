"""Builds the parts of a pool from the settings: model, provider, supervisor, replica client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.providers.engine_commands import Launch
from embedfleet.fleet.providers.local import LocalProvider, replica_settings
from embedfleet.fleet.providers.provider import Provider
from embedfleet.fleet.providers.third_party import ThirdPartyProvider
from embedfleet.fleet.supervisor import Supervisor, SupervisorListener
from embedfleet.models.description import ModelDescription, describe, with_revision
from embedfleet.models.families import UNKNOWN, family_of
from embedfleet.models.json_files import read_object
from embedfleet.models.reranker import generates
from embedfleet.models.sentence_transformers import read_pooling
from embedfleet.models.source import local, resolve
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.replicas.attached import Attached
from embedfleet.server.gateway.replicas.third_party.client import ThirdPartyClient
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp, read_key
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.vocabulary import ModelError, Pooling, SettingError, Task


def local_model(pool: PoolSettings, max_tokens: int | None) -> ModelDescription | None:
    """The model of a pool from files on this machine; None if replicas bring it."""
    if pool.tokenizer_dir is not None:
        source = local(pool.tokenizer_dir)
        found = describe(
            source.directory, name=source.name, max_tokens=max_tokens, task=pool.wanted_task
        )
        return with_revision(found, pool.revision)
    if not pool.model:
        return None
    source = resolve(pool.model, progress=True)
    return describe(
        source.directory, name=source.name, max_tokens=max_tokens, task=pool.wanted_task
    )


def provider(
    settings: Settings,
    pool: PoolSettings,
    model: ModelDescription,
    names: tuple[str, ...],
) -> Provider:
    """The provider that starts a pool's replicas. Raises SettingError."""
    if pool.engine != "embedfleet":
        return ThirdPartyProvider(pool.engine, launch(settings, pool, model, names))
    return LocalProvider(replica_settings(settings, pool, model.directory, names))


def supervisor(
    pool: Pool,
    provides: Provider,
    settings: Settings,
    metrics: GatewayMetrics,
    gave_up: Callable[[str], None],
) -> Supervisor:
    """The supervisor of a pool's local replicas."""
    fleet = settings.fleet

    def arrived(came_from: str, seconds: float) -> None:
        metrics.start_up.labels(pool.name, came_from).observe(seconds)

    return Supervisor(
        pool.fleet,
        provides,
        Backoff(fleet.restart_backoff_s, fleet.restart_backoff_ceiling_s),
        outstanding=pool.outstanding,
        grace_s=settings.gateway.drain_timeout_s,
        start_timeout_s=fleet.start_timeout_s,
        listener=SupervisorListener(
            metrics.replica_restarts.labels(pool.name).inc, gave_up, arrived
        ),
    )


def replica_client(
    own: Upstream, settings: PoolSettings, model: ModelDescription | None
) -> Attached:
    """The client of a pool; `model` is None until replicas bring it. Raises SettingError."""
    key = read_key(settings.replica_key_file)
    own = replace(own, key=key)
    http = EngineHttp(own.connections, own.probe_timeout_s, key)
    if model is None:
        return Attached(own, None, http)
    third_party = ThirdPartyClient(
        http,
        model,
        precision=settings.precision,
        window_tokens=settings.replica_window_tokens,
        metrics_required=settings.replica_metrics_required,
    )
    return Attached(own, third_party, http)


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
    reranks = model.identity.task is Task.RERANK
    return Launch(
        model=file,
        gpus=chosen.gpus,
        memory_share=chosen.memory_share,
        max_tokens=model.identity.max_tokens,
        fp8=chosen.fp8,
        pooling=_pooling(model.directory),
        name=names[0],
        reranks=reranks,
        generates=reranks and generates(model.directory),
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
