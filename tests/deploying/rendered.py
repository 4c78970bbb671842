"""What tests of manifests look at: bundles as kustomize makes them, cases as we write them."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedfleet.deploying import fitting, manifests
from embedfleet.deploying.case import Case, Engine, Mode

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BUNDLES = sorted(
    str(path.parent.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("kustomization.yaml")
)
IMAGE = "registry.example.com/embedfleet@sha256:" + 64 * "a"
CUDA_IMAGE = "registry.example.com/embedfleet-cuda@sha256:" + 64 * "b"
QWEN_8B = "Qwen/Qwen3-Embedding-8B@1d8ad4ca9b3dd8059ad90a75d4983776a23d44af"

Document = dict[str, Any]

CASES = {
    "sglang-keda": Case(QWEN_8B, IMAGE, gpu="NVIDIA-L40S", redis=True, host="e.example.org"),
    "sglang-two-gpus": Case(
        QWEN_8B, IMAGE, gpu="NVIDIA-L40S", gpus=2, mode=Mode.DIRECT, namespace="ml", warm_nodes=1
    ),
    "sglang-hpa-only": Case(QWEN_8B, IMAGE, gpu="NVIDIA-L40S", mode=Mode.HPA_ONLY),
    "cuda-keda": Case(
        QWEN_8B, IMAGE, engine=Engine.CUDA, engine_image=CUDA_IMAGE, gpu="NVIDIA-L40S"
    ),
    "cpu-direct": Case(
        "builtin", IMAGE, engine=Engine.CPU, mode=Mode.DIRECT, monitoring=False, max_replicas=3
    ),
    "old-cluster": Case(QWEN_8B, IMAGE, gpu="NVIDIA-L40S", tolerance=0.1),
    "old-cluster-hpa-only": Case(
        QWEN_8B, IMAGE, gpu="NVIDIA-L40S", tolerance=0.1, mode=Mode.HPA_ONLY
    ),
}
"""Every engine, every way of scaling, and what is optional."""


def read(text: str) -> list[Document]:
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def named(documents: list[Document]) -> dict[tuple[str, str], Document]:
    """By kind and name; two of one kind and name are a mistake."""
    found = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert len(found) == len(documents)
    return found


@cache
def _bundle(name: str) -> tuple[Document, ...]:
    files = manifests.files(name)
    return tuple(document for file in files for document in read(manifests.text(file.documents)))


def bundle(name: str) -> list[Document]:
    """The documents of a folder as we read them."""
    return copy.deepcopy(list(_bundle(name)))


@cache
def _case(name: str) -> tuple[Document, ...]:
    case = CASES[name]
    files = [file for each in fitting.bundles(case) for file in manifests.files(each)]
    fitted = fitting.fit(files, case)
    return tuple(document for file in fitted for document in read(manifests.text(file.documents)))


def rendered(name: str) -> list[Document]:
    """The documents of a case as they are written."""
    return copy.deepcopy(list(_case(name)))


def everything() -> list[tuple[str, Document]]:
    """Every document of bundles and cases that differs from the others, with where it is from."""
    found = [(name, each) for name in BUNDLES for each in _bundle(name)]
    found += [(name, each) for name in CASES for each in _case(name)]
    return list({json.dumps(each, sort_keys=True): (name, each) for name, each in found}.values())


def program(name: str) -> str:
    """Path of kubectl or helm, those of `make kubernetes-tools` first; skips the test without."""
    found = shutil.which(name, path=str(ROOT / "build" / "kubernetes")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `make kubernetes-tools` brings it")
    return found


def kustomized(folder: Path) -> list[Document]:
    """What kubectl makes of a folder."""
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def pods(document: Document) -> Iterator[Document]:
    """The pod specification of a Deployment or Job."""
    if document["kind"] in {"Deployment", "Job"}:
        yield document["spec"]["template"]["spec"]


def containers(document: Document) -> Iterator[Document]:
    for pod in pods(document):
        yield from pod.get("initContainers", ())
        yield from pod["containers"]
