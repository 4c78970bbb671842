"""Both pages in a real browser: Debian's Chromium, moved by Playwright (`make packages sdks`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import replicas_of
from tests.service import started

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-sdks" / "bin" / "python"
AXE = ROOT / "tests" / "sdks" / "node_modules" / "axe-core" / "axe.min.js"
KEY = "sk-a-key-of-the-browser-tests"
DEADLINE_S = 900.0


RUNNERS = {
    "curl": ["sh"],
    "python": [sys.executable],
    "client": [sys.executable],
    "node": ["node"],
}


def ran(code: Path) -> str:
    """What the code prints that the page gives; nothing where there is no program for it."""
    program = RUNNERS[code.name.partition("-")[0]]
    if shutil.which(program[0]) is None:
        return ""
    modules = code.parent / "node_modules"
    if not modules.exists():
        modules.symlink_to(AXE.parents[1])
    script = code.with_name(f"{code.name}.mjs")
    script.write_text(code.read_text("utf-8").replace("KEY", KEY), "utf-8")
    return subprocess.run(
        [*program, str(script)], check=True, timeout=120, text=True, stdout=subprocess.PIPE
    ).stdout


def numbers_in(said: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", said)]


def test_every_control_works_by_hand_and_by_keyboard_the_fleet_is_live_and_the_code_runs(
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
        victim, _ = replicas_of(service.process.pid)
        command = [str(PYTHON), "in_browser.py", service.root, service.admin, KEY, str(AXE)]
        command += [str(victim.pid), str(tmp_path)]
        if "EMBEDFLEET_TEST_SCREENSHOTS" in os.environ:
            command.append(os.environ["EMBEDFLEET_TEST_SCREENSHOTS"])
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            timeout=DEADLINE_S,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        for form in ("int8", "float"):
            said = {kind: ran(tmp_path / f"{kind}-{form}") for kind in RUNNERS}
            width = 64
            assert f"(2, {width})" in said["client"]
            assert '"usage"' in said["curl"]
            wanted = numbers_in(said["python"])
            assert len(wanted) == 4
            assert all(abs(each) >= 1 or form == "float" for each in wanted if each)
            if said["node"]:
                assert numbers_in(said["node"]) == pytest.approx(wanted, abs=1e-6)
