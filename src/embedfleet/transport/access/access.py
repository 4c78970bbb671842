"""The access control interface, and the implementation that allows everything.

A request can be refused before its body is read, before it is tokenised, and before it is computed.
"""

from __future__ import annotations

from typing import Protocol

from embedfleet.vocabulary import Lane


class Quota(Protocol):
    """What one request may use; opened before its body is read, closed when it is answered."""

    key: str
    """The id of the caller's key, for logs and metrics; empty where none is required."""
    lane: Lane | None
    """The only lane that the caller may use; None leaves it to the request."""

    def enter(self, model: str, texts: int) -> None:
        """Ask for a model and a number of texts; ForbiddenError or RateLimitedError says no."""
        ...

    def reserve(self, tokens: int) -> None:
        """Pay for an estimate, before texts are tokenised; RateLimitedError says no."""
        ...

    def charge(self, tokens: int) -> None:
        """Pay for what has to be computed, less what was reserved; RateLimitedError before anything
        is.
        """
        ...

    def refund(self) -> None:
        """Give back all that was paid: nothing was computed, through no fault of the caller."""
        ...

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The remaining limits, as response headers."""
        ...

    def close(self) -> None:
        """Give back what was taken for as long as the request runs."""
        ...


class Access(Protocol):
    """Who may ask, and how much."""

    def open(self, authorization: str | None) -> Quota:
        """Tell callers apart by their `authorization` header.

        Raises UnauthorizedError, or RateLimitedError when the caller's requests are used up.
        """
        ...

    def open_for(self, key: str) -> Quota:
        """For work that the bearer of a key asked for before, by the key's id.

        Raises UnauthorizedError where the key has ended since, and as `open`.
        """
        ...


class UnlimitedQuota:
    """Everything is allowed."""

    key: str = ""
    lane: Lane | None = None

    def enter(self, model: str, texts: int) -> None: ...

    def reserve(self, tokens: int) -> None: ...

    def charge(self, tokens: int) -> None: ...

    def refund(self) -> None: ...

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ()

    def close(self) -> None: ...


class OpenAccess:
    """Allows everything, for services that only this machine can reach."""

    _pass = UnlimitedQuota()

    def open(self, authorization: str | None) -> Quota:  # noqa: ARG002
        return self._pass

    def open_for(self, key: str) -> Quota:  # noqa: ARG002
        return self._pass


class DelegatedAccess:
    """Access for deferred work (batches): always that of the key which requested it."""

    def __init__(self, access: Access, key: str) -> None:
        """`key` is the id of the key."""
        self._access = access
        self._key = key

    def open(self, authorization: str | None) -> Quota:  # noqa: ARG002
        return self._access.open_for(self._key)

    def open_for(self, key: str) -> Quota:
        return self._access.open_for(key)
