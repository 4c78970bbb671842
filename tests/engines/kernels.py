"""The ways in which a processor can compute: every instruction set of the library, and the others.

A way is named after its instruction set, or its kernels where they are not ours. Those that can't
be taken on this machine are skipped with the cause; `native/test_other_processors.py` emulates what
it can of them.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

import pytest

from embedfleet.engines.native.library import InstructionSet, absence, load
from embedfleet.runtime.machine import multiplies_int8_exactly

_ABSENCE: Final = absence()
SETS: Final[tuple[InstructionSet, ...]] = () if _ABSENCE else load().sets

needs_native: Final = pytest.mark.skipif(
    _ABSENCE is not None, reason=f"embedfleet's own kernels can't compute here: {_ABSENCE}"
)
needs_openvino: Final = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO, an extra, is not installed"
)
_needs_exact_openvino: Final = pytest.mark.skipif(
    not multiplies_int8_exactly(), reason="OpenVINO's int8 takes VNNI or AMX"
)


def _set(one: InstructionSet) -> Any:
    lacks = f"{one.name} takes {', '.join(one.needs)}, and this processor lacks one of them"
    return pytest.param(one.name, marks=pytest.mark.skipif(not one.runs, reason=lacks))


OURS: Final = tuple(map(_set, SETS)) or (pytest.param("native", marks=needs_native),)
"""Of our own kernels, every instruction set."""
WAYS: Final = (*OURS, "numpy", pytest.param("openvino", marks=needs_openvino))
INT8_WAYS: Final = (
    *OURS,
    pytest.param("openvino", marks=[needs_openvino, _needs_exact_openvino]),
)
RUNNING: Final = tuple(one.name for one in SETS if one.runs)
INT8: Final = {*RUNNING, *(["openvino"] if multiplies_int8_exactly() else [])}
"""Of the ways that can be taken here, those that compute int8."""


def way(name: str) -> dict[str, Any]:
    """Options of an engine that computes this way."""
    if name in {"numpy", "openvino", "native"}:
        return {"kernels": name}
    return {"kernels": "native", "instructions": name}
