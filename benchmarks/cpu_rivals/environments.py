"""The environments of the CPU engine's contenders: one virtual environment each, from pins.

Decides where they lie and what is in them, and measures what an installation takes on the disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parent.parent
DEFAULT_FOLDER: Final = REPOSITORY / "build" / "cpu-rivals"
"""Ignored by git, and removed by `make clean`."""

REQUIREMENTS: Final = {
    "embedfleet": REPOSITORY / "requirements" / "runtime.txt",
    "transformers": HERE / "requirements" / "transformers.txt",
    "onnxruntime": HERE / "requirements" / "onnxruntime.txt",
    "openvino": HERE / "requirements" / "openvino.txt",
    "llamacpp": HERE / "requirements" / "llamacpp.txt",
}
"""What each environment holds. The first is what embedfleet itself needs, and nothing else."""

LLAMA_FLAGS: Final = (
    "-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF "
    "-DLLAMA_BUILD_SERVER=OFF"
)


def python(folder: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return folder / "venvs" / name / "bin" / "python"


def ready(folder: Path, name: str) -> bool:
    """Whether the environment was made completely, from the pins of today."""
    stamp = folder / "venvs" / name / ".pins"
    return stamp.is_file() and stamp.read_bytes() == REQUIREMENTS[name].read_bytes()


def make(folder: Path, name: str) -> None:
    """Make an environment, unless it is there; minutes, for llama.cpp is compiled."""
    if ready(folder, name):
        return
    print(f"making the environment of {name}", flush=True)
    home, pins = folder / "venvs" / name, REQUIREMENTS[name]
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    pip: list[str | Path] = [
        "nice",
        python(folder, name),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
    ]
    source = ["--no-binary", "llama-cpp-python"] if name == "llamacpp" else []
    subprocess.run(  # the pins are complete
        [*pip, "--quiet", "--no-deps", *source, "--requirement", pins],
        check=True,
        env=os.environ | {"CMAKE_ARGS": LLAMA_FLAGS},
    )
    (home / ".pins").write_bytes(pins.read_bytes())


def size_mib(folder: Path, name: str) -> float:
    """Of the installed packages on the disk, without pip and setuptools, which all have."""
    (packages,) = (folder / "venvs" / name / "lib").glob("python*/site-packages")
    total = 0
    for entry in packages.iterdir():
        if entry.name.split("-")[0] in {"pip", "setuptools", "_distutils_hack", "pkg_resources"}:
            continue
        files = [entry] if entry.is_file() else [p for p in entry.rglob("*") if p.is_file()]
        # Byte code depends on what was imported so far, and on nothing else.
        total += sum(file.lstat().st_size for file in files if file.suffix != ".pyc")
    return total / 2**20
