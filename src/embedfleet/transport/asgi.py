"""A minimal ASGI toolkit: routing, bounded bodies, JSON and error responses.

Shared by gateway and replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import msgspec

from embedfleet.transport.compression import INLINE_BYTES, Content, gzipped, wants_gzip, worth
from embedfleet.transport.errors import render_error
from embedfleet.transport.request_ids import HEADER as REQUEST_ID
from embedfleet.transport.request_ids import request_id
from embedfleet.vocabulary import (
    BodyTooLargeError,
    DrainingError,
    EmbedfleetError,
    MethodNotAllowedError,
    ServiceError,
    UnknownRouteError,
)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

JSON = b"application/json"


class ClientGoneError(Exception):
    """The client closed the connection before it was answered."""

    status = 499
    """nginx's code for it, used in logs and metrics only."""


def first_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """The first header of each (lower-case) name.

    Kept in the scope, for whichever app asks next: to hash the names anew costs several
    microseconds.
    """
    headers = scope.get("headers", ())
    kept = scope.get(_FIRST)
    if kept is None or kept[0] is not headers:  # another app may have replaced them
        kept = scope[_FIRST] = (headers, dict(reversed(headers)))
    first: Mapping[bytes, bytes] = kept[1]
    return first


_FIRST = "embedfleet.first_headers"


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, as a route sees it."""

    scope: Scope
    receive: Receive
    send: Send
    id: str = ""
    """Its name in the answer and in logs: the caller's, or one of ours, unless it is given one."""
    notes: dict[str, Any] = msgspec.field(default_factory=dict)
    """Attributes that routes set for observers of requests."""
    first: Mapping[bytes, bytes] = msgspec.field(default_factory=dict)
    """The first header of each (lower-case) name."""

    def __post_init__(self) -> None:
        first = first_headers(self.scope)
        msgspec.structs.force_setattr(self, "first", first)
        if not self.id:
            msgspec.structs.force_setattr(self, "id", request_id(first.get(REQUEST_ID)))

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        value = self.first.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def credentials(self) -> str | None:
        """Who asks, as the header `authorization` has it, or a key as the clients of Azure, of
        several engines and of Google send it.
        """
        told = self.header(b"authorization")
        if told is not None:
            return told
        named = (b"api-key", b"x-api-key", b"x-goog-api-key")
        key = next(filter(None, map(self.header, named)), None)
        return None if key is None else f"Bearer {key}"

    def listed(self, name: bytes) -> str | None:
        """All headers of this (lower-case) name as the one list that they are (RFC 9110, 5.3)."""
        if name not in self.first:
            return None
        lines = [value for key, value in self.scope["headers"] if key == name]
        return b",".join(lines).decode("latin-1")

    async def body(
        self, limit: int, hold: Callable[[int], None] | None = None
    ) -> bytes | bytearray:
        """The whole body; BodyTooLargeError beyond `limit` bytes, before it is read if declared.

        `hold` is told the size of each part as it comes, and may raise to end it.
        """
        declared = self.first.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        # A part as it is, or all of them in one that grows: joined at the end, a large body would
        # take its size twice, and delay all other requests meanwhile.
        body: bytes | bytearray = b""
        size, more = 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            if hold is not None:
                hold(len(part))
            if not body:
                body = part
            elif part:
                if not isinstance(body, bytearray):
                    body = bytearray(body)
                body += part
        return body

    async def gone(self) -> None:
        """Return when the caller has closed the connection; only after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Response(msgspec.Struct, frozen=True):
    """One whole HTTP answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Iterable[tuple[bytes, bytes]] = ()
    taken: Callable[[], None] | None = None
    """Called once it was handed to the connection, or never will be."""
    content: Content = "text"


Route: TypeAlias = Callable[[Request], Awaitable[Response | None]]
"""Answers a request; None when the route has sent its answer itself."""


Guard: TypeAlias = Callable[[Request], None]
"""Raises EmbedfleetError to refuse a request, before its route is looked for."""


Render: TypeAlias = Callable[[EmbedfleetError], bytes]
"""Writes the body of an error."""


Follow: TypeAlias = Callable[[str, Request, Response | None, float], None]
"""Takes a route's pattern, a request, its answer and the seconds it took. No answer: the caller
left, or the route has sent it itself."""


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body is larger than {limit} bytes; send fewer or shorter texts a request",
        code="body_too_large",
    )


def error_response(error: EmbedfleetError, render: Render = render_error) -> Response:
    """The response for an error, whose frames are released."""
    forget_frames(error)
    headers = [*error.headers]
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        seconds = max(1, -int(-error.retry_after_s // 1))
        headers.append((b"retry-after", str(seconds).encode()))
    return Response(render(error), error.status, headers=headers)


def _uncancel() -> None:
    """Let the task of a request that was cancelled send what it has."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def compressed(request: Request, response: Response) -> Response:
    """An answer that is worth it as the client asks for it: by gzip, or as it is."""
    headers = [*response.headers, (b"vary", b"accept-encoding")]
    body = response.body
    if wants_gzip(request.listed(b"accept-encoding")):
        pack = partial(gzipped, body, response.content)
        if len(body) <= INLINE_BYTES:
            body = pack()
        else:
            try:
                body = await asyncio.get_running_loop().run_in_executor(None, pack)
            except asyncio.CancelledError:  # a stop waits no longer, and the answer is there
                _uncancel()
                return msgspec.structs.replace(response, headers=headers)
        headers.append((b"content-encoding", b"gzip"))
    return msgspec.structs.replace(response, body=body, headers=headers)


def forget_frames(error: BaseException) -> None:
    """Release the frames of an error's traceback once it is reported.

    They hold the whole request, and many of them the error: a cycle that only the collector would
    find, which looks through a process of many objects seldom, and does not see their size.
    """
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += [other for other in (each.__context__, each.__cause__) if other is not None]
            left += getattr(each, "parts", ())


async def send_response(send: Send, response: Response, name: str = "") -> None:
    """Send a whole answer; `name` is that of the request."""
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [
                (b"content-type", response.content_type),
                (b"content-length", str(len(response.body)).encode()),
                (REQUEST_ID, name.encode()),
                *response.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": response.body})


@dataclass(frozen=True, slots=True)
class Router:
    """An ASGI app that finds the route for a method and path and turns errors into answers."""

    routes: Mapping[tuple[str, str], Route]
    prefixes: Mapping[tuple[str, str], Route] = field(default_factory=dict)
    """Routes for every path that begins so, for instance `/v1/models/`."""
    follow: Follow | None = None
    """Told of every request when it is over."""
    guard: Guard | None = None
    expand: Callable[[Request], Request] | None = None
    """Takes a request whose body is encoded (RFC 9110, 8.4) to one whose body is not."""
    compress_from: int | None = None
    """Answers of so many bytes are compressed for clients that take it; None leaves all as they
    are."""
    meant: Callable[[str], str] | None = None
    """Takes a path that is not in the table to the one that its client means."""
    render: Callable[[str], Render] = lambda _: render_error
    """Takes a path to how the API which it belongs to writes errors, those of the guard, of methods
    and of encodings included."""
    unlisted: str = "/assets/"
    """Paths with these prefixes are not listed to clients that request an unknown path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets here; lifespan is off
        request = Request(scope, receive, send)
        started = time.monotonic() if self.follow is not None else 0.0
        response = await self._answer(request)
        if response is not None:
            try:
                told = response
                if worth(len(response.body), response.content, self.compress_from):
                    told = await compressed(request, response)
                await send_response(send, told, request.id)
            finally:
                if response.taken is not None:
                    response.taken()
        if self.follow is not None:
            route = self.pattern(scope["method"], scope["path"])
            self.follow(route, request, response, time.monotonic() - started)

    async def _answer(self, request: Request) -> Response | None:
        """What is to be sent; None when it was sent already, or the client has disconnected."""
        try:
            if self.guard is not None:
                self.guard(request)
            if self.expand is not None and b"content-encoding" in request.first:
                request = self.expand(request)
            scope = request.scope
            method, path = scope["method"], scope["path"]
            route = self.routes.get((method, path))
            if route is None:
                path = scope["path"] = self._path(method, path)
                route = self._find(method, path)
            return await route(request)
        except EmbedfleetError as error:
            return self._refusal(request, error)
        except ClientGoneError as error:
            forget_frames(error)
            return None
        except asyncio.CancelledError:  # only a stop that waits no longer cancels a request
            _uncancel()
            return self._refusal(
                request,
                DrainingError(
                    "the server is shutting down and could not finish this request; try again"
                ),
            )
        except Exception:  # the outermost loop of a request: it must answer whatever happens
            log.exception("request %s to %r failed. This is a bug.", request.id, request.path)
            told = f"internal error; the log has the details of request {request.id}"
            return self._refusal(request, EmbedfleetError(told))

    def _refusal(self, request: Request, error: EmbedfleetError) -> Response:
        """An error as clients of the path expect it."""
        path = self._path(request.scope["method"], request.path)
        return error_response(error, self.render(path))

    def _path(self, method: str, path: str) -> str:
        """The path to look for."""
        if self.meant is None or (self._kin(method, path), path) in self.routes:
            return path
        return self.meant(path)

    def pattern(self, method: str, path: str) -> str:
        """The route's path as it stands in the table, `-` where there is none."""
        path = self._path(method, path)
        method = self._kin(method, path)
        if (method, path) in self.routes:
            return path
        prefixes = (prefix for known, prefix in self.prefixes if known == method)
        return next((prefix for prefix in prefixes if path.startswith(prefix)), "-")

    def _kin(self, method: str, path: str) -> str:
        """GET for HEAD, whose answer is the same but for the body (RFC 9110, 9.3.2)."""
        return "GET" if method == "HEAD" and (method, path) not in self.routes else method

    def _find(self, method: str, path: str) -> Route:
        kin = self._kin(method, path)
        route = self.routes.get((kin, path))
        if route is not None:
            return route
        for (prefix_method, prefix), prefix_route in self.prefixes.items():
            if kin == prefix_method and path.startswith(prefix):
                return prefix_route
        allowed = sorted(
            {known for known, known_path in self.routes if known_path == path}
            | {known for known, prefix in self.prefixes if path.startswith(prefix)}
        )
        if allowed:
            raise MethodNotAllowedError(
                f"{path} supports {' and '.join(allowed)}, not {method}", allowed=allowed
            )
        known_paths = ", ".join(
            sorted({path for _, path in self.routes if not path.startswith(self.unlisted)})
        )
        raise UnknownRouteError(
            f"no such path: {path}; this address serves {known_paths}", code="unknown_url"
        )
