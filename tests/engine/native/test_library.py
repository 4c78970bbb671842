"""What Python says of the kernels is what their header says."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import embedfleet.engine.native
from embedfleet.engine.native import choice, library, memory, weights
from embedfleet.engine.native.library import (
    FUNCTIONS,
    PackedLayer,
    PackedMatrix,
    Shape,
    address,
    load,
)
from tests.engine.kernels import needs_native

KERNELS = Path(embedfleet.engine.native.__file__).parent / "kernels"
HEADER = (KERNELS / "model.h").read_text(encoding="utf-8")
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)


def members(name: str) -> list[str]:
    """Of a structure, in order."""
    (body,) = re.findall(r"typedef struct \{([^}]*)\} " + name + ";", CODE)
    return [word.lstrip("* ") for line in body.split(";") for word in _names(line)]


def _names(line: str) -> list[str]:
    first, *others = line.split(",")
    return [first.split()[-1], *others] if first.strip() else []


@pytest.mark.parametrize(
    ("name", "structure"), [("Shape", Shape), ("Matrix", PackedMatrix), ("Layer", PackedLayer)]
)
def test_structures_have_the_members_of_the_header_in_its_order(
    name: str, structure: type[ctypes.Structure]
) -> None:
    assert [field[0].rstrip("_") for field in structure._fields_] == members(name)


def test_functions_are_those_of_the_header_with_as_many_arguments() -> None:
    declared = re.findall(r"EXPORTED [^;(]*?(embedfleet_\w+)\(([^)]*)\)", CODE)
    counts = {
        name: 0 if arguments == "void" else len(arguments.split(","))
        for name, arguments in declared
    }
    assert counts == {name: len(arguments) for name, (arguments, _) in FUNCTIONS.items()}


@needs_native
def test_the_library_is_loaded_once() -> None:
    assert load() is load()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("abi", [library.ABI - 1, None], ids=["older", "without a number"])
def test_what_was_compiled_from_another_version_is_refused(abi: int | None, tmp_path: Path) -> None:
    names = [name for name in library.FUNCTIONS if name != "embedfleet_abi"]
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in names)
    if abi is not None:
        source += f"int embedfleet_abi(void) {{ return {abi}; }}\n"
    (tmp_path / "old.c").write_text(source, encoding="utf-8")
    compiled = tmp_path / "old.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", compiled, tmp_path / "old.c"], check=True)
    with pytest.raises(OSError, match="another version; install embedfleet again"):
        library.opened(compiled)


def test_numbers_with_gaps_are_never_handed_to_c() -> None:
    values = np.zeros((4, 6), np.float32)
    assert address(values) == values.ctypes.data
    with pytest.raises(ValueError, match=r"\(4, 3\) has gaps"):
        address(values[:, ::2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ABI", library.ABI),
        ("BLOCK_ROWS", memory.BLOCK_ROWS),
        ("FEW_ROWS", memory.FEW_ROWS),
        ("KEY_BLOCK", memory.KEY_BLOCK),
        ("PANEL", weights.PANEL),
        ("GROUP_INPUTS", weights.GROUP_INPUTS),
        ("MOST_HEAD_DIM", choice.WIDEST_HEAD),
        ("TASK_ROWS", choice.MOST_SHARING),
    ],
)
def test_sizes_that_python_reckons_with_are_those_of_the_kernels(name: str, value: int) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in KERNELS.iterdir())
    assert re.findall(rf"^#define {name} (\d+)$", sources, flags=re.MULTILINE) == [str(value)]
