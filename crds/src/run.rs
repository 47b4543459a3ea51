//! BackupRun: one execution.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    BackupSourceSpec, BackupStoreSpec, BackupType, Reason, RunInStore, Span, StoreKind, StoreReference,
    rule::{Fixed, fixed, stays_cancelled},
    schedule::required_copies,
};

/// One execution of a backup, by a schedule's tick or by hand. Its name is its identity: a second backup needs a second name.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupRun",
    plural = "backupruns",
    shortname = "hrun",
    category = "holdfast",
    namespaced,
    status = "BackupRunStatus",
    derive = "PartialEq",
    selectable = ".spec.source",
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Stores", type_ = "string", json_path = ".status.storesShown"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(52, "it is the run's id in the store ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct BackupRunSpec {
    /// Name of the BackupSource.
    #[schemars(length(min = 1, max = 63))]
    pub source: String,
    /// What kind of copy.
    #[serde(rename = "type", default)]
    pub type_: BackupType,
    /// Where the copy goes. The run writes to the first that is not known to be down, and copy Jobs fill the others from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "kind"]))]
    pub stores: Vec<StoreReference>,
    /// How many of them must have the copy for the run to be `Replicated`. By default all, and with `schedule` as many as that says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub required_copies: Option<i32>,
    /// *Run now*: a schedule whose stores, attempts and timeout are used, and by whose retention the copy is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleReference>,
    /// How long the copy is kept at least, from its recovery point. By default 30d, and with `schedule` as long as that keeps its copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<Span>,
    /// How often it is attempted, where a failure may go away by itself; up to 5 attempts that the cluster takes away (drains, evictions,
    /// lost nodes, deleted pods) do not count. By default 3, or the schedule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<i32>,
    /// The time that one attempt has. By default 6h, or the schedule's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Ends the run: its Job is deleted, its uploads are aborted, and its register is closed.
    #[serde(default)]
    pub cancel: bool,
    /// The tick that made this run. Only the operator may set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<Tick>,
}

fn rules() -> Vec<serde_json::Value> {
    let fields = [
        Fixed::Text("source"),
        Fixed::Text("type"),
        Fixed::Structure("stores"),
        Fixed::Number("requiredCopies", 4),
        Fixed::Structure("schedule"),
        Fixed::Text("keepFor"),
        Fixed::Number("attempts", 10),
        Fixed::Text("timeout"),
        Fixed::Structure("tick"),
    ];
    let mut rules = fixed(
        &fields,
        "a run cannot change, but for spec.cancel; make a new run with another name",
    );
    rules.push(stays_cancelled("run"));
    rules.push(json!({
        "rule": "has(self.stores) != has(self.schedule)",
        "messageExpression": "'found ' + (has(self.stores) ? 'stores and schedule' : 'neither stores nor schedule') + '; name exactly one of them'",
    }));
    rules.push(required_copies());
    rules.push(json!({
        "rule": "!has(self.requiredCopies) || !has(self.schedule)",
        "fieldPath": ".requiredCopies",
        "messageExpression": "'found ' + ['1','2','3','4'][self.requiredCopies - 1] + ' on a run that names a schedule, which says it; remove requiredCopies, or name stores instead of schedule'",
    }));
    rules.push(json!({
        "rule": "!has(self.keepFor) || (!has(self.schedule) && !has(self.tick))",
        "fieldPath": ".keepFor",
        "messageExpression": "\"found '\" + self.keepFor + \"' on a run of a schedule, whose retention says how long the copy is kept; remove keepFor, or schedule\"",
    }));
    rules
}

/// How long the copy of a run by hand is kept that says nothing else.
pub const KEEP_BY_HAND: Span = Span::from_days(30);

impl BackupRunSpec {
    /// How long the copy is kept at least: only runs that no schedule made have that.
    pub fn kept_for(&self) -> Option<Span> {
        let by_schedule = self.tick.is_some() || self.schedule.is_some();
        (!by_schedule).then(|| self.keep_for.unwrap_or(KEEP_BY_HAND))
    }
}

impl BackupRun {
    /// The store that its copy goes to, as far as that is known: a run that names a schedule has it from its first attempt on.
    pub fn store(&self) -> Option<StoreReference> {
        let frozen = self.status.as_ref().and_then(|status| status.frozen.as_ref());
        frozen
            .map(|frozen| frozen.store.reference())
            .or_else(|| self.spec.stores.first().cloned())
    }
}

/// A schedule of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleReference {
    /// Name of a BackupSchedule.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A tick of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// Name of the BackupSchedule.
    #[schemars(length(min = 1, max = 63))]
    pub schedule: String,
    /// Name of its trigger.
    #[schemars(length(min = 1, max = 20))]
    pub trigger: String,
    /// The minute, RFC 3339 in UTC.
    #[schemars(length(min = 20, max = 20))]
    pub time: String,
    /// Generation of the schedule that made the run.
    #[serde(default)]
    pub generation: i64,
    /// Digest of that schedule's policy then: how long its copies are kept, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64))]
    pub policy_digest: Option<String>,
    /// Whether runs of earlier ticks of the trigger for the source are cancelled for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaces: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// Its Job is not made yet, or its pod did not start yet.
    #[default]
    Pending,
    /// The agent is at work.
    Running,
    /// The end of an attempt is in doubt and the store is asked, or the register is being closed.
    Settling,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunPhase {
    /// Whether nothing more comes (but for a late answer to `OutcomeUnknown`).
    pub const fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Settling => "Settling",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// How a run goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRunStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far the run is.
    #[serde(default)]
    pub phase: RunPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What happened last and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// `Ready`: accepted and worked on. `Stalled`: failed for good. `Replicated`, where there are several stores: as many as are required
    /// have the copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What each store has of it, from its first attempt on: the primary first. Stores that were added to its schedule later follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "kind"]))]
    pub stores: Vec<RunInStore>,
    /// The stores for people: `offsite,vault (1/2)`, the numbers being how many have the copy, of how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub stores_shown: Option<String>,
    /// How many stores must have the copy; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_copies: Option<i32>,
    /// What the run works on, fixed with its first attempt. Names of Secrets are taken from the live objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenRun>,
    /// Its attempts; each is written here before its Job is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub attempts: Vec<Attempt>,
    /// Its settle Jobs, where an end was in doubt or the register is to be closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Settle>,
    /// When the first attempt began (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// When it ended (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<String>,
    /// The copy, once it is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopySummary>,
    /// Bytes in the store, for people, such as `1.2 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// From start to end, for people, such as `3m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// What a run works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenRun {
    /// UID of the BackupSource.
    pub source_uid: String,
    pub source: BackupSourceSpec,
    pub store: FrozenStore,
    /// The schedule that a run by hand names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<FrozenSchedule>,
}

/// The schedule of a run by hand as it was when the work began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenSchedule {
    /// Name of the schedule.
    pub name: String,
    /// Its generation when the work began.
    pub generation: i64,
    /// Digest of its policy: how long its copies are kept, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_digest: Option<String>,
    /// How often the run may be tried, besides what the cluster takes away.
    pub attempts: i32,
    /// How long one attempt may take.
    pub timeout: Span,
}

/// A store as it was when the work began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenStore {
    /// Name of the store.
    pub name: String,
    #[serde(default, skip_serializing_if = "StoreKind::is_own")]
    pub kind: StoreKind,
    /// UID of the store's object.
    pub uid: String,
    /// As pods of this namespace use it.
    pub spec: BackupStoreSpec,
}

impl FrozenStore {
    /// How the store is named in its place, as the one that writes there: by `<namespace>/<name>`, or `ClusterBackupStore/<name>`.
    pub fn holder(&self, namespace: &str) -> String {
        match self.kind {
            StoreKind::BackupStore => format!("{namespace}/{}", self.name),
            StoreKind::ClusterBackupStore => format!("{}/{}", self.kind.as_str(), self.name),
        }
    }

    /// The store as specifications name it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name.clone(),
            kind: self.kind,
        }
    }
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub number: i32,
    /// Name of its Job.
    pub job: String,
    /// When it was counted (RFC 3339, UTC, by the API server's clock).
    pub started_at: String,
    /// The agent commits nothing after this time.
    pub not_after: String,
    /// UID of its Job, once made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// When its end was seen; absent while it is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How it ended; before that, why it is being stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Whether a container of it started, or may have: if none did, nothing of it can be in the store.
    #[serde(default)]
    pub ran: bool,
}

/// Settle Jobs of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settle {
    /// How many were started.
    #[serde(default)]
    pub count: i32,
    /// How many failed one after the other; the wait before the next grows with it.
    #[serde(default)]
    pub failures: i32,
    /// Name of the last one's Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When its Job was made (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Whether it closes the register where it finds nothing: always but when another attempt follows.
    #[serde(default)]
    pub gives_up: bool,
    /// The reason that the run ends with, where the store holds no copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Reason>,
    /// The message that goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub otherwise_message: Option<String>,
}

/// A committed copy in short; the rest is in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopySummary {
    /// Its folder in the store, `<namespace>/<source>/<run id>`.
    pub path: String,
    /// What was committed by this time is in the copy (RFC 3339, UTC).
    pub recovery_point: String,
    /// Bytes read from the database.
    pub raw_bytes: i64,
    /// Bytes in the store.
    pub stored_bytes: i64,
    /// Objects with data in the store.
    pub parts: i64,
    /// How many databases it holds.
    pub databases: i64,
    /// The first of them, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub database_names: Vec<String>,
    /// How many tables it holds.
    pub tables: i64,
    /// How many rows, counted while they streamed. Absent where the structure could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<i64>,
    /// Whether the structure was checked to its end while it streamed.
    pub structure_checked: bool,
    /// SHA-256 of the manifest's canonical bytes, in hexadecimal.
    pub manifest_digest: String,
    /// The outcome's version in the store, where the store has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Server and tool, such as `PostgreSQL 15.18, pg_dump 15.18`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub engine: Option<String>,
    /// What a person should know: databases that are new, vanished or excluded, a standby's lag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    pub notes: Vec<String>,
}
