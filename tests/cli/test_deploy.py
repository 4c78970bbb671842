"""`embedfleet deploy kubernetes` as it is typed, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.cli.deploy import write
from embedfleet.deploying import fitting, manifests
from embedfleet.deploying.case import Case, Engine
from embedfleet.vocabulary import SettingError
from tests.deploying.rendered import CASES, IMAGE, QWEN_8B, bundle, named, read, rendered

GOOD = CASES["sglang-keda"]
BASE = ["deploy", "kubernetes", "--model", QWEN_8B, "--image", IMAGE, "--gpu", "NVIDIA-L40S"]


def test_a_case_becomes_a_folder_that_kubectl_applies(tmp_path: Path) -> None:
    folder = tmp_path / "deployment"
    done = CliRunner().invoke(app, [*BASE, "--redis", "--max-replicas", "4", "-o", str(folder)])

    assert done.exit_code == 0, done.output
    assert f"kubectl apply -k {folder}" in done.output
    names = {each.name for each in folder.iterdir()}
    assert {"kustomization.yaml", "gateway-deployment.yaml", "redis-redis.yaml"} <= names
    (scaled,) = read((folder / "keda-scaledobject.yaml").read_text())
    assert scaled["spec"]["maxReplicaCount"] == 4
    (resources,) = read((folder / "kustomization.yaml").read_text())
    assert sorted([*resources["resources"], "kustomization.yaml"]) == sorted(names)


def test_writing_twice_gives_the_same_and_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in write(GOOD, tmp_path)}
    assert {path: path.read_bytes() for path in write(GOOD, tmp_path)} == first
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SettingError, match=r"notes\.txt"):
        write(GOOD, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "Qwen/Qwen3-Embedding-8B"}, "a revision must be pinned"),
        ({"model": "Qwen/Qwen3-Embedding-8B@main"}, "40 hex digits"),
        ({"model": "builtin"}, "--engine cpu"),
        ({"image": "registry.example.com/embedfleet:1.0"}, "give its digest"),
        ({"image": ""}, "--image is missing"),
        ({"engine_image": "lmsysorg/sglang:latest"}, "--engine-image lmsysorg/sglang:latest"),
        ({"gpu": ""}, "kubectl get nodes -L nvidia.com/gpu.product"),
        ({"engine": Engine.CPU}, "--engine cpu has none"),
        ({"engine": Engine.CPU, "gpu": "", "fp8": True}, "--fp8 is for --engine sglang"),
        ({"min_replicas": 9}, "no more than the most"),
        ({"min_replicas": 0}, "at least one"),
        ({"gpus": 0}, "--gpus-per-replica"),
        ({"tolerance": 1.0}, "--tolerance 1"),
        ({"namespace": "Embed"}, "a namespace has"),
        ({"served_name": "my model"}, "--served-name my model"),
        ({"host": "localhost"}, "not a host name"),
        ({"host": f"{'a' * 64}.example.org"}, "not a host name"),
        ({"namespace": "n" * 64}, "at most 63"),
        ({"served_name": "n" * 64}, "at most 63"),
        ({"release": "x: y"}, "it is a label"),
        ({"storage_class": "Bad\nname"}, "not the name of a StorageClass"),
        ({"prometheus": "prometheus:9090"}, "not an address such as http://prometheus"),
        ({"storage": "40"}, "such as 40Gi"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_would_be_right(
    changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingError) as refusal:
        replace(GOOD, **changes).check()  # type: ignore[arg-type]
    assert said in str(refusal.value)


def test_the_defaults_in_the_code_are_what_the_manifests_say() -> None:
    """A word that is nowhere any more would silently not be replaced."""
    text = "".join(
        manifests.text(file.documents)
        for name in fitting.bundles(replace(fitting.DEFAULT, redis=True, warm_nodes=1))
        for file in manifests.files(name)
    )
    old = fitting.DEFAULT
    for word in (old.model, old.snapshot, old.image, old.host, old.prometheus, old.gpu, old.name):
        assert word in text


def test_a_case_that_asks_for_the_defaults_changes_nothing_but_the_checksum() -> None:
    case = replace(fitting.DEFAULT, redis=True)
    files = [file for name in fitting.bundles(case) for file in manifests.files(name)]
    fitted = named(
        [each for file in fitting.fit(files, case) for each in read(manifests.text(file.documents))]
    )
    plain = named([each for name in fitting.bundles(case) for each in bundle(name)])
    for key in (("Deployment", "gateway"), ("ResourceQuota", "embedfleet-gpus")):
        del fitted[key], plain[key]
    # A job can't be changed, so its name says which image fetches.
    (name,) = (key for key in fitted if key[0] == "Job")
    job = fitted.pop(name)
    job["metadata"]["name"] = f"model-{fitting.DEFAULT.revision[:8]}"
    fitted["Job", job["metadata"]["name"]] = job
    assert fitted == plain


def test_nothing_of_the_default_model_stays_in_another_ones_manifests() -> None:
    for name in CASES:
        text = str(rendered(name))
        assert "5cf2132a" not in text
        assert "Embedding-4B" not in text
        assert "registry.invalid" not in text


def test_the_builtin_model_needs_no_volume_and_no_download() -> None:
    found = named(rendered("cpu-direct"))
    assert not [key for key in found if key[0] in {"PersistentVolumeClaim", "Job"}]
    pod = found["Deployment", "engine"]["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert pod["containers"][0]["args"][:2] == ["replica", "builtin"]
    assert "models" not in str(pod)


def test_fp8_and_the_engines_own_image_reach_the_engine() -> None:
    image = "lmsysorg/sglang@sha256:" + 64 * "c"
    case = Case(QWEN_8B, IMAGE, gpu="NVIDIA-L40S", fp8=True, engine_image=image)
    files = [file for name in fitting.bundles(case) for file in manifests.files(name)]
    documents = [each for file in fitting.fit(files, case) for each in file.documents]
    (engine,) = [
        each
        for each in documents
        if each["metadata"]["name"] == "engine" and each["kind"] == "Deployment"
    ]
    container = engine["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == image
    assert container["args"][container["args"].index("--quantization") + 1] == "fp8"
