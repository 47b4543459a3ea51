//! ClusterBackupSchedule: one schedule for the sources of many namespaces.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackupScheduleSpec, Reason};

/// A schedule for the sources of many namespaces: in each selected namespace that has such a source it makes a BackupSchedule of its own name.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ClusterBackupSchedule",
    plural = "clusterbackupschedules",
    shortname = "hcsched",
    category = "holdfast",
    status = "ClusterBackupScheduleStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaces"),
    printcolumn(name = "Sources", type_ = "integer", json_path = ".status.sources"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is the name of a BackupSchedule in each namespace ")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupScheduleSpec {
    /// Which namespaces.
    pub namespace_selector: NamespaceSelector,
    /// The BackupSchedule of each of them. Sources and stores are those of the namespace.
    pub schedule: BackupScheduleSpec,
}

/// Namespaces by their labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels that a namespace must all have.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

impl NamespaceSelector {
    /// Whether a namespace with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// How a cluster-wide schedule stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupScheduleStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: each namespace has its schedule, and each of these is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many namespaces have its schedule, because they are selected and have a source that is.
    #[serde(default)]
    pub namespaces: i64,
    /// How many sources these schedules select.
    #[serde(default)]
    pub sources: i64,
    /// Namespaces where something is wrong, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub problems: Vec<NamespaceProblem>,
}

/// What is wrong in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceProblem {
    /// Name of the namespace.
    pub namespace: String,
    pub reason: Reason,
    /// What is wrong there, and what to do.
    #[schemars(length(max = 512))]
    pub message: String,
}
