"""Starts a private `embedfleet serve` for the duration of one command."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from typing import TypeAlias

from embedfleet.bulk.errors import BulkError
from embedfleet.runtime.process import interpreter

LAUNCH = """
import ctypes, os, signal, sys
library = ctypes.CDLL(None)
if hasattr(library, "prctl"):
    library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: it does not outlive its parent
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
if key := sys.stdin.readline().strip():
    os.environ["EMBEDFLEET_API_KEYS"] = key
os.execv(sys.executable, sys.argv[2:])
"""
Served: TypeAlias = tuple[str, str]
"""An address and a key."""

BANNER = re.compile(r" at (https?://\S+)/v1 ")
STOP_S = 40.0
"""A little longer than a gateway waits for its requests."""


@contextlib.contextmanager
def private_fleet(model: str, replicas: int | None, *, keyed: bool = True) -> Iterator[Served]:
    """Serve a model while the block runs; yields the address and the key. Raises BulkError.

    Unless `keyed`, any process on this machine may use it.
    """
    words = ["serve", model, "--port", "0", "--admin-port", "off", "--log-level", "warning"]
    if replicas is not None:
        words += ["--replicas", str(replicas)]
    key = secrets.token_urlsafe(24) if keyed else ""
    process = subprocess.Popen(  # noqa: S603  ourselves
        [*interpreter("-c", LAUNCH), str(os.getpid()), *interpreter("-m", "embedfleet", *words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to the command, which stops its fleet
    )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(key + "\n")
            process.stdin.flush()
        banner = BANNER.search(process.stdout.readline())
        if banner is None:
            raise BulkError(f"no fleet could be started for {model}; see the log above")
        yield banner[1], key
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
