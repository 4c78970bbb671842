"""Settings of access control: keys and their files.

API keys themselves are not settings, because settings are printed and handed to replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedfleet.runtime.settings.rules import setting


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may ask a gateway, and how much ([security.md](security.md))."""

    keys_file: Path | None = setting(None, none="none", guards=True, flag="--keys-file")
    """File of API keys that `embedfleet keys` writes; read again when it changes. With it, or with
    plain keys in the variable `EMBEDFLEET_API_KEYS` (separated by commas, without limits), every
    request needs a key; with neither, anyone who can reach the address may send requests."""
