"""The kernels are compiled when embedfleet is installed, wherever that can be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from embedfleet.engines.native import library

HEADER = Path(__file__).parents[3] / "src/embedfleet/engines/native/kernels/model.h"


@pytest.fixture
def compiled() -> Path:
    """Where the library is; skips where there is none to expect."""
    if not sysconfig.get_platform().startswith("linux-"):
        pytest.skip("the kernels are for Linux")
    found = library.find()
    if found is None and shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        pytest.skip("there is no C compiler, so the kernels are not compiled: `make compiler`")
    assert found is not None, (
        "the kernels are not compiled, though there is a compiler: run `make setup`; where that "
        "does not help, `.venv/bin/python setup.py build_ext`, which shows what the compiler says"
    )
    return found


def test_where_there_is_a_compiler_the_kernels_are_compiled(compiled: Path) -> None:
    assert compiled.read_bytes().startswith(b"\x7fELF")


def test_the_library_shows_what_its_header_declares_and_nothing_else(compiled: Path) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm, which lists what a library shows, is not installed")
    listed = subprocess.run(
        [nm, "--dynamic", "--defined-only", "--format=posix", str(compiled)],
        capture_output=True,
        text=True,
        check=True,
    )
    shown = {line.split()[0] for line in listed.stdout.splitlines()}
    declared = re.findall(r"(?m)^EXPORTED .*?(embedfleet_\w+)\(", HEADER.read_text("utf-8"))
    assert declared
    assert shown == set(declared), "run `make setup` where the library is older than the header"
