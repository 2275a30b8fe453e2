{{- define "virtrigaud.name" -}}
{{ if contains "virtrigaud" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-virtrigaud" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end -}}

{{- /* What never changes in the life of a release: the selector of a Deployment may not. */ -}}
{{- define "virtrigaud.selector" -}}
app.kubernetes.io/name: virtrigaud-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "virtrigaud.labels" -}}
{{ include "virtrigaud.selector" . }}
app.kubernetes.io/part-of: virtrigaud
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "virtrigaud.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}

{{- /* Rights over what it watches: everywhere, or in one namespace. */ -}}
{{- define "virtrigaud.rules" -}}
- apiGroups: [infra.virtrigaud.io]
  resources:
    - providers
    - virtualmachines
    - vmclasses
    - vmclones
    - vmimages
    - vmmigrations
    - vmnetworkattachments
    - vmplacementpolicies
    - vmsets
    - vmsnapshots
  verbs: [list, watch]
- apiGroups: [infra.virtrigaud.io]
  resources: [providers, virtualmachines, vmimages] # finalizers
  verbs: [patch]
- apiGroups: [infra.virtrigaud.io]
  resources:
    - providers/status
    - virtualmachines/status
    - vmclasses/status
    - vmclones/status
    - vmimages/status
    - vmmigrations/status
    - vmnetworkattachments/status
    - vmplacementpolicies/status
    - vmsets/status
    - vmsnapshots/status
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [secrets] # first-boot data by name; certificates of provider servers
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [pods] # why a provider server does not run
  verbs: [list]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: &own [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: *own
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: *own
{{- end -}}
