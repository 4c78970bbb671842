"""Every option of embedfleet: what exists, how it is loaded, how it is explained."""

from embedfleet.runtime.settings.access import AccessSettings
from embedfleet.runtime.settings.addresses import is_loopback
from embedfleet.runtime.settings.autoscaling import AutoscalingSettings
from embedfleet.runtime.settings.cache import CacheSettings
from embedfleet.runtime.settings.catalogue import (
    AdminSettings,
    EngineSettings,
    FleetSettings,
    LaunchSettings,
    LogSettings,
    Pool,
    ReplicaSettings,
    Settings,
    TracingSettings,
)
from embedfleet.runtime.settings.gateway import GatewaySettings
from embedfleet.runtime.settings.loading import load, trace
from embedfleet.runtime.settings.options import Option, options
from embedfleet.runtime.settings.rendering import as_markdown, as_toml, effective

__all__ = [
    "AccessSettings",
    "AdminSettings",
    "AutoscalingSettings",
    "CacheSettings",
    "EngineSettings",
    "FleetSettings",
    "GatewaySettings",
    "LaunchSettings",
    "LogSettings",
    "Option",
    "Pool",
    "ReplicaSettings",
    "Settings",
    "TracingSettings",
    "as_markdown",
    "as_toml",
    "effective",
    "is_loopback",
    "load",
    "options",
    "trace",
]
