{{- define "cobrowse.selector" -}}
app.kubernetes.io/name: cobrowse
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cobrowse.meta" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "cobrowse.selector" . | nindent 2 }}
{{- end }}

{{- define "cobrowse.image" -}}
{{ .Values.gateway.image.repository }}:{{ .Values.gateway.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* "yes" or nothing. */ -}}
{{- define "cobrowse.older" -}}
{{- if or .Values.olderClusters (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}yes{{ end }}
{{- end }}

{{- /* How long the service stays while the gateway drains. */ -}}
{{- define "cobrowse.stay" -}}
{{ add .Values.gateway.drainDelaySeconds .Values.gateway.drainBudgetSeconds 2 }}
{{- end }}

{{- define "cobrowse.grace" -}}
{{ add .Values.gateway.drainDelaySeconds .Values.gateway.drainBudgetSeconds 15 }}
{{- end }}

{{- define "cobrowse.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "cobrowse.gateway" -}}
- name: gateway
  image: {{ include "cobrowse.image" . }}
  imagePullPolicy: {{ .Values.gateway.image.pullPolicy }}
  {{- if not (include "cobrowse.older" .) }}
  # A sidecar: started before the service and stopped after it.
  restartPolicy: Always
  {{- end }}
  env:
    - name: BASE_ENDPOINT
      valueFrom:
        configMapKeyRef:
          name: {{ .Release.Name }}
          key: BASE_ENDPOINT
    - name: UPSTREAM_URL
      value: http://127.0.0.1:5002
    - name: REST_KEY_FILE
      value: /run/secrets/rest-key/rest_key
    - name: TLS_CERT_FILE
      value: /run/secrets/tls/tls.crt
    - name: TLS_KEY_FILE
      value: /run/secrets/tls/tls.key
    - name: GATEWAY__ADMIN__LISTEN
      value: 0.0.0.0:9180
    # For `cobrowse-gateway doctor`: what drain.delay and drain.budget are compared with.
    - name: TERMINATION_GRACE_PERIOD
      value: {{ include "cobrowse.grace" . }}s
  ports:
    - name: https
      containerPort: 8443
    - name: admin
      containerPort: 9180
  # Bound and loaded. It does not ask the service, which waits for this.
  startupProbe:
    httpGet:
      path: /startupz
      port: admin
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet:
      path: /livez
      port: admin
    periodSeconds: 10
    timeoutSeconds: 2
    failureThreshold: 3
  # The service accepts connections, and nobody asked the gateway to drain.
  readinessProbe:
    httpGet:
      path: /readyz
      port: admin
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 2
  {{- if not (include "cobrowse.older" .) }}
  lifecycle:
    # The hooks of all containers run when the pod begins to end; SIGTERM comes to a sidecar only when the
    # service is gone. So it drains from here, while the service's hook sleeps.
    preStop:
      exec:
        command: [/cobrowse-gateway, drain]
  {{- end }}
  resources:
    {{- toYaml .Values.gateway.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    {{- include "cobrowse.locked" . | nindent 4 }}
  volumeMounts:
    # Whole folders: a file mounted by subPath never changes.
    - name: gateway
      mountPath: /etc/cobrowse-gateway
      readOnly: true
    - name: tls
      mountPath: /run/secrets/tls
      readOnly: true
    - name: rest-key
      mountPath: /run/secrets/rest-key
      readOnly: true
{{- end }}
