"""Runs a module of this folder whose kernels Triton's interpreter computes, in its own process:
Triton decides at import whether it interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run_interpreted(module: str) -> None:
    """Fails with what the module prints unless it ends well."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.engines.cuda.{module}"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
