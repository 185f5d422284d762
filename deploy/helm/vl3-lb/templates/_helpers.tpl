{{- define "vl3-lb.name" -}}
{{- if contains "vl3-lb" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-vl3-lb" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "vl3-lb.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "vl3-lb.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- /* Immutable in a selector, so nothing that changes. */}}
{{- define "vl3-lb.selector" -}}
app.kubernetes.io/name: vl3-lb
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vl3-lb.labels" -}}
{{ include "vl3-lb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: load-balancer
app.kubernetes.io/part-of: network-service-mesh
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
