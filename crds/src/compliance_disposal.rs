//! DisposalRequest: removes data before its time, where a law demands it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    TimeRange,
    rule::{Fixed, fixed},
};

/// Copies that are removed before their time: their keys first, then their data. One person requests it, another approves it; holds and locks
/// defer it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "DisposalRequest",
    plural = "disposalrequests",
    shortname = "hdisp",
    category = "holdfast",
    namespaced,
    status = "DisposalRequestStatus",
    derive = "PartialEq",
    printcolumn(name = "Disposed", type_ = "string", json_path = ".status.conditions[?(@.type==\"Disposed\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Disposed\")].reason"),
    printcolumn(name = "Requested-By", type_ = "string", json_path = ".spec.requestedBy"),
    printcolumn(name = "Approved-By", type_ = "string", json_path = ".spec.approval.approvedBy"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Disposed\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is written into the certificate ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct DisposalRequestSpec {
    /// Which copies of this namespace.
    pub scope: DisposalScope,
    /// The duty that it fulfils, such as `GDPR Art. 17, case 26-118`. It goes into the certificate.
    #[schemars(length(min = 1, max = 1024))]
    pub legal_basis: String,
    /// Who requests it: must be the user name of who writes this object.
    #[schemars(length(min = 1, max = 256))]
    pub requested_by: String,
    /// Lets it begin. It can be added once, by another person, who has the verb `approve` on this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<DisposalApproval>,
}

/// Copies by run, or by source and time. At least runs or sources are said; with several, a copy must match all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.runs) || has(self.sources)",
    "message": "found neither runs nor sources, which would remove every copy of the namespace; name the runs or the sources",
}]))]
pub struct DisposalScope {
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
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Vec<String>,
    /// Copies whose recovery point lies in this range. By default all up to the approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_points: Option<TimeRange>,
}

/// Who approves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisposalApproval {
    /// Must be the user name of who writes it, and another than `requestedBy`.
    #[schemars(length(min = 1, max = 256))]
    pub approved_by: String,
}

fn rules() -> Vec<Value> {
    let fields = [Fixed::Structure("scope"), Fixed::Text("legalBasis"), Fixed::Text("requestedBy")];
    let mut rules = fixed(
        &fields,
        "a disposal request cannot change, but for spec.approval; make a new request with another name",
    );
    rules.push(json!({
        "rule": "!has(self.approval) || self.approval.approvedBy != self.requestedBy",
        "fieldPath": ".approval.approvedBy",
        "messageExpression": "\"found '\" + self.approval.approvedBy + \"', who also requested it; another person must approve\"",
    }));
    rules.push(json!({
        "rule": "!has(oldSelf.approval) || (has(self.approval) && self.approval == oldSelf.approval)",
        "fieldPath": ".approval",
        "messageExpression": "'found ' + (has(self.approval) ? 'something else than before' : 'nothing') + ', but an approval is written once; delete the request to stop what has not begun'",
    }));
    rules
}

/// How far a disposal is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisposalRequestStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: accepted. `Disposed`: all that the request names is gone from each store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When its approval was first seen (RFC 3339, UTC): later copies are not removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<String>,
    /// How far it is in each store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub stores: Vec<DisposalInStore>,
}

/// A disposal in one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisposalInStore {
    /// `namespace/name` of the store.
    pub store: String,
    /// Copies of its scope whose data is still there; absent until the store's keeper has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<i64>,
    /// Copies whose keys were destroyed.
    #[serde(default)]
    pub shredded: i64,
    /// Copies whose data is gone. Each leaves its records behind, with the name and the legal basis of this request: the certificate.
    #[serde(default)]
    pub removed: i64,
    /// Copies that a hold or a lock keeps.
    #[serde(default)]
    pub deferred: i64,
    /// What stands against it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}
