"""Triton's interpreter with NumPy 2.4, which makes no whole number of an array of one.

Importing this is enough; Triton 3.6 asks NumPy for one at every loop whose bounds are tensors.
"""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

_patched = interpreter._patch_lang_tensor


def _with_items(tensor: Any, scope: Any) -> None:
    _patched(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _with_items
