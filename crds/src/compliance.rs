//! CompliancePolicy: what the backups of some namespaces must at least be.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{LockMode, Span};

/// Floors and a ceiling for the backups of namespaces, with which their owners cannot do as they like.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "CompliancePolicy",
    plural = "compliancepolicies",
    shortname = "hcpol",
    category = "holdfast",
    status = "CompliancePolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Locked", type_ = "boolean", json_path = ".spec.locked"),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.conditions[?(@.type==\"Enforced\")].status"),
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaces"),
    printcolumn(name = "Sources", type_ = "integer", json_path = ".status.sources"),
    printcolumn(name = "Not-Compliant", type_ = "integer", json_path = ".status.notCompliant"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Enforced\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is told in refusals ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct CompliancePolicySpec {
    /// Which namespaces it is for.
    pub namespaces: PolicyNamespaces,
    /// What becomes of that which misses a floor: `Audit` shows it as `Compliant=False` of the source; `Enforce` also refuses what one object
    /// shows by itself when it is written, and the deletion of schedules.
    #[serde(default)]
    pub mode: ComplianceMode,
    /// Once true, the policy cannot be deleted, and each later change must be tighter than what was before.
    #[serde(default)]
    pub locked: bool,
    /// What backups must at least be.
    #[serde(default)]
    pub floors: ComplianceFloors,
    /// What they may at most be.
    #[serde(default)]
    pub ceiling: ComplianceCeiling,
}

/// Namespaces by labels, or all: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PolicyNamespaces {
    /// Labels that a namespace must all have. Where the policy is enforced, a namespace cannot be relabelled out of it.
    MatchLabels(
        #[schemars(extend("minProperties" = 1, "maxProperties" = 8, "additionalProperties" = {"type": "string", "maxLength": 63}))]
        BTreeMap<String, String>,
    ),
    /// Every namespace.
    All(AllNamespaces),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllNamespaces {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComplianceMode {
    #[default]
    Audit,
    Enforce,
}

/// What backups must at least be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComplianceFloors {
    /// For how long each copy must at least be kept: `keepWithin` of a store's retention, where the retention says anything at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// How many of a source's newest good full copies must stay in each store whatever their age: `minGood` of its retention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30))]
    pub good_copies: Option<i32>,
    /// In how many stores at least a source's schedules must keep its copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub stores: Option<i32>,
    /// Whether stores must encrypt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionFloor>,
    /// Which locks of the bucket stores must ask for at least: `Compliance` is more than `Governance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_mode: Option<LockMode>,
    /// How old the newest copy may become at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionFloor {
    /// `encryption: {none: {}}` is refused.
    Required,
}

/// What backups may at most be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComplianceCeiling {
    /// For how long a copy may be kept at most. A retention that says nothing keeps for ever, and is above each ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
}

/// How many seconds a duration has, in CEL, for a term that is one. The chart's admission policies have the same, and a test compares both
/// with [`Span`].
pub fn span_seconds(term: &str) -> String {
    format!(
        "(int({term}.substring(0, size({term}) - 1)) * ({term}.endsWith('d') ? 86400 : {term}.endsWith('h') ? 3600 : {term}.endsWith('m') ? 60 : 1))"
    )
}

fn rules() -> Vec<Value> {
    let mut rules = vec![
        json!({
            "rule": "has(self.floors.retention) || has(self.floors.goodCopies) || has(self.floors.stores) || has(self.floors.encryption) || has(self.floors.lockMode) || has(self.floors.rpo) || has(self.ceiling.retention)",
            "messageExpression": "'found no floor and no ceiling, so it demands nothing; add one, such as floors: {retention: 30d}'",
        }),
        json!({
            "rule": format!(
                "!has(self.floors.retention) || !has(self.ceiling.retention) || {} <= {}",
                span_seconds("self.floors.retention"),
                span_seconds("self.ceiling.retention")
            ),
            "fieldPath": ".ceiling.retention",
            "messageExpression": "\"found '\" + self.ceiling.retention + \"', below floors.retention '\" + self.floors.retention + \"', so that no retention could comply; raise the ceiling, or lower the floor\"",
        }),
    ];
    let rules_of_locks = [
        ("locked", "self.locked", "'found false, was true'".to_owned()),
        (
            "mode",
            "oldSelf.mode != 'Enforce' || self.mode == 'Enforce'",
            "\"found 'Audit', was 'Enforce'\"".to_owned(),
        ),
        (
            "namespaces",
            "has(self.namespaces.all) || (has(oldSelf.namespaces.matchLabels) && self.namespaces.matchLabels.all(k, k in oldSelf.namespaces.matchLabels && oldSelf.namespaces.matchLabels[k] == self.namespaces.matchLabels[k]))",
            "'found labels that select fewer namespaces than before'".to_owned(),
        ),
    ];
    for (field, tighter, found) in rules_of_locks {
        rules.push(locked(field, tighter, &found));
    }
    for (field, least) in [("floors.retention", true), ("floors.rpo", false), ("ceiling.retention", false)] {
        let (new, old) = (span_seconds(&format!("self.{field}")), span_seconds(&format!("oldSelf.{field}")));
        let tighter = format!(
            "!has(oldSelf.{field}) || (has(self.{field}) && {new} {} {old})",
            if least { ">=" } else { "<=" }
        );
        let found =
            format!("'found ' + (has(self.{field}) ? \"'\" + self.{field} + \"'\" : 'nothing') + \", was '\" + oldSelf.{field} + \"'\"");
        rules.push(locked(field, &tighter, &found));
    }
    for (field, most) in [("floors.goodCopies", 30), ("floors.stores", 8)] {
        let tighter = format!("!has(oldSelf.{field}) || (has(self.{field}) && self.{field} >= oldSelf.{field})");
        // `string(…)` has a cost that cannot be bounded.
        let numbers: Vec<_> = (1..=most).map(|number| format!("'{number}'")).collect();
        let shown = |of: &str| format!("[{}][{of}.{field} - 1]", numbers.join(","));
        let found = format!(
            "'found ' + (has(self.{field}) ? {} : 'nothing') + ', was ' + {}",
            shown("self"),
            shown("oldSelf")
        );
        rules.push(locked(field, &tighter, &found));
    }
    rules.push(locked(
        "floors.encryption",
        "!has(oldSelf.floors.encryption) || has(self.floors.encryption)",
        "\"found nothing, was 'Required'\"",
    ));
    rules.push(locked(
        "floors.lockMode",
        "!has(oldSelf.floors.lockMode) || (has(self.floors.lockMode) && (self.floors.lockMode == oldSelf.floors.lockMode || self.floors.lockMode == 'Compliance'))",
        "'found ' + (has(self.floors.lockMode) ? \"'\" + self.floors.lockMode + \"'\" : 'nothing') + \", was '\" + oldSelf.floors.lockMode + \"'\"",
    ));
    rules
}

/// A rule that a locked policy only becomes tighter.
fn locked(field: &str, tighter: &str, found: &str) -> Value {
    json!({
        "rule": format!("!oldSelf.locked || ({tighter})"),
        "fieldPath": format!(".{field}"),
        "messageExpression": format!("{found} + ', but this policy is locked and can only become tighter; leave the field as it was'"),
    })
}

/// Where a policy stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompliancePolicyStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: accepted. `Enforced`: the admission policies that refuse in its name are in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many namespaces it selects.
    #[serde(default)]
    pub namespaces: i64,
    /// How many sources are in them.
    #[serde(default)]
    pub sources: i64,
    /// How many of those miss a floor of this policy.
    #[serde(default)]
    pub not_compliant: i64,
    /// The first of those, as `namespace/name`, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub missing_floors: Vec<String>,
}

impl PolicyNamespaces {
    /// Whether a namespace with these labels is selected.
    pub fn select(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::MatchLabels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
            Self::All(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_selected_by_all_labels() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let two = PolicyNamespaces::MatchLabels(labels(&[("a", "1"), ("b", "2")]));
        assert!(two.select(&labels(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert!(!two.select(&labels(&[("a", "1")])));
        assert!(!two.select(&labels(&[("a", "1"), ("b", "3")])));
        assert!(PolicyNamespaces::All(AllNamespaces {}).select(&labels(&[])));
    }
}
