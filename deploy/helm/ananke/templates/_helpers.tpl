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

{{/* A node shows a container all of its cores, so the server is told how many of them are its own. */}}
{{- define "ananke.processes" -}}
- name: ANANKE_MASK_PROCESSES
  value: {{ max 1 (sub .Values.resources.cpu 4) | min 128 | quote }}
- name: ANANKE_VALIDATE_INSTANCES
  value: {{ max 1 (div .Values.resources.cpu 2) | min 8 | quote }}
- name: ANANKE_SANDBOX_WORKERS
  value: {{ max 2 (div .Values.resources.cpu 2) | min 8 | quote }}
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
