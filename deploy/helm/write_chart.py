"""Writes the templates of the Helm chart from the manifests in deploy/kubernetes.

`make docs` runs it; tests fail when a template is out of date, and when what Helm renders differs
from what `embedfleet deploy kubernetes` writes for the same deployment. Templates are made from the
text of the manifests, so the comments that say why stay in them.

`_helpers.tpl`, `NOTES.txt`, `values.yaml` and its schema are written by hand.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from embedfleet.deploying.fitting import DEFAULT
from embedfleet.deploying.queries import nudged, wanted
from embedfleet.fleet.providers.engine_commands import Launch, command, words

HERE = Path(__file__).parent
KUBERNETES = HERE.parent / "kubernetes"
CHART = HERE / "embedfleet"
HEAD = "{{- /* Written by write_chart.py from deploy/kubernetes/%s: `make docs`. */ -}}\n"

BUNDLES = {
    "base": "",
    "overlays/gateway": "",
    "overlays/engine-sglang": 'eq .Values.engine "sglang"',
    "overlays/engine-cuda": 'eq .Values.engine "cuda"',
    "overlays/engine-cpu": 'eq .Values.engine "cpu"',
    "overlays/keda": 'eq .Values.scaling "keda"',
    "overlays/hpa-only": 'eq .Values.scaling "hpa-only"',
    "overlays/direct": 'eq .Values.scaling "direct"',
    "overlays/redis": ".Values.redis",
    "overlays/monitoring": ".Values.monitoring",
    "overlays/warm-node": ".Values.warmNodes",
    "overlays/ingress": ".Values.host",
}
"""Folders of manifests, each with the condition under which a release has them."""

CONDITIONS = {
    "base/model.yaml": 'ne .Values.model "builtin"',
    "base/priorities.yaml": ".Values.priorityClasses",
}
"""Of single files."""

LEFT_OUT = {
    "base/namespace.yaml": "a release is installed into a namespace that is there",
    "overlays/monitoring/rules.yaml": "alerting expressions are templates themselves: see `_rules`",
}

NAMESPACE = "{{ .Release.Namespace }}"
NAME = '{{ include "embedfleet.name" . }}'
CUDA_IMAGE = DEFAULT.image.replace("/embedfleet@", "/embedfleet-cuda@")
WORDS = [
    (DEFAULT.snapshot, '{{ include "embedfleet.snapshot" . }}'),
    (DEFAULT.model, "{{ .Values.model }}"),
    (DEFAULT.image, "{{ .Values.image }}"),
    (CUDA_IMAGE, "{{ .Values.engineImage }}"),
    (f"model-{DEFAULT.revision[:8]}", '{{ include "embedfleet.job" . }}'),
    (f'"{DEFAULT.name}"', f'"{NAME}"'),
    (DEFAULT.host, "{{ .Values.host }}"),
    (DEFAULT.prometheus, '{{ include "embedfleet.prometheus" . }}'),
    ("embedfleet/engine:http", f"{NAMESPACE}/engine:http"),
    ("embedfleet/gateway:8081", f"{NAMESPACE}/gateway:8081"),
    ("SCALE_TARGET: embedfleet/engine", f"SCALE_TARGET: {NAMESPACE}/engine"),
    (".embedfleet.svc", f".{NAMESPACE}.svc"),
    ("namespace: embedfleet", "namespace: {{ .Release.Namespace | quote }}"),
    ("matchNames: [embedfleet]", "matchNames: [{{ .Release.Namespace | quote }}]"),
    ("metadata.name: monitoring", "metadata.name: {{ .Values.monitoringNamespace | quote }}"),
    ("release: kube-prometheus-stack", "release: {{ .Values.monitoringRelease | quote }}"),
    (f"[{DEFAULT.gpu}]", "[{{ .Values.gpu | quote }}]"),
    ("nvidia.com/gpu: 1}", "nvidia.com/gpu: {{ int .Values.gpusPerReplica }}}"),
]
"""What stands in many places, and a chart's expression for it; more specific ones come first."""

LABELS = '\n    {{- include "embedfleet.labels" . | nindent 4 }}'
PULL_SECRETS = """
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}"""
NODES = """
      {{- with .Values.engineNodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}"""
TOLERATIONS = """
      {{- with .Values.engineTolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}"""
MORE_TOLERATIONS = """
        {{- with .Values.engineTolerations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}"""
TOLERANCE = r"""{{- if not .Values.tolerance }}
\1
{{- end }}"""
QUOTA = "{{ mul .Values.gpusPerReplica (add .Values.maxReplicas .Values.warmNodes) }}"
FALLBACK = "max .Values.minReplicas (div (add .Values.maxReplicas 1) 2)"
ENVIRONMENT = """
            {{- range $name, $value := .Values.%s }}
            - {name: {{ $name }}, value: {{ $value | toString | quote }}}
            {{- end }}"""
GATEWAYS_ENVIRONMENT = """
          {{- with .Values.gatewayEnv }}
          env:
            {{- range $name, $value := . }}
            - {name: {{ $name }}, value: {{ $value | toString | quote }}}
            {{- end }}
          {{- end }}"""
STORAGE_CLASS = """
  {{- with .Values.storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}"""
INGRESS = """\
    {{- with .Values.ingressAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with .Values.ingressClassName }}
  ingressClassName: {{ . | quote }}
  {{- end }}"""
CHANGES: list[tuple[str, str, str]] = [
    # Every file.
    (r".*", r"(?m)^    app\.kubernetes\.io/part-of: embedfleet$", rf"\g<0>{LABELS}"),
    (r".*", r"(?m)^      enableServiceLinks: false.*$", rf"\g<0>{PULL_SECRETS}"),
    (r".*", r"(?m)^ *# Yours: build deploy/container/Containerfile.*\n", ""),
    # Numbers.
    (r"base/limits", r'(requests\.nvidia\.com/gpu): "16"', rf'\1: "{QUOTA}"'),
    (
        r"overlays/gateway/settings|overlays/hpa-only/hpa",
        r"(?m)(min_replicas =|minReplicas:) 2$",
        r"\1 {{ int .Values.minReplicas }}",
    ),
    (
        r"overlays/gateway/settings|overlays/hpa-only/hpa",
        r"(?m)(max_replicas =|maxReplicas:) 8$",
        r"\1 {{ int .Values.maxReplicas }}",
    ),
    (r"keda/scaled", r"minReplicaCount: 2", "minReplicaCount: {{ int .Values.minReplicas }}"),
    (r"keda/scaled", r"maxReplicaCount: 8", "maxReplicaCount: {{ int .Values.maxReplicas }}"),
    (r"keda/scaled", r" replicas: 4,", f" replicas: {{{{ {FALLBACK} }}}},"),
    (r"keda/scaled", r"query: .*", 'query: {{ include "embedfleet.query" . | quote }}'),
    (r"keda/scaled|hpa-only/hpa", r'(?m)^( *tolerance: "0")$', TOLERANCE),
    (r"hpa-only/hpa", rf"pool: {DEFAULT.name}", f"pool: {NAME}"),
    (r"gateway/scaling", r"minReplicas: 2", "minReplicas: {{ int .Values.gatewayMinReplicas }}"),
    (r"gateway/scaling", r"maxReplicas: 8", "maxReplicas: {{ int .Values.gatewayMaxReplicas }}"),
    (r"warm-node/", r"replicas: 1 ", "replicas: {{ int .Values.warmNodes }} "),
    # The volume for weights outlives the release.
    (
        r"base/model",
        r"(kind: PersistentVolumeClaim\n(?:.*\n)*?    app\.kubernetes\.io/component: model\n)",
        r"\1  annotations:\n    helm.sh/resource-policy: keep # weights take hours to fetch\n",
    ),
    (
        r"base/model",
        r"(?m)^(  accessModes: .*)$",
        rf"\1{STORAGE_CLASS}",
    ),
    (r"base/model", r"storage: 40Gi", "storage: {{ .Values.storage }}"),
    # The way in.
    (
        r"ingress/",
        r"(?m)^spec:$",
        INGRESS,
    ),
    # What a release may say of pods.
    (r"engine-.*/deployment", r"(?m)^      priorityClassName: .*$", rf"\g<0>{NODES}"),
    (r"engine-cpu/deployment", r"(?m)^      priorityClassName: .*$", rf"\g<0>{TOLERATIONS}"),
    (
        r"engine-(sglang|cuda)/deployment",
        r"(?m)^        - \{key: nvidia\.com/gpu, operator: Exists.*$",
        rf"\g<0>{MORE_TOLERATIONS}",
    ),
    (
        r"engine-sglang/",
        r"image: (lmsysorg/\S+)",
        r'image: {{ .Values.engineImage | default "\1" }}',
    ),
    (
        r"engine-cpu/",
        r"(      containers:\n        - name: engine\n          image: )\S+ \S+ \S+",
        r"\1{{ .Values.engineImage | default .Values.image }}",
    ),
    (
        r"engine-.*/deployment",
        r"(\n          env:(?:\n            .*)+)(?=\n          ports:)",
        rf"\1{ENVIRONMENT % 'engineEnv'}",
    ),
    (
        r"gateway/deployment",
        r"(?m)^            - configMapRef: \{name: cache.*$",
        rf"\g<0>{GATEWAYS_ENVIRONMENT}",
    ),
]
"""Changes of single places: pattern of the file, pattern of the text, what is there instead."""

WITH_VOLUME = [
    r"(?m)^      initContainers:\n(?:       .*\n)+",
    r"(?m)^        - name: model\n          persistentVolumeClaim: .*\n",
    r"(?m)^            - \{name: model, mountPath: /models, readOnly: true\}\n",
    r"(?m)^            - \{name: HF_.*\n",
    r"(?m)^    # Tokenizer and golden.*\n    tokenizer_dir = .*\n",
]
"""What is there for the volume of weights, which the built-in model does not have."""


def templates() -> dict[str, str]:
    """The texts of all templates by file name. Raises ValueError for a rule without a place."""
    used: set[int] = set()
    found = {}
    for bundle, condition in BUNDLES.items():
        folder = KUBERNETES / bundle
        chosen = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        for entry in chosen["resources"]:
            source = f"{bundle}/{entry}"
            if (folder / entry).is_dir() or source in LEFT_OUT:
                continue
            text = _template(source, (folder / entry).read_text(encoding="utf-8"), used)
            text = _under(CONDITIONS.get(source) or condition, text)
            found[f"{bundle.rpartition('/')[2]}-{entry}"] = HEAD % source + text
    unused = [CHANGES[at][:2] for at in range(len(CHANGES)) if at not in used]
    _hold(not unused, f"no place for {unused}")
    found["monitoring-rules.yaml"] = HEAD % "overlays/monitoring/rules.yaml" + _rules()
    found["monitoring-dashboards.yaml"] = HEAD % "overlays/monitoring" + _dashboards()
    found["_queries.tpl"] = _queries()
    return found


def _hold(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"the manifests are not as this program expects them: {otherwise}")


def _template(source: str, text: str, used: set[int]) -> str:
    _hold("{{" not in text, f"{source} has braces of its own")
    if source == "overlays/engine-sglang/deployment.yaml":
        text = _with_arguments(text)
    for before, after in WORDS:
        text = text.replace(before, after)
    for at, (file, pattern, instead) in enumerate(CHANGES):
        if re.search(file, source):
            text, count = re.subn(pattern, instead, text)
            if count:
                used.add(at)
    if "deployment" in source or "settings" in source:
        text = _without_aliases(text)
        for pattern in WITH_VOLUME * ("sglang" not in source):
            text = re.sub(pattern, lambda found: _unless_builtin(found[0]), text)
    if source.endswith("/deployment.yaml"):
        text = _with_resources(source, text)
    return _with_checksum(source, text)


def _under(condition: str, text: str) -> str:
    """The documents under a condition; definitions stay outside."""
    if not condition:
        return text
    definitions = "".join(re.findall(r"(?ms)^\{\{- define .*?^\{\{- end \}\}\n", text))
    rest = text.removeprefix(definitions)
    return f"{definitions}{{{{- if {condition} }}}}\n{rest.rstrip()}\n{{{{- end }}}}\n"


def _unless_builtin(text: str) -> str:
    return f'{{{{- if ne .Values.model "builtin" }}}}\n{text}{{{{- end }}}}\n'


def _without_aliases(text: str) -> str:
    """Aliases written out: the place with the anchor is not in every release."""
    found = re.search(r"(?m)^ *securityContext: &locked\n((?:            .*\n)+)", text)
    if found is None:
        return text
    text = text.replace("securityContext: *locked\n", f"securityContext:\n{found[1]}")
    return text.replace("securityContext: &locked", "securityContext:")


def _with_arguments(text: str) -> str:
    """SGLang's flags, those for several GPUs and for FP8 under their conditions."""

    def listed(launch: Launch) -> list[str]:
        return words(command("sglang", launch)[1:])

    def launch(gpus: int = 1, *, fp8: bool = False) -> Launch:
        address = "0.0.0.0"  # noqa: S104  the pod's own
        return Launch(DEFAULT.snapshot, 30_000, address, gpus, fp8=fp8, name=DEFAULT.name)

    plain, largest = listed(launch()), listed(launch(2, fp8=True))
    count, lines = "{{ int .Values.gpusPerReplica }}", []
    for kind, _, _, start, end in difflib.SequenceMatcher(a=plain, b=largest).get_opcodes():
        _hold(kind in {"equal", "insert"}, "a flag of SGLang differs with GPUs or FP8")
        part = largest[start:end]
        if kind == "insert":
            several = part[0].startswith("--tensor-parallel")
            lines.append(
                f"{{{{- if {'gt (int .Values.gpusPerReplica) 1' if several else '.Values.fp8'} }}}}"
            )
            part = [count if several and word == "2" else word for word in part]
        lines += [f"            - {_scalar(word)}" for word in part]
        lines += ["{{- end }}"] * (kind == "insert")
    block = re.compile(r"(?<=\n          args:\n)(?:            .*\n)+")
    text, replaced = block.subn(lambda _: "\n".join(lines) + "\n", text, count=1)
    _hold(replaced == 1, "SGLang has no arguments")
    return text


def _scalar(word: str) -> str:
    if word == DEFAULT.name or word.startswith("{{"):
        return f'"{NAME if word == DEFAULT.name else word}"'
    quoted = word if yaml.safe_load(word) == word else f"'{word}'"
    _hold(yaml.safe_load(quoted) == word, f"{word} can't be quoted")
    return quoted


def _with_resources(source: str, text: str) -> str:
    """Requests and limits of the main container, which a release may change one by one."""
    part = source.split("/")[1]
    start = text.rindex("      containers:\n")
    found = re.search(r"(?m)^          resources:\n((?:            .*\n)+)", text[start:])
    if found is None:
        raise ValueError(f"{source} has no resources")
    name = f"embedfleet.resources.{part}"
    values = "engineResources" if part.startswith("engine") else "gatewayResources"
    merged = f'mergeOverwrite (include "{name}" . | fromYaml) .Values.{values} | toYaml'
    at, end = start + found.start(), start + found.end()
    text = f"{text[:at]}          resources: {{{{- {merged} | nindent 12 }}}}\n{text[end:]}"
    return f'{{{{- define "{name}" -}}}}\n{_dedented(found[1], 12)}{{{{- end }}}}\n{text}'


def _dedented(text: str, by: int) -> str:
    return re.sub(rf"(?m)^ {{{by}}}", "", text)


SETTINGS = {
    "overlays/gateway/settings.yaml": "gateway",
    "overlays/keda/rights.yaml": "keda",
    "overlays/hpa-only/rights.yaml": "hpa-only",
    "overlays/direct/rights.yaml": "direct",
    "overlays/redis/cache.yaml": "redis",
}
"""Files with a ConfigMap that gateways read, and whose data their checksum is of."""


def _with_checksum(source: str, text: str) -> str:
    if source == "overlays/gateway/deployment.yaml":
        return re.sub(
            r"(?m)^ *# Of the settings: .*\n( *embedfleet/settings-checksum: ).*$",
            r'\1{{ include "embedfleet.checksum" . }}',
            text,
        )
    if source not in SETTINGS:
        return text
    before, _, data = text.partition("\ndata:\n")
    name = f"embedfleet.settings.{SETTINGS[source]}"
    return (
        f'{{{{- define "{name}" -}}}}\n{_dedented(data, 2)}{{{{- end }}}}\n'
        f'{before}\ndata: {{{{- include "{name}" . | nindent 2 }}}}\n'
    )


def _rules() -> str:
    """The rules' own files, as they are: their `{{ $labels }}` are Prometheus', and not Helm's."""
    written = (KUBERNETES / "overlays/monitoring/rules.yaml").read_text(encoding="utf-8")
    documents = []
    for document in written.split("---\n"):
        head = document.partition("spec:\n")[0].partition("apiVersion:")[2]
        (name,) = re.findall(r"(?m)^  name: embedfleet-(\w+)$", head)
        head, _, _ = _common(f"apiVersion:{head}").partition("spec:")
        documents.append(f'{head}spec:\n  {{{{- .Files.Get "rules/{name}.yml" | nindent 2 }}}}\n')
    return _under(BUNDLES["overlays/monitoring"], "---\n".join(documents))


def _dashboards() -> str:
    file = HERE.parent / "monitoring" / "kustomization.yaml"
    (made,) = yaml.safe_load(file.read_text(encoding="utf-8"))["configMapGenerator"]
    labels = "".join(
        f"    {key}: {json.dumps(value) if value.isdigit() else value}\n"
        for key, value in made["options"]["labels"].items()
    )
    return _under(
        BUNDLES["overlays/monitoring"],
        _common(
            f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {made['name']}\n"
            f"  namespace: embedfleet\n  labels:\n{labels}"
            'data: {{- (.Files.Glob "dashboards/*.json").AsConfig | nindent 2 }}\n'
        ),
    )


def _common(text: str) -> str:
    for before, after in WORDS:
        text = text.replace(before, after)
    _, pattern, instead = CHANGES[0]
    return re.sub(pattern, instead, text)


def _queries() -> str:
    """KEDA's queries, as embedfleet.deploying.queries has them."""
    return HEAD.replace("deploy/kubernetes/%s", "embedfleet.deploying.queries") + "".join(
        _defined()
    )


def _defined() -> Iterator[str]:
    tolerance = 0.5
    told = nudged("embedfleet", "the-pool", tolerance)
    factor = f"{1 + tolerance:g} *"
    _hold(told.count(factor) == 2, "a query without its tolerance")
    told = told.replace(factor, "{{ addf 1 .Values.tolerance }} *")
    plain = wanted("embedfleet", "the-pool")
    for name, said in (("nudged", told), ("wanted", plain)):
        query = said.replace("the-pool", NAME)
        query = query.replace('namespace="embedfleet"', f'namespace="{NAMESPACE}"')
        yield f'{{{{- define "embedfleet.{name}" -}}}}\n{query}\n{{{{- end }}}}\n'


def main() -> None:
    """Write the templates, and remove those whose manifest is gone."""
    folder = CHART / "templates"
    by_hand = {"_helpers.tpl", "NOTES.txt", "validation.yaml"}
    written = templates()
    for old in folder.iterdir():
        if old.name not in by_hand | set(written):
            old.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
