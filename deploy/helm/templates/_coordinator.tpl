{{/*
A label for what begins a new run. The list is read at the start, so another label starts the coordinator again; and new workers
are not led to the former one, which would send them home because its job is done.
*/}}
{{- define "imagenet.run" -}}
imagenet/run: {{ list .Values.classes .Values.job.url (int .Values.job.attempt) | toJson | sha256sum | trunc 8 | quote }}
{{- end }}

{{/* The coordinator's arguments; flags of which nothing is said keep their defaults. Helm's numbers are written as 1e+06 unless they are made integers. */}}
{{- define "imagenet.coordinatorArgs" -}}
{{- $job := .Values.job }}
- --fname=/etc/imagenet/classes/{{ ternary "data.csv" .Values.classes.file (not (empty .Values.classes.csv)) }}
- --target=/state
- --listen={{ .Values.bindAddress }}:50051
- --http={{ .Values.bindAddress }}:8080
# A StatefulSet starts again whatever ends: it stays when the job is done.
- --stay
{{- if eq .Values.trust.mode "insecure" }}
- --insecure
{{- else }}
- --tls-cert=/etc/imagenet/trust/server.pem
- --tls-key=/etc/imagenet/trust/server.key
- --token-file=/etc/imagenet/trust/tokens
{{- end }}
{{- if $job.deleteTar }}
- --delete-tar
{{- end }}
{{- if gt (int $job.attempt) 1 }}
- --retry-failed
{{- end }}
{{- if $job.headerSecret }}
- --header-file=/etc/imagenet/headers/headers
{{- end }}
{{- if $job.caConfigMap }}
- --cacert=/etc/imagenet/origin-ca/ca.crt
{{- end }}
{{- range $key, $flag := dict "url" "url" "existing" "existing" "durability" "durability" "timeout" "timeout" "maxRate" "max-rate" "leaseTtl" "lease-ttl" }}
{{- with get $job $key }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- end }}
{{- range $key, $flag := dict "retries" "retries" "maxConnections" "max-connections" }}
{{- if not (kindIs "invalid" (index $job $key)) }}
- --{{ $flag }}={{ index $job $key | int64 }}
{{- end }}
{{- end }}
{{- end }}
