"""The kernels that can compute on this machine's processor."""

from __future__ import annotations

from typing import Final

import pytest

from embedfleet.engine.native.choice import lacking
from embedfleet.engine.native.library import absence
from embedfleet.machine import processor_flags

_WHY_NOT: Final = lacking(processor_flags()) or absence()

needs_native: Final = pytest.mark.skipif(
    _WHY_NOT is not None, reason=f"embedfleet's own kernels can't compute here: {_WHY_NOT}"
)
KERNELS: Final = ("openvino", pytest.param("native", marks=needs_native))
