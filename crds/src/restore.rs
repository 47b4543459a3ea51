//! RestoreRequest: from a copy to a database.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Attempt, FrozenStore, JobTemplate, PostgresqlServer, Reason, RunPhase, Settle, Span, StoreKind, StoreReference,
    document::{Sha256, canonical_bytes},
    rule::{Fixed, fixed, stays_cancelled},
    schedule::{default_attempts, default_timeout},
};

/// A restore from a copy into a database server. It is done once: an identical request that is made again finds its receipt.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "RestoreRequest",
    plural = "restorerequests",
    shortname = "hrestore",
    category = "holdfast",
    namespaced,
    status = "RestoreRequestStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Waiting-For", type_ = "string", json_path = ".status.waitingFor"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(52, "it is part of the receipt in the target ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct RestoreRequestSpec {
    /// Which copy.
    pub from: RestoreFrom,
    /// Where to.
    pub to: RestoreTo,
    /// What of it, and under which names. By default every database under its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<RestoreSelection>,
    /// What is done about roles that own or may use objects and do not exist in the target server.
    #[serde(default)]
    pub missing_roles: MissingRoles,
    /// Queries that run in restored databases before these are put in place, in this order: what was erased since the copy was made stays erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub post_restore: Vec<PostRestoreQuery>,
    /// Secret with the key `identity` (or `passphrase`) that opens the copy. By default the store's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub identity_secret_name: Option<String>,
    /// How often it is attempted, where a failure may go away by itself; up to 5 attempts that the cluster takes away (drains, evictions,
    /// lost nodes, deleted pods) do not count.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: i32,
    /// The time that one attempt has.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Ends the restore. What is in place by then stays.
    #[serde(default)]
    pub cancel: bool,
    /// How the pods of this request's Jobs are shaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

fn rules() -> Vec<serde_json::Value> {
    let fields = [
        Fixed::Structure("from"),
        Fixed::Structure("to"),
        Fixed::Structure("select"),
        Fixed::Text("missingRoles"),
        Fixed::Structure("postRestore"),
        Fixed::Text("identitySecretName"),
        Fixed::Number("attempts", 10),
        Fixed::Text("timeout"),
        Fixed::Structure("job"),
    ];
    let mut rules = fixed(
        &fields,
        "a restore request cannot change, but for spec.cancel; make a new request with another name",
    );
    rules.push(stays_cancelled("request"));
    rules
}

impl RestoreRequestSpec {
    /// SHA-256 of what a request asks for, under its name. Who finds a receipt with it in the target has nothing left to do.
    pub fn digest(&self, namespace: &str, name: &str) -> Sha256 {
        let asked = Self {
            cancel: false,
            ..self.clone()
        };
        let identity = serde_json::json!({"namespace": namespace, "name": name, "spec": asked});
        Sha256::of(&canonical_bytes(&identity))
    }
}

/// Which copy: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestoreFrom {
    /// The copy of a BackupRun of this namespace.
    Run(RestoreFromRun),
    /// A copy by its path in a store, also where its run is gone.
    Store(RestoreFromStore),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFromRun {
    /// Name of the run.
    #[schemars(length(min = 1, max = 52))]
    pub name: String,
    /// The store that is read. By default the run's primary store, or where that is not ready another that has the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreReference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFromStore {
    /// Name of the store.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Whether it is a store of this namespace or one of the cluster.
    #[serde(default)]
    pub kind: StoreKind,
    /// `<namespace>/<source>/<run id>`; the namespace must be this one.
    #[schemars(length(min = 5, max = 190), regex(pattern = "^[a-z0-9-]+/[a-z0-9-]+/[a-z0-9-]+$"))]
    pub path: String,
}

impl RestoreFromStore {
    /// The store as other specifications name it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name.clone(),
            kind: self.kind,
        }
    }
}

/// Where to: exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestoreTo {
    /// A PostgreSQL server, with a user who may create databases.
    Postgresql(PostgresqlServer),
}

/// What of a copy is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSelection {
    /// Names of databases in the copy. By default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub databases: Vec<String>,
    /// New names by the names in the copy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256, "additionalProperties" = {"type": "string", "minLength": 1, "maxLength": 63}))]
    pub rename: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MissingRoles {
    /// Stop before the target is touched, and name them.
    #[default]
    Fail,
    /// Leave out the owners and grants that name them, and say so.
    Skip,
    /// Create them as the copy's globals say, without a password that the copy does not hold.
    Create,
}

/// A query that runs in a restored database, once that was compared with the manifest, in a transaction of its own. If it fails, nothing is put in
/// place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostRestoreQuery {
    /// What messages and the status call it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Name of the database in the copy.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// SQL, also several statements. The search path is empty: names need their schema. Whoever may read this object reads it: it must hold no secret.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
}

/// How a restore goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRequestStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far the restore is.
    #[serde(default)]
    pub phase: RunPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What happened last and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// What it waits for, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub waiting_for: Option<String>,
    /// `Ready`: accepted and worked on. `Stalled`: failed for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What it works on, fixed with its first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenRestore>,
    /// The attempts to carry it out, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub attempts: Vec<Attempt>,
    /// Its settle Jobs, where an end was in doubt: they read the receipt in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Settle>,
    /// The target in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When the first attempt began (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// When it ended (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    /// From start to end, for people, such as `3m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// What was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoreSummary>,
}

/// What a restore works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenRestore {
    pub store: FrozenStore,
    /// `<namespace>/<source>/<run id>`.
    pub path: String,
    /// The manifest's digest, where the run tells it: another manifest is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The outcome's version that was pinned, where the store has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSummary {
    /// What was committed by this time is in the copy (RFC 3339, UTC).
    pub recovery_point: String,
    /// How many databases.
    pub databases: i64,
    /// The first of them under their new names, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub database_names: Vec<String>,
    /// Tables whose rows were counted and compared with the manifest.
    pub tables: i64,
    /// Rows in them.
    pub rows: i64,
    /// Raw bytes that were restored.
    pub raw_bytes: i64,
    /// Names of the queries of `spec.postRestore` that ran, after the rows were counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub post_restore: Vec<String>,
    /// What was not restored, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 256)))]
    pub skipped: Vec<String>,
}
