//! Whether the admission policies that the chart ships are in place. What is inside their expressions is not compared: who can edit them can
//! also edit this operator.

use k8s_openapi::{
    api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::watch::{Caches, Key};

/// What the names of the chart's admission policies end with.
pub const GUARDS: [&str; 20] = [
    "operator-jobs",
    "operator-runs",
    "backupsources",
    "backupstores",
    "restorerequests",
    "clusterbackupstores",
    "clusterbackupstores-maintenance",
    "retentionpreviews",
    "backupruns",
    "compliance-schedules",
    "compliance-stores",
    "compliance-runs",
    "compliance-namespaces",
    "compliance-policies",
    "compliance-status",
    "definitions",
    "complianceholds",
    "clustercomplianceholds",
    "disposalrequests",
    "acknowledgements",
];

/// Each of the guards, with what is wrong with it.
pub fn states(caches: &Caches) -> Vec<(&'static str, Option<String>)> {
    GUARDS
        .iter()
        .map(|guard| {
            let key = Key::new("", format!("{}.{guard}", caches.guard_prefix));
            let wrong = wrong(caches.guards.get(&key).as_deref(), caches.guard_bindings.get(&key).as_deref());
            (*guard, wrong.map(|wrong| format!("{} {wrong}", key.name)))
        })
        .collect()
}

fn wrong(policy: Option<&ValidatingAdmissionPolicy>, binding: Option<&ValidatingAdmissionPolicyBinding>) -> Option<&'static str> {
    let Some(policy) = policy.and_then(|policy| policy.spec.as_ref()) else {
        return Some("does not exist");
    };
    if policy.failure_policy.as_deref() == Some("Ignore") {
        return Some("has failurePolicy Ignore, not Fail");
    }
    if policy.validations.as_ref().is_none_or(Vec::is_empty) {
        return Some("has no validations");
    }
    let Some(binding) = binding.and_then(|binding| binding.spec.as_ref()) else {
        return Some("is not bound");
    };
    if !binding.validation_actions.iter().flatten().any(|action| action == "Deny") {
        return Some("is bound without Deny");
    }
    if binding.match_resources.as_ref().is_some_and(|only| {
        only.namespace_selector
            .as_ref()
            .is_some_and(|labels| labels != &LabelSelector::default())
            || only
                .object_selector
                .as_ref()
                .is_some_and(|labels| labels != &LabelSelector::default())
            || only.exclude_resource_rules.as_ref().is_some_and(|rules| !rules.is_empty())
    }) {
        return Some("is bound to some objects only");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(edit: impl Fn(&mut Value, &mut Value)) -> Option<&'static str> {
        let mut policy = json!({"metadata": {"name": "a"}, "spec": {"failurePolicy": "Fail", "validations": [{"expression": "true"}]}});
        let mut binding = json!({"metadata": {"name": "a"}, "spec": {"policyName": "a", "validationActions": ["Deny"]}});
        edit(&mut policy, &mut binding);
        let policy: Option<ValidatingAdmissionPolicy> = serde_json::from_value(policy).unwrap();
        let binding: Option<ValidatingAdmissionPolicyBinding> = serde_json::from_value(binding).unwrap();
        wrong(policy.as_ref(), binding.as_ref())
    }

    #[test]
    fn what_is_missing_or_loosened_is_told() {
        assert_eq!(judged(|_, _| ()), None);
        assert_eq!(judged(|policy, _| *policy = Value::Null), Some("does not exist"));
        assert_eq!(judged(|_, binding| *binding = Value::Null), Some("is not bound"));
        let ignored = judged(|policy, _| policy["spec"]["failurePolicy"] = json!("Ignore"));
        assert_eq!(ignored, Some("has failurePolicy Ignore, not Fail"));
        assert_eq!(
            judged(|policy, _| policy["spec"]["validations"] = json!([])),
            Some("has no validations")
        );
        let audited = judged(|_, binding| binding["spec"]["validationActions"] = json!(["Audit", "Warn"]));
        assert_eq!(audited, Some("is bound without Deny"));
        let narrowed = judged(|_, binding| binding["spec"]["matchResources"] = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}));
        assert_eq!(narrowed, Some("is bound to some objects only"));
        assert_eq!(
            judged(|_, binding| binding["spec"]["matchResources"] = json!({"namespaceSelector": {}})),
            None
        );
    }
}
