{{/*
A label of the values that begin a new run. The coordinator reads the list at its start, so another
label restarts it. New workers do not connect to the former coordinator, which would end them
because its job is done.
*/}}
{{- define "imagenet.run" -}}
imagenet/run: {{ list .Values.classes .Values.job.url (int .Values.job.attempt) | toJson | sha256sum | trunc 8 | quote }}
{{- end }}

{{/*
The coordinator's arguments; flags without a value keep their defaults. Helm formats numbers as
1e+06 unless they are converted to integers.
*/}}
{{- define "imagenet.coordinatorArgs" -}}
{{- $job := .Values.job }}
- --fname=/etc/imagenet/classes/{{ ternary "data.csv" .Values.classes.file (not (empty .Values.classes.csv)) }}
- --target=/state
- --listen={{ .Values.bindAddress }}:50051
- --http={{ .Values.bindAddress }}:8080
# A StatefulSet restarts every container that ends, so the coordinator stays when the job is done.
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
