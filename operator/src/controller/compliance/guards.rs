//! Whether the admission policies that the chart ships are in place, and judge what they are shipped for. The words of their expressions are not
//! compared: who can edit them can also edit this operator.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, ParamRef, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::watch::{Caches, Key};

/// An admission policy of the chart.
#[derive(Debug)]
pub struct Guard {
    /// What its name ends with.
    pub name: &'static str,
    /// Which requests it judges: group, resources and operations.
    pub judges: &'static str,
    /// How many conditions limit that, and how many validations there are.
    pub conditions: usize,
    pub validations: usize,
    /// The kind whose objects it is asked with, if it is.
    pub asks: Option<&'static str>,
}

const fn guard(name: &'static str, judges: &'static str, conditions: usize, validations: usize) -> Guard {
    Guard {
        name,
        judges,
        conditions,
        validations,
        asks: None,
    }
}

const fn asked(name: &'static str, judges: &'static str, conditions: usize, validations: usize, kind: &'static str) -> Guard {
    Guard {
        asks: Some(kind),
        ..guard(name, judges, conditions, validations)
    }
}

const POLICY: &str = "CompliancePolicy";

/// The chart's admission policies; a test compares them with what the chart renders.
pub const GUARDS: [Guard; 20] = [
    guard("operator-jobs", "batch jobs CREATE,UPDATE,DELETE", 1, 12),
    guard("operator-runs", "holdfast.dev backupruns CREATE,UPDATE", 1, 1),
    guard("backupsources", "holdfast.dev backupsources CREATE,UPDATE", 1, 13),
    guard("backupstores", "holdfast.dev backupstores CREATE,UPDATE", 1, 20),
    guard("restorerequests", "holdfast.dev restorerequests CREATE,UPDATE", 1, 14),
    guard("clusterbackupstores", "holdfast.dev clusterbackupstores CREATE,UPDATE", 1, 15),
    guard(
        "clusterbackupstores-maintenance",
        "holdfast.dev clusterbackupstores CREATE,UPDATE",
        1,
        16,
    ),
    asked(
        "retentionpreviews",
        "holdfast.dev retentionpreviews CREATE",
        1,
        1,
        "ClusterBackupStore",
    ),
    guard("backupruns", "holdfast.dev backupruns CREATE,UPDATE", 0, 1),
    asked(
        "compliance-schedules",
        "holdfast.dev backupschedules CREATE,UPDATE,DELETE",
        0,
        8,
        POLICY,
    ),
    asked("compliance-stores", "holdfast.dev backupstores CREATE,UPDATE", 0, 2, POLICY),
    asked("compliance-runs", "holdfast.dev backupruns CREATE", 1, 2, POLICY),
    asked(
        "compliance-namespaces",
        " namespaces,namespaces/status,namespaces/finalize UPDATE",
        0,
        1,
        POLICY,
    ),
    guard("compliance-policies", "holdfast.dev compliancepolicies DELETE", 0, 1),
    guard(
        "compliance-status",
        "holdfast.dev backupruns/status,backupschedules/status,backupsources/status,backupstores/status,complianceholds/status,\
         disposalrequests/status,restorerequests/status,retentionpreviews/status,clusterbackupschedules/status,clusterbackupstores/status,\
         clustercomplianceholds/status,compliancepolicies/status UPDATE",
        0,
        1,
    ),
    guard("definitions", "apiextensions.k8s.io customresourcedefinitions DELETE", 1, 1),
    guard("complianceholds", "holdfast.dev complianceholds CREATE,UPDATE,DELETE", 0, 8),
    guard(
        "clustercomplianceholds",
        "holdfast.dev clustercomplianceholds CREATE,UPDATE,DELETE",
        0,
        7,
    ),
    guard("disposalrequests", "holdfast.dev disposalrequests CREATE,UPDATE", 0, 5),
    guard("acknowledgements", "holdfast.dev backupsources CREATE,UPDATE", 0, 2),
];

/// Each of the guards, with what is wrong with it.
pub fn states(caches: &Caches) -> Vec<(&'static str, Option<String>)> {
    GUARDS
        .iter()
        .map(|guard| {
            let key = Key::new("", format!("{}.{}", caches.guard_prefix, guard.name));
            let (policy, binding) = (caches.guards.get(&key), caches.guard_bindings.get(&key));
            let wrong = guard.wrong(policy.as_deref(), binding.as_deref());
            (guard.name, wrong.map(|wrong| format!("{} {wrong}", key.name)))
        })
        .collect()
}

impl Guard {
    /// What is missing of it, or looser than the chart ships it.
    pub fn wrong(
        &self,
        policy: Option<&ValidatingAdmissionPolicy>,
        binding: Option<&ValidatingAdmissionPolicyBinding>,
    ) -> Option<&'static str> {
        let name = policy.and_then(|policy| policy.metadata.name.as_ref());
        let Some(policy) = policy.and_then(|policy| policy.spec.as_ref()) else {
            return Some("does not exist");
        };
        if let Some(looser) = self.looser(policy) {
            return Some(looser);
        }
        let Some(binding) = binding.and_then(|binding| binding.spec.as_ref()) else {
            return Some("is not bound");
        };
        if binding.policy_name.as_ref() != name {
            return Some("is not bound: the binding is of another policy");
        }
        if !binding.validation_actions.iter().flatten().any(|action| action == "Deny") {
            return Some("is bound without Deny");
        }
        if binding
            .match_resources
            .as_ref()
            .is_some_and(|only| limited(only) || only.resource_rules.as_ref().is_some_and(|rules| !rules.is_empty()))
        {
            return Some("is bound to some objects only");
        }
        let every = |asked: &ParamRef| asked.name.is_none() && asked.namespace.is_none() && everything(asked.selector.as_ref());
        if self.asks.is_some() && !binding.param_ref.as_ref().is_some_and(every) {
            return Some("is bound to some of its parameters only");
        }
        None
    }

    fn looser(&self, policy: &ValidatingAdmissionPolicySpec) -> Option<&'static str> {
        if policy.failure_policy.as_deref() == Some("Ignore") {
            return Some("has failurePolicy Ignore, not Fail");
        }
        if policy.validations.as_ref().map_or(0, Vec::len) != self.validations {
            return Some("has more or fewer validations than the chart ships");
        }
        if policy.match_conditions.as_ref().map_or(0, Vec::len) != self.conditions {
            return Some("has more or fewer matchConditions than the chart ships");
        }
        if policy.param_kind.as_ref().and_then(|kind| kind.kind.as_deref()) != self.asks {
            return Some("has another paramKind than the chart ships");
        }
        let judged = policy.match_constraints.as_ref().filter(|judged| !limited(judged));
        if judged.and_then(judges).as_deref() != Some(self.judges) {
            return Some("judges other requests than the chart ships it for");
        }
        None
    }
}

/// The requests that the only rule names; none where there are several, or it names some objects only.
fn judges(judged: &MatchResources) -> Option<String> {
    let [rule] = judged.resource_rules.as_deref()? else {
        return None;
    };
    let whole = rule.resource_names.as_ref().is_none_or(Vec::is_empty)
        && rule.scope.as_deref().is_none_or(|scope| scope == "*")
        && rule.api_versions.as_deref() == Some(&["*".to_owned()]);
    let [groups, resources, operations] =
        [&rule.api_groups, &rule.resources, &rule.operations].map(|names| names.as_ref().map(|names| names.join(",")));
    whole.then_some(format!("{} {} {}", groups?, resources?, operations?))
}

/// Whether some objects are left out.
fn limited(only: &MatchResources) -> bool {
    !everything(only.namespace_selector.as_ref())
        || !everything(only.object_selector.as_ref())
        || only.exclude_resource_rules.as_ref().is_some_and(|rules| !rules.is_empty())
}

fn everything(selector: Option<&LabelSelector>) -> bool {
    selector.is_none_or(|labels| labels == &LabelSelector::default())
}

/// A guard as the chart ships it, with its binding.
#[cfg(test)]
pub fn shipped(guard: &Guard, name: &str) -> (serde_json::Value, serde_json::Value) {
    use serde_json::json;
    let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let [groups, resources, operations] = guard.judges.splitn(3, ' ').map(names).collect::<Vec<_>>().try_into().unwrap();
    let rule = json!({"apiGroups": groups, "apiVersions": ["*"], "resources": resources, "operations": operations, "scope": "*"});
    let one = json!({"name": "one", "expression": "true"});
    let mut policy = json!({"metadata": {"name": name, "uid": name}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule]},
        "matchConditions": vec![one.clone(); guard.conditions], "validations": vec![one; guard.validations]}});
    let mut binding = json!({"metadata": {"name": name, "uid": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
    if let Some(kind) = guard.asks {
        policy["spec"]["paramKind"] = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind});
        binding["spec"]["paramRef"] = json!({"selector": {}, "parameterNotFoundAction": "Allow"});
    }
    (policy, binding)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(edit: impl Fn(&mut Value, &mut Value)) -> Option<&'static str> {
        let guard = asked("a", "holdfast.dev backupschedules,backupruns CREATE,DELETE", 1, 2, POLICY);
        let (mut policy, mut binding) = shipped(&guard, "a");
        edit(&mut policy, &mut binding);
        let policy: Option<ValidatingAdmissionPolicy> = serde_json::from_value(policy).unwrap();
        let binding: Option<ValidatingAdmissionPolicyBinding> = serde_json::from_value(binding).unwrap();
        guard.wrong(policy.as_ref(), binding.as_ref())
    }

    #[test]
    fn what_is_missing_or_loosened_is_told() {
        assert_eq!(judged(|_, _| ()), None);
        assert_eq!(judged(|policy, _| *policy = Value::Null), Some("does not exist"));
        assert_eq!(judged(|_, binding| *binding = Value::Null), Some("is not bound"));
        let with = |path: &str, value: Value| {
            judged(|policy, binding| {
                let (kind, field) = path.split_once(' ').unwrap();
                let spec = if kind == "policy" { policy } else { binding };
                let (parent, field) = field.rsplit_once('/').unwrap_or(("", field));
                let parent = format!("/spec{}{parent}", if parent.is_empty() { "" } else { "/" });
                spec.pointer_mut(&parent).unwrap()[field] = value.clone();
            })
        };
        let other = Some("judges other requests than the chart ships it for");
        let some = json!({"matchLabels": {"a": "b"}});
        let rule = json!({"apiGroups": ["holdfast.dev"], "apiVersions": ["*"], "resources": ["backupruns"], "operations": ["CREATE"]});
        for (path, value, says) in [
            ("policy failurePolicy", json!("Ignore"), Some("has failurePolicy Ignore, not Fail")),
            (
                "policy validations",
                json!([]),
                Some("has more or fewer validations than the chart ships"),
            ),
            (
                "policy validations",
                json!([{"expression": "true"}]),
                Some("has more or fewer validations than the chart ships"),
            ),
            (
                "policy matchConditions",
                json!([]),
                Some("has more or fewer matchConditions than the chart ships"),
            ),
            (
                "policy matchConditions",
                json!([{"name": "a", "expression": "true"}, {"name": "b", "expression": "false"}]),
                Some("has more or fewer matchConditions than the chart ships"),
            ),
            ("policy paramKind", Value::Null, Some("has another paramKind than the chart ships")),
            ("policy matchConstraints", Value::Null, other),
            ("policy matchConstraints/resourceRules", json!([rule]), other),
            ("policy matchConstraints/namespaceSelector", some.clone(), other),
            ("policy matchConstraints/objectSelector", some.clone(), other),
            ("policy matchConstraints/excludeResourceRules", json!([rule]), other),
            (
                "binding policyName",
                json!("b"),
                Some("is not bound: the binding is of another policy"),
            ),
            ("binding validationActions", json!(["Audit", "Warn"]), Some("is bound without Deny")),
            (
                "binding matchResources",
                json!({"namespaceSelector": some}),
                Some("is bound to some objects only"),
            ),
            (
                "binding matchResources",
                json!({"resourceRules": [rule]}),
                Some("is bound to some objects only"),
            ),
            ("binding matchResources", json!({"namespaceSelector": {}}), None),
            ("binding paramRef", Value::Null, Some("is bound to some of its parameters only")),
            (
                "binding paramRef",
                json!({"name": "weak", "parameterNotFoundAction": "Allow"}),
                Some("is bound to some of its parameters only"),
            ),
            (
                "binding paramRef",
                json!({"selector": some, "parameterNotFoundAction": "Allow"}),
                Some("is bound to some of its parameters only"),
            ),
            ("binding paramRef", json!({"selector": {}, "parameterNotFoundAction": "Deny"}), None),
        ] {
            assert_eq!(with(path, value.clone()), says, "{path} {value}");
        }
        for (field, value) in [
            ("scope", json!("Cluster")),
            ("resourceNames", json!(["one"])),
            ("operations", json!(["CREATE"])),
        ] {
            let narrowed = judged(|policy, _| policy["spec"]["matchConstraints"]["resourceRules"][0][field] = value.clone());
            assert_eq!(narrowed, other, "{field}");
        }
    }
}
