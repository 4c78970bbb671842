"""Other processors than the one at hand: x86 with fewer instructions and Arm, emulated by QEMU, and
AVX-VNNI, whose instructions processors with AVX-512 have in another shape."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import embedfleet
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native.library import find
from embedfleet.runtime.machine import processor_flags
from embedfleet.vocabulary import Vectors
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.conformance.engine_conformance import embed
from tests.encoder_checkpoints import BERT, write_encoder
from tests.engines.kernels import RUNNING, needs_native, way

ROOT = Path(__file__).parents[3]
ARM = ROOT / "build" / "arm"
PACKAGE = Path(embedfleet.__file__).parent
CROSS = "aarch64-linux-gnu-gcc"
x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64") is None,
    reason="qemu-x86_64 is missing (Debian: qemu-user), or this is no x86 machine",
)
arm = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or not (ARM / ".complete").exists(),
    reason="qemu-aarch64 (Debian: qemu-user) or what it runs is missing: make arm",
)
pytestmark = [pytest.mark.slow, needs_native]

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from embedfleet.engines.loading import EngineOptions, load_engine

directory, texts, vectors, dtype = *map(Path, sys.argv[1:4]), sys.argv[4]
for instructions in sys.argv[5:]:
    options = EngineOptions(dtype=dtype, threads=2, kernels="native", instructions=instructions)
    engine = load_engine(directory, options)
    print(engine.info.instructions, engine.info.precision)
    texts_ = list(np.load(texts).values())
    np.save(vectors / f"{instructions}.npy", engine.prepare(texts_)())
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, texts, and what this processor makes of them in float32."""

    folder: Path
    exact: Vectors

    def computed_by(
        self, emulator: Sequence[str], dtype: str, *sets: str, path: str = ""
    ) -> tuple[str, dict[str, Vectors]]:
        """What a Python of another processor said, and its vectors by instruction set."""
        inputs = [self.folder / "model", self.folder / "texts.npz", self.folder]
        done = subprocess.run(
            [*emulator, "-c", SCRIPT, *inputs, dtype, *sets],
            env=os.environ | ({"PYTHONPATH": path} if path else {}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=300,  # seconds; it takes ten
        )
        return done.stdout, {name: np.load(self.folder / f"{name}.npy") for name in sets}

    def cosines(self, vectors: Vectors) -> Vectors:
        found: Vectors = np.einsum("ij,ij->i", vectors, self.exact)
        return found


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("case")
    if request.param == "decoder":
        directory = write_checkpoint(folder / "model", random_weights(SMALL), SMALL)
    else:
        directory = write_encoder(folder / "model", BERT)
    rng, vocabulary = np.random.default_rng(1), min(SMALL.vocabulary, BERT.vocabulary)
    texts = [rng.integers(0, vocabulary, n).astype(np.int32) for n in (1, 70, 7, 33, 2, 19)]
    np.savez(folder / "texts.npz", *texts)
    here = load_engine(directory, EngineOptions(dtype="f32", threads=1, kernels="native"))
    return Case(folder, embed(here, texts))


@pytest.fixture(scope="module")
def arm_package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package with kernels for Arm, and what it depends on, as Python's path."""
    if shutil.which(CROSS):
        compiler = CROSS
    elif (ARM / "zig").is_dir():
        compiler = f"{sys.executable} {ARM / 'zig' / 'ziglang'} cc -target aarch64-linux-gnu.2.31"
    else:
        pytest.skip(f"there is no compiler for Arm: {CROSS}, or make arm")
    built = tmp_path_factory.mktemp("arm")
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "kernels")
    shutil.copytree(PACKAGE, built / "embedfleet", ignore=ignored)
    subprocess.run(
        [
            *(sys.executable, "setup.py", "--quiet", "build_ext"),
            *("--build-lib", built, "--build-temp", built / "objects"),
        ],
        cwd=ROOT,
        env=os.environ | {"CC": compiler, "_PYTHON_HOST_PLATFORM": "linux-aarch64"},
        check=True,
        timeout=300,
    )
    return f"{built}{os.pathsep}{ARM / 'site'}"


@x86
@pytest.mark.parametrize(
    ("processor", "instructions", "bits"), [("Haswell", "avx2", True), ("IvyBridge", "portable", 0)]
)
def test_x86_with_fewer_instructions_takes_those_it_has(
    case: Case, processor: str, instructions: str, *, bits: bool
) -> None:
    emulator = ["qemu-x86_64", "-cpu", processor, sys.executable]
    said, found = case.computed_by(emulator, "f32", "auto")
    assert said == f"{instructions} f32\n"
    if bits:
        np.testing.assert_array_equal(found["auto"], case.exact)
    np.testing.assert_allclose(found["auto"], case.exact, atol=5e-6)
    said, found = case.computed_by(emulator, "int8", "auto")
    assert said == f"{instructions} int8\n"
    assert case.cosines(found["auto"]).min() > 0.99


@x86
def test_avx2_has_the_same_bits_emulated_and_forced(case: Case) -> None:
    if "avx2" not in RUNNING:
        pytest.skip("this processor lacks avx2")
    emulator = ["qemu-x86_64", "-cpu", "Haswell", sys.executable]
    _, emulated = case.computed_by(emulator, "int8", "avx2")
    _, forced = case.computed_by([sys.executable], "int8", "avx2")
    np.testing.assert_array_equal(emulated["avx2"], forced["avx2"])


@arm
@pytest.mark.parametrize(
    ("processor", "sets"),
    [
        ("cortex-a72", ("neon", "portable")),
        ("neoverse-n1", ("neon_dotprod", "neon")),
        ("max", ("neon_i8mm", "neon_dotprod", "neon")),
    ],
)
def test_arm_computes_the_same_with_every_instruction_set(
    case: Case, arm_package: str, processor: str, sets: tuple[str, ...]
) -> None:
    python = str(ARM / "root" / "usr" / "bin" / "python3")
    emulator = ["qemu-aarch64", "-cpu", processor, "-L", str(ARM / "root"), python]
    said, found = case.computed_by(emulator, "f32", "auto", *sets, path=arm_package)
    assert said.splitlines() == [f"{name} f32" for name in (sets[0], *sets)]
    for name in sets:
        np.testing.assert_allclose(found[name], case.exact, atol=5e-6)
        if name != "portable":
            np.testing.assert_array_equal(found[name], case.exact)
    said, found = case.computed_by(emulator, "int8", *sets, path=arm_package)
    first, *others = [found[name] for name in sets]
    for other in others:  # the sums are whole numbers
        if "portable" not in sets:
            np.testing.assert_array_equal(other, first)
    for vectors in found.values():
        assert case.cosines(vectors).min() > 0.995


def test_avx_vnni_is_right_in_the_shape_that_avx_512_has(case: Case, tmp_path: Path) -> None:
    """What differs from AVX-VNNI is how the instruction is written in bytes, and nothing else."""
    if not {"avx512_vnni", "avx512vl"} <= processor_flags():
        pytest.skip("this processor lacks avx512_vnni and avx512vl")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", symlinks=True)
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    kernels = source / "src/embedfleet/engines/native/kernels"
    unit = kernels / "sets" / "avx_vnni.c"
    unit.write_text('#define VNNI_SHAPE ""\n' + unit.read_text("utf-8"), encoding="utf-8")
    asked = kernels / "instruction_sets.c"
    said = asked.read_text("utf-8")
    assert said.count("found.avx_vnni = found.avx2 && ALL_OF(a, avx_vnni);") == 1
    said = said.replace("ALL_OF(a, avx_vnni)", "ALL_OF(c, vnni) && ALL_OF(b, vl)")
    asked.write_text(said, encoding="utf-8")
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(build, cwd=source, check=True, timeout=300)
    path = str(source / "src")
    _, found = case.computed_by([sys.executable], "f32", "avx_vnni", path=path)
    np.testing.assert_array_equal(found["avx_vnni"], case.exact)
    _, found = case.computed_by([sys.executable], "int8", "avx_vnni", path=path)
    assert case.cosines(found["avx_vnni"]).min() > 0.998


def test_every_set_of_this_architecture_was_compiled() -> None:
    found = find()
    assert found is not None
    content = found.read_bytes()
    names = {
        "x86_64": (b"avx512_vnni", b"avx_vnni", b"avx2"),
        "aarch64": (b"neon_i8mm", b"neon_dotprod", b"neon"),
    }.get(platform.machine(), ())
    assert all(name + b"\0" in content for name in (*names, b"portable"))
    assert way(RUNNING[0])["kernels"] == "native"
