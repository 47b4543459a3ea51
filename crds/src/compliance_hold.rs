//! ComplianceHold and ClusterComplianceHold: copies that nothing may remove until somebody lets go of them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Span,
    rule::{Fixed, fixed},
};

/// Copies of this namespace that are kept, whatever retention says, until somebody else lets go of them. It outlives this object.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ComplianceHold",
    plural = "complianceholds",
    shortname = "hhold",
    category = "holdfast",
    namespaced,
    status = "ComplianceHoldStatus",
    derive = "PartialEq",
    printcolumn(name = "Effective", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].status"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.copies"),
    printcolumn(name = "Placed-By", type_ = "string", json_path = ".spec.placedBy"),
    printcolumn(name = "Released-By", type_ = "string", json_path = ".spec.release.releasedBy"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is the hold's name in every store ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = hold_rules()))]
pub struct ComplianceHoldSpec {
    /// Which copies: those that match all that is said here, also future ones. What was held once stays held until the release.
    pub select: HoldSelection,
    /// Why, for those who find it years later.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who places it: must be the user name of who writes this object.
    #[schemars(length(min = 1, max = 256))]
    pub placed_by: String,
    /// Who may release it.
    #[serde(default)]
    pub release_by: ReleaseBy,
    /// How long after its release it still holds.
    #[serde(default = "default_cool_off")]
    pub cool_off: Span,
    /// It ends by itself then (RFC 3339). By default only a release ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Lets go of it. It can be added once, by who has the verb `release` on this hold, and is not taken back: place another hold instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<HoldRelease>,
}

/// As ComplianceHold, for copies of several namespaces; it outlives them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ClusterComplianceHold",
    plural = "clustercomplianceholds",
    shortname = "hchold",
    category = "holdfast",
    status = "ComplianceHoldStatus",
    derive = "PartialEq",
    printcolumn(name = "Effective", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].status"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.copies"),
    printcolumn(name = "Placed-By", type_ = "string", json_path = ".spec.placedBy"),
    printcolumn(name = "Released-By", type_ = "string", json_path = ".spec.release.releasedBy"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Effective\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is the hold's name in every store ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cluster_hold_rules()))]
pub struct ClusterComplianceHoldSpec {
    /// Names of namespaces. They need not exist (any more).
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
    /// Which copies of those namespaces: those that match all that is said here, also future ones. What was held once stays held until the
    /// release.
    pub select: HoldSelection,
    /// Why, for those who find it years later.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who places it: must be the user name of who writes this object.
    #[schemars(length(min = 1, max = 256))]
    pub placed_by: String,
    /// Who may release it.
    #[serde(default)]
    pub release_by: ReleaseBy,
    /// How long after its release it still holds.
    #[serde(default = "default_cool_off")]
    pub cool_off: Span,
    /// It ends by itself then (RFC 3339). By default only a release ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Lets go of it. It can be added once, by who has the verb `release` on this hold, and is not taken back: place another hold instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<HoldRelease>,
}

pub(crate) fn default_cool_off() -> Span {
    Span::from_hours(24)
}

/// Copies by what they are of. At least one of these is said; with several, a copy must match all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.runs) || has(self.sources) || has(self.matchLabels) || has(self.recoveryPoints)",
    "message": "found nothing, which would hold each copy by oversight; say runs, sources, matchLabels or recoveryPoints (recoveryPoints: {from: \"1970-01-01T00:00:00Z\"} holds all)",
}]))]
pub struct HoldSelection {
    /// Copies by their paths, `<namespace>/<source>/<run id>` as in `status.copy.path` of a BackupRun. Their runs need not exist (any more).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 200),
        inner(length(min = 5, max = 190), regex(pattern = "^[a-z0-9-]+/[a-z0-9-]+/[a-z0-9-]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub runs: Vec<String>,
    /// Names of sources. They need not exist (any more).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Vec<String>,
    /// Labels that a source must all have at some time while the hold stands; relabelling it afterwards releases nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub match_labels: BTreeMap<String, String>,
    /// Copies whose recovery point lies in this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_points: Option<TimeRange>,
}

/// A range of time, both ends included. At least one end is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.from) || has(self.until)", "message": "found neither from nor until; say at least one end"},
    {"rule": "!has(self.from) || !has(self.until) || self.from <= self.until", "fieldPath": ".until",
     "message": "found a time before from, so that no copy could match; exchange the two"},
]))]
pub struct TimeRange {
    /// From this time on (RFC 3339). By default from the first copy on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub from: Option<String>,
    /// Up to this time (RFC 3339). By default without an end: future copies are held from birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleaseBy {
    /// Another person than who placed it.
    #[default]
    AnotherPerson,
    /// Anybody with the verb `release`, also who placed it.
    Anyone,
}

/// Who lets go of a hold, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldRelease {
    /// Must be the user name of who writes it.
    #[schemars(length(min = 1, max = 256))]
    pub released_by: String,
    /// Why.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

const FIXED: &str = "a hold cannot change, but for spec.release; place another hold beside it, and release this one where it should go";

fn cluster_hold_rules() -> Vec<Value> {
    let mut rules = fixed(&[Fixed::Structure("namespaces")], FIXED);
    rules.extend(hold_rules());
    rules
}

fn hold_rules() -> Vec<Value> {
    let fields = [
        Fixed::Structure("select"),
        Fixed::Text("reason"),
        Fixed::Text("placedBy"),
        Fixed::Text("releaseBy"),
        Fixed::Text("coolOff"),
        Fixed::Structure("until"),
    ];
    let mut rules = fixed(&fields, FIXED);
    rules.push(json!({
        "rule": "!has(oldSelf.release) || (has(self.release) && self.release == oldSelf.release)",
        "fieldPath": ".release",
        "messageExpression": "'found ' + (has(self.release) ? 'something else than before' : 'nothing') + ', but a release is written once; place another hold to go on holding'",
    }));
    rules
}

/// How far a hold is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComplianceHoldStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: accepted. `Effective`: the records of the hold were read back in each store, and no keeper older than it can still delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many copies it holds in all stores, with what they need.
    #[serde(default)]
    pub copies: i64,
    /// What became of it in each store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub stores: Vec<HoldInStore>,
    /// When its release was first seen (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    /// When its release takes effect at the earliest (RFC 3339, UTC): in a store not before the cool-off of each hold that was placed there under
    /// this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_effective_at: Option<String>,
}

/// A hold in one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldInStore {
    /// `namespace/name` of the store.
    pub store: String,
    /// Whether its record was read back there, in a pass of the keeper that began after the hold.
    pub effective: bool,
    /// How many copies it holds there, with what they need.
    #[serde(default)]
    pub copies: i64,
    /// Whether the bucket holds too: each object has a legal hold that was read back. Else only Holdfast holds it.
    #[serde(default)]
    pub legal_hold: bool,
    /// What is missing, where it is not effective.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
}
