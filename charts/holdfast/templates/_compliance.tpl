{{/* How many seconds a duration has; `.` is the term. The definitions have the same, and a test compares both with what the operator computes. */}}
{{- define "holdfast.seconds" -}}
(int({{ . }}.substring(0, size({{ . }}) - 1)) * ({{ . }}.endsWith('d') ? 86400 : {{ . }}.endsWith('h') ? 3600 : {{ . }}.endsWith('m') ? 60 : 1))
{{- end -}}

{{/* Whether the policy in `params` is enforced on a namespace with the labels in the variable `labels`. */}}
{{- define "holdfast.enforced" -}}
params.spec.mode == 'Enforce' && (has(params.spec.namespaces.all) || params.spec.namespaces.matchLabels.all(k, k in variables.labels && variables.labels[k] == params.spec.namespaces.matchLabels[k]))
{{- end -}}

{{/* What never meets a refusal: the end of a namespace, and the garbage collector. The data is what is protected, not the objects. */}}
{{- define "holdfast.byTheCluster" -}}
(namespaceObject != null && has(namespaceObject.metadata.deletionTimestamp)) ||
request.userInfo.username in ['system:serviceaccount:kube-system:namespace-controller', 'system:serviceaccount:kube-system:generic-garbage-collector', 'system:kube-controller-manager']
{{- end -}}

{{/* The head of a policy: root, name, resources, operations, and params where it asks each CompliancePolicy, or each object of the kind in paramKind. */}}
{{- define "holdfast.guard" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ .name | quote }}
  labels: {{- include "holdfast.labels" .root | nindent 4 }}
spec:
  failurePolicy: Fail
  {{- if .params }}
  paramKind: {apiVersion: holdfast.dev/v1alpha1, kind: {{ .paramKind | default "CompliancePolicy" }}}
  {{- end }}
  matchConstraints:
    resourceRules:
      - apiGroups: [{{ hasKey . "group" | ternary .group "holdfast.dev" | quote }}]
        apiVersions: ["*"]
        resources: {{ .resources | toJson }}
        operations: {{ .operations | toJson }}
{{- end -}}

{{/* The variable with the owners that a request adds, but for the operator's. */}}
{{- define "holdfast.addedOwners" -}}
# The garbage collector deletes what belongs to something that is gone: a foreign owner is a deletion in two steps.
- name: addedOwners
  expression: >-
    request.operation == 'DELETE' || request.userInfo.username == {{ include "holdfast.user" . | squote }} ? [] :
    object.metadata.?ownerReferences.orValue([]).filter(o, request.operation == 'CREATE' || !oldObject.metadata.?ownerReferences.orValue([]).exists(b, b.uid == o.uid))
{{- end -}}

{{/* Refuses them. `.if` is the variable that must be true for it, `.why` are words of the message. */}}
{{- define "holdfast.refusesOwners" -}}
- expression: size(variables.addedOwners) == 0{{ if .if }} || !{{ .if }}{{ end }}
  messageExpression: >-
    "metadata.ownerReferences: found the " + variables.addedOwners[0].kind + " '" + variables.addedOwners[0].name +
    "', with which the garbage collector would delete this object{{ .why }}; leave it out"
  reason: Forbidden
{{- end -}}
