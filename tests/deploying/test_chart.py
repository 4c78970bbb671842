"""The Helm chart: what it renders is what `embedfleet deploy kubernetes` writes for the same case.

So whatever tests hold for the latter, the 26 points above all, holds for a release of the chart;
and since its templates are written from the manifests, neither can change alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from embedfleet import __version__
from embedfleet.deploying.case import Case, Engine
from embedfleet.vocabulary import SettingError
from tests.deploying import test_points
from tests.deploying.custom_resources import SCHEMAS
from tests.deploying.rendered import (
    CASES,
    CUDA_IMAGE,
    IMAGE,
    QWEN_8B,
    ROOT,
    Document,
    named,
    program,
    read,
    rendered,
)

HELM = ROOT / "deploy" / "helm"
CHART = HELM / "embedfleet"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

NAMES = {
    "gpus": "gpusPerReplica",
    "mode": "scaling",
    "release": "monitoringRelease",
}
"""Values that are not called as the field of a case in camel case."""

MORE_CASES = {
    "cpu": Case(QWEN_8B, IMAGE, engine=Engine.CPU, storage="80Gi", storage_class="fast"),
    "fp8": Case(QWEN_8B, IMAGE, gpu="NVIDIA-L40S", gpus=4, fp8=True, served_name="embed"),
    "builtin-cuda": Case(
        "builtin", IMAGE, engine=Engine.CUDA, engine_image=CUDA_IMAGE, gpu="NVIDIA-L40S"
    ),
    "elsewhere": Case(
        *(QWEN_8B, IMAGE, Engine.SGLANG, CUDA_IMAGE, "NVIDIA-L40S"),
        min_replicas=3,
        max_replicas=9,
        monitoring_namespace="observed",
        release="prometheus",
        prometheus="https://prometheus.example.com:9090",
    ),
}
ALL = CASES | MORE_CASES
OURS = {f"app.kubernetes.io/{name}" for name in ("instance", "managed-by", "version")}
OURS |= {"helm.sh/chart", "helm.sh/resource-policy"}


def camel(name: str) -> str:
    first, *rest = NAMES.get(name, name).split("_")
    return first + "".join(each.capitalize() for each in rest)


def values(case: Case) -> dict[str, Any]:
    """The values of a release, from the fields of a case."""
    given = {camel(each.name): getattr(case, each.name) for each in fields(case)}
    del given["namespace"]  # of the release
    return {name: value for name, value in given.items() if value != ""}


def helm(*arguments: str, given: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "values.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    home = {f"HELM_{name}_HOME": str(folder / "helm") for name in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [program("helm"), *arguments, "--values", str(file)],
        env=os.environ | home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def templated(given: dict[str, Any], folder: Path, namespace: str = "embedfleet") -> list[Document]:
    """What a release consists of."""
    place = ["--namespace", namespace, "--kube-version", "1.35"]
    done = helm("template", "vectors", str(CHART), *place, given=given, folder=folder)
    assert done.returncode == 0, done.stderr
    return [each for each in read(done.stdout) if each is not None]


def without_helms_own(document: Document) -> Document:
    """A manifest without the labels that the chart adds, each of which must be there."""
    metadata = document["metadata"]
    labels = metadata["labels"]
    assert {"app.kubernetes.io/instance", "helm.sh/chart"} <= set(labels)
    metadata["labels"] = {key: value for key, value in labels.items() if key not in OURS}
    if document["kind"] == "PersistentVolumeClaim":
        assert metadata.pop("annotations") == {"helm.sh/resource-policy": "keep"}
    return document


def case_documents(name: str) -> dict[tuple[str, str], Document]:
    """What is written for a case, without the namespace: a release is installed into one."""
    if name in CASES:
        documents = rendered(name)
    else:
        from embedfleet.deploying import fitting, manifests  # noqa: PLC0415

        case = ALL[name]
        files = [file for each in fitting.bundles(case) for file in manifests.files(each)]
        fitted = fitting.fit(files, case)
        documents = [each for file in fitted for each in read(manifests.text(file.documents))]
    return named([each for each in documents if each["kind"] != "Namespace"])


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_chart", HELM / "write_chart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_templates_are_those_that_the_manifests_give() -> None:
    written = writer().templates()
    by_hand = {"_helpers.tpl", "NOTES.txt", "validation.yaml"}
    there = {path.name: path.read_text("utf-8") for path in (CHART / "templates").iterdir()}
    assert set(there) == set(written) | by_hand
    assert {name for name, text in written.items() if there[name] != text} == set(), "make docs"


def test_the_chart_is_of_the_release_that_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def test_every_flag_of_the_command_is_a_value_with_the_same_default() -> None:
    default = values(replace(Case("builtin", ""), model=VALUES["model"], storage=VALUES["storage"]))
    assert {name: VALUES[name] for name in default} == default
    names = {camel(each.name) for each in fields(Case)} - {"namespace"}
    assert names <= set(VALUES)


def test_every_value_is_explained_and_in_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)
    assert set(SCHEMA["properties"]) == {*VALUES, "global"}
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    blocks = re.split(r"\n\n", text)
    for name in VALUES:
        (block,) = [each for each in blocks if re.search(rf"(?m)^{name}:", each)]
        assert "# " in block, f"{name} has no comment"


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_release_is_what_the_command_writes(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    case.check()
    found = templated(values(case), tmp_path, case.namespace)
    assert named([without_helms_own(each) for each in found]) == case_documents(name)


@pytest.mark.slow
def test_what_helm_adds_is_valid_for_kubernetes(tmp_path: Path) -> None:
    """Labels and an annotation; the rest was validated with the cases."""
    checked = 0
    for name in ("sglang-hpa-only", "cpu-direct"):
        for document in templated(values(CASES[name]) | {"tolerance": 0.1}, tmp_path):
            schema = SCHEMAS.get((document["apiVersion"], document["kind"]))
            if schema is not None:
                jsonschema.Draft202012Validator(schema).validate(document)
                continue
            kubernetes_validate.validate(document, "1.29", strict=True)
            checked += 1
    assert checked > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "sglang-keda", "cuda-keda", "cpu-direct"])
def test_helm_finds_nothing_to_mind(name: str | None, tmp_path: Path) -> None:
    given = {} if name is None else values(ALL[name])
    done = helm("lint", "--strict", str(CHART), given=given, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.slow
def test_a_packaged_chart_is_whole(tmp_path: Path) -> None:
    """Dashboards and rules are links in the repository, and files in a package."""
    target = ["--destination", str(tmp_path)]
    done = subprocess.run(
        [program("helm"), "package", str(CHART), *target],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    package = tmp_path / f"embedfleet-{__version__}.tgz"
    given = values(CASES["sglang-keda"])
    done = helm("template", "x", str(package), given=given, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = named([each for each in read(done.stdout) if each is not None])
    dashboards = found["ConfigMap", "dashboards"]["data"]
    assert {"service.json", "fleet.json", "engine.json"} == set(dashboards)
    assert found["PrometheusRule", "embedfleet-alerts"]["spec"]["groups"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": ""}, "image is missing"),
    "a tag": ({"image": "registry.example.com/embedfleet:1.0"}, "image"),
    "no revision": ({"model": "Qwen/Qwen3-Embedding-8B"}, "model"),
    "no GPU": ({"gpu": ""}, "gpu is missing"),
    "a GPU for processors": ({"engine": "cpu"}, "gpu and warmNodes are for GPU engines"),
    "builtin by SGLang": ({"model": "builtin"}, "engine: cpu"),
    "no CUDA image": ({"engine": "cuda"}, "engineImage is missing"),
    "FP8 elsewhere": ({"engine": "cpu", "gpu": "", "fp8": True}, "fp8 is for engine: sglang"),
    "bounds": ({"minReplicas": 9}, "minReplicas 9 and maxReplicas 8"),
    "no replica": ({"minReplicas": 0}, "minReplicas"),
    "tolerance": ({"tolerance": 1.0}, "tolerance"),
    "no host name": ({"host": "not a host"}, "host"),
    "no quantity": ({"storage": "much"}, "storage"),
    "no label": ({"servedName": "a name"}, "servedName"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_the_command_refuses_is_refused_by_name(what: str, tmp_path: Path) -> None:
    changes, message = REFUSED[what]
    case = CASES["old-cluster"]
    of_fields = {camel(each.name): each.name for each in fields(Case)}
    changed = replace(case, **{of_fields[name]: value for name, value in changes.items()})
    changed = replace(changed, engine=Engine(changed.engine))
    with pytest.raises(SettingError):
        changed.check()
    given = values(case) | changes
    done = helm("template", "x", str(CHART), given=given, folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.slow
def test_a_misspelt_value_is_refused(tmp_path: Path) -> None:
    given = values(CASES["sglang-keda"]) | {"maxReplica": 3}
    done = helm("template", "x", str(CHART), given=given, folder=tmp_path)
    assert done.returncode != 0
    assert "maxReplica" in done.stderr


@pytest.mark.slow
def test_what_a_release_says_of_pods_arrives_where_it_is_meant(tmp_path: Path) -> None:
    tolerated = {"key": "embeddings", "operator": "Exists"}
    more = {
        "imagePullSecrets": [{"name": "registry"}],
        "engineResources": {"limits": {"memory": "64Gi"}},
        "engineEnv": {"HF_HUB_VERBOSITY": "debug"},
        "engineNodeSelector": {"pool": "gpus"},
        "engineTolerations": [tolerated],
        "gatewayResources": {"requests": {"cpu": 4}},
        "gatewayEnv": {"EMBEDFLEET_LOG_LEVEL": "debug", "EMBEDFLEET_GATEWAY_DRAIN_TIMEOUT_S": 90},
        "gatewayMinReplicas": 3,
        "host": "e.example.org",
        "ingressClassName": "nginx",
        "ingressAnnotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
        "priorityClasses": False,
    }
    for name in ("sglang-keda", "cuda-keda", "cpu-direct"):
        plain = named(templated(values(CASES[name]), tmp_path))
        found = named(templated(values(CASES[name]) | more, tmp_path))
        for (kind, which), document in found.items():
            if kind in {"Deployment", "Job"}:
                pod = document["spec"]["template"]["spec"]
                assert pod["imagePullSecrets"] == [{"name": "registry"}], which
        pod = found["Deployment", "engine"]["spec"]["template"]["spec"]
        (engine,) = pod["containers"]
        (before,) = plain["Deployment", "engine"]["spec"]["template"]["spec"]["containers"]
        assert engine["resources"]["limits"] == before["resources"]["limits"] | {"memory": "64Gi"}
        assert engine["env"] == [*before["env"], {"name": "HF_HUB_VERBOSITY", "value": "debug"}]
        assert pod["nodeSelector"] == {"pool": "gpus"}
        assert pod["tolerations"][-1] == tolerated
        assert (len(pod["tolerations"]) > 1) == (name != "cpu-direct")
        (gateway,) = found["Deployment", "gateway"]["spec"]["template"]["spec"]["containers"]
        assert gateway["resources"]["requests"]["cpu"] == 4
        assert gateway["resources"]["requests"]["memory"] == "1Gi"
        assert test_points.variables(gateway) == {
            "EMBEDFLEET_LOG_LEVEL": "debug",
            "EMBEDFLEET_GATEWAY_DRAIN_TIMEOUT_S": "90",
        }
        assert found["HorizontalPodAutoscaler", "gateway"]["spec"]["minReplicas"] == 3
        ingress = found["Ingress", "gateway"]
        assert ingress["spec"]["ingressClassName"] == "nginx"
        assert ingress["metadata"]["annotations"]["cert-manager.io/cluster-issuer"] == "letsencrypt"
        assert not [which for kind, which in found if kind == "PriorityClass"]
