"""A real redis-server for tests; they skip where it is not installed (`make packages`)."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.ports import free_port


class RedisServer:
    """One server, that can be stopped, frozen and started again on the same port."""

    def __init__(self, place: Path, options: Sequence[str], config: str = "") -> None:
        """`config` is the name of a Sentinel's file, in `place`."""
        self._place = place
        self._config = config
        self._options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        place = ["--dir", str(self._place), "--save", "", "--appendonly", "no"]
        given = [each.replace("PORT", str(self.port)) for each in self._options]
        ports = [] if "--port" in given else ["--port", str(self.port)]
        words = ["redis-server", *ports, "--bind", "127.0.0.1", *place, *given]
        if self._config:
            words = ["redis-server", self._config, *ports, "--bind", "127.0.0.1", "--sentinel"]
        self.process = subprocess.Popen(
            words,
            cwd=self._place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        """As a machine that dies."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def tell(self, *words: str) -> str:
        """What `redis-cli` answers."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def redis_server(place: Path, *options: str, config: str = "") -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make packages")
    server = RedisServer(place, options, config)
    server.start()
    try:
        yield server
    finally:
        server.stop()
