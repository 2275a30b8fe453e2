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

{{- /* Labels that a value adds; given: the root, the value's name, the labels. A key that is there twice is an error later, or worse. */ -}}
{{- define "virtrigaud.added" -}}
{{- $own := include "virtrigaud.labels" (index . 0) | fromYaml }}
{{- range $key, $_ := index . 2 }}
{{- if hasKey $own $key }}
{{- fail (printf "values: %s: %s is a label of the chart's own; take it out" (index $ 1) $key) }}
{{- end }}
{{- end }}
{{- with index . 2 }}{{ toYaml . }}{{ end }}
{{- end -}}

{{- /* What extraArgs may not repeat, and the value that sets it; empty: nothing may. */ -}}
{{- define "virtrigaud.arguments" -}}
runtime: ""
controller-namespace: ""
home: ""
metrics-address: metrics.port
authority: authority.secretName
{{- if .Values.authority.certManager.enabled }}
make-authority: authority.certManager
no-make-authority: authority.certManager
{{- end }}
lease-namespace: ""
lease-name: ""
lease-duration: leaderElection.duration
lease-renew-deadline: leaderElection.renewDeadline
lease-retry: leaderElection.retry
leader-elect: replicas
no-leader-elect: replicas
concurrency: concurrency
resync: resync
log-level: logLevel
log-format: logFormat
namespace: watchNamespace
owner: owner
otlp-endpoint: otlpEndpoint
provider-image: providers.images
provider-image-pull: providers.imagePullSecrets
server-network: networkPolicy
{{- end -}}

{{- define "virtrigaud.extra" -}}
{{- $own := include "virtrigaud.arguments" . | fromYaml }}
{{- range $at, $argument := .Values.extraArgs }}
{{- $name := regexFind "^[^=]+" $argument | trimPrefix "--" }}
{{- if hasKey $own $name }}
{{- $value := get $own $name }}
{{- $by := ternary "the chart" (printf "the value %s" $value) (eq $value "") }}
{{- fail (printf "values: extraArgs[%d]: --%s is set by %s" $at $name $by) }}
{{- end }}
{{- end }}
{{- with .Values.extraArgs }}{{ toYaml . }}{{ end }}
{{- end -}}

{{- define "virtrigaud.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . }}
{{- mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) }}
{{- end -}}

{{- /* Nothing, or what is wrong: two would lead at once, or nobody for long. */ -}}
{{- define "virtrigaud.election" -}}
{{- $long := include "virtrigaud.milliseconds" .duration | int64 }}
{{- $middle := include "virtrigaud.milliseconds" .renewDeadline | int64 }}
{{- $short := include "virtrigaud.milliseconds" .retry | int64 }}
{{- if not (and (gt $long $middle) (gt $middle $short) (gt $short 0)) }}
{{- fail (printf "values: leaderElection: duration %s must be longer than renewDeadline %s, and that longer than retry %s" .duration .renewDeadline .retry) }}
{{- end }}
{{- end -}}

{{- /* Of what is not in the release's own namespace, where other releases of this name have theirs. */ -}}
{{- define "virtrigaud.claims" -}}
{{ printf "%s-%s" .Release.Namespace (include "virtrigaud.name" .) }}-installation
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
