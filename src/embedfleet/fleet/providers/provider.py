"""The provider protocol: starts and stops replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class End:
    """How a replica ended."""

    reason: str
    """For people."""
    hopeless: bool
    """Whether starting it again can't help: a setting or the model itself is wrong."""


class Provided(Protocol):
    """One replica that a provider started."""

    @property
    def url(self) -> str: ...

    async def ended(self) -> End:
        """Wait until it is gone."""
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
