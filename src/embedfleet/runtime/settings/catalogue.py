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
    """Address to listen on; not meant for clients."""
    port: int | None = setting(
        DefaultPort(8081), at_least=0, at_most=65_535, none="off", flag="--admin-port"
    )
    """TCP port; 0 takes any free one, `off` opens none. If the default 8081 is taken, a free one is
    used and logged at start-up."""
    key_file: Path | None = setting(None, none="none", guards=True)
    """File with the key that operators must send (`Authorization: Bearer KEY`); reloaded when it
    changes. Without a key only loopback addresses are accepted."""
    open: bool = False
    """Require no key, also on other than loopback addresses: for a network that only operators can
    reach, such as that of a compose file."""
    peer_service: str | None = setting(None, none="none")
    """Kubernetes Service of all gateways' admin addresses, as `namespace/name:port`: the gateway
    that autoscales collects the observations of the others there."""
    tls_certificate: Path | None = setting(None, none="none", guards=True)
    """As `gateway.tls_certificate`, for this address."""
    tls_key: Path | None = setting(None, none="none", guards=True)
    """As `gateway.tls_key`, for this address."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """One replica process."""

    host: str = setting("127.0.0.1", flag="--host")
    """Address to listen on; loopback by default, for a gateway on the same machine."""
    port: int = setting(0, at_least=0, at_most=65_535, flag="--port")
    """TCP port; 0 takes any free one and prints it."""
    max_body_bytes: int = count(256 * 2**20)
    """Largest request body, in bytes; more than a gateway's, because a call carries texts of many
    requests."""
    max_queued_tokens: int = count(2**24)
    """Most tokens queued or running at once; beyond it texts are refused with 429."""
    drain_timeout_s: float = duration(30.0)
    """Seconds to wait for texts in flight at a stop."""
    batch_timeout_s: float = duration(30.0)
    """Seconds after which a batch that has also taken ten times the predicted time means that the
    engine hangs: the process exits with code 3, to be restarted. Before the engine's speed is known
    it is ten minutes."""
    key_file: Path | None = setting(None, none="none", guards=True)
    """File with the key that gateways must send (their `pools.replica_key_file`); reloaded when it
    changes. A gateway generates one at each start for the replicas that it starts."""
    place: int = setting(0, at_least=0)
    """Index of the replica among those of its pool on this machine, from 0. A gateway sets it for
    the replicas that it starts."""
    places_before: int = setting(0, at_least=0)
    """Replicas of other pools on this machine that come before it: if several GPUs are present and
    none is named, the n-th replica of all takes the n-th. A gateway sets it for the replicas that
    it starts."""
    exit_with_parent: bool = False
    """Stop at the end of standard input, which the parent process closes or which its exit closes,
    and ignore SIGTERM, SIGINT and SIGHUP. A gateway sets it for the replicas that it starts: none
    outlives it, and none stops before it."""


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
    """Number format of the computation. `f32` reproduces the reference. On a GPU `bf16` is the
    usual one (cosine above 0.999), and `fp8` 1.7 times as fast, measured on an H200 (mean cosine
    about 0.998 on a trained model; compute capability 8.9 or newer). On a processor with
    instructions for it `int8` is two to three times as fast as f32 (mean cosine above 0.995). `f16`
    is refused: the models overflow in it. `auto` is bf16 on a GPU; elsewhere it is int8 where that
    suits the processor and no pool requires more."""
    deterministic: bool = False
    """On a GPU, give a text bit-identical vectors whatever it is batched with. Without it the last
    bits depend on the batch. Slower, above all for short texts."""
    kernels: Literal["auto", "native", "openvino", "numpy"] = "auto"
    """Kernels on a CPU: `native` are embedfleet's own, `openvino` those of the extra of that name,
    `numpy` a slow fallback in f32. `auto` takes the native ones if they were compiled and support
    the model's sizes, and OpenVINO's, if installed, for int8 on processors with tiles (AMX)."""
    instructions: Literal[
        "auto", "avx512_vnni", "avx_vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon", "portable"
    ] = "auto"
    """Instruction set of the native kernels; `auto` is the best that the processor has. Set it to
    get the same bits from all replicas, or to compare."""
    threads: int | None = count(None, at_most=1024, none="auto")
    """Threads to compute with; `auto` divides the physical cores among the replicas that share
    the machine."""
    batch_tokens: int | None = count(None, none="auto")
    """Most tokens in one batch; `auto` lets the engine choose by device and model. A single longer
    text still runs, alone."""
    memory_mib: int | None = count(None, none="auto")
    """Memory for intermediate results, in MiB, without the weights. `auto` is all free memory on a
    GPU; on a processor 1,024, or what the longest text needs. Batches are made smaller to fit, and
    long texts are computed in chunks where kernels support it. On a GPU a replica allocates no more
    than its weights, this and 1,536 for libraries: set it where several share one."""
    max_tokens: int | None = setting(None, at_least=1, none="auto", flag="--max-tokens")
    """Longest text, in tokens; `auto` is the length that the model was trained for."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Probing, retries and restarts of replicas."""

    probe_interval_s: float = duration(1.0)
    """Seconds between two probes of a replica."""
    probe_timeout_s: float = duration(5.0)
    """Seconds until an unanswered probe counts as failed; longer than a busy processor needs to
    answer."""
    start_timeout_s: float = duration(600.0)
    """Seconds that a replica may take to load, or not answer later, before it counts as dead and a
    local one is restarted; the largest models on a slow disk need minutes."""
    restart_backoff_s: float = duration(0.5)
    """Seconds before the first restart of a dead replica; doubles with each further restart."""
    restart_backoff_ceiling_s: float = duration(30.0)
    """Most seconds between two restarts."""
    connect_timeout_s: float = duration(5.0)
    """Seconds to wait for a connection to a replica."""
    verify_interval_s: float = duration(60.0)
    """Seconds between two checks of a replica's golden vectors while it gets traffic."""
    verify_timeout_s: float = duration(120.0)
    """Seconds that such a check may take, including the wait behind other work; a large model on a
    processor needs most of a minute."""
    resolve_interval_s: float = duration(5.0)
    """Seconds between two DNS lookups of a name in `pools.replica_urls`."""
    no_replica_timeout_s: float | None = setting(None, at_least=0.001, none="off")
    """Seconds that texts wait while their pool has no replica; after that, requests are answered
    503 until one is back. `off` lets them wait until their deadline, which suits local replicas, as
    these are restarted. For gateways with remote replicas."""
    attempts: int = count(4, at_most=100)
    """How many replicas may fail a text before its request fails. Several, because a replica that
    dies fails all of its texts; bounded, because one of them may be the cause."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Third-party engines started on this machine (`pools.engine`)."""

    gpus: int = count(1, at_most=64)
    """GPUs per replica. More than one only for a model that does not fit on one: two replicas on
    one GPU each are faster than one on two."""
    memory_share: float = setting(0.85, at_least=0.05, at_most=0.98)
    """Share of a GPU's memory that the engine may take; the rest is for its activations and for
    other processes."""
    fp8: bool = False
    """Compute the linear layers in FP8: nearly twice as fast on Hopper and Ada; vectors change
    slightly (mean cosine above 0.995)."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs, written to stderr; they never contain texts."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", flag="--log-level")
    """Lowest level of messages to write."""
    format: Literal["text", "json"] = "text"
    """`text` for people, `json` (one object a line) for collectors."""
    access: bool = False
    """Write an access log line for each request to a gateway: route, status, model, texts, tokens,
    seconds, client, key id, request id; never texts or keys."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """OpenTelemetry traces of requests; needs the extra `tracing`."""

    endpoint: str | None = setting(None, none="off")
    """OTLP/HTTP endpoint of a collector, for instance `http://127.0.0.1:4318/v1/traces`; `off`
    disables tracing."""
    sample_ratio: float = setting(1.0, at_least=0.0, at_most=1.0)
    """Share of requests to trace if the caller has not decided (`traceparent`). All by default;
    with much traffic 0.01 is enough."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One model and the replicas that serve it."""

    model: str = setting("", flag="MODEL")
    """The model: a local directory, a hub id (`Qwen/Qwen3-Embedding-0.6B@revision`), `builtin` or
    `builtin-reranker`. Empty for a pool whose replicas are elsewhere: they name it."""
    task: Literal["auto", "embed", "rerank"] = "auto"
    """The model's task: vectors of texts, or scores of pairs of query and document. `auto` infers
    it from its files and its name (Qwen3-Reranker has the files of a chat model, so that only the
    name tells)."""
    served_names: tuple[str, ...] = setting((), flag="--served-name")
    """Names by which clients request it; empty means the model's own name."""
    replicas: int = setting(2, at_least=0, at_most=256, flag="--replicas")
    """Replica processes to start on this machine. Two by default, so that one may fail; none if
    only `replica_urls` is given."""
    replica_urls: tuple[str, ...] = setting((), flag="--replica")
    """Addresses of replicas that run elsewhere, for instance `http://10.0.0.5:9000`."""
    replica_dns: Literal["each", "one"] = "each"
    """How a name in `replica_urls` with several addresses is used. `each`: every address is a
    replica, and the name is resolved again every `fleet.resolve_interval_s`. `one`: the name is one
    replica, for a load balancer or a proxy that routes by name. HTTPS names are always `one`, since
    their certificate is for the name."""
    replica_service: str | None = setting(None, none="none", flag="--replica-service")
    """Kubernetes Service whose pods are the replicas, as `namespace/name:port` (the port's name, or
    the number on which pods listen). Its endpoints are watched, and a terminating pod gets no
    texts. Needs the extra `kubernetes`."""
    scale_target: str | None = setting(None, none="none")
    """Kubernetes Deployment to scale, as `namespace/name`; the one behind `replica_service`."""
    scaling: Literal["external", "direct"] = "external"
    """How `scale_target` is scaled. `external`: by KEDA or an HPA, from the metrics. `direct`: by
    the gateway that holds the Lease, after the replicas to remove have drained; refused if an HPA
    or a ScaledObject owns the Deployment."""
    tokenizer_dir: Path | None = setting(None, none="none", flag="--model")
    """Directory of the tokenizer, or a built-in model, for remote replicas that do not report
    theirs."""
    engine: Literal["embedfleet", "sglang", "vllm", "tei", "llamacpp"] = setting(
        "embedfleet", flag="--engine"
    )
    """Engine of the replicas that are started here: embedfleet's own, or one that is installed on
    this machine and started with the flags that `embedfleet engines` prints."""
    replica_key_file: Path | None = setting(None, none="none")
    """File with the API key of remote replicas, embedfleet's own (`replica.key_file`) or
    third-party. A file, so that no key appears in a process list, a settings file or a log."""
    replica_window_tokens: int = count(32_768)
    """Most tokens outstanding at a third-party engine, which grants no window itself; halved when
    it refuses work, and smaller while its latency is above its minimum. The default is two batches
    of SGLang and TEI."""
    replica_metrics_required: bool = False
    """Refuse replicas without metrics. By default they get traffic, and `/fleet` says what is
    missing."""
    revision: str = ""
    """Revision of the weights, for remote replicas if `tokenizer_dir` holds no weights and vectors
    are to be cached in Redis: any string that changes with them. Empty takes the fingerprint of the
    weights; without one, vectors are cached within this process only."""
    precision: Precision | None = setting(None, none="auto")
    """Minimum precision of every vector of the pool; `auto` takes that of the first replica."""
    balancing: Literal[
        "least-work",
        "power-of-two",
        "least-connections",
        "round-robin",
        "weighted",
        "client-hash",
    ] = "least-work"
    """Balancing policy. `least-work` weighs tokens by each replica's measured cost, so that unequal
    replicas share fairly; `client-hash` sends a client's texts to the same replica while
    possible."""
    replica_weights: tuple[float, ...] = ()
    """Weights of `replica_urls`, in their order, for `weighted`; empty means equal. A replica of
    weight 3 gets three times the tokens of one of weight 1."""
    truncate: Literal["none", "start", "end"] = "none"
    """Default of `truncate` for texts that are too long: they are refused, or cut at their start or
    end. For clients that can't send the field; the header `x-embedfleet-truncated` names the texts
    that were cut."""
    golden: Path | None = setting(None, none="auto")
    """File of golden vectors that a replica must reproduce before it gets traffic; `auto` takes the
    one that ships with embedfleet for this revision, or else `golden.safetensors` beside the
    weights, if there is one."""

    @property
    def wanted_task(self) -> Task | None:
        """The configured task; None for `auto`."""
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

    def started_replicas(self, pool: Pool) -> int:
        """How many replicas of a pool are started here, before anything of its load is known."""
        if pool.replicas and self.autoscaling.enabled:
            return self.autoscaling.min_replicas
        return pool.replicas

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
