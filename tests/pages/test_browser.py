"""Both pages in a real browser: Debian's Chromium, moved by Playwright (`make packages sdks`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.service import started

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-sdks" / "bin" / "python"
AXE = ROOT / "tests" / "sdks" / "node_modules" / "axe-core" / "axe.min.js"
KEY = "sk-a-key-of-the-browser-tests"
PATIENCE_S = 900.0


def test_every_control_works_by_hand_and_by_keyboard_and_the_fleet_is_seen_live(
    tmp_path: Path,
) -> None:
    """EMBEDFLEET_TEST_SCREENSHOTS names the folder that gets the pictures of docs/."""
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is missing; `make packages` installs it where there is apt")
    if not PYTHON.exists() or not AXE.exists():
        pytest.skip("`make sdks` installs Playwright and axe-core")
    scaled = ["--min-replicas", "2", "--max-replicas", "2", "--api-key", KEY]
    with started("builtin", log=tmp_path / "log", arguments=scaled) as service:
        service.wait_for(["ready", "ready"])
        (victim, _) = (
            each.pid
            for each in psutil.Process(service.process.pid).children()
            if "replica" in each.cmdline()
        )
        command = [str(PYTHON), "in_browser.py", service.root, service.admin, KEY, str(AXE)]
        command.append(str(victim))
        if "EMBEDFLEET_TEST_SCREENSHOTS" in os.environ:
            command.append(os.environ["EMBEDFLEET_TEST_SCREENSHOTS"])
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            timeout=PATIENCE_S,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-4000:]
