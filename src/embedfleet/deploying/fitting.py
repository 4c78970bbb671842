"""Adapts the shipped manifests to one deployment.

Selects the manifests that it needs and replaces each default everywhere it occurs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from embedfleet.deploying.case import BUILT_IN, Case, Engine
from embedfleet.deploying.manifests import Document, File
from embedfleet.deploying.queries import nudged, wanted
from embedfleet.fleet.providers.engine_commands import Launch, command, words
from embedfleet.vocabulary import SetupError

DEFAULT = Case(
    model="Qwen/Qwen3-Embedding-4B@5cf2132abc99cad020ac570b19d031efec650f2b",
    image="registry.invalid/embedfleet@sha256:" + 64 * "0",
    gpu="NVIDIA-H100-80GB-HBM3",
    host="embeddings.example.com",
    prometheus="http://prometheus-operated.monitoring.svc:9090",
)
"""What the manifests in `deploy/` say."""

GPU = "nvidia.com/gpu"
CHECKSUM = "embedfleet/settings-checksum"


def bundles(case: Case) -> list[str]:
    """Folders below `deploy/kubernetes` that a case takes, in the order to apply them."""
    chosen = ["base", "overlays/gateway", f"overlays/engine-{case.engine}"]
    chosen.append(f"overlays/{case.mode}")
    chosen += ["overlays/redis"] * case.redis
    chosen += ["overlays/monitoring"] * case.monitoring
    chosen += ["overlays/warm-node"] * bool(case.warm_nodes)
    chosen += ["overlays/ingress"] * bool(case.host)
    return chosen


def fit(files: list[File], case: Case) -> list[File]:
    """The files of a case, from those of its bundles; documents are changed in place."""
    if case.model in BUILT_IN:
        files = list(_without_volume(files))
    documents = [document for file in files for document in file.documents]
    for document in documents:
        _replaced(document, _words(case))
        _fit_one(document, case)
    for document in documents:
        _note_checksum(document, documents)
    return files


# -- words that stand in many places -------------------------------------------------------


def _words(case: Case) -> Callable[[str], str]:
    """What is written instead of the defaults, in any text."""
    old = DEFAULT
    pairs = [
        (old.snapshot, case.snapshot),
        (old.model, case.model),
        (old.image, case.image),
        (old.image.replace("/embedfleet@", "/embedfleet-cuda@"), case.engine_image),
        (f"model-{old.revision[:8]}", _job(case)),
        (f'"{old.name}"', f'"{case.name}"'),
        (old.host, case.host),
        (old.prometheus, case.prometheus or _prometheus(case)),
        ("embedfleet/engine", f"{case.namespace}/engine"),
        ("embedfleet/gateway:", f"{case.namespace}/gateway:"),
        (".embedfleet.svc", f".{case.namespace}.svc"),
    ]

    def changed(text: str) -> str:
        for before, after in pairs:
            text = text.replace(before, after)
        return text

    return changed


def _job(case: Case) -> str:
    """Name of the job that fetches: a job can't be changed, so another image is another job."""
    return f"model-{case.revision[:8]}-{case.image.rpartition(':')[2][:8]}"


def _prometheus(case: Case) -> str:
    return f"http://prometheus-operated.{case.monitoring_namespace}.svc:9090"


def _replaced(node: Any, changed: Callable[[str], str]) -> None:
    """Change every text below a node, in place, and keep how it is written."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        if isinstance(value, dict | list):
            _replaced(value, changed)
        elif isinstance(value, str) and changed(value) != value:
            node[key] = type(value)(changed(value))


# -- each kind of document -----------------------------------------------------------------


def _fit_one(document: Document, case: Case) -> None:
    metadata, kind = document["metadata"], document["kind"]
    if "namespace" in metadata:
        metadata["namespace"] = case.namespace
    if kind == "Namespace":
        metadata["name"] = case.namespace
    if "release" in metadata["labels"]:
        metadata["labels"]["release"] = case.release
    for subject in document.get("subjects") or ():
        subject["namespace"] = case.namespace
    fitting = FITTINGS.get(kind)
    if fitting is not None:
        fitting(document, case)


def _fit_config(document: Document, case: Case) -> None:
    data = document["data"]
    if "embedfleet.toml" not in data:
        return
    toml = data["embedfleet.toml"]
    changes = [
        (r"(?m)^min_replicas = \d+$", f"min_replicas = {case.min_replicas}"),
        (r"(?m)^max_replicas = \d+$", f"max_replicas = {case.max_replicas}"),
    ]
    if case.model in BUILT_IN:
        changes.append((r"(?m)^# Tokenizer and golden.*\ntokenizer_dir = .*\n?", ""))
    for pattern, instead in changes:
        changed, count = re.subn(pattern, instead, str(toml))
        if count != 1:
            raise SetupError(f"the gateway's settings hold {pattern} {count} times")
        toml = type(toml)(changed)
    data["embedfleet.toml"] = toml


def _fit_quota(document: Document, case: Case) -> None:
    document["spec"]["hard"][f"requests.{GPU}"] = str(case.quota)


def _fit_claim(document: Document, case: Case) -> None:
    if case.storage_class:
        document["spec"]["storageClassName"] = case.storage_class
    if case.storage:
        document["spec"]["resources"]["requests"]["storage"] = case.storage


def _fit_scaled_object(document: Document, case: Case) -> None:
    spec = document["spec"]
    spec["minReplicaCount"], spec["maxReplicaCount"] = case.min_replicas, case.max_replicas
    spec["fallback"]["replicas"] = case.fallback_replicas
    query = wanted(case.namespace, case.name)
    if case.tolerance:
        query = nudged(case.namespace, case.name, case.tolerance)
        _forget_tolerance(spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"])
    metadata = spec["triggers"][0]["metadata"]
    metadata["query"] = type(metadata["query"])(query)


def _fit_hpa(document: Document, case: Case) -> None:
    spec = document["spec"]
    if spec["scaleTargetRef"]["name"] != "engine":
        return
    spec["minReplicas"], spec["maxReplicas"] = case.min_replicas, case.max_replicas
    external = spec["metrics"][0]["external"]
    external["metric"]["selector"]["matchLabels"]["pool"] = case.name
    if case.tolerance:
        _forget_tolerance(spec["behavior"])


def _forget_tolerance(behavior: Document) -> None:
    """Servers that do not know the field refuse it."""
    for direction in ("scaleUp", "scaleDown"):
        del behavior[direction]["tolerance"]


def _fit_policy(document: Document, case: Case) -> None:
    rules = [*document["spec"].get("ingress", ()), *document["spec"].get("egress", ())]
    for peer in [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]:
        labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
        if labels.get("kubernetes.io/metadata.name") == "monitoring":
            labels["kubernetes.io/metadata.name"] = case.monitoring_namespace


def _fit_monitor(document: Document, case: Case) -> None:
    document["spec"]["namespaceSelector"]["matchNames"] = [case.namespace]


def _fit_deployment(document: Document, case: Case) -> None:
    name, pod = document["metadata"]["name"], document["spec"]["template"]["spec"]
    if name == "placeholder":
        document["spec"]["replicas"] = case.warm_nodes
    if name == "engine":
        _fit_engine(pod, case)
    if name in {"engine", "placeholder"} and case.engine is not Engine.CPU:
        _fit_gpus(pod, case)


def _fit_gpus(pod: Document, case: Case) -> None:
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] = [case.gpu]
    resources = pod["containers"][0]["resources"]
    for each in (resources["requests"], resources["limits"]):
        each[GPU] = case.gpus


def _fit_engine(pod: Document, case: Case) -> None:
    container = pod["containers"][0]
    if case.engine_image:
        container["image"] = case.engine_image
    if case.engine is not Engine.SGLANG:
        return
    launch = Launch(
        case.snapshot,
        30_000,
        "0.0.0.0",  # noqa: S104  the pod's own address; a NetworkPolicy says who reaches it
        case.gpus,
        fp8=case.fp8,
        name=case.name,
    )
    container["args"] = words(command("sglang", launch)[1:])


# -- the built-in model, which is in the image ---------------------------------------------


def _without_volume(files: list[File]) -> Iterator[File]:
    for file in files:
        file.documents = [each for each in file.documents if not _is_of_the_model(each)]
        for document in file.documents:
            if document["kind"] == "Deployment":
                _forget_volume(document["spec"]["template"]["spec"])
        if file.documents:
            yield file


def _is_of_the_model(document: Document) -> bool:
    labels = document["metadata"].get("labels", {})
    return bool(labels.get("app.kubernetes.io/component") == "model")


def _forget_volume(pod: Document) -> None:
    pod.pop("initContainers", None)
    pod["volumes"] = [each for each in pod.get("volumes", ()) if each["name"] != "model"]
    for container in pod["containers"]:
        mounts = container.get("volumeMounts", [])
        container["volumeMounts"] = [each for each in mounts if each["name"] != "model"]
        variables = container.get("env", [])
        kept = [each for each in variables if not each["name"].startswith("HF_")]
        if variables:
            container["env"] = kept


# -- settings that roll the pods that read them --------------------------------------------


def checksum(config: Document) -> str:
    """Of what a ConfigMap holds."""
    lines = [f"{key}={value}" for key, value in sorted(config["data"].items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _note_checksum(document: Document, documents: list[Document]) -> None:
    """A gateway reads three ConfigMaps; a change of any makes new pods."""
    if document["kind"] != "Deployment" or document["metadata"]["name"] != "gateway":
        return
    read = {"gateway", "scaling", "cache"}
    sums = [
        checksum(each)
        for each in documents
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] in read
    ]
    annotations = document["spec"]["template"]["metadata"]["annotations"]
    annotations[CHECKSUM] = "-".join(sums)


FITTINGS: dict[str, Callable[[Document, Case], None]] = {
    "ConfigMap": _fit_config,
    "Deployment": _fit_deployment,
    "HorizontalPodAutoscaler": _fit_hpa,
    "NetworkPolicy": _fit_policy,
    "PersistentVolumeClaim": _fit_claim,
    "PodMonitor": _fit_monitor,
    "ResourceQuota": _fit_quota,
    "ScaledObject": _fit_scaled_object,
    "ServiceMonitor": _fit_monitor,
}
