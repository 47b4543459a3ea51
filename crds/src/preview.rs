//! RetentionPreview: what a pass of a store's keeper would do, asked in the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Blocked, CopyReport, PreviewCounts, Reason, Retention, RunPhase, Span, StoreFinding, StoreReference,
    rule::{Fixed, fixed},
};

/// The most sources whose removals stand still that a preview's status lists.
pub const PREVIEW_BLOCKED: usize = 20;

/// What retention would do in a store, now or on a later day, also under rules that are not applied yet. Nothing is written, marked or deleted.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "RetentionPreview",
    plural = "retentionpreviews",
    shortname = "hpreview",
    category = "holdfast",
    namespaced,
    status = "RetentionPreviewStatus",
    derive = "PartialEq",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.store.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Kept", type_ = "integer", json_path = ".status.counts.kept"),
    printcolumn(name = "Marked", type_ = "integer", json_path = ".status.counts.marked"),
    printcolumn(name = "Removed", type_ = "integer", json_path = ".status.counts.removed"),
    printcolumn(name = "More", type_ = "integer", json_path = ".status.counts.more"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is a label of its Job ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct RetentionPreviewSpec {
    /// A BackupStore of this namespace: only copies of this namespace are looked at. Or a ClusterBackupStore, in its maintenance namespace alone:
    /// then copies of all namespaces are.
    pub store: StoreReference,
    /// Only copies of this namespace, which need not exist (any more); of a ClusterBackupStore. By default of every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub source_namespace: Option<String>,
    /// As if it were then (RFC 3339), keepers had come as usual, and no new copy had come. By default now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub at: Option<String>,
    /// Only copies of this source; it need not exist (any more). By default of every source. Of a ClusterBackupStore, `sourceNamespace` says whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub source: Option<String>,
    /// Rules to try, that are not applied. By default those in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<PreviewRules>,
    /// How long this object and its Job, with the log that has every copy, stay after the preview has ended.
    #[serde(default = "default_keep_for")]
    pub keep_for: Span,
}

/// Rules to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewRules {
    /// Name of the BackupSchedule, of this namespace or of `sourceNamespace`, whose rules they would be. It need not exist yet. By default those of
    /// every schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub schedule: Option<String>,
    /// How long its copies would be kept.
    pub retention: Retention,
}

fn default_keep_for() -> Span {
    Span::from_days(7)
}

fn rules() -> Vec<Value> {
    let fields = [
        Fixed::Structure("store"),
        // In CEL it is a time, and no text.
        Fixed::Structure("at"),
        Fixed::Text("sourceNamespace"),
        Fixed::Text("source"),
        Fixed::Structure("proposed"),
    ];
    let mut rules = fixed(&fields, "a preview is made once; make a new one with another name");
    rules.extend([
        json!({
            "rule": "self.store.kind == 'ClusterBackupStore' || !has(self.sourceNamespace)",
            "fieldPath": ".sourceNamespace",
            "messageExpression": "\"found '\" + self.sourceNamespace + \"', but of a BackupStore only copies of its own namespace are looked at; leave it out\"",
        }),
        json!({
            "rule": "self.store.kind == 'BackupStore' || !has(self.source) || has(self.sourceNamespace)",
            "fieldPath": ".source",
            "messageExpression": "\"found '\" + self.source + \"' in a ClusterBackupStore, where each namespace may have a source of this name; say whose in spec.sourceNamespace\"",
        }),
        json!({
            "rule": "self.store.kind == 'BackupStore' || !has(self.proposed) || !has(self.proposed.schedule) || has(self.sourceNamespace)",
            "fieldPath": ".proposed.schedule",
            "messageExpression": "\"found '\" + self.proposed.schedule + \"' in a ClusterBackupStore, where each namespace may have a schedule of this name; say whose in spec.sourceNamespace\"",
        }),
    ]);
    rules
}

/// What a preview found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPreviewStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far the preview is.
    #[serde(default)]
    pub phase: RunPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was found in one sentence, or the last error and the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// `Ready`: it is being made, or was. `Stalled`: it failed for good, or cannot go on until somebody acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Its Job. The log has a line for every copy: `kubectl logs job/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When its Job was made (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    /// The store's time (RFC 3339, UTC) when it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// How many sources and copies were looked at.
    #[serde(default)]
    pub sources: i64,
    /// Copies that were looked at.
    #[serde(default)]
    pub copies: i64,
    /// Their bytes.
    #[serde(default)]
    pub bytes: i64,
    /// What would become of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<PreviewCounts>,
    /// The first hundred copies with their reasons: those that go first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub listed: Vec<CopyReport>,
    /// Copies that are not listed here; the Job's log has them.
    #[serde(default)]
    pub not_listed: i64,
    /// Sources of which nothing is removed, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub blocked: Vec<BlockedSource>,
    /// What is not as it should be, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub findings: Vec<StoreFinding>,
}

/// A source whose removals stand still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedSource {
    /// Namespace of the source.
    #[serde(default)]
    pub namespace: String,
    /// Name of the source.
    pub source: String,
    #[serde(flatten)]
    pub blocked: Blocked,
}
