"""What a published recipe for SGLang on Kubernetes gets wrong, point by point, as rules for ours.

The points are those of docs/from-the-article.md, "On Kubernetes". Each test holds for every bundle
in `deploy/kubernetes` and for every case that `embedfleet deploy kubernetes` was asked for.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.deploying.case import DIGEST
from embedfleet.deploying.fitting import CHECKSUM, GPU, checksum
from embedfleet.runtime.settings import load, options
from tests.deploying.rendered import (
    CASES,
    Document,
    bundle,
    containers,
    everything,
    named,
    pods,
    rendered,
)

ANYWHERE = "0.0.0.0"  # noqa: S104  a word to compare
ENGINES = ["engine-sglang", "engine-cuda", "engine-cpu"]
GPU_ENGINES = ENGINES[:2]
SCALERS = {"HorizontalPodAutoscaler", "ScaledObject"}
WORKLOADS = [each for _, each in everything() if each["kind"] in {"Deployment", "Job"}]
DEPLOYMENTS = [each for each in WORKLOADS if each["kind"] == "Deployment"]
SERVING = [each for each in DEPLOYMENTS if each["metadata"]["name"] != "placeholder"]


def of_kind(kind: str) -> list[Document]:
    return [each for _, each in everything() if each["kind"] == kind]


def deployment(name: str) -> Document:
    """The one Deployment of an overlay."""
    (found,) = [each for each in bundle(f"overlays/{name}") if each["kind"] == "Deployment"]
    return found


def engine_of(document: Document) -> Document:
    found: Document = document["spec"]["template"]["spec"]["containers"][0]
    return found


def seconds(probe: Document) -> int:
    """How long a probe may fail before it counts."""
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def pause(container: Document) -> int:
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    return int(command[1])


def variables(container: Document) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", ())}


def test_point_1_images_are_pinned_by_digest_and_never_latest() -> None:
    images = {each["image"]: each for work in WORKLOADS for each in containers(work)}
    assert len(images) > 5
    for image, container in images.items():
        assert DIGEST.fullmatch(image), image
        assert ":latest" not in image
        assert not image.startswith("sglang/"), "there is no such project"
        assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("name", ENGINES)
def test_point_2_probes_leave_time_to_load_and_liveness_runs_no_inference(name: str) -> None:
    container = engine_of(deployment(name))
    startup, ready, live = (
        container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")
    )
    assert seconds(startup) >= 600
    assert seconds(ready) <= 15
    assert live["timeoutSeconds"] >= 5
    assert seconds(live) >= 30
    # /health of SGLang computes a text.
    assert live["httpGet"]["path"] in {"/health/live", "/v1/models"}
    assert (name == "engine-sglang") == (startup["httpGet"]["path"] == "/health")


def test_point_2_every_server_has_all_three_probes() -> None:
    for each in SERVING:
        container = engine_of(each)
        for kind in ("startup", "readiness", "liveness"):
            assert f"{kind}Probe" in container, f"{each['metadata']['name']} has no {kind} probe"


def test_point_3_a_pod_that_goes_is_left_alone_first_and_has_time_to_finish() -> None:
    for each in SERVING:
        if each["metadata"]["name"] == "redis":
            continue
        container, pod = engine_of(each), each["spec"]["template"]["spec"]
        drain_s = float(variables(container).get("EMBEDFLEET_REPLICA_DRAIN_TIMEOUT_S", "60"))
        if each["metadata"]["name"] == "gateway":
            settings = of_settings(bundle("overlays/gateway"))
            drain_s = settings["gateway"]["drain_timeout_s"]
        assert pause(container) >= 15
        assert pod["terminationGracePeriodSeconds"] >= pause(container) + drain_s + 10


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_point_4_shared_memory_is_large_and_within_the_limit(name: str) -> None:
    document = deployment(name)
    (volume,) = [
        each
        for each in document["spec"]["template"]["spec"]["volumes"]
        if each.get("emptyDir", {}).get("medium") == "Memory"
    ]
    container = engine_of(document)
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts["/dev/shm"] == volume["name"]  # noqa: S108
    assert gibibytes(volume["emptyDir"]["sizeLimit"]) < gibibytes(
        container["resources"]["limits"]["memory"]
    )


def test_point_5_a_gateway_waits_for_its_tokenizer() -> None:
    pod = deployment("gateway")["spec"]["template"]["spec"]
    (waits,) = pod["initContainers"]
    settings = of_settings(bundle("overlays/gateway"))
    revision = waits["args"][-1].partition("@")[2]
    assert settings["pools"][0]["tokenizer_dir"].endswith(f"/snapshots/{revision}")
    mounts = {each["mountPath"]: each for each in engine_of(deployment("gateway"))["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True


@pytest.mark.parametrize("name", ENGINES)
def test_point_5_weights_come_from_a_volume_at_a_pinned_revision_and_offline(name: str) -> None:
    pod = deployment(name)["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
    assert volume["persistentVolumeClaim"]["readOnly"] is True
    (waits,) = pod["initContainers"]
    assert re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", waits["args"][-1])
    for container in (waits, pod["containers"][0]):
        assert variables(container)["HF_HUB_OFFLINE"] == "1"
    jobs = [each for each in bundle("base") if each["kind"] == "Job"]
    assert [each["args"] for job in jobs for each in containers(job)] == [waits["args"]]


@pytest.mark.parametrize(("gpus", "flag"), [(1, []), (2, ["--tensor-parallel-size", "2"])])
def test_point_6_gpus_and_tensor_parallelism_are_one_value(gpus: int, flag: list[str]) -> None:
    name = {1: "sglang-keda", 2: "sglang-two-gpus"}[gpus]
    container = engine_of(named(rendered(name))["Deployment", "engine"])
    arguments, resources = container["args"], container["resources"]
    assert resources["limits"][GPU] == resources["requests"][GPU] == gpus == CASES[name].gpus
    place = arguments.index(flag[0]) if flag else 0
    assert arguments[place : place + len(flag)] == flag
    assert bool(flag) == ("--tensor-parallel-size" in arguments)


def test_point_7_the_engine_is_started_with_the_flags_that_we_print() -> None:
    container = engine_of(deployment("engine-sglang"))
    model = container["args"][1]
    printed = (
        CliRunner().invoke(app, ["engines", "sglang", "--model", model, "--host", ANYWHERE]).stdout
    )
    words = [word.strip("'") for line in printed.splitlines() for word in split(line)]
    given = [*container["command"], *container["args"]]
    place = given.index("--served-model-name")
    assert words[1:] == given[1:place] + given[place + 2 :]
    assert "--is-embedding" in given
    assert "--enable-metrics" in given
    assert not {"--gpu-memory-utilization", "--max-batch-size", "--enable-chunked-prefill"} & {
        *given
    }


@pytest.mark.parametrize("name", ["engine-cuda", "engine-cpu", "gateway"])
def test_point_7_our_own_commands_and_settings_exist(name: str) -> None:
    container = engine_of(deployment(name))
    command, *arguments = container["args"]
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    for word in arguments:
        if word.startswith("--"):
            assert word in shown.stdout
    known = {option.variable for option in options().values()}
    for variable in variables(container):
        assert variable in known or not variable.startswith("EMBEDFLEET_")
    if "--device" in arguments:
        device = arguments[arguments.index("--device") + 1]
        if device not in options()["engine.device"].choices:
            pytest.skip(f"this release has no engine for {device}; rendering refuses it")


def test_point_7_the_settings_of_the_gateway_are_accepted() -> None:
    for name in CASES:
        found = named(rendered(name))
        given = {
            key: value
            for config in ("scaling", "cache")
            for key, value in found.get(("ConfigMap", config), {"data": {}})["data"].items()
        }
        toml = found["ConfigMap", "gateway"]["data"]["embedfleet.toml"]
        (pool,) = load(toml, given, {}).pools
        assert pool.replica_service == f"{CASES[name].namespace}/engine:http"
        assert pool.scale_target == f"{CASES[name].namespace}/engine"
        assert pool.scaling == ("direct" if CASES[name].mode == "direct" else "external")


def test_point_8_requests_are_given_and_equal_limits_where_they_must() -> None:
    for work in WORKLOADS:
        for container in containers(work):
            requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
            assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)
            assert {"memory", "ephemeral-storage"} <= set(limits)
            assert requests.get(GPU) == limits.get(GPU)
    for name in ENGINES:
        resources = engine_of(deployment(name))["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


@pytest.mark.parametrize("name", GPU_ENGINES)
def test_point_9_one_deployment_is_for_one_kind_of_gpu(name: str) -> None:
    pod = deployment(name)["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = terms["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert expression["key"] == "nvidia.com/gpu.product"
    assert len(expression["values"]) == 1
    assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


@pytest.mark.parametrize("name", [*ENGINES, "gateway"])
def test_point_10_pods_are_spread_over_zones_and_nodes(name: str) -> None:
    document = deployment(name)
    spread = document["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    for each in spread:
        assert each["labelSelector"] == document["spec"]["selector"]


@pytest.mark.parametrize("name", [*ENGINES, "gateway"])
def test_point_11_disruption_takes_one_at_a_time_and_is_never_impossible(name: str) -> None:
    (budget,) = [
        each for each in bundle(f"overlays/{name}") if each["kind"] == "PodDisruptionBudget"
    ]
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]
    assert budget["spec"]["selector"] == deployment(name)["spec"]["selector"]


@pytest.mark.parametrize("name", [*ENGINES, "gateway"])
def test_point_12_updates_need_no_spare_gpu_and_wait_for_what_loads(name: str) -> None:
    spec = deployment(name)["spec"]
    rolling = spec["strategy"]["rollingUpdate"]
    scarce = name in GPU_ENGINES
    assert rolling == {"maxSurge": 0 if scarce else 1, "maxUnavailable": 1 if scarce else 0}
    assert spec["minReadySeconds"] >= (10 if name == "gateway" else 60)
    startup = engine_of(deployment(name))["startupProbe"]
    assert spec["progressDeadlineSeconds"] > 2 * seconds(startup)
    assert spec["revisionHistoryLimit"]


def test_point_13_processor_load_scales_gateways_alone() -> None:
    for hpa in of_kind("HorizontalPodAutoscaler"):
        kinds = {each["type"] for each in hpa["spec"]["metrics"]}
        on_processors = hpa["spec"]["scaleTargetRef"]["name"] == "gateway"
        assert kinds == ({"Resource"} if on_processors else {"External"})


def test_point_14_no_autoscaler_asks_for_the_utilisation_of_gpus() -> None:
    """It is full with one small batch after another, and a loading replica counts as idle."""
    scalers = [each for kind in SCALERS for each in of_kind(kind)]
    assert len(scalers) > 4
    for each in scalers:
        assert not re.search("gpu|DCGM|utilization", str(each["spec"]).replace("Utilization", ""))
        if each["metadata"]["name"] == "engine":
            metrics = each["spec"].get("metrics") or each["spec"]["triggers"]
            assert len(metrics) == 1, "one broken metric holds up every step down"


def test_point_15_scaling_behaviour_is_declared_and_leaves_the_rate_to_the_policy() -> None:
    for name, case in CASES.items():
        found = named(rendered(name))
        if case.mode == "direct":
            assert not {kind for kind, which in found if kind in SCALERS and which == "engine"}
            continue
        up, down = behaviours(found)
        assert up["stabilizationWindowSeconds"] == 0
        assert max(each["value"] for each in up["policies"]) >= 100
        assert 0 < down["stabilizationWindowSeconds"] <= 60
        expected = None if case.tolerance else "0"
        assert up.get("tolerance") == down.get("tolerance") == expected


def test_point_16_no_number_of_replicas_is_applied_where_a_scaler_owns_it() -> None:
    for each in DEPLOYMENTS:
        owned = each["metadata"]["name"] in {"gateway", "engine"}
        assert ("replicas" not in each["spec"]) == owned, each["metadata"]["name"]


def test_point_17_gateways_follow_pods_and_no_address_is_written_down() -> None:
    for name in ENGINES:
        (service,) = [each for each in bundle(f"overlays/{name}") if each["kind"] == "Service"]
        assert service["spec"]["clusterIP"] == "None"
        (port,) = service["spec"]["ports"]
        assert port["name"] == "http"
    rules = [rule for role in of_kind("Role") for rule in role["rules"]]
    assert {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    } in rules
    settings = of_settings(bundle("overlays/gateway"))
    assert "replica_urls" not in settings["pools"][0]


def test_point_18_pods_may_do_nothing_that_they_need_not() -> None:
    for work in WORKLOADS:
        for pod in pods(work):
            context = pod["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
            token = pod["automountServiceAccountToken"]
            assert token == (work["metadata"]["name"] == "gateway")
            assert not [each for each in pod.get("volumes", ()) if "hostPath" in each]
        for container in containers(work):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {each["mountPath"] for each in container.get("volumeMounts", ())}
            assert mounts & {"/tmp", "/data"} or container["name"] == "pause"  # noqa: S108


@pytest.mark.parametrize(
    ("mode", "verbs"), [("keda", ["get"]), ("hpa-only", ["get"]), ("direct", ["get", "patch"])]
)
def test_point_18_rights_are_those_that_a_way_of_scaling_takes(mode: str, verbs: list[str]) -> None:
    roles = [
        each
        for name in (mode, "gateway")
        for each in bundle(f"overlays/{name}")
        if each["kind"] == "Role"
    ]
    rules = {
        (rule["apiGroups"][0], rule["resources"][0]): rule
        for role in roles
        for rule in role["rules"]
    }
    assert rules["apps", "deployments/scale"]["verbs"] == verbs
    assert rules["apps", "deployments/scale"]["resourceNames"] == ["engine"]
    assert rules["", "pods"]["verbs"] == ["patch"]
    assert (("keda.sh", "scaledobjects") in rules) == (mode == "direct")
    granted = {verb for rule in rules.values() for verb in rule["verbs"]}
    assert "*" not in granted
    assert not {"delete", "deletecollection", "escalate", "impersonate"} & granted
    assert not [each for _, each in everything() if each["kind"].startswith("ClusterRole")]


def test_point_19_traffic_is_denied_unless_it_is_meant() -> None:
    (deny,) = [each for each in bundle("base") if each["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ENGINES:
        (policy,) = [each for each in bundle(f"overlays/{name}") if each["kind"] == "NetworkPolicy"]
        assert policy["spec"]["egress"] == []
        (rule,) = policy["spec"]["ingress"]
        allowed = [
            peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
            or peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            for peer in rule["from"]
        ]
        assert allowed == ["gateway", "monitoring"]
        ports = [each["containerPort"] for each in engine_of(deployment(name))["ports"]]
        assert [each["port"] for each in rule["ports"]] == ports


def test_point_20_secrets_are_files_and_never_arguments_or_variables() -> None:
    secret = re.compile(r"(?i)(token|password|secret|api_?key)$")
    for work in WORKLOADS:
        for container in containers(work):
            for variable in container.get("env", ()):
                assert "secretKeyRef" not in variable.get("valueFrom", {})
                assert not secret.search(variable["name"]), variable["name"]
            for source in container.get("envFrom", ()):
                assert "secretRef" not in source
            words = [*container.get("command", ()), *container.get("args", ())]
            assert not [
                word for word in words if re.match(r"--[\w-]*(token|key|password)(=|$)", word)
            ]
    assert of_kind("Secret") == []


def test_point_21_priorities_keep_engines_before_placeholders() -> None:
    values = {each["metadata"]["name"]: each["value"] for each in of_kind("PriorityClass")}
    assert values["embedfleet-gateway"] > values["embedfleet-engine"] > 0
    assert values["embedfleet-placeholder"] < 0
    for each in DEPLOYMENTS:
        assert each["spec"]["template"]["spec"]["priorityClassName"] in values
    placeholder = engine_of(deployment("warm-node"))
    assert placeholder["resources"]["limits"][GPU] >= 1


@pytest.mark.parametrize("mode", ["keda", "hpa-only", "direct"])
def test_point_22_several_gateways_agree_on_one_that_decides(mode: str) -> None:
    (hpa,) = [
        each for each in bundle("overlays/gateway") if each["kind"] == "HorizontalPodAutoscaler"
    ]
    assert hpa["spec"]["minReplicas"] >= 2
    (role,) = [each for each in bundle(f"overlays/{mode}") if each["kind"] == "Role"]
    leases = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    assert {verb for rule in leases for verb in rule["verbs"]} == {"create", "get", "update"}


def test_point_23_prometheus_finds_gateways_and_engines_often_enough() -> None:
    monitors = {
        each["metadata"]["name"]: each
        for kind in ("ServiceMonitor", "PodMonitor")
        for each in bundle("overlays/monitoring")
        if each["kind"] == kind
    }
    assert set(monitors) == {"gateway", "engine"}
    services = named(bundle("overlays/gateway"))
    for monitor in monitors.values():
        (endpoint,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        assert int(endpoint["interval"].removesuffix("s")) <= 15
        assert "release" in monitor["metadata"]["labels"]
    admin = services["Service", "gateway-admin"]
    chosen = monitors["gateway"]["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= admin["metadata"]["labels"].items()
    assert monitors["gateway"]["spec"]["endpoints"][0]["port"] == admin["spec"]["ports"][0]["name"]
    kinds = {each["kind"] for each in bundle("overlays/monitoring")}
    assert {"PrometheusRule", "ConfigMap"} <= kinds


@pytest.mark.parametrize("mode", ["keda", "hpa-only", "direct"])
def test_point_24_gateways_may_say_which_pod_would_be_missed_least(mode: str) -> None:
    (role,) = [each for each in bundle(f"overlays/{mode}") if each["kind"] == "Role"]
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]} in role["rules"]


def test_point_25_nodes_are_not_emptied_under_engines_and_gpus_are_bounded() -> None:
    for name in ENGINES:
        annotations = deployment(name)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    for name, case in CASES.items():
        found = named(rendered(name))
        quota = found["ResourceQuota", "embedfleet-gpus"]["spec"]["hard"]
        assert int(quota[f"requests.{GPU}"]) >= case.gpus * case.max_replicas
        bounds = of_settings(list(found.values()))["autoscaling"]
        assert (bounds["min_replicas"], bounds["max_replicas"]) == (
            case.min_replicas,
            case.max_replicas,
        )
        for kind, which in found:
            if kind in SCALERS and which == "engine":
                spec = found[kind, which]["spec"]
                least = spec.get("minReplicaCount", spec.get("minReplicas"))
                most = spec.get("maxReplicaCount", spec.get("maxReplicas"))
                assert (least, most) == (case.min_replicas, case.max_replicas)


def test_point_26_everything_is_labelled_restricted_and_rolled_by_its_settings() -> None:
    for _, each in everything():
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "embedfleet"
        assert labels["app.kubernetes.io/part-of"] == "embedfleet"
        if each["kind"] == "Namespace":
            assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert of_kind("LimitRange")
    for name in CASES:
        found = named(rendered(name))
        annotations = found["Deployment", "gateway"]["spec"]["template"]["metadata"]["annotations"]
        read = [found.get(("ConfigMap", config)) for config in ("gateway", "scaling", "cache")]
        assert all(
            checksum(config) in annotations[CHECKSUM] for config in read if config is not None
        )


def test_point_26_the_checksum_in_the_bundle_is_that_of_its_settings() -> None:
    found = named(bundle("overlays/gateway"))
    annotations = found["Deployment", "gateway"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations[CHECKSUM] == checksum(found["ConfigMap", "gateway"]), "write it there"


def test_namespaces_fit_wherever_one_is_named() -> None:
    for name, case in CASES.items():
        for document in rendered(name):
            assert document["metadata"].get("namespace", case.namespace) == case.namespace
            if case.namespace != "embedfleet":
                assert ".embedfleet.svc" not in str(document)
                assert "embedfleet/engine:" not in str(document)
                assert "embedfleet/gateway:" not in str(document)


def of_settings(documents: list[Document]) -> dict[str, Any]:
    (config,) = [
        each
        for each in documents
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "gateway"
    ]
    return tomllib.loads(config["data"]["embedfleet.toml"])


def behaviours(found: dict[tuple[str, str], Document]) -> tuple[Document, Document]:
    if ("ScaledObject", "engine") in found:
        spec = found["ScaledObject", "engine"]["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    else:
        behavior = found["HorizontalPodAutoscaler", "engine"]["spec"]["behavior"]
    return behavior["scaleUp"], behavior["scaleDown"]


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def split(line: str) -> list[str]:
    """The words of a printed line, whose one quoted word is JSON."""
    flag, _, value = line.strip().removesuffix("\\").strip().partition(" ")
    return [flag, *([value] if value.startswith("'") else value.split())]
