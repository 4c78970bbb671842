"""The image for processors, built by buildah without a daemon, on a stand-in for the pinned base.

No registry of images is asked. The base is put together by mmdebstrap from Debian's packages as
Debian's own slim images are, with Debian's Python; what pip installs comes from a folder, so that
the build needs no index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedfleet import __version__
from tests.deploying.rendered import ROOT

pytestmark = pytest.mark.slow

SUITE, PYTHON = "bookworm", (3, 11)
LARGEST_MB = 400
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
SLIM = [
    *(f"path-exclude=/usr/share/{each}/*" for each in ("man", "doc", "locale", "info")),
    "path-include=/usr/share/doc/*/copyright",
]
"""What Debian's slim images leave out."""
OF_AN_OLD_PYTHON = "async-timeout==5.0.1"
"""Redis' client wants it before Python 3.11.3. Debian has 3.11.2; the pinned base has 3.12."""
PROGRAMS = ("buildah", "mmdebstrap", "unshare", "setpriv", "ip")


@dataclass(frozen=True)
class Image:
    root: Path
    """Its files, mounted."""
    config: dict[str, Any]
    """As a runtime reads it."""
    megabytes: float


def done(command: Sequence[str], **options: Any) -> str:
    """Run a command; give what it printed."""
    ran: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def why_not() -> str | None:
    """What is missing here for building an image; None if nothing."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed: `make packages` tries to"
    if os.geteuid() != 0:
        return "building without a daemon takes root"
    if not SOURCES.is_file() or SUITE not in SOURCES.read_text(encoding="utf-8"):
        return f"the base is made of Debian {SUITE}'s packages, and {SOURCES} does not name them"
    if sys.version_info[:2] != PYTHON:
        return f"the base has Python {'.'.join(map(str, PYTHON))}, and so must pip here"
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "this machine gives root no namespaces (a container without CAP_SYS_ADMIN)"
    return None


def base(folder: Path) -> Path:
    """An archive of Debian's smallest system with Python, called as in Python's own images."""
    dates = done(["apt-config", "dump", "Acquire::Check-Valid-Until", "Acquire::Check-Date"])
    archive = folder / "base.tar"
    made = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
            # The last one in the place of `usrmerge`, which brings the whole of Perl.
            "--include=python3,python3-venv,ca-certificates,usr-is-merged",
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            *(f"--dpkgopt={each}" for each in SLIM),
            *(f"--aptopt={line}" for line in dates.splitlines()),
            '--customize-hook=ln -s python3 "$1/usr/bin/python"',
            *(SUITE, str(archive), str(SOURCES)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if made.returncode:
        pytest.skip(f"mmdebstrap could not make the stand-in base: {made.stderr[-500:]}")
    return archive


def wheels(folder: Path) -> Path:
    """What the Containerfile installs, as files."""
    locks = [f"--requirement={ROOT}/requirements/{name}.txt" for name in ("build", "image")]
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary=:all:",
        "--no-deps",
    ]
    done([*download, f"--dest={folder / 'wheels'}", *locks, OF_AN_OLD_PYTHON])
    conf = folder / "pip.conf"
    conf.write_text("[global]\nno-index = true\nfind-links = /wheels\n", encoding="utf-8")
    return conf


def context(folder: Path) -> Path:
    """What a clone holds of what the Containerfile copies."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    place = folder / "context"
    place.mkdir()
    for name in ("src", "deploy", "requirements"):
        shutil.copytree(ROOT / name, place / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "build_backend.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    return place


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Built once for all tests."""
    if why := why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("image")
    stored = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
    buildah = ["buildah", *stored]
    policy = folder / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')  # nothing is pulled
    started = done([*buildah, "from", "scratch"]).strip()
    done([*buildah, "add", "--quiet", started, str(base(folder)), "/"])
    done(
        [
            *buildah,
            "commit",
            "--quiet",
            "--signature-policy",
            str(policy),
            started,
            "localhost/base",
        ]
    )
    conf = wheels(folder)
    done(
        [
            *(*buildah, "bud", "--isolation", "chroot", "--format", "docker", "--layers=false"),
            *(
                "--signature-policy",
                str(policy),
                "--pull=false",
                "--build-arg",
                "BASE=localhost/base",
            ),
            *(
                "--volume",
                f"{conf}:/etc/pip.conf:ro",
                "--volume",
                f"{folder / 'wheels'}:/wheels:ro",
            ),
            *("--file", str(ROOT / "deploy/container/Containerfile"), "--target", "cpu"),
            *("--tag", "localhost/embedfleet", str(context(folder))),
        ]
    )
    made = done([*buildah, "from", "--pull=false", "localhost/embedfleet"]).strip()
    root = Path(done([*buildah, "mount", made]).strip())
    told = json.loads(done([*buildah, "inspect", "--type", "image", "localhost/embedfleet"]))
    size = done(["du", "--summarize", "--apparent-size", "--block-size=1", str(root)]).split()[0]
    yield Image(root, told["Docker"]["config"], int(size) / 1e6)
    subprocess.run([*buildah, "umount", "--all"], check=False, capture_output=True)
    subprocess.run([*buildah, "rm", "--all"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)  # a gigabyte


def test_the_image_is_small_and_holds_nothing_that_only_builds(image: Image) -> None:
    assert image.megabytes < LARGEST_MB
    installed = next(image.root.glob("opt/embedfleet/lib/python*/site-packages"))
    there = {path.name for path in installed.iterdir()}
    assert {"embedfleet", "numpy", "kubernetes_asyncio"} <= there
    assert not {"pip", "setuptools", "openvino", "torch", "pytest"} & there
    assert not (image.root / "usr/bin/gcc").exists()
    assert not (image.root / "source").exists()
    assert not (image.root / "opt/build").exists()


def test_the_image_says_what_it_is_and_how_it_is_run(image: Image) -> None:
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["embedfleet"]
    assert config["Cmd"] == ["serve", "builtin", "--host", "0.0.0.0"]  # noqa: S104
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9000/tcp"}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "embedfleet"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]


def test_a_container_of_another_user_serves_from_a_read_only_root(image: Image) -> None:
    spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = str(Path(__file__).with_name("container.py"))
    words = [*spaces, sys.executable, script, str(image.root), json.dumps(image.config), "12345"]
    found = json.loads(done(words).splitlines()[-1])
    assert found["healthy"] == 0, found["log"]
    (length, width), (other, _) = found["vectors"]
    assert (length, other) == pytest.approx((1, 1), abs=1e-3)
    assert width > 100
    assert found["uid"] == ["12345"] * 4
    assert found["written"] == ["Read-only file system", "Read-only file system", "written"]
    assert int(found["kernels"]) > 1, "an instruction set beside the portable one"
    assert found["exit"] == 0, found["log"]
