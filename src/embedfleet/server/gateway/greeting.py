"""What a gateway prints and logs at start-up, once it is ready, and when it has stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from embedfleet.runtime.settings import Pool
from embedfleet.runtime.settings.addresses import UNIX
from embedfleet.vocabulary import counted

BANNER = """\
embedfleet serves {models} at {at} (fleet and metrics: {admin})

  curl {url}/v1/embeddings -H 'content-type: application/json'{key} \\
    -d '{{"model": "{model}", "input": "How are you today?"}}'
"""
WITH_A_KEY = " \\\n    -H 'authorization: Bearer YOUR_KEY'"


def print_banner(
    models: Sequence[str], public: Sequence[str], admin: str | None, *, keys: bool
) -> None:
    """Write it; `public` and `admin` are addresses as listeners give them."""
    first = next((each for each in public if not each.startswith(UNIX)), public[0])
    url, at = first, f"{first}/v1"
    if first.startswith(UNIX):
        url, at = f"--unix-socket {first.removeprefix(UNIX)} http://localhost", first
    text = BANNER.format(
        models=", ".join(models),
        at=at,
        url=url,
        admin=admin or "off",
        model=models[0],
        key=WITH_A_KEY if keys else "",
    )
    sys.stdout.write(text)
    sys.stdout.flush()


def startup_line(pools: Sequence[Pool], public: Sequence[str], admin: str | None) -> str:
    """What is about to happen: what is started, who is waited for, and where it listens."""
    parts = []
    for pool in pools:
        if pool.replicas:
            whose = "" if pool.engine == "embedfleet" else f" on {pool.engine}"
            parts.append(f"starting {counted(pool.replicas, 'replica')} of {pool.model}{whose}")
        if pool.replica_urls:
            parts.append(f"waiting for {', '.join(pool.replica_urls)}")
        if pool.replica_service:
            parts.append(f"following the pods of {pool.replica_service}")
    told = f" (fleet and metrics: {admin})" if admin else ""
    return f"listening on {', '.join(public)}{told}; {'; '.join(parts)}"


def shutdown_line(requests: Mapping[int, int]) -> str:
    """What became of all requests, by their HTTP status."""
    answered = requests.get(200, 0)
    left = requests.get(499, 0)
    failed = sum(number for status, number in requests.items() if status >= 500)
    refused = sum(requests.values()) - answered - left - failed
    parts = [f"{counted(answered, 'request')} answered", f"{refused:,} refused"]
    if failed:
        parts.append(f"{failed:,} failed")
    if left:
        parts.append(f"{left:,} left by {'its client' if left == 1 else 'their clients'}")
    return f"stopped: {', '.join(parts)}"
