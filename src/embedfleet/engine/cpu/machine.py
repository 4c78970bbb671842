"""Moved to `embedfleet.machine`; kept until the last import here has followed."""

from embedfleet.machine import multiplies_int8_fast, usable_processors

__all__ = ["multiplies_int8_fast", "usable_processors"]
