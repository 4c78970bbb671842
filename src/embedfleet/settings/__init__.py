"""Every option of embedfleet: what exists, how it is loaded, how it is explained."""

from embedfleet.settings.autoscaling import AutoscalingSettings
from embedfleet.settings.catalogue import (
    AdminSettings,
    EngineSettings,
    FleetSettings,
    GatewaySettings,
    LaunchSettings,
    LogSettings,
    Pool,
    ReplicaSettings,
    Settings,
    TracingSettings,
)
from embedfleet.settings.loading import load, trace
from embedfleet.settings.options import Option, options
from embedfleet.settings.rendering import as_markdown, as_toml, effective

__all__ = [
    "AdminSettings",
    "AutoscalingSettings",
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
    "load",
    "options",
    "trace",
]
