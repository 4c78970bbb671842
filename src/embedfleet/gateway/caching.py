"""The cache of a gateway, made from its settings, and what it tells.

Decides which tiers there are. Refuses to know what they do.
"""

from __future__ import annotations

from embedfleet.cache.memory import Memory
from embedfleet.cache.tiers import RemoteTier, VectorCache
from embedfleet.settings import CacheSettings
from embedfleet.telemetry.metrics import GatewayMetrics


def vector_cache(settings: CacheSettings, metrics: GatewayMetrics) -> VectorCache | None:
    """None where the settings want none. Raises SettingError."""
    remote: RemoteTier | None = None
    if not settings.memory_mib and remote is None:
        return None
    return VectorCache(Memory(settings.memory_mib * 2**20), remote, numbers=settings.numbers)
