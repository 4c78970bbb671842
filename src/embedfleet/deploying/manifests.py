"""Reads the manifests that ship with embedfleet as YAML documents.

Implements the few fields of `kustomization.yaml` that they use, with kustomize's meaning (a test
compares the two). Comments are kept for readers of the generated files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import embedfleet
from embedfleet.runtime.extras import how_to_add
from embedfleet.vocabulary import SetupError

DEPLOY = Path(embedfleet.__file__).parent / "deploying" / "files"
KUBERNETES = DEPLOY / "kubernetes"
KNOWN_FIELDS = {"apiVersion", "kind", "resources", "namespace", "configMapGenerator"}

Document = Any
"""A mapping as the YAML library reads it: a dict that remembers its comments."""


@dataclass(slots=True)
class File:
    """A file of manifests."""

    name: str
    """Of the file to write, for instance `gateway-deployment.yaml`."""
    documents: list[Document]
    """What it holds; changed in place where a case wants something else."""


def _yaml() -> Any:
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415  an extra
    except ImportError as error:
        raise SetupError(f"writing manifests takes an extra: {how_to_add('kubernetes')}") from error
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line: a query stays one
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def files(bundle: str) -> list[File]:
    """The files of a folder below `deploy/kubernetes`, such as `base` or `overlays/gateway`."""
    if not KUBERNETES.is_dir():
        raise SetupError(
            f"the manifests are missing from this installation of embedfleet: {KUBERNETES}"
        )
    return list(_files(KUBERNETES / bundle, bundle.rpartition("/")[2]))


def text(documents: list[Document]) -> str:
    """As YAML, with the comments."""
    yaml, out = _yaml(), io.StringIO()
    if len(documents) == 1:
        yaml.dump(documents[0], out)
    else:
        yaml.dump_all(documents, out)
    return out.getvalue()


def _files(folder: Path, prefix: str) -> Iterator[File]:
    yaml = _yaml()
    chosen = yaml.load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(chosen) - KNOWN_FIELDS
    if unknown:
        raise SetupError(f"{folder}/kustomization.yaml has unknown fields: {sorted(unknown)}")
    for entry in chosen.get("resources") or ():
        path = folder / entry
        if path.is_dir():
            yield from _files(path, prefix)
        else:
            documents = list(yaml.load_all(path.read_text(encoding="utf-8")))
            yield File(f"{prefix}-{path.stem}.yaml", documents)
    for made in chosen.get("configMapGenerator") or ():
        document = _config_map(folder, made, chosen.get("namespace"))
        yield File(f"{prefix}-{made['name']}.yaml", [document])


def _config_map(folder: Path, made: Document, namespace: str | None) -> Document:
    from ruamel.yaml.scalarstring import LiteralScalarString  # noqa: PLC0415

    options = made["options"]
    if not options.get("disableNameSuffixHash"):
        raise SetupError(f"{folder}: generated names with hash suffixes are not supported")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": made["name"],
            "namespace": namespace,
            "labels": dict(options.get("labels") or {}),
        },
        "data": {
            Path(file).name: LiteralScalarString((folder / file).read_text(encoding="utf-8"))
            for file in made["files"]
        },
    }
