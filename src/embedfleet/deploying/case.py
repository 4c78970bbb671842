"""The deployment that a user requests, and its validation. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from embedfleet.runtime.settings import options
from embedfleet.runtime.settings.addresses import is_service
from embedfleet.runtime.settings.converting import one_line
from embedfleet.vocabulary import SettingError

BUILT_IN = ("builtin", "builtin-reranker")
"""The models that ship with embedfleet: no volume holds them."""
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", re.ASCII)
DIGEST = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}", re.ASCII)
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
HOST = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
OBJECT = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""The name of an object of the whole cluster (RFC 1123)."""
LABEL = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)
QUANTITY = re.compile(r"[1-9]\d*(Mi|Gi|Ti)")


class Engine(StrEnum):
    """What computes."""

    SGLANG = "sglang"
    CUDA = "cuda"
    CPU = "cpu"


class Mode(StrEnum):
    """How the number of engines gets to the Deployment."""

    KEDA = "keda"
    HPA_ONLY = "hpa-only"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Case:
    """One deployment."""

    model: str
    """`org/name@commit`, or one of BUILT_IN."""
    image: str
    """embedfleet's own, with its digest."""
    engine: Engine = Engine.SGLANG
    engine_image: str = ""
    """Of the engine, where it is another one than the manifests name."""
    gpu: str = ""
    """The node's label nvidia.com/gpu.product; empty on processors."""
    gpus: int = 1
    """Of one replica: its limit and its tensor parallelism."""
    fp8: bool = False
    min_replicas: int = 2
    max_replicas: int = 8
    mode: Mode = Mode.KEDA
    tolerance: float = 0.0
    """Of the cluster's HPA: 0 where `behavior` may say so (Kubernetes 1.35), 0.1 before."""
    namespace: str = "embedfleet"
    served_name: str = ""
    """By which clients ask; empty for the model's own."""
    host: str = ""
    """Of an Ingress; empty for none."""
    storage_class: str = ""
    storage: str = ""
    """For the weights, such as 40Gi."""
    redis: bool = False
    monitoring: bool = True
    monitoring_namespace: str = "monitoring"
    release: str = "kube-prometheus-stack"
    """Label by which the Prometheus operator chooses."""
    prometheus: str = ""
    """Address for KEDA; empty for the operator's own."""
    warm_nodes: int = 0

    @property
    def name(self) -> str:
        """The pool's name: the first served name."""
        return self.served_name or self.repository.rpartition("/")[2]

    @property
    def repository(self) -> str:
        return self.model.partition("@")[0]

    @property
    def revision(self) -> str:
        return self.model.partition("@")[2]

    @property
    def snapshot(self) -> str:
        """Directory of the model in the volume."""
        folder = self.repository.replace("/", "--")
        return f"/models/hub/models--{folder}/snapshots/{self.revision}"

    @property
    def fallback_replicas(self) -> int:
        """When nothing is known: half of the most."""
        return max(self.min_replicas, math.ceil(self.max_replicas / 2))

    @property
    def quota(self) -> int:
        """GPUs that the namespace may request."""
        return self.gpus * (self.max_replicas + self.warm_nodes)

    def check(self) -> None:
        """Raise a SettingError for the first thing that can't be meant."""
        for complaint in chain(_of_model(self), _of_engine(self), _of_names(self)):
            raise SettingError(complaint)


def _of_model(case: Case) -> Iterator[str]:
    if case.model not in BUILT_IN and not PINNED.fullmatch(case.model):
        yield (
            f"--model {case.model}: a revision must be pinned, as org/name@ and the 40 hex digits "
            f"of a commit (the hub shows it); or {' or '.join(BUILT_IN)}"
        )
    if case.model in BUILT_IN and case.engine is Engine.SGLANG:
        yield f"--model {case.model} is for embedfleet's own engine: --engine cpu"
    if not case.image:
        yield "--image is missing: yours, built from deploy/container"
    for flag, image in (("--image", case.image), ("--engine-image", case.engine_image)):
        if image and not DIGEST.fullmatch(image):
            yield (
                f"{flag} {image}: give its digest, as registry/name@sha256:… (a tag can change "
                "without a word); `docker buildx imagetools inspect IMAGE` tells it"
            )


def _of_engine(case: Case) -> Iterator[str]:
    if case.engine is Engine.CPU:
        if case.gpu or case.warm_nodes:
            yield "--gpu and --warm-nodes are for GPU engines; --engine cpu has none"
    elif not LABEL.fullmatch(case.gpu):
        yield (
            "--gpu is missing: the label nvidia.com/gpu.product of the nodes, such as "
            "NVIDIA-H100-80GB-HBM3 (`kubectl get nodes -L nvidia.com/gpu.product`)"
        )
    if case.engine is Engine.CUDA and "cuda" not in options()["engine.device"].choices:
        yield "this release has no CUDA engine of its own: --engine sglang"
    if case.engine is Engine.CUDA and not case.engine_image:
        yield "--engine-image is missing: yours, the target cuda of deploy/container"
    if case.fp8 and case.engine is not Engine.SGLANG:
        yield "--fp8 is for --engine sglang; the engine of embedfleet has engine.dtype"
    if case.gpus < 1:
        yield "--gpus-per-replica: at least one"


def _of_names(case: Case) -> Iterator[str]:
    if not 1 <= case.min_replicas <= case.max_replicas:
        yield (
            f"--min-replicas {case.min_replicas} and --max-replicas {case.max_replicas}: at least "
            "one, and no more than the most"
        )
    if not 0 <= case.tolerance < 1:
        yield f"--tolerance {case.tolerance:g} is not a share such as 0.1"
    if not NAME.fullmatch(case.namespace) or not NAME.fullmatch(case.monitoring_namespace):
        yield "a namespace has lower-case letters, digits and dashes, at most 63 of them"
    if not LABEL.fullmatch(case.name):
        yield (
            f"--served-name {case.name}: letters, digits, dots and dashes, at most 63 of them; it "
            "becomes a label"
        )
    if case.release and not LABEL.fullmatch(case.release):
        yield (
            f"--release {one_line(case.release, 80)}: letters, digits, dots and dashes, at most 63 "
            "of them; it is a label"
        )
    if case.host and not HOST.fullmatch(case.host):
        yield f"--host {case.host} is not a host name"
    if case.prometheus and not is_service(case.prometheus):
        yield (
            f"--prometheus {one_line(case.prometheus, 80)} is not an address such as "
            "http://prometheus.monitoring.svc:9090"
        )
    if case.storage_class and not OBJECT.fullmatch(case.storage_class):
        yield (
            f"--storage-class {one_line(case.storage_class, 80)} is not the name of a StorageClass "
            "(`kubectl get storageclass` lists them)"
        )
    if case.storage and not QUANTITY.fullmatch(case.storage):
        yield f"--storage {case.storage} is not a quantity such as 40Gi"
