"""Writes the three Grafana dashboards: `python deploy/monitoring/write_dashboards.py`.

A panel is a title, a unit and its expressions. `CONDITIONAL` lists expressions that return no data
in some deployments, and why; the test that runs every expression against a real Prometheus expects
data from all others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "dashboards"
BY_STATUS = "pool_status:embedfleet_requests:rate1m"
WAIT_P99 = "pool_lane:embedfleet_queue_wait_seconds:p99_1m"
ACTIVE = "embedfleet_active_requests"
POOL = 'pool=~"$pool"'
RATE = "[$__rate_interval]"

CONDITIONAL = {
    "DCGM_": "needs an NVIDIA GPU and its DCGM exporter",
    "sglang:": "needs replicas that run SGLang",
    "vllm:": "needs replicas that run vLLM",
    "te_": "needs replicas that run TEI",
    "llamacpp:": "needs replicas that run llama.cpp",
    "embedfleet_replica_restarts_total": "needs replicas that the gateway itself starts",
    "embedfleet_replica_start_seconds": "needs replicas that the gateway itself starts",
    "embedfleet_autoscaling_": "needs a pool whose replicas follow the load",
    "embedfleet_key_": "needs API keys",
    "embedfleet_cache_redis_": "needs a Redis",
    "embedfleet_cache_rejected_": "needs a Redis",
    "golden": "needs golden vectors of the model",
}
"""Beginnings of metric names (or parts of ours) that are only there under a condition."""


@dataclass(frozen=True)
class Panel:
    """One panel; expressions by their legend."""

    title: str
    unit: str
    lines: dict[str, str]
    kind: str = "timeseries"
    width: int = 8
    about: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: list[Panel] = field(default_factory=list)


def quantile(q: float, metric: str, *by: str, where: str = POOL) -> str:
    """A quantile of a histogram, by some labels."""
    labels = ", ".join((*by, "le"))
    selector = f"{{{where}}}" if where else ""
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{selector}{RATE})))"


def rate(metric: str, *by: str, where: str = POOL) -> str:
    """A rate, summed by some labels."""
    selector = f"{{{where}}}" if where else ""
    return f"sum by ({', '.join(by)}) (rate({metric}{selector}{RATE}))"


def processor(job: str) -> str:
    """Cores in use."""
    return f'rate(process_cpu_seconds_total{{job="embedfleet-{job}"}}{RATE})'


SERVICE = [
    Row(
        "At a glance",
        [
            Panel("Requests a second", "reqps", {"": f"sum({BY_STATUS}{{{POOL}}})"}, "stat", 6),
            Panel(
                "p99 of a request",
                "s",
                {"{{pool}}": f"pool:embedfleet_request_duration_seconds:p99_1m{{{POOL}}}"},
                "stat",
                6,
            ),
            Panel(
                "Errors",
                "percentunit",
                {"{{pool}}": f"pool:embedfleet_request_errors:ratio1m{{{POOL}}}"},
                "stat",
                6,
            ),
            Panel(
                "Ready replicas",
                "none",
                {"{{pool}}": f"pool:embedfleet_replicas_ready:sum{{{POOL}}}"},
                "stat",
                6,
            ),
        ],
    ),
    Row(
        "Requests",
        [
            Panel(
                "Requests by status",
                "reqps",
                {"{{status}}": f"sum by (status) ({BY_STATUS}{{{POOL}}})"},
            ),
            Panel(
                "Duration",
                "s",
                {
                    "p50": f"pool:embedfleet_request_duration_seconds:p50_1m{{{POOL}}}",
                    "p95": quantile(0.95, "embedfleet_request_duration_seconds", "pool"),
                    "p99": f"pool:embedfleet_request_duration_seconds:p99_1m{{{POOL}}}",
                },
            ),
            Panel(
                "Errors and refusals",
                "percentunit",
                {
                    "errors {{pool}}": f"pool:embedfleet_request_errors:ratio1m{{{POOL}}}",
                    "refused {{pool}}": f"pool:embedfleet_requests_refused:ratio1m{{{POOL}}}",
                },
            ),
            Panel(
                "Requests being answered", "none", {"{{instance}}": "embedfleet_active_requests"}
            ),
            Panel(
                "Texts per request",
                "none",
                {
                    "p50": quantile(0.5, "embedfleet_request_texts", "pool"),
                    "p95": quantile(0.95, "embedfleet_request_texts", "pool"),
                },
            ),
            Panel(
                "Release",
                "none",
                {"{{version}}": "count by (version) (embedfleet_build_info)"},
                kind="stat",
            ),
        ],
    ),
    Row(
        "Texts",
        [
            Panel(
                "Texts by outcome",
                "cps",
                {"{{outcome}}": rate("embedfleet_texts_total", "outcome")},
            ),
            Panel("Tokens", "cps", {"{{pool}}": f"pool:embedfleet_tokens:rate1m{{{POOL}}}"}),
            Panel(
                "Wait for a replica, p99",
                "s",
                {
                    "{{pool}} {{lane}}": f"{WAIT_P99}{{{POOL}}}",
                },
            ),
            Panel(
                "Waiting",
                "none",
                {
                    "texts {{pool}}": f"embedfleet_queued_texts{{{POOL}}}",
                    "tokens {{pool}}": f"embedfleet_queued_tokens{{{POOL}}}",
                },
            ),
            Panel(
                "Not taken in time",
                "cps",
                {
                    "answers refused": rate("embedfleet_shed_answers_total", where=""),
                    "clients cut off": rate("embedfleet_slow_clients_total", where=""),
                    "log lines dropped": rate("embedfleet_dropped_log_lines_total", where=""),
                },
            ),
            Panel(
                "Given to another replica",
                "cps",
                {
                    "after a loss": rate("embedfleet_requeued_texts_total", "pool"),
                    "because late": rate("embedfleet_hedged_texts_total", "pool"),
                },
            ),
        ],
    ),
    Row(
        "Right vectors",
        [
            Panel(
                "Vectors refused",
                "cps",
                {"{{pool}}": rate("embedfleet_vectors_refused_total", "pool")},
            ),
            Panel(
                "Distance to the golden vectors",
                "none",
                {
                    "largest of most checks": (
                        f"histogram_quantile(0.99, sum by (pool, le) "
                        f"(embedfleet_golden_drift_bucket{{{POOL}}}))"
                    )
                },
                about="One minus the cosine; f32 may be 1e-4 away, bf16 2e-3, 8 bits 3e-2.",
            ),
            Panel(
                "Replicas refused for wrong vectors",
                "none",
                {"{{pool}}": f"embedfleet_golden_mismatches_total{{{POOL}}}"},
                kind="stat",
            ),
        ],
    ),
    Row(
        "Cache",
        [
            Panel(
                "Texts by what the cache knew",
                "cps",
                {
                    "{{tier}}: {{result}}": rate(
                        "embedfleet_cache_texts_total", "tier", "result", where=""
                    ),
                    "computed for another": rate("embedfleet_cache_shared_texts_total", where=""),
                },
                about="What memory does not know is looked up in Redis, where there is one.",
            ),
            Panel(
                "Memory of vectors",
                "bytes",
                {"{{instance}}": "embedfleet_cache_held_bytes"},
            ),
            Panel(
                "Vectors in memory",
                "none",
                {
                    "held {{instance}}": "embedfleet_cache_held_texts",
                    "evicted": rate("embedfleet_cache_evicted_texts_total", where=""),
                    "of replicas that failed a check": rate(
                        "embedfleet_cache_distrusted_texts_total", where=""
                    ),
                },
            ),
            Panel(
                "Redis: a look-up",
                "s",
                {
                    "p50": quantile(0.5, "embedfleet_cache_redis_seconds", where=""),
                    "p99": quantile(0.99, "embedfleet_cache_redis_seconds", where=""),
                },
            ),
            Panel(
                "Redis: writes",
                "cps",
                {
                    "{{result}}": rate("embedfleet_cache_redis_writes_total", "result", where=""),
                    "rejected values": rate("embedfleet_cache_rejected_texts_total", where=""),
                },
            ),
            Panel(
                "Redis: bytes",
                "bytes",
                {
                    "written a second": rate(
                        "embedfleet_cache_redis_written_bytes_total", where=""
                    ),
                    "waiting": "embedfleet_cache_redis_queued_bytes",
                },
            ),
            Panel(
                "Redis is asked",
                "none",
                {"{{instance}} {{state}}": "embedfleet_cache_redis_state == 1"},
                kind="state-timeline",
                width=24,
                about="closed: yes; open: it failed, requests go on without; half-open: one tries.",
            ),
        ],
    ),
    Row(
        "API keys",
        [
            Panel(
                "Tokens charged by key",
                "cps",
                {"{{key}}": rate("embedfleet_key_tokens_total", "key", where="")},
                about="Tokens that no cache knew; limits are granted by each gateway.",
            ),
            Panel(
                "Requests by key",
                "reqps",
                {"{{key}}": rate("embedfleet_key_requests_total", "key", where="")},
            ),
            Panel(
                "Refused by key",
                "reqps",
                {
                    "{{key}}: {{reason}}": rate(
                        "embedfleet_key_refusals_total", "key", "reason", where=""
                    )
                },
                about="`none` brought no key or a wrong one.",
            ),
        ],
    ),
    Row(
        "The gateway process",
        [
            Panel(
                "Memory",
                "bytes",
                {"{{instance}}": 'process_resident_memory_bytes{job="embedfleet-gateway"}'},
            ),
            Panel(
                "Processor",
                "percentunit",
                {"{{instance}}": processor("gateway")},
                about="Of one core: a gateway that is near 1 needs a second one beside it.",
            ),
            Panel(
                "Open files",
                "none",
                {"{{instance}}": 'process_open_fds{job="embedfleet-gateway"}'},
            ),
        ],
    ),
]

FLEET = [
    Row(
        "Replicas",
        [
            Panel(
                "Replicas by state",
                "none",
                {
                    "{{state}}": "max by (state) (sum by (state, instance) "
                    f"(embedfleet_replica_state{{{POOL}}}))"
                },
            ),
            Panel(
                "Ready",
                "none",
                {"{{pool}}": f"pool:embedfleet_replicas_ready:sum{{{POOL}}}"},
                kind="stat",
                width=4,
            ),
            Panel(
                "State of each",
                "none",
                {"{{replica}} {{state}}": f"embedfleet_replica_state{{{POOL}}} == 1"},
                kind="state-timeline",
                width=12,
            ),
            Panel(
                "States entered",
                "none",
                {
                    "{{state}}": (
                        "sum by (state) (increase("
                        f"embedfleet_replica_entered_total{{{POOL}}}{RATE}))"
                    )
                },
            ),
            Panel(
                "Started again",
                "none",
                {"{{pool}}": f"embedfleet_replica_restarts_total{{{POOL}}}"},
                kind="stat",
                width=4,
            ),
            Panel(
                "What runs there",
                "none",
                {
                    "{{replica}}: {{engine}}, {{precision}}": (
                        f"sum by (replica, engine, precision) (embedfleet_replica_info{{{POOL}}})"
                    )
                },
                kind="table",
                width=12,
            ),
        ],
    ),
    Row(
        "What a scaler looks at",
        [
            Panel(
                "Share of the granted work in use",
                "percentunit",
                {"{{pool}}": f"pool:embedfleet_window_used:ratio{{{POOL}}}"},
                about="Near 1 replicas are full; below a half for long, there are too many.",
            ),
            Panel(
                "Seconds of work that wait",
                "s",
                {"{{pool}}": f"pool:embedfleet_backlog_seconds:current{{{POOL}}}"},
            ),
            Panel(
                "Work done",
                "cps",
                {"tokens {{pool}}": f"pool:embedfleet_tokens:rate1m{{{POOL}}}"},
            ),
            Panel(
                "Outstanding by replica",
                "none",
                {"{{replica}}": f"embedfleet_replica_outstanding_tokens{{{POOL}}}"},
            ),
            Panel(
                "Window by replica",
                "none",
                {"{{replica}}": f"embedfleet_replica_window_tokens{{{POOL}}}"},
                about="Tokens that a replica allows this gateway; learned where it can't say.",
            ),
            Panel(
                "Loading a model took",
                "s",
                {"{{replica}}": f"embedfleet_replica_load_duration_seconds{{{POOL}}}"},
            ),
        ],
    ),
]

SCALING = Row(
    "Autoscaling",
    [
        Panel(
            "Wanted, planned, ready",
            "none",
            {
                f"{name} {{{{pool}}}}": f"embedfleet_autoscaling_{name}_replicas{{{POOL}}}"
                for name in ("wanted", "planned", "deployment", "ready", "standby", "max")
            },
            about="Planned are ordered, ready get traffic. Wanted above max: the bound is too low.",
        ),
        Panel(
            "Replicas that each term requires",
            "none",
            {"{{pool}} {{term}}": f"embedfleet_autoscaling_term_replicas{{{POOL}}}"},
            about="The largest one wins; `embedfleet autoscale explain` tells it in words.",
        ),
        Panel(
            "What decides",
            "none",
            {"{{pool}} {{winner}}": f"embedfleet_autoscaling_winner{{{POOL}}} == 1"},
            kind="state-timeline",
        ),
        Panel(
            "From the order to the first traffic",
            "s",
            {
                "p75 {{pool}} from {{came_from}}": (
                    "histogram_quantile(0.75, sum by (pool, came_from, le) "
                    f"(embedfleet_replica_start_seconds_bucket{{{POOL}}}))"
                )
            },
        ),
        Panel(
            "Changes",
            "none",
            {
                "{{pool}} {{direction}}": (
                    "sum by (pool, direction) (increase("
                    f"embedfleet_autoscaling_changes_total{{{POOL}}}{RATE}))"
                )
            },
        ),
        Panel(
            "Held, by hand, last decision",
            "none",
            {
                "held {{pool}}": f"embedfleet_autoscaling_held{{{POOL}}}",
                "by hand {{pool}}": f"embedfleet_autoscaling_by_hand{{{POOL}}}",
                "seconds ago {{pool}}": (
                    f"time() - embedfleet_autoscaling_decision_timestamp_seconds{{{POOL}}}"
                ),
            },
        ),
    ],
)
FLEET.append(SCALING)

SGLANG_P99 = quantile(0.99, "sglang:e2e_request_latency_seconds", "replica", where="")

ENGINE = [
    Row(
        "embedfleet's own engine",
        [
            Panel(
                "Tokens by replica",
                "cps",
                {"{{replica}}": rate("embedfleet_replica_tokens_total", "replica")},
            ),
            Panel(
                "Texts by outcome",
                "cps",
                {"{{outcome}}": rate("embedfleet_replica_texts_total", "outcome")},
            ),
            Panel(
                "Batch fill",
                "percentunit",
                {"p50": quantile(0.5, "embedfleet_replica_batch_fill_ratio", "pool")},
                about="Tokens of a batch over its budget; low fill at high load wastes the engine.",
            ),
            Panel(
                "Batches",
                "none",
                {
                    "texts p50": quantile(0.5, "embedfleet_replica_batch_texts", "pool"),
                    "tokens p50": quantile(0.5, "embedfleet_replica_batch_tokens", "pool"),
                },
            ),
            Panel(
                "A batch takes",
                "s",
                {
                    "prepare p50": quantile(0.5, "embedfleet_replica_prepare_seconds", "pool"),
                    "compute p50": quantile(0.5, "embedfleet_replica_compute_seconds", "pool"),
                    "compute p99": quantile(0.99, "embedfleet_replica_compute_seconds", "pool"),
                },
            ),
            Panel(
                "Wait for a batch",
                "s",
                {"p99": quantile(0.99, "embedfleet_replica_queue_seconds", "pool")},
            ),
            Panel(
                "Waiting in replicas",
                "none",
                {
                    "texts {{replica}}": f"embedfleet_replica_waiting_texts{{{POOL}}}",
                    "tokens {{replica}}": f"embedfleet_replica_waiting_tokens{{{POOL}}}",
                },
            ),
            Panel(
                "Memory",
                "bytes",
                {"{{replica}}": 'process_resident_memory_bytes{job="embedfleet-replica"}'},
            ),
            Panel(
                "Processor",
                "percentunit",
                {"{{replica}}": processor("replica")},
            ),
        ],
    ),
    Row(
        "embedfleet's own engine on GPUs",
        [
            Panel(
                "GPU busy",
                "percentunit",
                {"{{replica}}": f"embedfleet_replica_gpu_busy_ratio{{{POOL}}}"},
                about="A kernel ran; what it is worth shows in tokens by replica.",
            ),
            Panel(
                "GPU memory",
                "bytes",
                {
                    "used {{replica}}": f"embedfleet_replica_gpu_memory_used_bytes{{{POOL}}}",
                    "there {{replica}}": f"embedfleet_replica_gpu_memory_bytes{{{POOL}}}",
                },
            ),
            Panel(
                "GPU power",
                "watt",
                {"{{replica}}": f"embedfleet_replica_gpu_power_watts{{{POOL}}}"},
            ),
            Panel(
                "Padding",
                "percentunit",
                {
                    "{{replica}}": rate("embedfleet_replica_padding_tokens_total", "replica")
                    + " / "
                    + rate("embedfleet_replica_tokens_total", "replica")
                },
                about="Padding tokens of small passes; large passes have none.",
            ),
        ],
    ),
    Row(
        "GPUs (DCGM)",
        [
            Panel("Busy", "percent", {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_GPU_UTIL"}),
            Panel(
                "Tensor cores",
                "percentunit",
                {"{{Hostname}} {{gpu}}": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"},
                about="What computes vectors; a GPU can be busy all the time with these idle.",
            ),
            Panel("SMs", "percentunit", {"{{Hostname}} {{gpu}}": "DCGM_FI_PROF_SM_ACTIVE"}),
            Panel("Memory", "decmbytes", {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_FB_USED"}),
            Panel("Power", "watt", {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_POWER_USAGE"}),
            Panel("Temperature", "celsius", {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_GPU_TEMP"}),
            Panel(
                "Errors (XID)",
                "none",
                {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_XID_ERRORS"},
                kind="stat",
            ),
        ],
    ),
    Row(
        "Third-party engines",
        [
            Panel(
                "SGLang",
                "none",
                {"running": "sglang:num_running_reqs", "waiting": "sglang:num_queue_reqs"},
            ),
            Panel(
                "SGLang, request p99",
                "s",
                {
                    "{{replica}}": quantile(
                        0.99, "sglang:e2e_request_latency_seconds", "replica", where=""
                    )
                },
            ),
            Panel(
                "vLLM",
                "none",
                {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"},
            ),
            Panel("TEI, queue", "none", {"{{replica}}": "te_queue_size"}),
            Panel(
                "llama.cpp",
                "none",
                {
                    "running": "llamacpp:requests_processing",
                    "deferred": "llamacpp:requests_deferred",
                },
            ),
        ],
    ),
]

DASHBOARDS = {
    "service": ("embedfleet: service", SERVICE),
    "fleet": ("embedfleet: fleet and autoscaling", FLEET),
    "engine": ("embedfleet: engine and GPU", ENGINE),
}
SOURCE = {"type": "prometheus", "uid": "${source}"}


ABOUT = {
    "Requests by status": (
        "Requests a second by HTTP status. 429 is a refusal for load or a limit, 503 that "
        "no replica is there."
    ),
    "Duration": (
        "From a request's first byte to the last of its answer, tokenising and waiting included."
    ),
    "Errors and refusals": "Shares of all requests: 5xx that clients saw, and 429.",
    "Requests being answered": "Requests in flight in each gateway.",
    "Texts per request": "How many texts clients send at once.",
    "Release": "Versions that run; more than one during an update.",
    "Texts by outcome": "Texts a second by how they ended.",
    "Tokens": "Tokens a second of answered texts: the work that scaling and balancing count.",
    "Wait for a replica, p99": (
        "Time in the gateway's queue by lane. It grows when replicas are full."
    ),
    "Waiting": "Texts and tokens in the gateway's queue.",
    "Not taken in time": (
        "Clients that take their answers too slowly, answers shed for memory, log lines dropped."
    ),
    "Given to another replica": (
        "Texts queued again after a failure, and second calls to beat a late replica (hedges)."
    ),
    "Vectors refused": (
        "Vectors that were not finite or not of unit length. Always 0 in a sound fleet."
    ),
    "Replicas refused for wrong vectors": "Replicas that did not reproduce the golden vectors.",
    "Memory of vectors": "Bytes that the cache in memory holds.",
    "Vectors in memory": (
        "Texts held, evicted for room, and dropped because a replica that lied had computed them."
    ),
    "Redis: a look-up": "Time of one look-up of a request's texts.",
    "Redis: writes": "Vectors written, and those that were refused as damaged.",
    "Redis: bytes": "Bytes written a second, and those that wait to be written.",
    "Requests by key": "Requests a second of each API key.",
    "Memory": "Resident memory of each process.",
    "Open files": "File descriptors, connections included.",
    "Replicas by state": "Replicas in each state; docs/states.md draws how they move.",
    "Ready": "Replicas that get traffic.",
    "State of each": "The state that each replica is in now.",
    "States entered": "Moves into each state a second; a replica that comes and goes shows here.",
    "Started again": "Replica processes that ended and were started again.",
    "What runs there": "Engine, precision and version of each replica.",
    "Seconds of work that wait": "Queued work over what the pool computes in a second.",
    "Work done": "Tokens a second of each pool.",
    "Outstanding by replica": "Tokens that a replica was given and has not answered.",
    "Loading a model took": "Seconds from the process's start to the model being loaded.",
    "What decides": "The reason that won the last decision.",
    "From the order to the first traffic": "Seconds from the order of a replica to its first call.",
    "Changes": "Replicas added and removed.",
    "Held, by hand, last decision": (
        "1 while signals are missing or a person decides; and the time of the last decision."
    ),
    "Tokens by replica": "Tokens a second that each engine computed.",
    "Batches": "Texts and tokens of a batch.",
    "A batch takes": "Seconds to prepare and to compute a batch.",
    "Wait for a batch": "Seconds from a text's arrival at a replica to its batch.",
    "Waiting in replicas": "Texts and tokens that a replica holds beside the running batch.",
    "Processor": "Cores in use by each process.",
    "GPU memory": "Memory in use, and all there is.",
    "GPU power": "Watts; near the limit the GPU computes as fast as it can.",
    "Busy": "Share of time in which a kernel ran.",
    "SMs": "Share of streaming multiprocessors with work.",
    "Power": "Watts as the driver reports them.",
    "Temperature": "Of the GPU; it throttles near 90 °C.",
    "Errors (XID)": "The last XID error of the driver; 0 is none.",
    "SGLang": "Requests that run and wait, as the engine counts them.",
    "SGLang, request p99": "The engine's own latency.",
    "vLLM": "Requests that run and wait, as the engine counts them.",
    "TEI, queue": "Requests that wait in the engine.",
    "llama.cpp": "Requests that run and wait, as the engine counts them.",
    "Requests a second": "All pools that are chosen.",
    "p99 of a request": "From a request's first byte to the last of its answer.",
    "Errors": "Share of requests that ended in a 5xx.",
    "Ready replicas": "Replicas that get traffic.",
}
"""What panels show that say nothing themselves, by title."""

ALERTS = {
    "Requests by status": "EmbedfleetHighRejectionRate",
    "Duration": "EmbedfleetHighLatency",
    "p99 of a request": "EmbedfleetHighLatency",
    "Errors and refusals": "EmbedfleetHighErrorRate",
    "Errors": "EmbedfleetHighErrorRate",
    "Wait for a replica, p99": "EmbedfleetHighQueueWait",
    "Release": "EmbedfleetVersionMismatch",
    "Vectors refused": "EmbedfleetInvalidVectors",
    "Distance to the golden vectors": "EmbedfleetVectorDrift",
    "Replicas refused for wrong vectors": "EmbedfleetGoldenVectorMismatch",
    "Redis: writes": "EmbedfleetRedisWritesRejected",
    "Redis is asked": "EmbedfleetRedisUnavailable",
    "Ready": "EmbedfleetNoReadyReplicas",
    "Ready replicas": "EmbedfleetNoReadyReplicas",
    "State of each": "EmbedfleetReplicaEjected",
    "States entered": "EmbedfleetReplicaFlapping",
    "Started again": "EmbedfleetReplicaCrashLooping",
    "Seconds of work that wait": "EmbedfleetHighBacklog",
    "Wanted, planned, ready": "EmbedfleetAutoscalerMaxedOut",
    "Held, by hand, last decision": "EmbedfleetAutoscalerStalled",
    "Errors (XID)": "EmbedfleetGpuErrors",
}
"""Alerts that watch what a panel shows, by title: the panel links to their paragraphs."""


def dashboard(name: str) -> dict[str, Any]:
    """Grafana's JSON of one dashboard."""
    title, rows = DASHBOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {"type": "row", "title": row.title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        y += 1
        x = 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y = 0, y + 8
            place = {"x": x, "y": y, "w": panel.width, "h": 8}
            panels.append(_panel(panel) | {"gridPos": place})
            x += panel.width
        y += 8
    for number, each in enumerate(panels):
        each["id"] = number + 1
    return {
        "uid": f"embedfleet-{name}",
        "title": title,
        "tags": ["embedfleet"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _pools(), _runbook()]},
        "annotations": {"list": _annotations()},
        "links": [
            {
                "type": "dashboards",
                "title": "embedfleet",
                "tags": ["embedfleet"],
                "asDropdown": False,
                "keepTime": True,
                "includeVars": True,
            },
            {"type": "link", "title": "Runbook", "url": "${runbook}", "targetBlank": True},
        ],
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + at),
            "expr": expression,
            "legendFormat": legend,
            "datasource": SOURCE,
        }
        for at, (legend, expression) in enumerate(panel.lines.items())
    ]
    if panel.kind == "table":
        targets = [each | {"format": "table", "instant": True} for each in targets]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about or ABOUT[panel.title],
        "links": [
            {
                "title": f"Runbook: {alert}",
                "url": f"${{runbook}}#{alert.lower()}",
                "targetBlank": True,
            }
            for alert in (ALERTS.get(panel.title),)
            if alert is not None
        ],
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def _runbook() -> dict[str, Any]:
    """Where the runbook is read: an operator sets it to the address of the documentation."""
    place = "docs/runbook.md"
    return {
        "name": "runbook",
        "type": "textbox",
        "label": "Runbook",
        "query": place,
        "current": {"text": place, "value": place},
    }


def _annotations() -> list[dict[str, Any]]:
    """Alerts while they fire, and changes that the autoscaler made."""
    queries = {
        "Alerts": (
            'ALERTS{alertname=~"Embedfleet.+", alertstate="firing"}',
            "{{alertname}}",
            "red",
        ),
        "Scaling": (
            f"increase(embedfleet_autoscaling_changes_total{{{POOL}}}[1m]) > 0",
            "{{pool}} {{direction}}",
            "blue",
        ),
    }
    return [
        {
            "name": name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": colour,
            "expr": expression,
            "titleFormat": title,
            "step": "60s",
        }
        for name, (expression, title, colour) in queries.items()
    ]


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _pools() -> dict[str, Any]:
    return {
        "name": "pool",
        "type": "query",
        "label": "Pool",
        "datasource": SOURCE,
        "query": {"query": "label_values(embedfleet_replica_state, pool)", "refId": "pools"},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def text(name: str) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard(name), indent=2) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (HERE / f"{each}.json").write_text(text(each), encoding="utf-8")
