"""What is released: the same bytes from the same sources, whole, with licences and no more."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-release" / "bin"
EPOCH = "1790000000"
LICENCES = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")


def copied(destination: Path) -> Path:
    """The repository at another place and with other times."""
    made = shutil.ignore_patterns(
        *(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "node_modules", "tests")
    )
    shutil.copytree(ROOT, destination, ignore=made)
    for path in destination.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (1_600_000_000, 1_600_000_000 + len(str(destination))))
    (destination / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_work.py", destination / "tests")
    return destination


def made(source: Path, *words: str, umask: int = -1, path: str = os.environ["PATH"]) -> None:
    """Run a command of the tools that build, in a copy of the sources."""
    done = subprocess.run(
        [str(TOOLS / "python"), *words],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH, "PATH": path},
        umask=umask,
        timeout=600,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def built(source: Path, umask: int) -> dict[str, Path]:
    """A source distribution, and a wheel made of it, by kind."""
    made(source, "-m", "build", "--no-isolation", "--outdir", "out", umask=umask)
    (wheel,) = (source / "out").glob("*.whl")
    (archive,) = (source / "out").glob("*.tar.gz")
    return {"wheel": wheel, "source": archive}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    """Two builds of the same sources."""
    if not TOOLS.exists():
        pytest.skip("`make dist` installs what builds")
    folder = tmp_path_factory.mktemp("released")
    return [
        built(copied(folder / "one"), 0o022),
        built(copied(folder / "another-place"), 0o077),
    ]


@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_the_same_sources_give_the_same_bytes(released: list[dict[str, Path]], kind: str) -> None:
    one, another = (each[kind] for each in released)
    assert one.name == another.name
    sums = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (one, another)]
    assert sums[0] == sums[1]


def test_a_source_distribution_holds_what_builds_and_nothing_else(
    released: list[dict[str, Path]],
) -> None:
    with tarfile.open(released[0]["source"]) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    tops = {name.partition("/")[0] for name in names} - {""}
    files = {"LICENSE", "README.md", "MANIFEST.in", "PKG-INFO", "setup.cfg"}
    assert tops == files | {"build_backend.py", "pyproject.toml", "setup.py", "src"}
    assert not [name for name in names if re.search(r"__pycache__|\.py[co]$|\.so$|/tests?/", name)]


def test_a_wheel_holds_licences_and_truthful_metadata(released: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(released[0]["wheel"]) as opened:
        names = opened.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = message_from_string(opened.read(metadata).decode())
    for licence in LICENCES:
        assert any(
            f".dist-info/licenses/{licence}" in n or n.endswith(f"/{licence}") for n in names
        )
    assert told["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0 AND MIT"
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    assert str(told.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert not [name for name in names if re.search(r"__pycache__|\.py[co]$|/tests?/", name)]


def test_a_wheel_runs_where_nothing_else_of_the_repository_is(
    released: list[dict[str, Path]], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    place = tmp_path / "installed"
    subprocess.run([*pip, "--target", str(place), str(released[0]["wheel"])], check=True)
    environment = os.environ | {"PYTHONPATH": str(place)}

    def said(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "embedfleet", *words],
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=120,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    where = "import embedfleet; print(embedfleet.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert found.stdout.startswith(str(place))
    assert said("--version").strip().endswith("0.1.0")
    assert "gateway.playground" in said("config", "--docs")


@pytest.fixture(scope="module")
def for_arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for 64-bit Arm, made on whatever this machine is."""
    if not (TOOLS.parent / "lib").exists() or not list(
        TOOLS.parent.glob("lib/*/site-packages/ziglang")
    ):
        pytest.skip("`make dist` installs what builds")
    source = copied(tmp_path_factory.mktemp("arm") / "source")
    path = f"{TOOLS}:{os.environ['PATH']}"
    made(source, "requirements/wheel.py", "aarch64", "out", path=path)
    (wheel,) = (source / "out").glob("*.whl")
    return wheel


def test_the_wheel_for_arm_is_one_and_runs_where_its_name_says(for_arm: Path) -> None:
    named = re.fullmatch(
        r"embedfleet-[\d.]+-py3-none-(.*manylinux_2_(\d+)_aarch64)\.whl", for_arm.name
    )
    assert named, for_arm.name
    assert int(named[2]) <= 28, "as NumPy's"
    with zipfile.ZipFile(for_arm) as opened:
        names = opened.namelist()
        kernels = [name for name in names if name.endswith(".so")]
        assert kernels == ["embedfleet/engines/native/_kernels.so"]
        head = opened.read(kernels[0])[:20]
        (wheel,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        tags = re.findall(r"(?m)^Tag: py3-none-(\S+)$", opened.read(wheel).decode())
    elf_64_little, aarch64 = b"\x7fELF\x02\x01", 183
    assert head.startswith(elf_64_little)
    assert int.from_bytes(head[18:20], "little") == aarch64
    assert set(tags) == set(named[1].split("."))
    assert "embedfleet/py.typed" in names


def test_wheels_differ_in_their_kernels_alone(
    released: list[dict[str, Path]], for_arm: Path
) -> None:
    def held(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as opened:
            found = {each.filename: each.CRC for each in opened.infolist()}
        own = re.compile(r".*\.so|.*/RECORD|.*/WHEEL|.*/sboms/.*|.*/")
        return {name: crc for name, crc in found.items() if not own.fullmatch(name)}

    assert held(for_arm) == held(released[0]["wheel"])


def test_the_bill_of_materials_is_valid_names_every_pin_and_what_is_vendored() -> None:
    if not TOOLS.exists():
        pytest.skip("`make dist` installs what writes it")
    environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH}
    script = [str(TOOLS / "python"), str(ROOT / "requirements" / "sbom.py")]
    texts = [
        subprocess.run(script, env=environment, check=True, stdout=subprocess.PIPE).stdout
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    check = (
        "import sys\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())\n"
        "assert not wrong, wrong\n"
    )
    subprocess.run([str(TOOLS / "python"), "-c", check], input=texts[0], check=True, timeout=120)
    listed = {
        f"{each['name'].lower().replace('_', '-')}=={each['version']}"
        for each in json.loads(texts[0])["components"]
    }
    pins = (ROOT / "requirements" / "runtime.txt").read_text("utf-8").splitlines()
    assert {pin for pin in pins if not pin.startswith("#")} <= listed
    assert any(each.startswith("swagger-ui-dist==") for each in listed)
