"""The Kubernetes API client, on `kubernetes_asyncio`.

Finds the API server, holds its certificates and renews the token. The library is an extra
(`kubernetes`), loaded only by this module and only when a cluster is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from embedfleet.fleet.kubernetes.cluster import (
    MERGE,
    ClusterError,
    ClusterSetupError,
    Document,
    Query,
)
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.settings.addresses import is_loopback

ANSWER_TIMEOUT_S = 10.0
"""A request that took longer is given up; the server itself gives most up after a minute."""
QUIET_TIMEOUT_S = 90.0
"""A watch in which nothing came for so long is dead: servers send a bookmark about every minute."""
_READ_AHEAD_BYTES = 2 << 20
"""As the library's own session has it: etcd limits an object to 1.5 MiB, and each is a line."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def _library() -> ModuleType:
    try:
        import kubernetes_asyncio  # noqa: PLC0415  an extra, and large
        import kubernetes_asyncio.client  # noqa: PLC0415
        import kubernetes_asyncio.config  # noqa: PLC0415
    except ImportError as error:
        raise ClusterSetupError(
            f"following a cluster takes an extra: {how_to_add('kubernetes')}"
        ) from error
    return kubernetes_asyncio


def runs_in_a_pod() -> bool:
    return NAMESPACE_FILE.exists()


class Connection:
    """The API server of the cluster that this process runs in, or of a kubeconfig."""

    def __init__(self, client: Any) -> None:
        """`client` is an ApiClient of the library."""
        self._client = client
        if is_loopback(urlsplit(client.configuration.host).hostname or ""):
            _without_proxies(client)

    @classmethod
    async def open(cls, kubeconfig: Path | None = None) -> Connection:
        """As a pod does it, else as kubectl does. Raises ClusterSetupError."""
        library = _library()
        settings = library.client.Configuration()
        unreadable = library.config.kube_config.yaml.YAMLError
        try:
            if kubeconfig is None and runs_in_a_pod():
                library.config.load_incluster_config(client_configuration=settings)
            else:
                file = None if kubeconfig is None else str(kubeconfig)
                await library.config.load_kube_config(file, client_configuration=settings)
        except (library.config.ConfigException, unreadable, OSError, TypeError) as error:
            raise ClusterSetupError(
                f"no cluster is configured ({error}): run as a pod with a service account, or "
                "give a kubeconfig"
            ) from error
        return cls(library.client.ApiClient(configuration=settings))

    @classmethod
    def at(cls, address: str) -> Connection:
        """A server without credentials, for instance `kubectl proxy`."""
        library = _library()
        settings = library.client.Configuration(host=address)
        return cls(library.client.ApiClient(configuration=settings))

    async def ask(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH"],
        path: str,
        *,
        query: Query | None = None,
        body: Document | None = None,
    ) -> Document:
        limits = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        try:
            response = await self._call(method, path, query or {}, body, limits)
            async with response:
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreached(method, path, error) from error
        return _document(method, path, response, data)

    async def watch(self, path: str, query: Query) -> AsyncIterator[Document]:
        limits = aiohttp.ClientTimeout(total=None, sock_read=QUIET_TIMEOUT_S)
        try:
            response = await self._call("GET", path, {**query, "watch": "true"}, None, limits)
            async with response:
                if response.status != 200:
                    _document("GET", path, response, await response.read())
                async for line in response.content:
                    event = _decoded("GET", path, line)
                    if event.get("type") == "ERROR":
                        raise _refusal("GET", path, event.get("object", {}), None)
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreached("GET", path, error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _call(
        self,
        method: str,
        path: str,
        query: Query,
        body: Document | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = MERGE if method == "PATCH" else "application/json"
        try:
            response: aiohttp.ClientResponse = await self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=limits,
            )
        except _library().config.ConfigException as error:  # the token can't be renewed now
            raise _unreached(method, path, error) from error
        return response


def _without_proxies(client: Any) -> None:
    """Have it connect directly: kubectl reaches no server of the same machine through the proxies
    that the environment names, and the library would."""
    session = client.rest_client.pool_manager
    client.rest_client.pool_manager = aiohttp.ClientSession(
        connector=session.connector, read_bufsize=_READ_AHEAD_BYTES
    )
    session.detach()


def _document(method: str, path: str, response: aiohttp.ClientResponse, data: bytes) -> Document:
    if 200 <= response.status <= 299:
        return _decoded(method, path, data)
    try:
        status = _decoded(method, path, data)
    except ClusterError:
        status = {}  # a proxy's words, or none
    raise _refusal(method, path, {"code": response.status, **status}, response.headers)


def _decoded(method: str, path: str, data: bytes) -> Document:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClusterError(f"{method} {path} was answered with invalid JSON") from error
    if not isinstance(found, dict):
        raise ClusterError(f"{method} {path} was answered with JSON that is not an object")
    return found


def _refusal(
    method: str, path: str, status: Document, headers: Mapping[str, str] | None
) -> ClusterError:
    """The error of a `Status` object."""
    code = status.get("code")
    asked = (headers or {}).get("Retry-After", "")
    return ClusterError(
        f"{method} {path}: {code} {status.get('message') or status.get('reason') or ''}".rstrip(),
        code=code if isinstance(code, int) else None,
        retry_after_s=float(asked) if asked.isdecimal() else None,
    )


def _unreached(method: str, path: str, error: Exception) -> ClusterError:
    return ClusterError(f"{method} {path} was not answered: {error or type(error).__name__}")
