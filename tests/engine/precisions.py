"""The precisions that this machine's processor computes rightly."""

from __future__ import annotations

from typing import Final

import pytest

from embedfleet.machine import multiplies_int8_exactly

needs_int8: Final = pytest.mark.skipif(
    not multiplies_int8_exactly(), reason="this processor has no VNNI or AMX"
)
DTYPES: Final = ("f32", pytest.param("int8", marks=needs_int8))
