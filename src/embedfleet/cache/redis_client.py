"""Creates the Redis client from settings: one server, a primary behind Sentinels, or a cluster.

Password files are read whenever a connection is made, so passwords rotate without a restart. A
connection that was closed while idle is reopened once. A reply may not announce more elements than
were requested, since the parser would allocate memory for all of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from redis._parsers.hiredis import _AsyncHiredisParser  # the only way to look at bytes first
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from embedfleet.runtime.settings import CacheSettings
from embedfleet.runtime.settings.cache import host_and_port
from embedfleet.runtime.text_files import read_text
from embedfleet.vocabulary import SettingError

Client: TypeAlias = Redis | RedisCluster

WRITE_TIMEOUT_S = 1.0
"""Writes happen in the background, so their time-out may be longer than that of reads."""

_BOMB = re.compile(rb"[*~>%|](?:\d{7,}|-\d{2,})\r\n")
"""The beginning of an answer with ten million elements or more; a round asks for thousands. Among
the numbers of a vector these bytes are as good as never."""

_KEPT = 24
"""Bytes of one piece that may be the beginning of what the next one ends."""


class BoundedParser(_AsyncHiredisParser):
    """hiredis, which refuses answers that claim to be enormous before it makes room for them."""

    __slots__ = ("_tail",)

    def on_connect(self, connection: Any) -> None:
        self._tail = b""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        stream: Any = self._stream
        read = stream.read

        async def looked_at(size: int = -1) -> bytes:
            data: bytes = await read(size)
            if _BOMB.search(self._tail + data[:_KEPT]) or _BOMB.search(data):
                raise InvalidResponse("an answer that claims to have millions of elements")
            self._tail = data[-_KEPT:]
            return data

        stream.read = looked_at


class PasswordFile(CredentialProvider):
    """Who we are: the password is what the file holds when a connection is made."""

    def __init__(self, path: Path, user: str | None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = read_password(self._path)
        except SettingError as error:  # gone for a moment, or for good: Redis is left alone then
            raise AuthenticationError(str(error)) from error
        return (password,) if self._user is None else (self._user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """What connections ask for. The file is small: to read it takes no thread."""
        return self.get_credentials()


def open_client(settings: CacheSettings) -> Client:
    """The client that the settings describe; it connects when it is used. Raises SettingError."""
    url = settings.redis_url or ""
    options = _options(settings)
    try:
        if settings.redis_sentinels:
            client: Client = _by_sentinels(url, settings, options)
        elif settings.redis_cluster:
            client = _cluster(RedisCluster.from_url(url, **options))
        else:
            client = Redis.from_url(url, parser_class=BoundedParser, **options)
        _make_one_connection(client)
    except TypeError as error:
        unknown = re.search(r"argument '(\w+)'", str(error))
        said = f"there is no option {unknown[1]}" if unknown else str(error)
        raise SettingError(f"cache.redis_url: {said}") from error
    except (RedisError, ValueError) as error:
        raise SettingError(f"cache.redis_url: {error}") from error
    return client


def _make_one_connection(client: Client) -> None:
    """Make a connection without opening it: options that none can have are known at the start.

    Among them are those of the URL's query. The library would find them with each request.
    """
    if isinstance(client, RedisCluster):
        for node in client.nodes_manager.startup_nodes.values():
            node.connection_class(**node.connection_kwargs)
    else:
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]


def _options(settings: CacheSettings) -> dict[str, Any]:
    once = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    options: dict[str, Any] = {
        "max_connections": settings.redis_connections + 2,  # one to write, one to clear
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_timeout": WRITE_TIMEOUT_S,
        # Not 3: with it the library takes a connection that was closed meanwhile for a good one.
        "protocol": 2,
        # One that was closed while it was idle is made again; a time-out is not asked twice.
        "retry": once,
    }
    scheme = urlsplit(settings.redis_url or "").scheme
    if scheme != "unix":
        options["socket_keepalive"] = True
    path = settings.redis_password_file
    if path is not None:
        read_password(path)  # what is wrong at the start is said at the start
        options["credential_provider"] = PasswordFile(path, settings.redis_user)
    elif settings.redis_user is not None:
        options["username"] = settings.redis_user
    if scheme == "rediss" and settings.redis_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.redis_ca_file)
    return options


def _cluster(client: RedisCluster) -> RedisCluster:
    """The same with our parser, which the library passes on and does not take itself."""
    client.connection_kwargs["parser_class"] = BoundedParser
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_kwargs["parser_class"] = BoundedParser
    return client


def _by_sentinels(url: str, settings: CacheSettings, options: dict[str, Any]) -> Redis:
    asked: dict[str, Any] = {
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_timeout": settings.redis_timeout_s,
        "protocol": 2,
        "retry": options["retry"],
    }
    if settings.redis_sentinel_password_file is not None:
        read_password(settings.redis_sentinel_password_file, "redis_sentinel_password_file")
        asked["credential_provider"] = PasswordFile(settings.redis_sentinel_password_file, None)
    if "ssl_ca_certs" in options:
        asked |= {"ssl": True, "ssl_ca_certs": options["ssl_ca_certs"]}
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        [host_and_port(each) for each in settings.redis_sentinels], sentinel_kwargs=asked
    )
    given = parse_url(url)
    tls = urlsplit(url).scheme == "rediss"
    client: Redis = sentinels.master_for(
        given["host"],
        redis_class=Redis,
        db=given.get("db", 0),
        ssl=tls,
        parser_class=BoundedParser,
        **options,
    )
    return client


async def close_client(client: Client) -> None:
    """Close its connections, those to Sentinels included: the library leaves them open."""
    await client.aclose()
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def read_password(path: Path, setting: str = "redis_password_file") -> str:
    """What a file of a password holds. Raises SettingError."""
    password = read_text(path, f"cache.{setting}:", SettingError).strip()
    if not password:
        raise SettingError(f"cache.{setting}: {path} holds no password")
    return password
