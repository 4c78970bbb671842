"""The repository around the code: locks, Makefile, and what a wheel holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DEFINITION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = DEFINITION["project"]
LIBRARY = "embedfleet/engines/native/_kernels.so"
LOCKS = ["build", "runtime", "image", "dev", "reference"]
ALONE = ["clusters", "release", "sdks", "site"]


def pins(lock: str) -> dict[str, str]:
    """Return version by package; a line that is no exact pin is an error."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
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
        ("dev", ("bulk", "dev", "kubernetes", "tracing")),
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


def test_building_takes_no_package_but_the_one_that_is_locked_for_it() -> None:
    wanted = [Requirement(text) for text in DEFINITION["build-system"]["requires"]]
    assert pins("build").keys() == {canonicalize_name(each.name) for each in wanted}
    assert all(pins("build")[each.name] in each.specifier for each in wanted)


def test_torch_is_installed_for_reference_values_alone() -> None:
    assert "torch" not in pins("dev")
    assert pins("reference")["torch"] == "2.13.0"


def test_a_python_that_is_too_old_is_refused_with_a_message(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 || exit 1\n')
    old.chmod(0o755)
    if os.statvfs(tmp_path).f_flag & os.ST_NOEXEC:
        pytest.skip("nothing can be executed where temporary files are (noexec)")
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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of what is kept in the repository, and nothing that was built from it."""
    made = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so")
    return Path(shutil.copytree(ROOT, tmp_path / "source", ignore=made))


def a_wheel(source: Path, **environment: str) -> tuple[str, set[str]]:
    """Build one; return its name and those of its files."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--wheel-dir", str(source.parent), str(source)],
        env=os.environ | environment,
        timeout=300,
        check=True,
    )
    (wheel,) = source.parent.glob("embedfleet-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return wheel.name, set(opened.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """Name and files of a wheel that is built as it is where nothing is set."""
    made = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so")
    source = tmp_path_factory.mktemp("wheel") / "source"
    shutil.copytree(ROOT, source, ignore=made)
    return a_wheel(source)


@pytest.mark.slow
def test_a_wheel_holds_the_package_its_types_and_its_data(built: tuple[str, set[str]]) -> None:
    _, held = built
    package = ROOT / "src" / "embedfleet"
    expected = {
        f"embedfleet/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and not {"__pycache__", "kernels"} & set(path.parts)
    }
    assert expected - held == set()
    assert "embedfleet/deploying/files/kubernetes/overlays/gateway/deployment.yaml" in held
    assert "embedfleet/deploying/files/monitoring/dashboards/fleet.json" in held
    assert not {name for name in held if name.startswith(("tests/", "training/"))}


@pytest.mark.slow
@pytest.mark.skipif(not sysconfig.get_platform().startswith("linux-"), reason="has no kernels")
def test_a_wheel_is_for_any_python_and_holds_the_kernels_if_they_compile(
    built: tuple[str, set[str]],
) -> None:
    name, held = built
    assert name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_')}.whl")
    assert (LIBRARY in held) == (shutil.which("cc") is not None)
    assert not {name for name in held if name.endswith((".c", ".h"))}


@pytest.mark.slow
def test_without_a_compiler_a_wheel_lacks_the_kernels_and_nothing_else(source: Path) -> None:
    _, held = a_wheel(source, CC="/nonexistent/cc")
    assert LIBRARY not in held
    assert "embedfleet/engines/native/library.py" in held


@pytest.mark.slow
def test_for_other_systems_nothing_is_compiled(source: Path) -> None:
    name, held = a_wheel(source, _PYTHON_HOST_PLATFORM="macosx-14.0-arm64")
    assert name.endswith("-py3-none-any.whl")
    assert LIBRARY not in held


@pytest.mark.slow
def test_a_source_distribution_holds_the_kernels_wherever_it_is_made(source: Path) -> None:
    code = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=os.environ | {"_PYTHON_HOST_PLATFORM": "linux-aarch64"},
        stdout=subprocess.DEVNULL,
        timeout=300,
        check=True,
    )
    (archive,) = source.parent.glob("embedfleet-*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    kernels = (source / "src/embedfleet/engines/native/kernels").rglob("*.[ch]")
    needed = {str(path.relative_to(source)) for path in kernels} | {"setup.py", "build_backend.py"}
    assert needed <= held
