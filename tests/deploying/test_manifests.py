"""The manifests as files: valid for each Kubernetes, and read here as kustomize reads them."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from embedfleet.cli.deploy import write
from embedfleet.deploying import manifests
from tests.deploying.custom_resources import SCHEMAS
from tests.deploying.rendered import (
    BUNDLES,
    CASES,
    KUBERNETES,
    Document,
    bundle,
    everything,
    kustomized,
    named,
    read,
    rendered,
)

VERSIONS = [
    pytest.param(f"1.{minor}", marks=[] if minor in {29, 37} else pytest.mark.slow)
    for minor in range(29, 38)
]
TOLERANT = "1.33"
"""From which `tolerance` is a field of an HPA."""


def is_custom(document: Document) -> bool:
    return (document["apiVersion"], document["kind"]) in SCHEMAS


def asks_for_a_tolerance(document: Document) -> bool:
    behavior = document.get("spec", {}).get("behavior", {})
    return any("tolerance" in each for each in behavior.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_for_kubernetes(version: str) -> None:
    """Strictly: a field that the version does not know is an error, as kubectl makes it one."""
    checked = 0
    for where, document in everything():
        if is_custom(document):
            continue
        if asks_for_a_tolerance(document) and float(version[2:]) < float(TOLERANT[2:]):
            with pytest.raises(kubernetes_validate.ValidationError, match="tolerance"):
                kubernetes_validate.validate(document, version, strict=True)
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{where}, {document['kind']} {document['metadata']['name']}: {error}")
        checked += 1
    assert checked > 80


def test_custom_resources_have_the_fields_that_their_definitions_know() -> None:
    seen: Counter[str] = Counter()
    for where, document in everything():
        schema = SCHEMAS.get((document["apiVersion"], document["kind"]))
        if schema is None:
            continue
        seen[document["kind"]] += 1
        errors = list(jsonschema.Draft202012Validator(schema).iter_errors(document))
        assert not errors, f"{where}: {errors[0].message} at {list(errors[0].path)}"
    assert set(seen) == {kind for _, kind in SCHEMAS}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_is_read_as_kustomize_reads_it(name: str) -> None:
    assert named(bundle(name)) == named(kustomized(KUBERNETES / name))


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_what_kubectl_would_apply(name: str, tmp_path: Path) -> None:
    files = write(CASES[name], tmp_path)

    written = [
        document
        for file in files
        if file.name != "kustomization.yaml"
        for document in read(file.read_text(encoding="utf-8"))
    ]
    assert named(written) == named(kustomized(tmp_path)) == named(rendered(name))


@pytest.mark.parametrize("mode", ["keda", "hpa-only", "direct"])
@pytest.mark.parametrize("engine", ["sglang", "cuda", "cpu"])
def test_bundles_that_belong_together_do_not_overlap(engine: str, mode: str) -> None:
    chosen = ["base", f"overlays/engine-{engine}", f"overlays/{mode}"]
    chosen += [f"overlays/{name}" for name in ("gateway", "redis", "monitoring", "ingress")]
    named([document for name in chosen for document in bundle(name)])


def test_the_rules_are_those_of_the_monitoring_folder() -> None:
    spec = importlib.util.spec_from_file_location("w", KUBERNETES / "write_monitoring.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    written = (KUBERNETES / "overlays/monitoring/rules.yaml").read_text(encoding="utf-8")
    assert written == writer.rules(), "run: make docs"


def test_comments_survive_what_a_case_changes() -> None:
    """They say why; without them nobody would dare to change a line."""
    for file in manifests.files("overlays/engine-sglang"):
        source = KUBERNETES / "overlays/engine-sglang" / file.name.removeprefix("engine-sglang-")
        comments = [line.strip() for line in source.read_text().splitlines() if "# " in line]
        text = manifests.text(file.documents)
        assert comments
        assert [line for line in comments if line not in text] == []
