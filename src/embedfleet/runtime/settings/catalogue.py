"""The catalogue of settings: name, type, default, range and unit of each option.

The docstring under a field is its help text and its entry in docs/settings.md. Larger areas
(gateway, autoscaling, cache, access, batches) have modules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from embedfleet.runtime.settings.access import AccessSettings
from embedfleet.runtime.settings.addresses import DefaultPort
from embedfleet.runtime.settings.autoscaling import AutoscalingSettings
from embedfleet.runtime.settings.batches import BatchesSettings
from embedfleet.runtime.settings.cache import CacheSettings
from embedfleet.runtime.settings.gateway import GatewaySettings
from embedfleet.runtime.settings.rules import count, duration, setting
from embedfleet.vocabulary import Precision, SettingError, Task


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The second address, for operators: fleet and metrics."""

    host: str = "127.0.0.1"
    """Address to listen on; what it shows is not for clients."""
    port: int | None = setting(
        DefaultPort(8081), at_least=0, at_most=65_535, none="off", flag="--admin-port"
    )
    """TCP port; 0 takes any free one, `off` opens none. Where nobody chose one and 8081 is taken, a
    free one is taken and said at the start."""
    key_file: Path | None = setting(None, none="none", guards=True)
    """File with a key that operators must bring (`Authorization: Bearer KEY`); read again when it
    changes. Without one an address beyond this machine is refused."""
    open: bool = False
    """Answer everybody without a key, also beyond this machine: for a network that operators alone
    reach, such as that of a compose file."""
    peer_service: str | None = setting(None, none="none")
    """Service in Kubernetes of all gateways' admin addresses, as `namespace/name:port`: whoever
    decides how many replicas there should be asks the others what they see."""
    tls_certificate: Path | None = setting(None, none="none", guards=True)
    """As `gateway.tls_certificate`, for this address."""
    tls_key: Path | None = setting(None, none="none", guards=True)
    """As `gateway.tls_key`, for this address."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """One replica process."""

    host: str = setting("127.0.0.1", flag="--host")
    """Address to listen on; its gateway is on the same machine unless said otherwise."""
    port: int = setting(0, at_least=0, at_most=65_535, flag="--port")
    """TCP port; 0 takes any free one and prints it."""
    max_body_bytes: int = count(256 * 2**20)
    """Largest request body, in bytes; more than a gateway's, because one call to a replica
    carries texts of many requests."""
    max_queued_tokens: int = count(2**24)
    """Most tokens that wait or run at once; beyond it texts are refused with 429."""
    drain_timeout_s: float = duration(30.0)
    """Seconds that a stop waits for texts in flight."""
    batch_timeout_s: float = duration(30.0)
    """Seconds after which a batch that has not ended, and has taken ten times what was predicted,
    is taken for one of an engine that hangs: the process ends with exit code 3, for whoever
    started it to start it again. Before speeds are known it is ten minutes."""
    key_file: Path | None = setting(None, none="none", guards=True)
    """File with a key that gateways must bring (their `pools.replica_key_file`); read again when it
    changes. For the replicas that it starts itself a gateway makes one at each start."""
    place: int = setting(0, at_least=0)
    """Which of its pool's replicas on this machine it is, from 0: where several GPUs are and none
    is named, the n-th replica takes the n-th. A gateway sets it for those that it starts."""
    exit_with_parent: bool = False
    """Stop at the end of standard input, which comes when the process that started this one wants
    it or is gone, and not by SIGTERM or SIGINT. A gateway sets it for the replicas that it starts:
    none outlives it, and none stops before it."""


_OVERFLOWS = dict.fromkeys(
    ("f16", "fp16", "float16"),
    "Qwen3-Embedding overflows in it (the 8B gives NaN for any text that begins with `import`); "
    "bf16 is as fast and as small",
)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a replica computes."""

    device: Literal[
        "auto",
        "cpu",
        "cuda",
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:3",
        "cuda:4",
        "cuda:5",
        "cuda:6",
        "cuda:7",
    ] = setting("auto", flag="--device")
    """Device to compute on; `cuda` is the n-th GPU for the n-th replica of the machine. `auto`
    does the same where there is a GPU of compute capability 8.0 or newer and torch is installed
    (the extra `cuda`); else it is the processor."""
    dtype: Literal["auto", "f32", "bf16", "fp8", "int8"] = setting(
        "auto", flag="--dtype", refused=_OVERFLOWS
    )
    """Numbers to compute with. `f32` reproduces the reference. On a GPU `bf16` is the usual one
    (cosine above 0.999), and `fp8` 1.7 times as fast, measured on an H200 (mean cosine about 0.998
    on a trained model; compute capability 8.9 or newer). On a processor with instructions for it
    `int8` is two to three times as fast as f32 (mean cosine above 0.995). `f16` is refused: the
    models overflow in it. `auto` is bf16 on a GPU; elsewhere it is int8 where that suits the
    processor and no pool promises more."""
    deterministic: bool = False
    """On a GPU, give a text the same bits whatever it is computed with. Without it the last bits
    depend on the batch. Costs speed, for short texts above all."""
    kernels: Literal["auto", "native", "openvino", "numpy"] = "auto"
    """Whose kernels compute on a processor: `native` are embedfleet's own, `openvino` those of the
    extra of that name, `numpy` slow ones in f32 for where there is nothing else. `auto` takes ours
    where they were compiled and the model's sizes suit them, and OpenVINO's, where it is installed,
    for int8 on processors with tiles (AMX)."""
    instructions: Literal[
        "auto", "avx512_vnni", "avx_vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon", "portable"
    ] = "auto"
    """What embedfleet's own kernels compute with; `auto` is the best that the processor has. Name
    one where all replicas shall give the same bits, or to compare."""
    threads: int | None = count(None, at_most=1024, none="auto")
    """Threads to compute with; `auto` divides the physical cores among the replicas that share
    the machine."""
    batch_tokens: int | None = count(None, none="auto")
    """Most tokens in one batch; `auto` lets the engine choose by device and model. A single longer
    text still runs, alone."""
    memory_mib: int | None = count(None, none="auto")
    """Memory for intermediate results, in MiB, weights not counted. `auto` is on a GPU all that is
    free beside the weights; on a processor 1,024, or what the longest text needs. Batches are made
    smaller until they fit, and long texts computed in pieces by kernels that can."""
    max_tokens: int | None = setting(None, at_least=1, none="auto", flag="--max-tokens")
    """Longest text, in tokens; `auto` is what the model was trained for."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How replicas are watched, retried and restarted."""

    probe_interval_s: float = duration(1.0)
    """Seconds between two looks at each replica."""
    probe_timeout_s: float = duration(5.0)
    """Seconds until a look that brought no answer counts as failed; longer than a processor's
    busiest moment."""
    start_timeout_s: float = duration(600.0)
    """Seconds that a replica may take to load, or later not answer, before it counts as dead and a
    local one is started again; the largest models on a slow disk need minutes."""
    restart_backoff_s: float = duration(0.5)
    """Seconds before the first restart of a dead replica; doubles with each further one."""
    restart_backoff_ceiling_s: float = duration(30.0)
    """Most seconds between two restarts."""
    connect_timeout_s: float = duration(5.0)
    """Seconds to wait for a connection to a replica."""
    verify_interval_s: float = duration(60.0)
    """Seconds between two checks of a replica's golden vectors while it gets traffic."""
    verify_timeout_s: float = duration(120.0)
    """Seconds that such a check may take, its wait behind other work included; a large model on a
    processor needs most of a minute."""
    resolve_interval_s: float = duration(5.0)
    """Seconds between two looks at the addresses of a name in `pools.replica_urls`."""
    no_replica_timeout_s: float | None = setting(None, at_least=0.001, none="off")
    """Seconds that texts wait while no replica of their pool is there; from then until one is back,
    requests for them are answered 503. `off` lets them wait until their deadline, since a replica
    that died on this machine is started again. For gateways whose replicas are elsewhere."""
    attempts: int = count(4, at_most=100)
    """How many replicas a text may be given to before its request fails. Several, because a
    replica that dies takes texts down that did no harm; bounded, because a text can be what
    killed it."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Engines of others that are started on this machine (`pools.engine`)."""

    gpus: int = count(1, at_most=64)
    """GPUs of one replica. More than one only for a model that one can't hold: two replicas on a
    GPU each are faster than one on two."""
    memory_share: float = setting(0.85, at_least=0.05, at_most=0.98)
    """Share of a GPU's memory that the engine may take; the rest is for its activations and for
    what else runs there."""
    fp8: bool = False
    """Compute the linear layers in FP8: nearly twice as fast on Hopper and Ada, and vectors move
    (mean cosine above 0.995)."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the processes write to stderr; never texts."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", flag="--log-level")
    """Least important messages to write."""
    format: Literal["text", "json"] = "text"
    """`text` for people, `json` (one object a line) for collectors."""
    access: bool = False
    """Write a line for each request to a gateway: route, status, model, texts, tokens, seconds,
    client, id of the key, id of the request; never texts or keys."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Traces of single requests, for OpenTelemetry; takes the extra `tracing`."""

    endpoint: str | None = setting(None, none="off")
    """Where a collector takes traces by OTLP over HTTP, for instance
    `http://127.0.0.1:4318/v1/traces`; `off` makes none."""
    sample_ratio: float = setting(1.0, at_least=0.0, at_most=1.0)
    """Share of requests to trace where the caller has not decided (`traceparent`). All of them: who
    turns tracing on wants to see something; with much traffic a hundredth tells as much."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One model and the replicas that serve it."""

    model: str = setting("", flag="MODEL")
    """The model: a local directory, a hub id (`Qwen/Qwen3-Embedding-0.6B@revision`) or `builtin`.
    Empty for a pool whose replicas are elsewhere: they name it."""
    task: Literal["auto", "embed", "rerank"] = "auto"
    """What the model is for: vectors of texts, or scores of queries with documents. `auto` goes by
    its files and its name (Qwen3-Reranker has the files of a chat model, so that only the name
    tells)."""
    served_names: tuple[str, ...] = setting((), flag="--served-name")
    """Names by which clients ask for it; empty means the model's own name."""
    replicas: int = setting(2, at_least=0, at_most=256, flag="--replicas")
    """Replica processes to start on this machine. Two, so that one may die; none where
    `replica_urls` are given and this is not."""
    replica_urls: tuple[str, ...] = setting((), flag="--replica")
    """Addresses of replicas that run elsewhere, for instance `http://10.0.0.5:9000`."""
    replica_dns: Literal["each", "one"] = "each"
    """What a name in `replica_urls` stands for that has several addresses. `each`: every address is
    a replica, found again as the name changes (`fleet.resolve_interval_s`). `one`: whatever is
    behind it is one replica, for a balancer, or a proxy that goes by the name. Names by HTTPS are
    always `one`, since their certificate is for the name."""
    replica_service: str | None = setting(None, none="none", flag="--replica-service")
    """Service in Kubernetes whose pods are the replicas, as `namespace/name:port` (the port's name,
    or the number on which pods listen). Pods are followed as they come and go, and nothing is sent
    to one that terminates. Takes the extra `kubernetes`."""
    scale_target: str | None = setting(None, none="none")
    """Deployment in Kubernetes whose number of replicas is to be what the policy decides, as
    `namespace/name`; it is the one behind `replica_service`."""
    scaling: Literal["external", "direct"] = "external"
    """How the number gets to `scale_target`. `external`: KEDA or an HPA reads it from the metrics.
    `direct`: the gateway that holds the lease sets it, after those that go have finished; refused
    where an HPA or a ScaledObject owns the Deployment."""
    tokenizer_dir: Path | None = setting(None, none="none", flag="--model")
    """Directory of the tokenizer, for replicas elsewhere that do not say which one they use."""
    engine: Literal["embedfleet", "sglang", "vllm", "tei", "llamacpp"] = setting(
        "embedfleet", flag="--engine"
    )
    """What the replicas that are started here run: embedfleet's own engine, or one that is
    installed on this machine and is started with the flags that `embedfleet engines` prints."""
    replica_key_file: Path | None = setting(None, none="none")
    """File with the API key that replicas elsewhere ask for, embedfleet's own (`replica.key_file`)
    and engines of others. A file, so that no key stands in a
    process list, a settings file or a log."""
    replica_window_tokens: int = count(32_768)
    """Most tokens of work to have outstanding at a replica that grants no window itself, which is
    any engine but embedfleet's own; half of it whenever it refuses work, and less while it answers
    later than it does with little to do. Two batches of what SGLang and
    TEI compute at once."""
    replica_metrics_required: bool = False
    """Refuse replicas that have no metrics. Without it they get traffic, and the fleet's table says
    what is missing."""
    revision: str = ""
    """What tells the weights from others, for replicas elsewhere where `tokenizer_dir` holds none
    and Redis is to keep vectors: any word that changes when they do. Empty takes the fingerprint of
    the weights; where there is none, this process alone knows its vectors."""
    precision: Precision | None = setting(None, none="auto")
    """Numeric class that every vector of the pool has at least; `auto` takes that of the first
    replica."""
    balancing: Literal[
        "least-work",
        "power-of-two",
        "least-connections",
        "round-robin",
        "weighted",
        "client-hash",
    ] = "least-work"
    """How replicas are chosen. `least-work` counts tokens by each replica's own measured cost, so
    that unequal ones share fairly; `client-hash` sends a client's texts to the same replica while
    it can."""
    replica_weights: tuple[float, ...] = ()
    """Weights of `replica_urls`, in their order, for `weighted`; empty means equal. A replica of
    weight 3 gets three times the tokens of one of weight 1."""
    truncate: Literal["none", "start", "end"] = "none"
    """What becomes of texts that are too long where a request does not say (`truncate`): refused,
    or cut at their start or end. For clients that can't say; which texts were cut is told in the
    header `x-embedfleet-truncated`."""
    golden: Path | None = setting(None, none="auto")
    """File of golden vectors that a replica must reproduce before it gets traffic; `auto` takes the
    one that ships with embedfleet or with the model, where there is one."""

    @property
    def wanted_task(self) -> Task | None:
        """What the model is to be for; None where its files tell."""
        return None if self.task == "auto" else Task(self.task)


@dataclass(frozen=True, slots=True)
class Settings:
    """All options of one process."""

    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    replica: ReplicaSettings = field(default_factory=ReplicaSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    autoscaling: AutoscalingSettings = field(default_factory=AutoscalingSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    batches: BatchesSettings = field(default_factory=BatchesSettings)
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    pools: tuple[Pool, ...] = ()

    def only_pool(self) -> Pool:
        """Return the one pool of a process that serves a single model."""
        if not self.pools:
            raise SettingError(
                "no model given: name one as an argument, for instance `builtin`, "
                "or a [[pools]] table in the settings file"
            )
        if len(self.pools) > 1:
            raise SettingError(f"one pool is expected here, the settings name {len(self.pools)}")
        return self.pools[0]
