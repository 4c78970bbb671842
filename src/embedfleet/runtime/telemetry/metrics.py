"""The catalogue of metrics: names, units and labels.

Names follow Prometheus conventions (base units, `_total` for counters). Labels are bounded:
replicas, pools, lanes, states and statuses, never texts, users or paths that clients choose.
"""

from __future__ import annotations

from importlib.metadata import version
from math import nan

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from embedfleet.runtime.telemetry.tally import Counts, Tally

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()
"""The version that all scrapers read, some of them alone; 1.0.0 adds names in UTF-8, of which there
are none here.
"""

LATENCY_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
"""From a cache hit to a long document on a busy processor; 0.2 and 0.5 s are the usual targets."""

TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
DRIFT = (1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Around what the precision classes allow: 1e-4 for f32, 2e-3 for bf16, 3e-2 for 8-bit ones."""

START_UP_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""From waking a standby replica to loading a large model from a slow disk."""

TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """What both kinds of process share: a registry of their own, and its exposition."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.build_info = self._gauge("build_info", "The release that runs here.", "version")
        self.build_info.labels(version("embedfleet")).set(1)
        self.reload_failing = self._gauge(
            "reload_failing",
            "1 while files of keys or of a certificate have changed and can't be read: what they "
            "held before stays in force.",
            "files",
        )
        # process_resident_memory_bytes, process_cpu_seconds_total, … under their usual names
        ProcessCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes; any thread may render it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"embedfleet_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"embedfleet_{name}", text, labels, registry=self.registry)

    def _histogram(
        self,
        name: str,
        text: str,
        *labels: str,
        buckets: tuple[float, ...] = LATENCY_S,
    ) -> Histogram:
        full = f"embedfleet_{name}"
        return Histogram(full, text, labels, registry=self.registry, buckets=buckets)

    def _counts(self, name: str, text: str, *labels: str) -> Counts:
        return Counts(f"embedfleet_{name}", text, labels, registry=self.registry)

    def _tally(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_S
    ) -> Tally:
        full = f"embedfleet_{name}"
        return Tally(full, text, labels, registry=self.registry, buckets=buckets)


class GatewayMetrics(Metrics):
    """The metrics of a gateway."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counts(
            "requests_total",
            "Requests that ended, by pool and HTTP status; 499: the client disconnected.",
            "pool",
            "status",
        )
        self.request_duration = self._tally(
            "request_duration_seconds",
            "Duration of a request, from its first byte to the answer.",
            "pool",
        )
        self.request_texts = self._tally(
            "request_texts", "Texts of a request.", "pool", buckets=TEXTS
        )
        self.active_requests = self._gauge("active_requests", "Requests being answered.")
        self.batch_storage_failures = self._counter(
            "batch_storage_failures_total",
            "Reads and writes of files and batches (batches.directory) that failed.",
        )
        self.texts = self._counts(
            "texts_total", "Texts that got a vector or an error.", "pool", "outcome"
        )
        self.tokens = self._counts("tokens_total", "Tokens of texts that got a vector.", "pool")
        self.queue_wait = self._tally(
            "queue_wait_seconds",
            "Time that a text waited in the queue for a replica.",
            "pool",
            "lane",
        )
        self.queued_texts = self._gauge("queued_texts", "Texts waiting for a replica.", "pool")
        self.queued_tokens = self._gauge(
            "queued_tokens", "Tokens of texts waiting for a replica.", "pool"
        )
        self.requeued_texts = self._counter(
            "requeued_texts_total", "Texts put back because their replica was lost.", "pool"
        )
        self.hedged_texts = self._counter(
            "hedged_texts_total",
            "Texts given to a second replica because the first was late.",
            "pool",
        )
        self._add_clients()
        self._add_replicas()
        self._add_vectors()
        self._add_autoscaling()
        self._add_keys()
        self._add_cache()

    def _add_clients(self) -> None:
        self.shed_answers = self._counter(
            "shed_answers_total",
            "Answers replaced by a 503, as too many bytes wait for clients to read them.",
        )
        self.slow_clients = self._counter(
            "slow_clients_total", "Clients disconnected because they read their answers too slowly."
        )
        self.dropped_lines = self._counter(
            "dropped_log_lines_total",
            "Log lines dropped because standard error was not read in time.",
        )

    def _add_cache(self) -> None:
        self.cache_texts = self._counter(
            "cache_texts_total",
            "Texts looked up in a tier of the cache; `unasked`: Redis was too slow, or not asked "
            "as its circuit breaker was open.",
            "tier",
            "result",
        )
        self.cache_shared = self._counter(
            "cache_shared_texts_total", "Texts that were already being computed for another caller."
        )
        self.cache_held = self._gauge("cache_held_texts", "Texts whose vectors are in memory.")
        self.cache_bytes = self._gauge(
            "cache_held_bytes", "Memory of the vectors in the cache, in bytes."
        )
        self.cache_evicted = self._counter(
            "cache_evicted_texts_total", "Entries evicted from the in-memory cache."
        )
        self.cache_distrusted = self._counter(
            "cache_distrusted_texts_total",
            "Texts whose vectors were dropped because their replica failed a golden check.",
        )
        self.cache_rejected = self._counter(
            "cache_rejected_texts_total", "Values read from Redis that were damaged or foreign."
        )
        self._add_redis()

    def _add_redis(self) -> None:
        self.cache_writes = self._counter(
            "cache_redis_writes_total", "Texts to be written to Redis, by result.", "result"
        )
        self.cache_written = self._counter(
            "cache_redis_written_bytes_total", "Bytes written to Redis."
        )
        self.cache_queued = self._gauge(
            "cache_redis_queued_bytes", "Bytes waiting to be written to Redis."
        )
        self.cache_redis = self._histogram(
            "cache_redis_seconds", "Time of a lookup of a request's texts in Redis."
        )
        self.cache_redis_state = self._gauge(
            "cache_redis_state",
            "1 for the state of the circuit breaker for reads of Redis.",
            "state",
        )
        self.cache_redis_failures = self._counter(
            "cache_redis_failures_total",
            "Round trips to Redis that failed: `password`, `read_only`, `no_primary`, `no_node`, "
            "`timeout`, `connection`, `full`, `refused`, or an odd `answer`.",
            "reason",
        )

    def _add_keys(self) -> None:
        self.key_requests = self._counter(
            "key_requests_total", "Requests admitted, by the id of their API key.", "key"
        )
        self.key_tokens = self._counter(
            "key_tokens_total",
            "Tokens charged to a key: those of texts that were not in the cache.",
            "key",
        )
        self.key_refusals = self._counter(
            "key_refusals_total",
            "Requests refused by a limit of their key.",
            "key",
            "reason",
        )

    def _add_replicas(self) -> None:
        self.outstanding_tokens = self._gauge(
            "replica_outstanding_tokens", "Tokens outstanding at a replica.", "pool", "replica"
        )
        self.window_tokens = self._gauge(
            "replica_window_tokens",
            "Tokens that a replica may have outstanding.",
            "pool",
            "replica",
        )
        self.replica_state = self._gauge(
            "replica_state", "1 for the state that a replica is in.", "pool", "replica", "state"
        )
        self.replica_failing_checks = self._gauge(
            "replica_failing_checks",
            "Kinds of checks (probes, golden) that a replica fails while its calls are answered.",
            "pool",
            "replica",
        )
        self.replica_restarts = self._counter(
            "replica_restarts_total", "Replica processes started again after an exit.", "pool"
        )
        self.replica_entered = self._counter(
            "replica_entered_total",
            "Replicas that entered a state; `gone` counts those that were lost.",
            "pool",
            "state",
        )
        self.replica_info = self._gauge(
            "replica_info",
            "What runs behind a replica's address.",
            "pool",
            "replica",
            "engine",
            "precision",
        )

    def _add_vectors(self) -> None:
        self.vectors_refused = self._counter(
            "vectors_refused_total",
            "Vectors of replicas that were not finite, not of unit length or of the wrong size.",
            "pool",
        )
        self.golden_drift = self._histogram(
            "golden_drift",
            "One minus the least cosine to the golden vectors, at each check of a replica.",
            "pool",
            buckets=DRIFT,
        )
        self.golden_mismatches = self._counter(
            "golden_mismatches_total", "Replicas refused for wrong golden vectors.", "pool"
        )

    def _add_autoscaling(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return self._gauge(f"autoscaling_{name}", text, "pool", *labels)

        self.wanted = gauge(
            "wanted_replicas", "Replicas that the winning term requires, before bounds."
        )
        self.planned = gauge("planned_replicas", "Replicas ordered to be in traffic.")
        self.deployed = gauge(
            "deployment_replicas", "Replicas that the Deployment is to have, as last read."
        )
        self.serving = gauge("ready_replicas", "Replicas in traffic at the last decision.")
        self.standby = gauge(
            "standby_replicas", "Replicas ordered to be on standby: loaded, without traffic."
        )
        self.most = gauge("max_replicas", "Most replicas that the autoscaler may order.")
        self.term = gauge(
            "term_replicas", "Replicas that each term requires; 0 where it requires none.", "term"
        )
        self.winner = gauge("winner", "1 for the term that decided, or what held it.", "winner")
        self.held = gauge(
            "held", "1 while signals are missing or impossible and the number is held."
        )
        self.by_hand = gauge(
            "by_hand", "1 while autoscaling is paused or the number was set manually."
        )
        self.decided = gauge(
            "decision_timestamp_seconds",
            "Time of the last decision, or of the start if there was none.",
        )
        self.scaled = self._counter(
            "autoscaling_changes_total",
            "Changes of the number of replicas, by direction.",
            "pool",
            "direction",
        )
        self.start_up = self._histogram(
            "replica_start_seconds",
            "Time from the order of a replica to its first traffic.",
            "pool",
            "came_from",
            buckets=START_UP_S,
        )


class ReplicaMetrics(Metrics):
    """The metrics of a replica."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = self._counts("replica_texts_total", "Texts computed or failed.", "outcome")
        self.tokens = self._counts("replica_tokens_total", "Tokens computed.")
        self.waiting_texts = self._gauge("replica_waiting_texts", "Texts waiting for a batch.")
        self.waiting_tokens = self._gauge(
            "replica_waiting_tokens", "Tokens of texts waiting for a batch."
        )
        self.batch_texts = self._tally("replica_batch_texts", "Texts in a batch.", buckets=TEXTS)
        self.batch_tokens = self._tally(
            "replica_batch_tokens", "Tokens in a batch.", buckets=TOKENS
        )
        self.batch_fill = self._tally(
            "replica_batch_fill_ratio",
            "Tokens of a batch over the batch budget.",
            buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0),
        )
        self.padding = self._counts(
            "replica_padding_tokens_total",
            "Tokens of no text, computed to fill a captured size; texts themselves are not padded.",
        )
        self.queue = self._tally("replica_queue_seconds", "A text's wait for its batch.")
        self.prepare = self._tally("replica_prepare_seconds", "Preparing a batch.")
        self.compute = self._tally("replica_compute_seconds", "Computing a batch.")
        self.load_duration = self._gauge("replica_load_duration_seconds", "Loading the model.")
        self._add_gpu()

    def _add_gpu(self) -> None:
        """NaN where it is not measured: on a processor, or where the driver does not report it."""
        self.gpu_busy = self._gauge(
            "replica_gpu_busy_ratio",
            "Share of the last sampling period in which the GPU ran a kernel.",
        )
        self.gpu_memory = self._gauge(
            "replica_gpu_memory_used_bytes", "Memory of the GPU in use, by all processes."
        )
        self.gpu_memory_total = self._gauge("replica_gpu_memory_bytes", "Memory of the GPU.")
        self.gpu_power = self._gauge("replica_gpu_power_watts", "Power that the GPU draws.")
        for gauge in (self.gpu_busy, self.gpu_memory, self.gpu_memory_total, self.gpu_power):
            gauge.set(nan)
