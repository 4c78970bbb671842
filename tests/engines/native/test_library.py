"""What Python says of the kernels is what their header says."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import embedfleet.engines.native
from embedfleet.engines.native import library
from embedfleet.engines.native.choice import SETS
from embedfleet.engines.native.library import (
    FUNCTIONS,
    PackedLayer,
    PackedMatrix,
    Shape,
    address,
    load,
)
from embedfleet.runtime.machine import processor_flags
from tests.engines.kernels import needs_native

KERNELS = Path(embedfleet.engines.native.__file__).parent / "kernels"
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
    ("name", "structure"),
    [
        ("Shape", Shape),
        ("Matrix", PackedMatrix),
        ("Layer", PackedLayer),
        ("Numbers", library._Numbers),
        ("SetInfo", library._SetInfo),
    ],
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
    if os.statvfs(tmp_path).f_flag & os.ST_NOEXEC:
        pytest.skip("nothing can be loaded from where temporary files are (noexec)")
    names = [name for name in library.FUNCTIONS if name != "embedfleet_abi"]
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in names)
    if abi is not None:
        source += f"int embedfleet_abi(void) {{ return {abi}; }}\n"
    (tmp_path / "old.c").write_text(source, encoding="utf-8")
    compiled = tmp_path / "old.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", compiled, tmp_path / "old.c"], check=True)
    with pytest.raises(OSError, match="another version; reinstall embedfleet"):
        library.opened(compiled)


def test_numbers_with_gaps_are_never_handed_to_c() -> None:
    values = np.zeros((4, 6), np.float32)
    assert address(values) == values.ctypes.data
    with pytest.raises(ValueError, match=r"\(4, 3\) is not contiguous"):
        address(values[:, ::2])


@needs_native
def test_the_library_says_what_its_header_defines() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in KERNELS.glob("*.h"))
    defined = {
        "block_rows": "BLOCK_ROWS",
        "few_rows": "FEW_ROWS",
        "key_block": "KEY_BLOCK",
        "group_inputs": "GROUP_INPUTS",
        "inputs": "INPUTS",
        "outputs": "OUTPUTS",
        "most_head_dim": "MOST_HEAD_DIM",
        "most_sharing": "TASK_ROWS",
    }
    for name, value in dataclasses.asdict(load().numbers).items():
        found = re.findall(rf"^#define {defined[name]} (\d+)$", sources, flags=re.MULTILINE)
        assert found == [str(value)]


@needs_native
def test_every_instruction_set_is_listed_best_first_and_the_last_one_runs_anywhere() -> None:
    sets = load().sets
    assert [one.number for one in sets] == list(range(len(sets)))
    assert [one.name for one in sets] == [name for name in SETS if name in {s.name for s in sets}]
    assert sets[-1].name == "portable"
    assert sets[-1].runs


@needs_native
def test_what_runs_is_what_the_system_lists(tmp_path: Path) -> None:
    flags = processor_flags()
    if not flags:
        pytest.skip("this is no x86 processor")
    for one in load().sets:
        assert one.runs == (set(one.needs) <= flags), one.name
