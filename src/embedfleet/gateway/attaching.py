"""The client that a pool talks to its replicas through, made from its settings.

Decides what is put together. Refuses to know how any replica is talked to.
"""

from __future__ import annotations

from embedfleet.gateway.engines.attached import Attached
from embedfleet.gateway.engines.foreign import ForeignClient
from embedfleet.gateway.engines.http import EngineHttp, read_key
from embedfleet.gateway.upstream import Upstream
from embedfleet.model.description import ModelDescription
from embedfleet.settings import Pool as PoolSettings


def replica_client(
    own: Upstream, settings: PoolSettings, model: ModelDescription | None
) -> Attached:
    """`model` is known where its tokenizer is on this machine. Raises SettingError."""
    http = EngineHttp(own.session, own.probe_timeout_s, read_key(settings.replica_key_file))
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
