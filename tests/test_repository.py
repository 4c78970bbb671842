"""The repository around the code: locks, Makefile, and what a wheel holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ["build", "runtime", "image", "dev", "reference"]
ALONE = ["sdks"]


def pins(lock: str) -> dict[str, str]:
    """Return version by package; a line that is no exact pin is an error."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            pin = re.fullmatch(r"([a-z0-9.-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert pin, f"{lock}.txt: {line}"
            found[canonicalize_name(pin[1])] = pin[2]
    return found


@pytest.mark.parametrize("lock", [*LOCKS, *ALONE])
def test_locks_hold_exact_pins_and_nothing_else(lock: str) -> None:
    assert pins(lock)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("runtime", ()),
        ("image", ("kubernetes", "tracing")),
        ("dev", ("dev", "kubernetes", "tracing")),
    ],
)
def test_locks_hold_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    locked = pins(lock)
    for text in wanted:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked; run `make lock`"
        assert version in requirement.specifier, f"{requirement}; run `make lock`"


def test_locks_agree_with_each_other() -> None:
    runtime, image, dev, reference = map(pins, LOCKS[1:])
    assert runtime.items() <= image.items() <= dev.items() <= reference.items()


def test_torch_is_installed_for_reference_values_alone() -> None:
    assert "torch" not in pins("dev")
    assert pins("reference")["torch"] == "2.13.0"


def test_a_python_that_is_too_old_is_refused_in_words(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 || exit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", ".venv/.python", f"PYTHON={old}"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "embedfleet needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.18" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_a_wheel_holds_the_package_its_types_and_its_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], timeout=300, check=True)
    (wheel,) = tmp_path.glob("embedfleet-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    package = ROOT / "src" / "embedfleet"
    expected = {
        f"embedfleet/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - held == set()
    assert "embedfleet/deploying/files/kubernetes/overlays/gateway/deployment.yaml" in held
    assert "embedfleet/deploying/files/monitoring/dashboards/fleet.json" in held
    assert not {name for name in held if name.startswith(("tests/", "training/"))}
