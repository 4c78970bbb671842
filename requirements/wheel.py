"""Builds the wheel for another architecture than this machine's: wheel.py aarch64 DIRECTORY.

The kernels are compiled by zig (the package `ziglang`), which brings the headers of every glibc and
links for the oldest that is asked for. auditwheel names the wheel for the oldest platform that it
runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

GLIBC = "2.28"
"""As NumPy's own wheels for Arm: Debian 10, RHEL 8 and whatever is newer."""


def main() -> None:
    """Build from the current directory, and write the wheel."""
    architecture, directory = sys.argv[1:]
    zig = f"{sys.executable} -m ziglang cc -target {architecture}-linux-gnu.{GLIBC}"
    environment = os.environ | {
        "CC": f"{zig} -fno-sanitize=all",
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",  # what setuptools compiles for
    }
    # Of the source distribution: the working tree may hold objects of this machine.
    with tempfile.TemporaryDirectory() as built:
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built]
        subprocess.run(build, env=environment, check=True)
        (wheel,) = Path(built).glob("*.whl")
        repair = ["-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", directory]
        subprocess.run([sys.executable, *repair, str(wheel)], check=True)


if __name__ == "__main__":
    main()
