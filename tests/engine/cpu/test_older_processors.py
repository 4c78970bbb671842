"""Other processors than the one at hand, emulated by QEMU: x86 with fewer instructions, and Arm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import embedfleet
from embedfleet.engine.loading import EngineOptions, load_engine
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import embed

ARM = Path(__file__).parents[3] / "build" / "arm"
SOURCES = Path(embedfleet.__file__).parents[1]
x86 = pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None,
    reason="qemu-x86_64 is missing (Debian: qemu-user), or this is no x86 machine",
)
arm = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or not (ARM / ".complete").exists(),
    reason="qemu-aarch64 (Debian: qemu-user) or what it runs is missing: make arm",
)
pytestmark = pytest.mark.slow

SCRIPT = """
import logging, sys
from pathlib import Path
import numpy as np
from embedfleet.engine.loading import EngineOptions, load_engine
from embedfleet.vocabulary import SettingError

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
directory, texts, vectors, dtype = *map(Path, sys.argv[1:4]), sys.argv[4]
if dtype == "auto":
    try:
        load_engine(directory, EngineOptions(dtype="int8", threads=1))
    except SettingError as error:
        print(error)
# The emulated processor's kernel may list instructions of the one outside: no kernels are named.
engine = load_engine(directory, EngineOptions(dtype=dtype, threads=1))
assert engine.info.kernels == "openvino"
print(engine.info.precision)
texts = list(np.load(texts).values())
np.save(vectors, engine.prepare(texts)())
"""


def computed_under(emulator: Sequence[str], folder: Path, dtype: str) -> str:
    """Compare an emulated processor's vectors with this one's; what it said while it computed."""
    directory = write_checkpoint(folder / "model", random_weights(SMALL), SMALL)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, SMALL.vocabulary, n).astype(np.int32) for n in (1, 70, 7, 33)]
    np.savez(folder / "texts.npz", *texts)
    done = subprocess.run(
        [*emulator, "-c", SCRIPT, directory, folder / "texts.npz", folder / "v.npy", dtype],
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{ARM / 'site'}"}
        if "aarch64" in emulator[0]
        else None,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,  # seconds; it takes ten
    )
    here = load_engine(directory, EngineOptions(dtype="f32", threads=1, kernels="openvino"))
    np.testing.assert_allclose(np.load(folder / "v.npy"), embed(here, texts), atol=5e-6)
    return done.stdout


@x86
@pytest.mark.parametrize(
    ("processor", "attention"), [("Haswell", "paged"), ("IvyBridge", "padded")]
)
def test_x86_with_avx2_or_avx_alone_computes_the_same(
    tmp_path: Path, processor: str, attention: str
) -> None:
    emulator = ["qemu-x86_64", "-cpu", processor, sys.executable]
    said = computed_under(emulator, tmp_path, "f32")
    assert f"attention is {attention}" in said


@arm
@pytest.mark.parametrize(
    ("processor", "attention"),
    [("cortex-a72", "padded"), ("neoverse-n1", "padded"), ("max", "paged")],  # the last has SVE
)
def test_arm_computes_the_same_in_float32_and_refuses_int8(
    tmp_path: Path, processor: str, attention: str
) -> None:
    python = ARM / "root" / "usr" / "bin" / "python3"
    emulator = ["qemu-aarch64", "-cpu", processor, "-L", str(ARM / "root"), str(python)]
    said = computed_under(emulator, tmp_path, "auto")
    assert f"attention is {attention}" in said
    assert "int8 products would overflow" in said
    assert "f32" in said.splitlines()
