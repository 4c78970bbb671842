"""The protocol of whatever creates and removes replicas."""

from __future__ import annotations

from typing import Protocol


class Provided(Protocol):
    """One replica that a provider started."""

    @property
    def url(self) -> str: ...

    async def ended(self) -> str:
        """Wait until it is gone; how it ended, for people."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Let it finish what it has, at most `grace_s` seconds, then make sure that it is gone."""
        ...


class Provider(Protocol):
    """Creates replicas."""

    async def start(self, name: str) -> Provided:
        """Start a replica; return once it has an address, which may be before it answers.

        Raises SetupError when it can't be started.
        """
        ...
