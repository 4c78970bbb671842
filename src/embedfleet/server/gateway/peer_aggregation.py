"""Aggregates the observations of a pool over all gateways in front of it.

Every gateway must answer: a gateway that is listed but silent carries an unknown amount of traffic.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields

import aiohttp
import msgspec

from embedfleet.autoscaling import Observation, ObservationSource, total
from embedfleet.vocabulary import ServiceError

ASK_TIMEOUT_S = 3.0
REPORTED = {field.name for field in fields(Observation)} - {"now", "clock", "memory_used"}
"""What another gateway knows; its clock is its own."""


class PeerAggregator:
    """Adds the observations of the other gateways to its own."""

    def __init__(
        self,
        pool: str,
        own: ObservationSource,
        others: Callable[[], Awaitable[Sequence[str]]],
        session: aiohttp.ClientSession,
        key: str = "",
    ) -> None:
        """`others` gives their admin addresses, `key` is what those ask for."""
        self._pool = pool
        self._own = own
        self._others = others
        self._session = session
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def observe(self, now: float) -> Observation:
        """Raises ServiceError when one of them does not answer."""
        own, others = await self._own.observe(now), await self._others()
        seen = await asyncio.gather(*(self._ask(url, now) for url in others))
        return total([own, *seen])

    async def _ask(self, url: str, now: float) -> Observation:
        address = f"{url}/observation"
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        try:
            async with self._session.get(
                address, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise ServiceError(f"the gateway at {url} answers {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServiceError(f"the gateway at {url} does not answer: {error!r}") from error
        return self._read(body, url, now)

    def _read(self, body: bytes, url: str, now: float) -> Observation:
        try:
            pools = msgspec.json.decode(body, type=dict[str, dict[str, dict[str, object]]])
            reported = pools["pools"][self._pool]
            figures = {name: _figure(reported[name]) for name in REPORTED if name in reported}
            return Observation(now=now, **figures)  # type: ignore[arg-type]  # each is a number
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ServiceError(
                f"the gateway at {url} reports no valid observation of {self._pool}"
            ) from error


def _figure(value: object) -> float:
    if value is None:
        return math.nan  # JSON has no word for it
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value
