"""`embedfleet deploy kubernetes`: write the manifests of one deployment, to review and keep.

Nothing is applied to a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedfleet.cli.flags import number
from embedfleet.deploying import fitting, manifests
from embedfleet.deploying.case import BUILT_IN, Case, Engine, Mode
from embedfleet.vocabulary import SettingError

NOTE = "# Written by `embedfleet deploy kubernetes`; the reasons are in the files.\n"
HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"

app = typer.Typer(no_args_is_help=True, help="Files to run embedfleet elsewhere.")


@app.callback()
def _deploy() -> None:
    """Keep `kubernetes` a command of its own beside others to come."""


Model = Annotated[
    str, typer.Option(metavar="MODEL", help="org/name@COMMIT, builtin or builtin-reranker.")
]
Image = Annotated[
    str, typer.Option(metavar="IMAGE", help="embedfleet's image, registry/name@sha256:…")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to fill.")]
Computes = Annotated[Engine, typer.Option("--engine", help="What computes.")]
EngineImage = Annotated[
    str, typer.Option(metavar="IMAGE", help="The engine's image, with its digest.")
]
Gpu = Annotated[
    str, typer.Option(metavar="LABEL", help="Label nvidia.com/gpu.product of the nodes.")
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus-per-replica", metavar="N", help="GPUs of one replica: limit, tensor parallelism."
    ),
]
Fp8 = Annotated[bool, typer.Option("--fp8", help="Linear layers in FP8 (SGLang).")]
Fewest = Annotated[int, typer.Option(metavar="N", help="Fewest engines.")]
Most = Annotated[int, typer.Option(metavar="N", help="Most engines.")]
Scaling = Annotated[Mode, typer.Option("--scaling", help="Who sets their number.")]
Tolerance = Annotated[
    float,
    typer.Option(
        parser=number(0, 1), metavar="X", help="Of the cluster's HPA: 0.1 before Kubernetes 1.35."
    ),
]
Namespace = Annotated[str, typer.Option(metavar="NAME", help="Namespace of all of it.")]
ServedName = Annotated[str, typer.Option(metavar="NAME", help="Name that clients ask for.")]
Host = Annotated[str, typer.Option(metavar="NAME", help="Host name of an Ingress; none without.")]
StorageClass = Annotated[str, typer.Option(metavar="NAME", help="Of the volume for weights.")]
Storage = Annotated[str, typer.Option(metavar="SIZE", help="Size of that volume, such as 40Gi.")]
Redis = Annotated[bool, typer.Option("--redis", help="A cache that gateways share.")]
Monitoring = Annotated[bool, typer.Option(help="Monitors, rules, dashboards.")]
MonitoringNamespace = Annotated[str, typer.Option(metavar="NAME", help="Namespace of Prometheus.")]
Release = Annotated[str, typer.Option(metavar="LABEL", help="Label by which its operator chooses.")]
Prometheus = Annotated[str, typer.Option(metavar="URL", help="Prometheus' address, for KEDA.")]
WarmNodes = Annotated[int, typer.Option(metavar="N", help="Nodes to hold ready.", min=0)]


@app.command()
def kubernetes(
    model: Model,
    image: Image,
    output: Output,
    engine: Computes = Engine.SGLANG,
    gpu: Gpu = "",
    gpus: Gpus = 1,
    fp8: Fp8 = False,
    engine_image: EngineImage = "",
    min_replicas: Fewest = 2,
    max_replicas: Most = 8,
    mode: Scaling = Mode.KEDA,
    tolerance: Tolerance = 0.0,
    namespace: Namespace = "embedfleet",
    served_name: ServedName = "",
    host: Host = "",
    storage_class: StorageClass = "",
    storage: Storage = "",
    redis: Redis = False,
    monitoring: Monitoring = True,
    monitoring_namespace: MonitoringNamespace = "monitoring",
    release: Release = "kube-prometheus-stack",
    prometheus: Prometheus = "",
    warm_nodes: WarmNodes = 0,
) -> None:
    """Write the manifests of one deployment: plain YAML with the reasons in it, to review and keep.

    embedfleet deploy kubernetes --model Qwen/Qwen3-Embedding-4B@5cf2132a… --gpu NVIDIA-L40S
      --image registry.example.com/embedfleet@sha256:… -o deployment

    kubectl apply -k deployment
    """
    # Parameters are called as the fields of a case.
    case = Case(**{name: value for name, value in locals().items() if name != "output"})
    written = write(case, output)
    typer.echo(f"{len(written)} files in {output}: kubectl apply -k {output}")


def write(case: Case, folder: Path) -> list[Path]:
    """Fill a folder; return the files. Raises SettingError."""
    case.check()
    files = [file for bundle in fitting.bundles(case) for file in manifests.files(bundle)]
    texts = {file.name: manifests.text(file.documents) for file in fitting.fit(files, case)}
    if len(texts) < len(files) and case.model not in BUILT_IN:
        raise SettingError("two manifests have one name. This is a bug.")
    texts["kustomization.yaml"] = NOTE + HEAD + "".join(f"  - {name}\n" for name in texts)
    folder.mkdir(parents=True, exist_ok=True)
    strangers = sorted({each.name for each in folder.iterdir()} - set(texts))
    if strangers:
        raise SettingError(
            f"{folder} holds files that do not belong to this deployment "
            f"({', '.join(strangers[:3])}): give an empty folder, or delete them"
        )
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in texts]
