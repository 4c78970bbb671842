{{- /* The pool's name, by which clients ask: the last part of the model's unless another is given. */ -}}
{{- define "embedfleet.name" -}}
{{- .Values.servedName | default (.Values.model | splitList "@" | first | splitList "/" | last) -}}
{{- end }}

{{- define "embedfleet.revision" -}}
{{- .Values.model | splitList "@" | last -}}
{{- end }}

{{- /* Directory of the model in the volume, as the hub's client lays it out. */ -}}
{{- define "embedfleet.snapshot" -}}
{{- $repository := .Values.model | splitList "@" | first | replace "/" "--" -}}
/models/hub/models--{{ $repository }}/snapshots/{{ include "embedfleet.revision" . }}
{{- end }}

{{- /* A job can't be changed, so another revision or image is another one. */ -}}
{{- define "embedfleet.job" -}}
model-{{ include "embedfleet.revision" . | trunc 8 }}
{{- with .Values.image }}-{{ . | splitList ":" | last | trunc 8 }}{{ end }}
{{- end }}

{{- define "embedfleet.prometheus" -}}
{{- .Values.prometheus | default (printf "http://prometheus-operated.%s.svc:9090" .Values.monitoringNamespace) -}}
{{- end }}

{{- define "embedfleet.query" -}}
{{- if .Values.tolerance }}{{ include "embedfleet.nudged" . }}{{ else }}{{ include "embedfleet.wanted" . }}{{ end -}}
{{- end }}

{{- /* Beside the labels that every manifest has. Selectors do not hold them: they change with a release. */ -}}
{{- define "embedfleet.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Of the ConfigMaps that gateways read: a change of any makes new pods. */ -}}
{{- define "embedfleet.checksum" -}}
{{- $read := list "gateway" .Values.scaling -}}
{{- if .Values.redis }}{{ $read = append $read "redis" }}{{ end -}}
{{- $sums := list -}}
{{- range $read -}}
{{- $lines := list -}}
{{- range $key, $value := include (printf "embedfleet.settings.%s" .) $ | printf "%s\n" | fromYaml -}}
{{- $lines = append $lines (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- $sums = append $sums (join "\n" $lines | sha256sum | trunc 16) -}}
{{- end -}}
{{- join "-" $sums -}}
{{- end }}

{{- /* What no schema can say; the rest is in values.schema.json. */ -}}
{{- define "embedfleet.validate" -}}
{{- if not .Values.image }}
{{- fail "image is missing: yours, built from deploy/container, as registry/name@sha256:…" }}
{{- end }}
{{- if eq .Values.engine "cpu" }}
{{- if or .Values.gpu .Values.warmNodes }}
{{- fail "gpu and warmNodes are for GPU engines; engine: cpu has none" }}
{{- end }}
{{- else if not .Values.gpu }}
{{- fail "gpu is missing: the label nvidia.com/gpu.product of the nodes, such as NVIDIA-H100-80GB-HBM3 (`kubectl get nodes -L nvidia.com/gpu.product`)" }}
{{- end }}
{{- if and (eq .Values.model "builtin") (eq .Values.engine "sglang") }}
{{- fail "model: builtin is for embedfleet's own engine: engine: cpu" }}
{{- end }}
{{- if and (eq .Values.engine "cuda") (not .Values.engineImage) }}
{{- fail "engineImage is missing: yours, the target cuda of deploy/container" }}
{{- end }}
{{- if and .Values.fp8 (ne .Values.engine "sglang") }}
{{- fail "fp8 is for engine: sglang; the engine of embedfleet has the setting engine.dtype" }}
{{- end }}
{{- if gt (int .Values.minReplicas) (int .Values.maxReplicas) }}
{{- fail (printf "minReplicas %d and maxReplicas %d: the fewest can't be more than the most" (int .Values.minReplicas) (int .Values.maxReplicas)) }}
{{- end }}
{{- if gt (int .Values.gatewayMinReplicas) (int .Values.gatewayMaxReplicas) }}
{{- fail (printf "gatewayMinReplicas %d and gatewayMaxReplicas %d: the fewest can't be more than the most" (int .Values.gatewayMinReplicas) (int .Values.gatewayMaxReplicas)) }}
{{- end }}
{{- end }}
