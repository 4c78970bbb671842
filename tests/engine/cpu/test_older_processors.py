"""Processors with fewer instructions, emulated by QEMU: the machine at hand may have them all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engine.loading import EngineOptions, load_engine
from tests.checkpoints import SMALL, random_weights, write_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-x86_64") is None,
        reason="qemu-x86_64 is missing (Debian: qemu-user), or this is no x86 machine",
    ),
]

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from embedfleet.engine.loading import EngineOptions, load_engine

directory, texts, vectors = map(Path, sys.argv[1:])
# The emulated processor's kernel may list instructions of the one outside: nothing is named here.
engine = load_engine(directory, EngineOptions(dtype="f32", threads=1))
assert engine.info.kernels == "openvino"
np.save(vectors, engine.prepare([np.load(texts)])())
"""


def test_a_processor_with_avx2_alone_computes_the_same(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", random_weights(SMALL), SMALL)
    text = np.random.default_rng(1).integers(0, SMALL.vocabulary, 70).astype(np.int32)
    np.save(tmp_path / "text.npy", text)
    arguments = [directory, tmp_path / "text.npy", tmp_path / "vectors.npy"]
    subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", SCRIPT, *arguments],
        check=True,
        timeout=600,
    )
    options = EngineOptions(dtype="f32", threads=1, kernels="openvino")
    here = load_engine(directory, options).prepare([text])()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), here, atol=5e-6)
