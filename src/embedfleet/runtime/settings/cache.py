"""Settings of the vector cache: memory and Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from embedfleet.runtime.settings.addresses import is_host
from embedfleet.runtime.settings.rules import count, duration, setting


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The vector cache, in a gateway's memory and in Redis."""

    memory_mib: int = setting(256, at_least=0)
    """Memory for vectors, in MiB; 0 disables this tier. 256 hold some 60,000 vectors of 1,024
    dimensions. Without memory and Redis there is no cache, and equal texts in flight are computed
    separately."""
    numbers: Literal["float32", "float16"] = "float32"
    """Number format of cached vectors. `float16` takes half the space and changes each number by
    less than 0.001; with `float32` a cached answer is bit-identical to the first one."""
    redis_url: str | None = setting(None, none="off")
    """Redis, or a server with its protocol, shared by gateways: `redis://host:6379/0`, with TLS
    `rediss://host:6379/0`. Its content is trusted, so only gateways should have access."""
    redis_user: str | None = setting(None, none="none")
    """User of Redis; empty is its default user."""
    redis_password_file: Path | None = setting(None, none="none")
    """File with the password of Redis. A file, so that no password appears in a process list, a
    settings file or a log; read for each connection, so that a new password needs no restart."""
    redis_ca_file: Path | None = setting(None, none="none")
    """File of CA certificates (PEM) for Redis; none takes the system's."""
    redis_cluster: bool = False
    """Whether `redis_url` is a node of a Redis Cluster."""
    redis_sentinels: tuple[str, ...] = ()
    """Addresses of Sentinels (`10.0.0.7:26379`). The host in `redis_url` is then the name of the
    primary that they monitor, as in `redis://mymaster/0`."""
    redis_sentinel_password_file: Path | None = setting(None, none="none")
    """File with the password of the Sentinels, if they require one."""
    redis_prefix: str = "embedfleet:"
    """Prefix of every key, so that one Redis can have other users. `embedfleet cache clear` deletes
    the keys with this prefix."""
    redis_ttl_s: float = duration(3600.0)
    """Time to live of a vector in Redis, in seconds."""
    redis_timeout_s: float = duration(0.05)
    """Seconds that a request waits for Redis before it goes on without; a healthy one answers 64
    texts within a millisecond. Five timeouts in a row open the circuit breaker."""
    redis_connections: int = count(4, at_most=1024)
    """Connections to read from Redis with. A few suffice: lookups that arrive while all are busy
    share the next round trip."""
    redis_queued_bytes: int = count(32 * 2**20)
    """Most bytes that wait to be written to Redis; vectors beyond that are not written."""


_DATABASE = re.compile("(/[0-9]*)?")


def host_and_port(address: str) -> tuple[str, int]:
    """Of `host:port`, with brackets around an IPv6 host; ValueError when it is none."""
    parts = urlsplit(f"//{address}")
    host = parts.hostname or ""
    if not is_host(host) or parts.port is None or parts.netloc != address or parts.username:
        raise ValueError(f"{address} is not an address such as 10.0.0.7:26379")
    return host, parts.port


def redis_complaints(settings: CacheSettings) -> Iterator[str]:
    """What is wrong with the settings of Redis."""
    url = settings.redis_url
    if url is None:
        others = (
            settings.redis_cluster,
            settings.redis_password_file,
            settings.redis_ca_file,
            settings.redis_sentinels,
            settings.redis_sentinel_password_file,
        )
        if any(others):
            yield "cache.redis_url is off, but other settings say how to reach Redis"
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        yield f"cache.redis_url: {error}"
        return
    if parts.scheme not in {"redis", "rediss", "unix"}:
        yield "cache.redis_url must begin with redis://, rediss:// (TLS) or unix://"
    elif parts.password or "password" in parse_qs(parts.query, keep_blank_values=True):
        yield "cache.redis_url has a password in it: put it into a file, cache.redis_password_file"
    elif parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        yield (
            f'cache.redis_url ends in "{parts.path}": what follows the address is the number of a '
            "database, as in redis://10.0.0.5:6379/0"
        )
    elif settings.redis_ca_file is not None and parts.scheme != "rediss":
        yield "cache.redis_ca_file is for TLS: let cache.redis_url begin with rediss://"
    yield from _sentinel_complaints(settings)


def _sentinel_complaints(settings: CacheSettings) -> Iterator[str]:
    if settings.redis_sentinels and settings.redis_cluster:
        yield "cache.redis_cluster and cache.redis_sentinels: a cluster has no Sentinels"
    if settings.redis_sentinel_password_file and not settings.redis_sentinels:
        yield "cache.redis_sentinel_password_file is given, and cache.redis_sentinels are not"
    if settings.redis_sentinels and (
        settings.redis_url is None or not _names_primary(settings.redis_url)
    ):
        yield (
            "cache.redis_url names the primary as the Sentinels do, without a port: "
            "redis://mymaster/0"
        )
    for address in settings.redis_sentinels:
        try:
            host_and_port(address)
        except ValueError:
            yield f'cache.redis_sentinels: "{address}" is not an address such as 10.0.0.7:26379'


def _names_primary(url: str) -> bool:
    parts = urlsplit(url)
    try:
        return parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port is None
    except ValueError:  # of a port that is none
        return False
