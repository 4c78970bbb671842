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
from embedfleet.runtime.text_files import write_file
from embedfleet.vocabulary import SettingError

NOTE = "# Written by `embedfleet deploy kubernetes`; the reasons are in the files.\n"
HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"

app = typer.Typer(no_args_is_help=True, help="Write files that deploy embedfleet.")


@app.callback()
def _deploy() -> None:
    """Keep `kubernetes` a command of its own beside others to come."""


Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL", help="Model to serve: org/name@COMMIT, builtin or builtin-reranker."
    ),
]
Image = Annotated[
    str, typer.Option(metavar="IMAGE", help="Image of embedfleet: registry/name@sha256:…")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")]
Computes = Annotated[Engine, typer.Option("--engine", help="Engine of the replicas.")]
EngineImage = Annotated[
    str, typer.Option(metavar="IMAGE", help="Image of the engine, with its digest.")
]
Gpu = Annotated[
    str,
    typer.Option(metavar="LABEL", help="Value of the label nvidia.com/gpu.product of the nodes."),
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus-per-replica",
        metavar="N",
        help="GPUs of one replica: resource limit and tensor parallelism.",
    ),
]
Fp8 = Annotated[bool, typer.Option("--fp8", help="Linear layers in FP8 (SGLang).")]
Fewest = Annotated[int, typer.Option(metavar="N", help="Minimum number of replicas.")]
Most = Annotated[int, typer.Option(metavar="N", help="Maximum number of replicas.")]
Scaling = Annotated[Mode, typer.Option("--scaling", help="Who sets the number of replicas.")]
Tolerance = Annotated[
    float,
    typer.Option(
        parser=number(0, 1),
        metavar="X",
        help="Tolerance of the cluster's HPA; 0.1 before Kubernetes 1.35.",
    ),
]
Namespace = Annotated[str, typer.Option(metavar="NAME", help="Namespace of all objects.")]
ServedName = Annotated[
    str, typer.Option(metavar="NAME", help="Name by which clients request the model.")
]
Host = Annotated[
    str, typer.Option(metavar="NAME", help="Host name for an Ingress; without it there is none.")
]
StorageClass = Annotated[
    str, typer.Option(metavar="NAME", help="StorageClass of the volume for weights.")
]
Storage = Annotated[
    str, typer.Option(metavar="SIZE", help="Size of the volume for weights, such as 40Gi.")
]
Redis = Annotated[
    bool, typer.Option("--redis", help="Deploy Redis as a cache that gateways share.")
]
Monitoring = Annotated[
    bool, typer.Option(help="Write ServiceMonitors, alert rules and dashboards.")
]
MonitoringNamespace = Annotated[str, typer.Option(metavar="NAME", help="Namespace of Prometheus.")]
Release = Annotated[
    str,
    typer.Option(
        metavar="LABEL", help="Value of the label `release` by which Prometheus selects monitors."
    ),
]
Prometheus = Annotated[str, typer.Option(metavar="URL", help="Address of Prometheus, for KEDA.")]
WarmNodes = Annotated[
    int, typer.Option(metavar="N", help="Number of spare nodes to keep ready.", min=0)
]


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
    r"""Write the manifests of a deployment: commented YAML, to review and keep.

        embedfleet deploy kubernetes --model Qwen/Qwen3-Embedding-4B@5cf2132a… \
          --gpu NVIDIA-L40S --image registry.example.com/embedfleet@sha256:… \
          -o deployment

        kubectl apply -k deployment

    The model's commit and the image's digest pin what runs.
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
        write_file(folder / name, content.encode())
    return [folder / name for name in texts]
