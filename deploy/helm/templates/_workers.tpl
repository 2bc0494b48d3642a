{{/* Name of the claim of one worker or of all; called with root and number (nil for all). */}}
{{- define "imagenet.claim" -}}
{{- $fullname := include "imagenet.fullname" .root }}
{{- if kindIs "invalid" .number }}{{ default (printf "%s-images" $fullname) .root.Values.storage.existingClaim }}
{{- else }}{{ $fullname }}-images-{{ .number }}{{ end }}
{{- end }}

{{/* The pod of a worker; called with root, number (nil where all share a claim) and restart. */}}
{{- define "imagenet.workerPod" -}}
{{- $root := .root }}
{{- $workers := $root.Values.workers }}
metadata:
  labels: {{- include "imagenet.selector" $root | nindent 4 }}
    app.kubernetes.io/component: worker
    {{- with $workers.podLabels }}{{- toYaml . | nindent 4 }}{{- end }}
  {{- with $workers.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "imagenet.pod" $root | nindent 2 }}
  {{- include "imagenet.placement" $workers | nindent 2 }}
  restartPolicy: {{ .restart }}
  topologySpreadConstraints:
  {{- if $workers.topologySpreadConstraints }}
  {{- toYaml $workers.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "imagenet.selector" $root | nindent 8 }}
        app.kubernetes.io/component: worker
  {{- end }}
  containers:
  - name: worker
    image: {{ include "imagenet.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [/usr/local/bin/worker]
    # The worker's name is the host name, which is the pod's name.
    args:
    {{- include "imagenet.clientArgs" (dict "root" $root "role" "worker") | nindent 4 }}
    - --target=/data/{{ $root.Values.storage.folder }}
    - --workers={{ $workers.slots }}
    - --http={{ $root.Values.bindAddress }}:8080
    {{- if $workers.allowPrivateOrigin }}
    - --allow-private-origin
    {{- end }}
    {{- with $workers.extraEnv }}
    env: {{- toYaml . | nindent 4 }}
    {{- end }}
    securityContext: {{- include "imagenet.containerSecurityContext" $root | nindent 6 }}
    resources: {{- toYaml $workers.resources | nindent 6 }}
    terminationMessagePolicy: FallbackToLogsOnError
    ports:
    - {name: http, containerPort: 8080}
    livenessProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: 10
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 10
    volumeMounts:
    - {name: images, mountPath: /data}
    {{- include "imagenet.trustMount" $root | nindent 4 }}
  volumes:
  - name: images
    persistentVolumeClaim: {claimName: {{ include "imagenet.claim" . }}}
  {{- include "imagenet.trustVolume" (dict "root" $root "files" (list "ca.pem" "worker.token")) | nindent 2 }}
{{- end }}

{{/*
The end of a Job's name. The pods of a Job cannot be changed, and a complete Job starts no pods. So
each change that has to start the workers again (another list, origin or attempt, another image or
other settings of the workers) makes another Job.
*/}}
{{- define "imagenet.jobHash" -}}
{{- $pod := include "imagenet.workerPod" (dict "root" . "number" nil "restart" "Never") }}
{{- list $pod (include "imagenet.run" .) .Values.storage.mode .Values.workers.count .Values.workers.backoffLimit | toJson | sha256sum | trunc 8 }}
{{- end }}
