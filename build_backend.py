"""setuptools' backend, which asks for a C compiler from PyPI where the machine has none.

`ziglang` is a compiler as a Python package (100 MB). It is a requirement of the build alone, and
only then: who has `cc` downloads nothing.

With SOURCE_DATE_EPOCH set, the same sources give the same bytes whenever, wherever and by whomever
they are built: see https://reproducible-builds.org/docs/archives/.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import platform
import shlex
import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path
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


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build one, with files that everybody may read; give its name."""
    umask = os.umask(0o022)
    try:
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    finally:
        os.umask(umask)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Build one; give its name."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        _normalise(Path(sdist_directory, name), int(epoch))
    return name


def _normalise(archive: Path, epoch: int) -> None:
    """Order members by name; leave out when they were written, by whom, and what umask was set."""
    whole = archive.with_suffix(".new")
    with (
        tarfile.open(archive) as old,
        whole.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w") as new,
    ):
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            member.pax_headers = {}  # times again, with fractions
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    whole.replace(archive)
