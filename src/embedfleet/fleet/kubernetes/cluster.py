"""The Kubernetes API client protocol, its errors, and retries.

Everything in this package is written against three methods: `ask`, `watch` and `close`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol, TypeVar

from embedfleet.vocabulary import ServiceError, SetupError

log = logging.getLogger(__name__)

Document = dict[str, Any]
"""An object of Kubernetes as JSON: `apiVersion`, `kind`, `metadata` and the rest."""

Query = Mapping[str, str]
Result = TypeVar("Result")

MERGE = "application/merge-patch+json"
"""A patch in which what is named replaces what was there (RFC 7396)."""


class ClusterError(ServiceError):
    """The API server refused, failed or was not reached; asking again may help."""

    def __init__(
        self, message: str, *, code: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """`code` is the HTTP status; None when there was no answer."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.http = code

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed soon: no answer, too many requests, its fault."""
        return self.http is None or self.http == 429 or self.http >= 500

    @property
    def missing(self) -> bool:
        return self.http == 404

    @property
    def conflict(self) -> bool:
        """The object was changed since it was read (409)."""
        return self.http == 409

    @property
    def expired(self) -> bool:
        """The version to go on from is too old: everything must be listed again."""
        return self.http == 410


class ClusterSetupError(SetupError):
    """This process can't use the cluster as it is set up: credentials, rights, names."""


class Cluster(Protocol):
    """An API server."""

    async def ask(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH"],
        path: str,
        *,
        query: Query | None = None,
        body: Document | None = None,
    ) -> Document:
        """One request; PATCH is a merge patch. Raises ClusterError."""
        ...

    def watch(self, path: str, query: Query) -> AsyncIterator[Document]:
        """Events of a collection as they come, until the server ends the stream.

        Raises ClusterError; of an event of type ERROR as well.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses between tries: doubling up to a ceiling, each shortened by chance.

    Chance keeps gateways that lost the server together from coming back together.
    """

    first_s: float = 0.2
    most_s: float = 30.0
    tries: int = 5
    """Attempts of one request that a caller awaits."""

    def pause_s(self, failures: int, rng: Random, asked_s: float | None = None) -> float:
        """Seconds after the n-th failure in a row; `asked_s` is what the server asked for."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return max(asked_s or 0.0, ceiling * (0.5 + 0.5 * rng.random()))


async def retried(
    request: Callable[[], Awaitable[Result]], retry: RetryPolicy, rng: Random
) -> Result:
    """Retry an idempotent request until it is answered or the tries are used up.

    Refusals that a retry can't change (403, 404, 409, 422) are raised at once.
    """
    failures = 0
    while True:
        try:
            return await request()
        except ClusterError as error:
            failures += 1
            if not error.passing or failures >= retry.tries:
                raise
            pause_s = retry.pause_s(failures, rng, error.retry_after_s)
            log.warning("Kubernetes API server: %s; retrying in %.1f s", error.message, pause_s)
        await asyncio.sleep(pause_s)
