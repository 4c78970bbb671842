"""Compile the kernels of `engine/native`; all else about the package is in pyproject.toml.

They are a shared library for ctypes and no Python module: one build is right for every Python, and
takes no header of one. It holds every instruction set of the architecture, each compiled with flags
of its own, and chooses among them when it runs. The compiler is that of the machine, else the one
in `ziglang`, which `build_backend.py` asks for where there is none. What can compile neither way
does without, and computes with NumPy.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from build_backend import compiler
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS: Final = Path("src/embedfleet/engines/native/kernels")
FLAGS: Final = (
    *("-O3", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"),
    "-ffp-contract=off",  # bits are those that are written
)
_AVX512: Final = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma")
SETS: Final = {
    "x86_64": {
        "avx512_vnni": (*(f"-m{name}" for name in _AVX512), "-mprefer-vector-width=512"),
        "avx_vnni": ("-mavx2", "-mfma"),
        "avx2": ("-mavx2", "-mfma"),
    },
    "aarch64": {
        "neon_i8mm": ("-march=armv8.2-a+dotprod+i8mm",),
        "neon_dotprod": ("-march=armv8.2-a+dotprod",),
        "neon_plain": (),
    },
}
"""Flags of each set, by architecture; any other has the portable set alone."""


def target() -> str:
    """The architecture that is compiled for, as Python's platform names it."""
    return sysconfig.get_platform().rpartition("-")[2]


class BuildKernels(build_ext):
    """Each instruction set with flags of its own; a library named without this Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path in the package."""
        return f"{fullname.replace('.', os.sep)}.so"

    def build_extension(self, ext: Extension) -> None:
        """Compile what the compiler can, and link it."""
        command = compiler()
        if command is None:
            raise CompileError("there is no C compiler, nor the package ziglang")
        for name in ("compiler_so", "linker_so"):
            self.compiler.set_executable(
                name, [*command, *(["-shared"] if name == "linker_so" else [])]
            )
        objects, known = [], []
        with ThreadPoolExecutor(os.cpu_count()) as compilers:
            units = {
                name: compilers.submit(self._compiled, f"sets/{name}.c", flags)
                for name, flags in SETS.get(target(), {}).items()
            }
            common = [
                compilers.submit(self._compiled, source.name, ())
                for source in sorted(KERNELS.glob("*.c"))
                if source.name != "instruction_sets.c"
            ]
            portable = compilers.submit(self._compiled, "sets/portable.c", ())
            for name, unit in units.items():
                try:
                    objects += unit.result()
                    known.append(f"-DHAVE_{name.upper()}")
                except CompileError:  # an older compiler or assembler does not know all of them
                    self.warn(f"the compiler does not know {name}; embedfleet does without it")
            objects += [path for unit in (*common, portable) for path in unit.result()]
        objects += self._compiled("instruction_sets.c", known)
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread", "-lm", "-s"]
        )

    def _compiled(self, source: str, flags: Sequence[str]) -> list[str]:
        if "ziglang" in self.compiler.compiler_so:  # which names processors, and no architectures
            flags = [flag.replace("-march=armv8.2-a", "-mcpu=generic") for flag in flags]
        return self.compiler.compile(
            [str(KERNELS / source)],
            output_dir=self.build_temp,
            extra_postargs=[*FLAGS, *flags],
            depends=[str(header) for header in KERNELS.rglob("*.h")],
        )


class WheelOfKernels(bdist_wheel):
    """Mark the wheel as one for this kind of machine, and for any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


kernels = Extension(
    "embedfleet.engines.native._kernels",
    sources=sorted(map(str, KERNELS.rglob("*.c"))),
    depends=sorted(map(str, KERNELS.rglob("*.h"))),
    optional=True,  # nothing that compiles: the package is whole without
)

setup(
    ext_modules=[kernels] if sysconfig.get_platform().startswith("linux-") else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfKernels},
)
