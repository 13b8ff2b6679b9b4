{{- define "ananke.fullname" -}}
{{- .Values.fullnameOverride | default (eq .Release.Name "ananke" | ternary "ananke" (printf "%s-ananke" .Release.Name)) | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "ananke.selector" -}}
app.kubernetes.io/name: ananke
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ananke.labels" -}}
{{ include "ananke.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ananke.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "ananke.gpus" -}}
{{ mul .Values.model.tensorParallelSize .Values.model.pipelineParallelSize }}
{{- end -}}

{{/* What `config` sets, as YAML: each key by the variable that would silently win over it, and by its place. */}}
{{- define "ananke.configured" -}}
{{- range $section, $keys := .Values.config }}
{{- if eq $section "preset" }}
ANANKE_PRESET: config.preset
{{- else if kindIs "map" $keys }}
{{- range $key, $value := $keys }}
ANANKE_{{ upper $key }}: config.{{ $section }}.{{ $key }}
{{- if kindIs "map" $value }}
{{- range $inner, $_ := $value }}
ANANKE_{{ upper $key }}__{{ upper $inner }}: config.{{ $section }}.{{ $key }}.{{ $inner }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whatever the server is told has one source: fails where a setting is given twice, or where another value of the chart is its place. */}}
{{- define "ananke.oneSource" -}}
{{- $configured := include "ananke.configured" . | fromYaml -}}
{{- $extra := dict -}}
{{- range .Values.extraEnv }}{{ $_ := set $extra .name "extraEnv" }}{{ end -}}
{{- $places := dict "ANANKE_MODEL" "model.name" "ANANKE_REVISION" "model.revision" "ANANKE_PRESET" "preset"
    "ANANKE_TENSOR_PARALLEL_SIZE" "model.tensorParallelSize" "ANANKE_PIPELINE_PARALLEL_SIZE" "model.pipelineParallelSize"
    "ANANKE_START_TIMEOUT" "probes.startupSeconds" "ANANKE_DRAIN_TIMEOUT" "shutdown.drainSeconds"
    "ANANKE_SIGNING_KEY_FILE" "secrets.signingKey" "ANANKE_API_KEY_FILE" "secrets.apiKeys" "ANANKE_API_KEY" "secrets.apiKeys"
    "ANANKE_API_KEY_PATH" "secrets.apiKeys"
    "ANANKE_TLS_CERTIFICATE_FILE" "secrets.tls" "ANANKE_TLS_KEY_FILE" "secrets.tls" "ANANKE_CONFIG" "config" "HF_TOKEN" "secrets.huggingFace"
    "ANANKE_OTLP_ENDPOINT" "tracing.endpoint" "OTEL_EXPORTER_OTLP_ENDPOINT" "tracing.endpoint" "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" "tracing.endpoint" -}}
{{- range $variable, $value := $places -}}
{{- with get $configured $variable | default (get $extra $variable) -}}
{{- fail (printf "%s sets %s, which the chart sets itself: give the value %s in its place" . $variable $value) -}}
{{- end -}}
{{- end -}}
{{- range $variable := list "ANANKE_HTTP_PORT" "ANANKE_GRPC_PORT" "ANANKE_METRICS_PORT" "ANANKE_HOST" "ANANKE_HTTP_HOST" "ANANKE_METRICS_HOST" -}}
{{- with get $configured $variable | default (get $extra $variable) -}}
{{- fail (printf "%s sets %s, which services and probes count on: leave it out" . $variable) -}}
{{- end -}}
{{- end -}}
{{- with $configured.ANANKE_SIGNING_KEY -}}
{{- fail (printf "%s would put a private key into a ConfigMap: put it into a secret, and name that in secrets.signingKey" .) -}}
{{- end -}}
{{- with $configured.ANANKE_MANAGEMENT_KEY -}}
{{- fail (printf "%s would put a secret into a ConfigMap: give ANANKE_MANAGEMENT_KEY in extraEnv, from a secret" .) -}}
{{- end -}}
{{- with $configured.ANANKE_DIGEST_CACHE -}}
{{- fail (printf "%s is set by the image, whose variable would win: give ANANKE_DIGEST_CACHE in extraEnv" .) -}}
{{- end -}}
{{- range $variable, $_ := $extra -}}
{{- with get $configured $variable -}}
{{- fail (printf "%s and %s of extraEnv are the same setting, and the variable would win: give one of them" . $variable) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What cannot work together: fails before a pod hangs. */}}
{{- define "ananke.possible" -}}
{{- if and .Values.secrets.tls (eq .Values.autoscaling.mode "http") -}}
{{- fail "autoscaling.mode is http, whose interceptor calls the pods over HTTP, but with secrets.tls HTTP stays within the pod: use autoscaling.mode prometheus, or leave secrets.tls out" -}}
{{- end -}}
{{- $replicas := eq .Values.autoscaling.mode "none" | ternary .Values.replicas .Values.autoscaling.maxReplicas | int -}}
{{- if and .Values.cache.enabled (not .Values.cache.existingClaim) (gt $replicas 1) (ne .Values.cache.accessMode "ReadWriteMany") -}}
{{- $of := eq .Values.autoscaling.mode "none" | ternary "replicas" "autoscaling.maxReplicas" -}}
{{- fail (printf "%s is %d, but a second replica on another node would wait without end for the cache, whose claim is %s: give cache.accessMode ReadWriteMany, cache.enabled false, or %s 1" $of $replicas .Values.cache.accessMode $of) -}}
{{- end -}}
{{- end -}}

{{/* A node shows a container all of its cores, so the server is told how many of them are its own, unless the values say it themselves. */}}
{{- define "ananke.processes" -}}
{{- $said := include "ananke.configured" . | fromYaml -}}
{{- range .Values.extraEnv }}{{ $_ := set $said .name "extraEnv" }}{{ end -}}
{{- $cpu := .Values.resources.cpu -}}
{{- $counts := dict "ANANKE_MASK_PROCESSES" (max 1 (sub $cpu 4) | min 32) "ANANKE_VALIDATE_INSTANCES" (max 1 (div $cpu 2) | min 8)
    "ANANKE_RELAY_INSTANCES" (max 1 (div $cpu 4) | min 4) "ANANKE_SANDBOX_WORKERS" (max 2 (div $cpu 2) | min 8) -}}
{{- range $variable, $count := $counts }}
{{- if not (hasKey $said $variable) }}
- {name: {{ $variable }}, value: {{ $count | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The port of tracing.endpoint, by its scheme where it names none. */}}
{{- define "ananke.tracingPort" -}}
{{- $url := urlParse .Values.tracing.endpoint -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end -}}

{{- define "ananke.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "ananke.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: {{ .Values.readOnlyRootFilesystem }}
{{- end -}}
