{{/* Short enough for host names: the names of pods add a hash and a number. */}}
{{- define "imagenet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "imagenet.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "imagenet.selector" -}}
app.kubernetes.io/name: {{ include "imagenet.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "imagenet.labels" -}}
{{ include "imagenet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "imagenet.image" -}}
{{- $image := .Values.image }}
{{- $repository := required "image.repository is empty: build the image with deploy/Dockerfile, push it to where the cluster can pull it from, and give its name with --set image.repository=NAME" $image.repository }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}
{{- else }}{{ $repository }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- define "imagenet.serviceAccount" -}}
{{- $account := .Values.serviceAccount }}
{{- default (ternary (include "imagenet.fullname" .) "default" $account.create) $account.name }}
{{- end }}

{{/* Refuses values that do not fit together; each message contains the correction. */}}
{{- define "imagenet.check" -}}
{{- $values := .Values }}
{{- $fullname := include "imagenet.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) }}
{{- fail (printf "%s can be no Service's name, which begins with a letter and has no dots: give another with fullnameOverride, or rename the release" $fullname) }}
{{- end }}
{{- $lists := compact (list $values.classes.csv $values.classes.existingConfigMap $values.classes.existingClaim) }}
{{- if not $lists }}
{{- fail "classes is empty: give the list with --set-file classes.csv=data.csv, or name what holds it with classes.existingConfigMap or classes.existingClaim" }}
{{- end }}
{{- if gt (len $lists) 1 }}
{{- fail "classes has more than one list: give only one of csv, existingConfigMap and existingClaim" }}
{{- end }}
{{- if gt (len $values.classes.csv) 1000000 }}
{{- fail "classes.csv is larger than a ConfigMap can be: keep only its wnid column, or put it into a claim and name that with classes.existingClaim" }}
{{- end }}
{{- if and (eq $values.trust.mode "existing") (not $values.trust.existingSecret) }}
{{- fail "trust.mode is existing, and trust.existingSecret is empty: make one from what `coordinator init` writes and name it" }}
{{- end }}
{{- if and (ne $values.trust.mode "existing") $values.trust.existingSecret }}
{{- fail "trust.existingSecret is only used with trust.mode=existing: give that too, or leave it empty" }}
{{- end }}
{{- if and (eq $values.storage.mode "shared") (eq $values.storage.accessMode "ReadWriteOncePod") (gt (int $values.workers.count) 1) }}
{{- fail "storage.accessMode ReadWriteOncePod lets one pod in, and workers.count is more: use ReadWriteOnce on one node, ReadWriteMany on several" }}
{{- end }}
{{- if ge (int $values.podDisruptionBudget.minWorkers) (int $values.workers.count) }}
{{- fail "podDisruptionBudget.minWorkers lets no worker go, so that no node of theirs can be drained: make it less than workers.count" }}
{{- end }}
{{- if eq $values.storage.mode "perWorker" }}
{{- if $values.storage.existingClaim }}
{{- fail "storage.existingClaim is one claim, and storage.mode perWorker has one for each worker: leave it empty, or use storage.mode=shared" }}
{{- end }}
{{- if ne $values.workers.kind "Job" }}
{{- fail "workers.kind Deployment has no claim for each worker: use storage.mode=shared, or workers.kind=Job" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The restricted Pod Security Standard, and a read-only root. */}}
{{- define "imagenet.podSecurityContext" -}}
{{- $security := .Values.podSecurity }}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with index $security $key }}
{{ $key }}: {{ int64 . }}
{{- end }}
{{- end }}
# The kubelet does not check the group of each of millions of images at every start.
fsGroupChangePolicy: OnRootMismatch
{{- with $security.supplementalGroups }}
supplementalGroups: {{ toJson . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "imagenet.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Fields that all pods have in common. */}}
{{- define "imagenet.pod" -}}
serviceAccountName: {{ include "imagenet.serviceAccount" . }}
automountServiceAccountToken: false
# The variables of service links begin with the release's name. For a release named imagenet they
# would begin with IMAGENET_, like the variables of the programs.
enableServiceLinks: false
securityContext: {{- include "imagenet.podSecurityContext" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Placement of pods; called with the values of coordinator or workers. */}}
{{- define "imagenet.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
{{- end }}

{{/*
The ports of DNS: the usual one, and the one of OpenShift's DNS pods, to which policies apply there.
*/}}
{{- define "imagenet.nameService" -}}
[{port: 53, protocol: UDP}, {port: 53, protocol: TCP}, {port: 5353, protocol: UDP}, {port: 5353, protocol: TCP}]
{{- end }}

{{- define "imagenet.scheme" -}}
{{ ternary "http" "https" (eq .Values.trust.mode "insecure") }}
{{- end }}

{{/* The coordinator's address for clients in the cluster. */}}
{{- define "imagenet.url" -}}
{{ include "imagenet.scheme" . }}://{{ include "imagenet.fullname" . }}.{{ .Release.Namespace }}.svc:50051
{{- end }}

{{/* The coordinator's names and addresses, as JSON with `hosts` and `addresses`. */}}
{{- define "imagenet.serverNames" -}}
{{- $name := include "imagenet.fullname" . }}
{{- $service := printf "%s.%s" $name .Release.Namespace }}
{{- $hosts := list $name $service (printf "%s.svc" $service) (printf "%s.svc.%s" $service .Values.clusterDomain) "localhost" }}
{{- $addresses := list "127.0.0.1" }}
{{- range .Values.trust.names }}
{{- if regexMatch "^[0-9.]+$|:" . }}{{- $addresses = append $addresses . }}{{- else }}{{- $hosts = append $hosts . }}{{- end }}
{{- end }}
{{- dict "hosts" $hosts "addresses" $addresses | toJson }}
{{- end }}

{{/*
A client's arguments for mutual authentication with the coordinator; called with root and role.
*/}}
{{- define "imagenet.clientArgs" -}}
- --connect={{ include "imagenet.url" .root }}
{{- if ne .root.Values.trust.mode "insecure" }}
- --tls-ca=/etc/imagenet/trust/ca.pem
- --token-file=/etc/imagenet/trust/{{ .role }}.token
{{- end }}
{{- end }}

{{/*
A volume with only the given files of those that `coordinator init` makes; called with root and
files.
*/}}
{{- define "imagenet.trustVolume" -}}
{{- $trust := .root.Values.trust }}
{{- if ne $trust.mode "insecure" }}
{{- $byCertManager := dict "server.pem" "tls.crt" "server.key" "tls.key" "ca.pem" "ca.crt" }}
{{- $own := eq $trust.mode "certManager" | ternary $byCertManager dict }}
- name: trust
  projected:
    defaultMode: 0440
    sources:
    {{- range .files }}
    - secret:
        {{- if hasKey $own . }}
        name: {{ include "imagenet.fullname" $.root }}-tls
        items: [{key: {{ get $own . }}, path: {{ . }}}]
        {{- else }}
        name: {{ default (printf "%s-trust" (include "imagenet.fullname" $.root)) $trust.existingSecret }}
        items: [{key: {{ . }}, path: {{ . }}}]
        {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{- define "imagenet.trustMount" -}}
{{- if ne .Values.trust.mode "insecure" }}
- {name: trust, mountPath: /etc/imagenet/trust, readOnly: true}
{{- end }}
{{- end }}
