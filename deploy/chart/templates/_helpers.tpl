{{/* Image of the agent. */}}
{{- define "cilium.image" -}}
{{- printf "%s:%s" .Values.image.repository (default (printf "v%s" .Chart.AppVersion) .Values.image.tag) -}}
{{- end -}}

{{/* Image of the operator: the agent's, unless the values say otherwise. */}}
{{- define "cilium.operator.image" -}}
{{- $repository := default .Values.image.repository .Values.operator.image.repository -}}
{{- $tag := default .Values.image.tag .Values.operator.image.tag -}}
{{- printf "%s:%s" $repository (default (printf "v%s" .Chart.AppVersion) $tag) -}}
{{- end -}}

{{/* Labels of every object, besides the ones by which tools find it. */}}
{{- define "cilium.labels" -}}
app.kubernetes.io/part-of: cilium
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* Environment of agent and operator: who and where they are, and how to reach the API server. */}}
{{- define "cilium.env" -}}
- name: K8S_NODE_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: spec.nodeName
- name: POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
- name: CILIUM_K8S_NAMESPACE
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.namespace
{{- if .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.k8sServiceHost | quote }}
{{- end }}
{{- if .Values.k8sServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.k8sServicePort | quote }}
{{- end }}
{{- end -}}
