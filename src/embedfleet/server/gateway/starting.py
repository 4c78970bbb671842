"""Builds a pool's model and its local replicas from settings."""

from __future__ import annotations

from collections.abc import Callable

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.providers.local import LocalProvider, replica_settings
from embedfleet.fleet.providers.provider import Provider
from embedfleet.fleet.providers.third_party import ForeignProvider
from embedfleet.fleet.supervisor import Supervisor, SupervisorListener
from embedfleet.models.description import ModelDescription, describe, with_revision
from embedfleet.models.source import BUILTIN, resolve
from embedfleet.models.trial import survived
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.runtime.settings import Settings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.server.gateway.replica_clients import launch


def local_model(pool: PoolSettings, max_tokens: int | None) -> ModelDescription | None:
    """The model of a pool whose files are to be on this machine; None where replicas bring it."""
    if pool.tokenizer_dir is not None:
        survived(pool.tokenizer_dir)
        found = describe(pool.tokenizer_dir, max_tokens=max_tokens, task=pool.wanted_task)
        return with_revision(found, pool.revision)
    if not pool.model:
        return None
    source = resolve(pool.model, progress=True)
    if source.name != BUILTIN:
        survived(source.directory)
    # Replicas of our own are told the limit themselves.
    own = pool.engine == "embedfleet"
    return describe(
        source.directory,
        name=source.name,
        max_tokens=None if own else max_tokens,
        task=pool.wanted_task,
    )


def provider(
    settings: Settings,
    pool: PoolSettings,
    model: ModelDescription,
    names: tuple[str, ...],
) -> Provider:
    """Whatever starts one replica of a pool. Raises SettingError."""
    if pool.engine != "embedfleet":
        return ForeignProvider(pool.engine, launch(settings, pool, model, names))
    return LocalProvider(replica_settings(settings, pool, model.directory, names))


def supervisor(
    pool: Pool,
    provides: Provider,
    settings: Settings,
    metrics: GatewayMetrics,
    gave_up: Callable[[str], None],
) -> Supervisor:
    """Whoever keeps a pool's replicas alive, and takes them out of traffic before they end."""
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
