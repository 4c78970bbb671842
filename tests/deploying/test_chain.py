"""From a decision to a number of replicas: metrics, Prometheus' query, KEDA, the HPA's algorithm.

Prometheus is the real one (promtool evaluates the queries that we ship); KEDA is its documented
rule for empty results, failures and fallback; the HPA is the exact algorithm of the simulator.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.deploying.queries import STALE_S, nudged, wanted
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.simulator.rivals.hpa import Behaviour, Limit, Rules, replicas_for_total
from tests.deploying.rendered import CASES, Document, named, rendered

POOL = "Qwen3-Embedding-8B"
NOW_S = 600
"""When promtool asks, seconds after its epoch."""


@dataclass(frozen=True)
class Gateway:
    """What one gateway exposes."""

    planned: int
    age_s: float = 0.0
    """Of its last decision."""
    deployed: int = 2
    pool: str = POOL


def series(gateways: Iterable[Gateway]) -> list[dict[str, str]]:
    found = []
    for number, gateway in enumerate(gateways):
        labels = f'{{namespace="embedfleet",pool="{gateway.pool}",pod="gateway-{number}"}}'
        for metric, value in (
            ("planned_replicas", gateway.planned),
            ("deployment_replicas", gateway.deployed),
            ("decision_timestamp_seconds", NOW_S - gateway.age_s),
        ):
            name = f"embedfleet_autoscaling_{metric}{labels}"
            found.append({"series": name, "values": f"{value:g}x100"})
    return found


def answers(query: str, cases: dict[float | None, list[Gateway]], folder: Path) -> None:
    """Have promtool say that the query answers each key (None: nothing) for its gateways."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: `make packages` tries to")
    tests = [
        {
            "interval": "15s",
            "input_series": series(gateways),
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": f"{NOW_S}s",
                    "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
                }
            ],
        }
        for value, gateways in cases.items()
    ]
    file = folder / "query.json"
    file.write_text(json.dumps({"rule_files": [], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_query_takes_the_fresh_answer_of_its_pool_and_nothing_else(tmp_path: Path) -> None:
    answers(
        wanted("embedfleet", POOL),
        {
            5: [Gateway(5)],
            6: [
                Gateway(9, age_s=STALE_S + 1),
                Gateway(6, age_s=STALE_S - 30),
            ],  # a handed-over lease
            7: [Gateway(7), Gateway(30, pool="another")],
            None: [Gateway(9, age_s=STALE_S + 1)],  # and not 0
        },
        tmp_path,
    )


def test_the_query_returns_nothing_without_gateways(tmp_path: Path) -> None:
    answers(wanted("embedfleet", POOL), {None: []}, tmp_path)


def test_the_nudged_query_lifts_what_is_near_and_leaves_the_rest(tmp_path: Path) -> None:
    answers(
        nudged("embedfleet", POOL, 0.1),
        {
            12: [Gateway(11, deployed=10)],  # 11 would be near enough to 10
            13: [Gateway(13, deployed=10)],
            10: [Gateway(10, deployed=10)],
            9: [Gateway(9, deployed=10)],
            18: [Gateway(17, deployed=16)],
            3: [Gateway(3, deployed=2)],
            None: [Gateway(11, deployed=10, age_s=STALE_S + 1)],
        },
        tmp_path,
    )


def nudge(want: int, now: int, tolerance: float) -> float:
    """The nudged query in Python; promtool says that they agree."""
    least = int((1 + tolerance) * now) + 1
    return least if now < want < least else want


@given(st.integers(1, 200), st.integers(1, 200))
def test_without_a_tolerance_every_number_arrives_exactly(want: int, now: int) -> None:
    assert replicas_for_total(want, 1, now, tolerance=0.0) == want


@given(st.integers(10, 200))
def test_with_the_default_tolerance_a_single_replica_more_or_less_never_arrives(now: int) -> None:
    """The trap: from ten on."""
    assert replicas_for_total(now + 1, 1, now) == now
    assert replicas_for_total(now - 1, 1, now) == now


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_nudge_gives_at_least_what_is_wanted_and_at_most_a_tenth_more(
    want: int, now: int
) -> None:
    got = replicas_for_total(nudge(want, now, 0.1), 1, now)
    assert got >= want
    if want > now:
        assert got <= max(want, int(1.1 * now) + 1)
    else:
        assert got <= max(want, now)
        assert got == want or want >= 0.9 * now - 1e-9


@dataclass
class Keda:
    """KEDA's part: an empty result is an error with `ignoreNullValues: "false"`, and zero without;
    after some errors in a row the fallback counts (`currentReplicasIfHigher`)."""

    scaled: Document
    failures: int = 0

    def metric(self, result: float | None, current: int) -> float | None:
        """What the HPA is told; None when it is told nothing, and then it holds."""
        spec = self.scaled["spec"]
        if result is None and spec["triggers"][0]["metadata"]["ignoreNullValues"] == "true":
            result = 0.0
        if result is not None:
            self.failures = 0
            return result
        self.failures += 1
        fallback = spec["fallback"]
        if self.failures <= fallback["failureThreshold"]:
            return None
        assert fallback["behavior"] == "currentReplicasIfHigher"
        return float(max(current, fallback["replicas"]))


def hpa(scaled: Document) -> Behaviour:
    """The HPA that KEDA makes of a ScaledObject."""
    spec = scaled["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    rules = {
        direction: Rules(
            said["stabilizationWindowSeconds"],
            tuple(
                Limit(each["type"], each["value"], each["periodSeconds"])
                for each in said["policies"]
            ),
            said["selectPolicy"],
        )
        for direction, said in behavior.items()
    }
    return Behaviour(
        spec["minReplicaCount"], spec["maxReplicaCount"], rules["scaleUp"], rules["scaleDown"]
    )


def followed(name: str, results: Iterable[float | None], start: int) -> list[int]:
    """Replicas round by round (15 s), for what Prometheus answers in each."""
    scaled = named(rendered(name))["ScaledObject", "engine"]
    keda, behaviour, current = Keda(scaled), hpa(scaled), start
    tolerance = CASES[name].tolerance
    seen = []
    for step, result in enumerate(results):
        told = keda.metric(result, current)
        if told is not None:
            desired = replicas_for_total(told, 1, current, tolerance=tolerance)
            current = behaviour.steadied(current, desired, 15.0 * step)
        seen.append(current)
    return seen


def test_a_decision_to_grow_is_carried_out_in_the_next_round() -> None:
    assert followed("sglang-keda", [2, 6, 6, 8], 2) == [2, 6, 6, 8]


def test_a_decision_to_shrink_is_carried_out_within_a_minute() -> None:
    assert followed("sglang-keda", [6] * 4 + [5] * 6, 6)[-1] == 5


def test_an_outage_of_prometheus_or_gateways_never_takes_replicas_away() -> None:
    assert followed("sglang-keda", [6, 6, *[None] * 40], 6) == [6] * 42


def test_a_long_outage_with_few_replicas_brings_the_fallback() -> None:
    seen = followed("sglang-keda", [2, *[None] * 10], 2)
    assert seen[:4] == [2, 2, 2, 2]
    assert seen[-1] == CASES["sglang-keda"].fallback_replicas == 4


def test_with_null_read_as_zero_the_same_outage_would_take_all_but_the_fewest() -> None:
    """What KEDA does unless told otherwise; the reason for `ignoreNullValues: "false"`."""
    scaled = named(rendered("sglang-keda"))["ScaledObject", "engine"]
    scaled["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] = "true"
    keda, behaviour, current = Keda(scaled), hpa(scaled), 6
    for step in range(40):
        told = keda.metric(None, current)
        assert told == 0.0
        desired = replicas_for_total(told, 1, current, tolerance=0.0)
        current = behaviour.steadied(current, desired, 15.0 * step)
    assert current == CASES["sglang-keda"].min_replicas


def test_an_old_cluster_gets_there_by_the_nudge() -> None:
    """It gets one more where it would get none."""
    start = CASES["old-cluster"].max_replicas - 1
    assert followed("old-cluster", [nudge(start + 1, start, 0.1)], start) == [start + 1]


def test_the_metrics_in_the_queries_are_those_that_gateways_expose() -> None:
    metrics = GatewayMetrics()
    metrics.planned.labels(POOL).set(3)
    metrics.decided.labels(POOL).set(4)
    metrics.deployed.labels(POOL).set(5)
    text = metrics.exposition().decode()
    for name in ("planned_replicas", "decision_timestamp_seconds", "deployment_replicas"):
        assert f'embedfleet_autoscaling_{name}{{pool="{POOL}"}}' in text
        assert f"embedfleet_autoscaling_{name}" in nudged("n", POOL, 0.1)


def test_the_adapters_rule_asks_the_same_question() -> None:
    found = named(rendered("sglang-hpa-only"))
    (rule,) = yaml.safe_load(
        found["ConfigMap", "prometheus-adapter-rule"]["data"]["external.yaml"]
    )["externalRules"]
    metric = found["HorizontalPodAutoscaler", "engine"]["spec"]["metrics"][0]["external"]
    assert rule["name"]["as"] == metric["metric"]["name"]
    assert metric["metric"]["selector"]["matchLabels"] == {"pool": POOL}
    labels = f'namespace="embedfleet",pool="{POOL}"'
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", labels)
    assert query == wanted("embedfleet", POOL)


def test_the_shipped_query_is_the_one_that_was_tried() -> None:
    for name, case in CASES.items():
        found = named(rendered(name)).get(("ScaledObject", "engine"))
        if found is None:
            continue
        query = found["spec"]["triggers"][0]["metadata"]["query"]
        expected = wanted(case.namespace, case.name)
        if case.tolerance:
            expected = nudged(case.namespace, case.name, case.tolerance)
        assert query == expected
