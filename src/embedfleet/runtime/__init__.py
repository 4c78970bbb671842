"""What every process has: settings, telemetry, background tasks, the machine."""
