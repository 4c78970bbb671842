"""The protocol by which a prober talks to the replicas of its pool about themselves."""

from __future__ import annotations

from typing import Protocol

from embedfleet.fleet.health import Expected
from embedfleet.transport.description import ReplicaDescription


class Contact(Protocol):
    """How a pool talks to its replicas about themselves."""

    async def describe(self, url: str) -> ReplicaDescription:
        """What the replica says of itself; EmbedfleetError when it says nothing sensible."""
        ...

    async def expected(self, url: str, description: ReplicaDescription) -> Expected:
        """What replicas of this pool must be. The first replica to answer may be asked for the
        model's files here. EmbedfleetError when that fails.
        """
        ...

    async def touch(self, url: str) -> int:
        """Have the replica compute one short text; return its tokens. EmbedfleetError when it can't
        be asked, or does not.
        """
        ...

    async def glance(self, url: str) -> str:
        """Compare a few short golden vectors: what is wrong, or empty. EmbedfleetError when the
        replica can't be asked.
        """
        ...

    async def verify(self, url: str) -> str:
        """Compare with the golden vectors: what is wrong, or empty. EmbedfleetError when the
        replica can't be asked.
        """
        ...
