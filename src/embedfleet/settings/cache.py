"""The options of the vectors' cache: a module of their own, as the catalogue is long enough.

Decides what can be set. Refuses to know what a cache does with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from embedfleet.settings.rules import count, duration, setting


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
    settings file or a log."""
    redis_ca_file: Path | None = setting(None, none="none")
    """Certificates (PEM) of who signed that of Redis; none takes those of the system."""
    redis_cluster: bool = False
    """Whether `redis_url` is a node of a cluster."""
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


def redis_complaints(settings: CacheSettings) -> Iterator[str]:
    """What is wrong with where Redis is said to be."""
    url = settings.redis_url
    if url is None:
        if settings.redis_cluster or settings.redis_password_file or settings.redis_ca_file:
            yield "cache.redis_url is off, but other settings say how to reach Redis"
        return
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        yield "cache.redis_url must begin with redis://, rediss:// (TLS) or unix://"
    elif parts.password:
        yield "cache.redis_url has a password in it: put it into a file, cache.redis_password_file"
    elif settings.redis_ca_file is not None and parts.scheme != "rediss":
        yield "cache.redis_ca_file is for TLS: let cache.redis_url begin with rediss://"
