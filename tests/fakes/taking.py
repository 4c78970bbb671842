"""Whoever takes the frames of a call, all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedfleet.fleet.replica_client import ReplicaClient
    from embedfleet.transport.frames import CallText, Frame


async def frames_of(
    client: ReplicaClient, url: str, key: str, texts: Sequence[CallText]
) -> list[Frame]:
    """The frames of a call, in the order in which they came."""
    taken: list[Frame] = []
    await client.work(url, key, texts, taken.append)
    return taken
