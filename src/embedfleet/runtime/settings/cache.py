"""Settings of the vector cache: memory and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from embedfleet.runtime.settings.rules import count, duration, setting


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Vectors that were computed before, in a gateway's memory and in Redis."""

    memory_mib: int = setting(256, at_least=0)
    """Memory for vectors, in MiB; 0 keeps none there. 256 hold some 60,000 vectors of 1,024
    dimensions. Without memory and without Redis there is no cache, and equal texts in flight are
    each computed."""
    numbers: Literal["float32", "float16"] = "float32"
    """How vectors are kept. `float16` takes half the room and moves each number by less than 0.001;
    with `float32` an answer from the cache is the same as the first one, bit for bit."""
    redis_url: str | None = setting(None, none="off")
    """Redis, or what speaks its protocol, that gateways share and that outlives them:
    `redis://host:6379/0`, with TLS `rediss://host:6379/0`. Vectors in it are believed, so it is
    for gateways alone."""
    redis_user: str | None = setting(None, none="none")
    """User of Redis, where it has more than the default one."""
    redis_password_file: Path | None = setting(None, none="none")
    """File with the password of Redis. A file, so that no password stands in a process list, a
    settings file or a log; read for each connection, so that a new password needs no restart."""
    redis_ca_file: Path | None = setting(None, none="none")
    """Certificates (PEM) of who signed that of Redis; none takes those of the system."""
    redis_cluster: bool = False
    """Whether `redis_url` is a node of a cluster."""
    redis_sentinels: tuple[str, ...] = ()
    """Addresses of Sentinels (`10.0.0.7:26379`) that know which server is the primary. The host in
    `redis_url` is then the name by which they watch it, as in `redis://mymaster/0`."""
    redis_sentinel_password_file: Path | None = setting(None, none="none")
    """File with the password of the Sentinels, where they ask for one."""
    redis_prefix: str = "embedfleet:"
    """Begins every key, so that others may use the same Redis. `embedfleet cache clear` deletes
    what begins so."""
    redis_ttl_s: float = duration(3600.0)
    """Seconds that Redis keeps a vector after it was computed."""
    redis_timeout_s: float = duration(0.05)
    """Seconds that a request waits for Redis before it goes on without; a healthy one answers 64
    texts within a millisecond. Five such waits in a row, and it is left alone for a while."""
    redis_connections: int = count(4, at_most=1024)
    """Connections to read from Redis by. Few: what is asked while all are busy goes together in the
    next round trip."""
    redis_queued_bytes: int = count(32 * 2**20)
    """Most bytes that wait to be written to Redis; what comes on top is not written."""


def host_and_port(address: str) -> tuple[str, int]:
    """Of `host:port`, with brackets around an IPv6 host; ValueError when it is none."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.port is None or parts.netloc != address or parts.username:
        raise ValueError(f"{address} is not an address such as 10.0.0.7:26379")
    return parts.hostname, parts.port


def redis_complaints(settings: CacheSettings) -> Iterator[str]:
    """What is wrong with where Redis is said to be."""
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
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        yield "cache.redis_url must begin with redis://, rediss:// (TLS) or unix://"
    elif parts.password:
        yield "cache.redis_url has a password in it: put it into a file, cache.redis_password_file"
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
