"""Compile the kernels of `engine/native`; all else about the package is in pyproject.toml.

They are a shared library for ctypes and no Python module: one build is right for every Python, and
takes no header of one. What cannot compile them does without, and computes with OpenVINO instead.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = sysconfig.get_platform() == "linux-x86_64"
KERNELS = Path("src/embedfleet/engine/native/kernels")
INSTRUCTIONS = ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma"]


class BuildKernels(build_ext):
    """Name the library without the Python that happened to build it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path in the package."""
        return f"{fullname.replace('.', os.sep)}.so"


class WheelOfKernels(bdist_wheel):
    """Mark the wheel as one for this kind of machine, and for any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


kernels = Extension(
    "embedfleet.engine.native._kernels",
    sources=sorted(map(str, KERNELS.glob("*.c"))),
    depends=sorted(map(str, KERNELS.glob("*.h"))),
    extra_compile_args=[
        *("-O3", "-std=gnu11", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"),
        *(f"-m{name}" for name in INSTRUCTIONS),
        "-mprefer-vector-width=512",
    ],
    extra_link_args=["-pthread", "-lm"],
    optional=True,  # no compiler, or one too old: the package is whole without
)
# A Python names the compiler that built it, which need not be the one that is here.
if HERE and shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
    os.environ.setdefault("CC", "cc")

setup(
    ext_modules=[kernels] if HERE else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfKernels},
)
