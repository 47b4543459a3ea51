//! BackupSource: a database that is protected.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Acknowledgement, BackupType, CatalogueInStore, JobTemplate, Reason, Replication, Retirement, RunPhase, Span, StoreKind, StoreReference,
    rule::rule,
};

/// A database that is protected. Its namespace and name are its identity in every store.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupSource",
    plural = "backupsources",
    shortname = "hsrc",
    category = "holdfast",
    namespaced,
    status = "BackupSourceStatus",
    derive = "PartialEq",
    printcolumn(name = "Protected", type_ = "string", json_path = ".status.conditions[?(@.type==\"Protected\")].status"),
    printcolumn(name = "Last-Copy", type_ = "date", json_path = ".status.newestCopy.recoveryPoint"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.copies"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextTick"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Protected\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Protected\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it is the source's identity in every store ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.postgresql)", "found no engine; add spec.postgresql, the one that this version knows"),
    rule("has(self.postgresql) == has(oldSelf.postgresql)",
        "found another engine than before, and the engine of a source cannot change; make a new source for the other database")
]))]
pub struct BackupSourceSpec {
    /// A PostgreSQL server, reached over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresqlSource>,
    /// Ends the protection of this source on purpose: its newest copies are no longer kept for being the newest, and its gauges and
    /// alerts end. Its schedules are not stopped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire: Option<Retirement>,
    /// What people accept, so that retention goes on where it stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub accept: Vec<Acknowledgement>,
    /// How the pods of this source's backup Jobs are shaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

impl BackupSourceSpec {
    /// The types of copies that the source's engine has, and what it is called.
    pub fn backup_types(&self) -> (&'static [BackupType], &'static str) {
        (&[BackupType::Full], "PostgreSQL, copied logically,")
    }

    /// Why its engine makes no copies of this type, if it makes none.
    pub fn lacks(&self, wanted: BackupType) -> Option<String> {
        let (types, engine) = self.backup_types();
        let known: Vec<_> = types.iter().map(ToString::to_string).collect();
        (!types.contains(&wanted)).then(|| format!("found {wanted}, but {engine} has only {}", known.join(", ")))
    }
}

/// A PostgreSQL server and which of its databases are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlSource {
    #[serde(flatten)]
    pub server: PostgresqlServer,
    /// Which databases are copied, found anew by each run.
    #[serde(default)]
    pub databases: DatabaseSelection,
    /// Whether roles and tablespaces are copied. `Skip` is for managed services that do not let them be read.
    #[serde(default)]
    pub globals: Globals,
    /// How long a dump waits for a table's lock before it fails as `LockTimeout`.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Span,
}

fn default_lock_timeout() -> Span {
    Span::from_minutes(5)
}

/// How a PostgreSQL server is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlServer {
    /// `host:port` or `host` (port 5432). The first that answers is used, in this order: put a standby first to spare the primary.
    #[schemars(
        length(min = 1, max = 8),
        inner(
            length(min = 1, max = 300),
            regex(
                pattern = "^([a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$"
            )
        )
    )]
    pub hosts: Vec<String>,
    /// Major version of the server, 15 to 18. The image's tools must be of this version or newer.
    #[schemars(range(min = 15, max = 18))]
    pub version: i32,
    /// User and password.
    pub credentials: LoginSecret,
    /// How the connection is secured.
    #[serde(default)]
    pub tls: DatabaseTls,
    /// The database that is connected to for what concerns the whole server.
    #[serde(default = "default_maintenance_database")]
    #[schemars(length(min = 1, max = 63))]
    pub maintenance_database: String,
}

fn default_maintenance_database() -> String {
    "postgres".to_owned()
}

/// A Secret in the same namespace that holds a user name and a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoginSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key of the user name.
    #[serde(default = "default_username_key")]
    #[schemars(length(min = 1, max = 253))]
    pub username_key: String,
    /// Key of the password.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    pub password_key: String,
}

fn default_username_key() -> String {
    "username".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// TLS to a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.mode != 'Disable' || (!has(self.caSecretName) && !has(self.clientCertificateSecretName))",
    "fieldPath": ".mode",
    "message": "found Disable beside certificates, which it would not use; remove caSecretName and clientCertificateSecretName, or choose another mode",
}]))]
pub struct DatabaseTls {
    /// What is demanded of the server: nothing (`Disable`), an encrypted connection (`Require`), also a certificate of a trusted CA
    /// (`VerifyCa`), also one for the host's name (`VerifyFull`).
    #[serde(default)]
    pub mode: TlsMode,
    /// Secret whose key `ca.crt` holds the CA certificates (PEM). By default those of the agent's bundle of public CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
    /// Secret of type `kubernetes.io/tls` with the client certificate: `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub client_certificate_secret_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    Disable,
    Require,
    VerifyCa,
    #[default]
    VerifyFull,
}

/// Databases by name patterns, where `*` stands for any text and `?` for one character. Template databases and those that allow no
/// connections are never copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSelection {
    /// A database is copied if one of these matches its name.
    #[serde(default = "all_databases")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub include: Vec<String>,
    /// … and none of these does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub exclude: Vec<String>,
}

fn all_databases() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Default for DatabaseSelection {
    fn default() -> Self {
        Self {
            include: all_databases(),
            exclude: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Globals {
    #[default]
    Include,
    Skip,
}

/// What is known of a source's copies and runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSourceStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: accepted. `Protected`: the newest copy is younger than the objective. `LastRunSucceeded`.
    /// `Intact`: what keepers read in the stores is as it was written.
    /// `Replicated`, where there are several stores: each copy is in as many of them as is required.
    /// `Compliant`, where a CompliancePolicy selects the namespace: no floor is missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The good copy with the newest recovery point that can be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_copy: Option<CopyReference>,
    /// A copy whose recovery point lies after its own end: a clock was wrong. It can be restored, and counts for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub implausible_copy: Option<CopyReference>,
    /// The newest copy whose structure could not be checked, as long as no good one is newer. It can be restored, and counts for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven_copy: Option<CopyReference>,
    /// Copies in all stores, by their keepers' last passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<i64>,
    /// What each store has of it, by its keeper's last pass; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["store", "storeKind"]))]
    pub stores: Vec<CatalogueInStore>,
    /// The copy Jobs that fill stores from one another, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "kind"]))]
    pub replication: Vec<Replication>,
    /// How many copies stores lack that are to have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_copies: Option<i64>,
    /// The run that succeeded or failed last. One that was cancelled did neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunReference>,
    /// The next tick of any schedule (RFC 3339, UTC). One that has just passed may be shown for a minute more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_tick: Option<String>,
    /// The next ticks by schedule and trigger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub next_ticks: Vec<NextTicks>,
    /// The objective that `Protected` is judged by: the shortest of the schedules', in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<i64>,
    /// The floors and ceilings of compliance policies that it misses, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub floors_missed: Vec<FloorMissed>,
}

impl BackupSourceStatus {
    /// What the store has of it, by its keeper's last pass.
    pub fn in_store(&self, store: &StoreReference) -> Option<&CatalogueInStore> {
        self.stores.iter().find(|entry| entry.reference() == *store)
    }
}

/// A floor or ceiling of a compliance policy that a source misses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FloorMissed {
    /// Name of the CompliancePolicy.
    pub policy: String,
    /// Its field, such as `floors.retention`.
    pub floor: String,
    /// What it demands, such as `30d`.
    pub demands: String,
    /// What was found, and where.
    #[schemars(length(max = 256))]
    pub found: String,
}

/// Where a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyReference {
    /// The run that made it; also its id in the store.
    pub run: String,
    /// The store that holds it.
    pub store: String,
    #[serde(default, skip_serializing_if = "StoreKind::is_own")]
    pub store_kind: StoreKind,
    /// Its path in the store, for a restore by `from.store.path`.
    pub path: String,
    /// What was committed by this time is in the copy (RFC 3339, UTC).
    pub recovery_point: String,
    /// Bytes that it takes in the store.
    pub stored_bytes: i64,
    /// When its run was seen to have ended (RFC 3339, UTC): a keeper's pass that began later must have found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<String>,
}

impl CopyReference {
    /// The store as specifications name it.
    pub fn store_reference(&self) -> StoreReference {
        StoreReference {
            name: self.store.clone(),
            kind: self.store_kind,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunReference {
    /// Name of the run.
    pub name: String,
    #[serde(rename = "type")]
    pub type_: BackupType,
    /// How far it is.
    pub phase: RunPhase,
    pub reason: Reason,
    /// When it ended (RFC 3339, UTC).
    pub completion_time: String,
}

/// The next ticks of one trigger for one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextTicks {
    /// Name of the schedule.
    pub schedule: String,
    /// Name of the trigger.
    pub trigger: String,
    /// The cron expression after each `H` was resolved for this source.
    pub cron: String,
    /// The zone it is read in.
    pub time_zone: String,
    /// The next five, RFC 3339 in UTC.
    #[schemars(length(max = 5))]
    pub at: Vec<String>,
}
