"""What importing OpenVINO does to the machine: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="OpenVINO, an extra, is not installed")

AUDIT = Path(__file__).parents[2] / "audit"


def test_importing_the_engine_asks_nobody_forks_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """In a home of its own and without the variable CI, for which OpenVINO makes an exception."""
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    around = {name: value for name, value in os.environ.items() if name != "CI"}
    around |= {"HOME": str(home), "PYTHONPATH": str(AUDIT), "PYTHONDONTWRITEBYTECODE": "1"}
    program = "import embedfleet.engines.cpu.engine, openvino; print(openvino.__version__)"
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=around | {"AUDIT_LOG": str(log)}
    )
    assert [json.loads(line)[1:] for line in log.read_text().splitlines()] == []
    assert list(home.iterdir()) == []


NOBODY = """
import pwd
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
import embedfleet.engines.cpu.engine
"""


def test_it_is_imported_where_there_is_no_home_at_all() -> None:
    """Neither a variable nor, for this user, an entry among the users: containers are run so."""
    subprocess.run([sys.executable, "-c", NOBODY], check=True, env={"PATH": os.environ["PATH"]})
