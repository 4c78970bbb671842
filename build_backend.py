"""setuptools' backend, which asks for a C compiler from PyPI where the machine has none.

`ziglang` is a compiler as a Python package (100 MB). It is a requirement of the build alone, and
only then: who has `cc` downloads nothing.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

ZIG = "ziglang>=0.14"


def compiler() -> list[str] | None:
    """The command of a C compiler: $CC, Python's own, cc, gcc, clang or zig's; None if none."""
    named = os.environ.get("CC")
    candidates = [named] if named else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    for candidate in candidates:
        words = shlex.split(candidate or "")
        # Python names the compiler that built it with flags of its own, which are not ours.
        if words and shutil.which(words[0]):
            return words if named else words[:1]
    if importlib.util.find_spec("ziglang") is not None:
        # Named, so that it compiles for any processor of the architecture, and an older libc.
        triple = f"{platform.machine()}-linux-{_libc()}"
        return [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-fno-sanitize=all"]
    return None


def _libc() -> str:
    library, version = platform.libc_ver()
    return f"gnu.{version}" if library == "glibc" else "musl"


def _with_compiler(requirements: list[str]) -> list[str]:
    return requirements if compiler() else [*requirements, ZIG]


def get_requires_for_build_wheel(settings: Any = None) -> list[str]:
    """What a wheel takes to build."""
    return _with_compiler(build_meta.get_requires_for_build_wheel(settings))


def get_requires_for_build_editable(settings: Any = None) -> list[str]:
    """What an installation in place takes to build."""
    return _with_compiler(build_meta.get_requires_for_build_editable(settings))
