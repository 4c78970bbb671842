"""Every option of embedfleet: what exists, how it is loaded, how it is explained."""

from embedfleet.settings.access import AccessSettings
from embedfleet.settings.addresses import is_loopback
from embedfleet.settings.autoscaling import AutoscalingSettings
from embedfleet.settings.cache import CacheSettings
from embedfleet.settings.catalogue import (
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
from embedfleet.settings.gateway import GatewaySettings
from embedfleet.settings.loading import load, trace
from embedfleet.settings.options import Option, options
from embedfleet.settings.rendering import as_markdown, as_toml, effective

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
