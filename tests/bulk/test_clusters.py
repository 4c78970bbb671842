"""Ray, Spark and Daft for real, and a worker of theirs killed: nothing is lost, and nothing twice.

They have an environment of their own, `make clusters`: over a gigabyte. Lance is there too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from aiohttp import web

from tests.fakes.revealing_service import RevealingService, running, vector_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clusters" / "bin" / "python"
TEXTS = [f"text {n}" for n in range(1000)]
TIMEOUT_S = 900.0


class Killing(RevealingService):
    """Kills whoever sends the n-th request, before it is answered."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self._left = at
        self._deciding = threading.Lock()
        self.killed = 0

    async def embeddings(self, request: web.Request) -> web.Response:
        with self._deciding:
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self._kill(request)
        return await super().embeddings(request)

    def _kill(self, request: web.Request) -> None:
        transport = request.transport
        assert transport is not None
        _, port, *_ = transport.get_extra_info("peername")
        for each in psutil.net_connections("tcp"):
            if each.laddr and each.laddr.port == port and each.pid not in {None, os.getpid()}:
                os.kill(each.pid, signal.SIGKILL)
                self.killed += 1
        raise web.HTTPServiceUnavailable


def environment(home: Path) -> dict[str, str]:
    """Where our package is; nothing is reported to anybody, or written into somebody's home; and
    time to start on a busy machine.
    """
    return {
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(home),
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",
    }


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """With a short name, for Ray's sockets are below it; on a disk, whose room it looks at."""
    with tempfile.TemporaryDirectory(prefix="ef-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("framework", ["ray", "spark", "daft"])
def test_every_row_gets_its_vector_once(framework: str, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `bulk` is not installed")
    import pyarrow as pa  # noqa: PLC0415

    if not PYTHON.exists():
        pytest.skip("Ray, Spark and Daft are not installed; `make clusters` does it")
    if framework == "spark" and shutil.which("java") is None:
        pytest.skip("Spark takes Java, which is not installed")
    texts: list[str | None] = [*TEXTS[:10], None, *TEXTS[10:]]
    table = pa.table({"n": list(range(len(texts))), "text": texts})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=250)
    # Daft computes in the process of the query: there is no worker to kill.
    with running(Killing(None if framework == "daft" else 6)) as service:
        done = subprocess.run(
            [PYTHON, ROOT / "tests/bulk/clusters/job.py", framework, service.url, str(tmp_path)],
            env=os.environ | environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    assert isinstance(service, Killing)
    assert service.killed == (framework != "daft")
    assert service.computed == dict.fromkeys(TEXTS, 1)
    found: list[Any] = [
        row
        for file in (tmp_path / "out").rglob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    assert sorted(row["n"] for row in found) == list(range(len(texts)))
    for row in found:
        if row["text"] is None:
            assert row["embedding"] is None
        else:
            assert np.array_equal(np.array(row["embedding"], np.float32), vector_of(row["text"]))


def test_outputs_that_are_datasets_of_lance_hold_what_test_lance_says(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("pylance (217 MB) is not installed; `make clusters` does it")
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/bulk/test_lance.py"],
        cwd=ROOT,
        env=os.environ | environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout
