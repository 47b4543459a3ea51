//! What the operator hands to a Job's pod, and where in the pod things lie.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BackupSourceSpec, BackupType, CopyTask, FrozenSchedule, FrozenStore, KeepTask, MissingRoles, PostRestoreQuery, Reason,
    RestoreSelection, RestoreTo, Span, StoreRole, Tick,
};

/// The version of [`Task`] and [`crate::AgentResult`] that operator and agent must agree on.
pub const TASK_VERSION: u32 = 1;

/// Where in a Job's pod things lie.
pub mod layout {
    /// Annotation of the pod that holds the [`super::Task`] as JSON.
    pub const TASK_ANNOTATION: &str = "holdfast.dev/task";
    /// The agent and its CA bundle, copied here by the init container.
    pub const BIN: &str = "/holdfast/bin";
    /// The agent in the main container.
    pub const AGENT: &str = "/holdfast/bin/holdfast-agent";
    /// The CA bundle of the agent.
    pub const CA_BUNDLE: &str = "/holdfast/bin/ca-certificates.crt";
    /// A passwd file with an entry for any uid of the pod, mounted at `/etc/passwd`, made by the init container.
    pub const PASSWD: &str = "/holdfast/bin/passwd";
    /// Files of the downward API.
    pub const TASK_DIR: &str = "/holdfast/task";
    pub const TASK: &str = "/holdfast/task/task.json";
    pub const POD_UID: &str = "/holdfast/task/pod-uid";
    /// Memory limit of the main container in bytes.
    pub const MEMORY_LIMIT: &str = "/holdfast/task/memory-limit";
    /// CPU limit of the main container in millicores.
    pub const CPU_LIMIT: &str = "/holdfast/task/cpu-limit";
    /// `access_key_id`, `secret_access_key`, … of the store.
    pub const STORE_SECRET: &str = "/holdfast/secrets/store";
    /// `ca.crt` of the store's endpoint.
    pub const STORE_CA: &str = "/holdfast/secrets/store-ca";
    /// `token` for a web identity.
    pub const STORE_TOKEN: &str = "/holdfast/secrets/store-token";
    /// As [`STORE_SECRET`] or [`STORE_TOKEN`], of the roles that have credentials of their own.
    pub const STORE_READER: &str = "/holdfast/secrets/store-reader";
    pub const STORE_KEEPER: &str = "/holdfast/secrets/store-keeper";
    pub const STORE_PRUNER: &str = "/holdfast/secrets/store-pruner";
    /// As [`STORE_SECRET`] or [`STORE_TOKEN`], of the reader of the store that a copy Job reads from.
    pub const FROM_SECRET: &str = "/holdfast/secrets/from";
    /// `ca.crt` of that store's endpoint.
    pub const FROM_CA: &str = "/holdfast/secrets/from-ca";
    /// The volume of that store, where it is one.
    pub const FROM_VOLUME: &str = "/holdfast/from";
    /// `username` and `password` of the source or target, under these names whatever the Secret's keys are.
    pub const LOGIN: &str = "/holdfast/secrets/login";
    /// `ca.crt` of the database.
    pub const DATABASE_CA: &str = "/holdfast/secrets/database-ca";
    /// `tls.crt` and `tls.key` for the database.
    pub const DATABASE_CLIENT: &str = "/holdfast/secrets/database-client";
    /// `seal.pem`, the private key of seals; only keepers have it.
    pub const SEAL: &str = "/holdfast/secrets/seal";
    /// `identity` or `passphrase` that opens a copy; in backups only the init container `key` has the passphrase.
    pub const IDENTITY: &str = "/holdfast/secrets/identity";
    /// The run's key, in memory, between the init container `key` and the main container.
    pub const KEY: &str = "/holdfast/key";
    /// The volume of a volume store.
    pub const STORE_VOLUME: &str = "/holdfast/store";
    /// Where the result goes.
    pub const RESULT: &str = "/dev/termination-log";
}

impl Action {
    /// The roles in which its pod uses the store, the first being the one that it mostly is in.
    pub fn roles(&self) -> &'static [StoreRole] {
        match self {
            Self::Backup(_) | Self::Settle(_) | Self::Copy(_) => &[StoreRole::Writer],
            // Tries each.
            Self::Probe(_) => &StoreRole::ALL,
            Self::Restore(_) => &[StoreRole::Reader],
            // The receipt lies in the target.
            Self::SettleRestore(_) => &[],
            Self::Keep(keep) if keep.preview.is_some() => &[StoreRole::Reader],
            Self::Keep(_) => &[StoreRole::Keeper, StoreRole::Pruner],
        }
    }
}

/// What a pod is to do. It holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// [`TASK_VERSION`].
    pub version: u32,
    /// Id of the cluster: the UID of its namespace `kube-system`, or the chart's `clusterId`.
    pub cluster: String,
    pub namespace: String,
    pub store: FrozenStore,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Probe(ProbeTask),
    Backup(BackupTask),
    Settle(SettleTask),
    Restore(RestoreTask),
    /// Reads the receipt of a restore in its target.
    SettleRestore(RestoreTask),
    /// Looks after the store.
    Keep(Box<KeepTask>),
    /// Fills the store from another.
    Copy(Box<CopyTask>),
}

/// Tries a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeTask {
    /// Our clock when the probe was made (RFC 3339, UTC, by the API server).
    pub now: String,
}

/// Makes a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTask {
    /// The run's name, which is its id in the store.
    pub run: String,
    pub source: String,
    pub source_uid: String,
    pub spec: BackupSourceSpec,
    #[serde(rename = "type")]
    pub type_: BackupType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<Tick>,
    /// The schedule that a run by hand names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<FrozenSchedule>,
    /// How long the copy is kept at least, where no schedule says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<Span>,
    /// From 1.
    pub attempt: i32,
    /// Whether no attempt follows: then the agent itself gives the run up in the register when it fails.
    #[serde(rename = "final")]
    pub final_: bool,
    /// Nothing is committed after this time (RFC 3339, UTC).
    pub not_after: String,
}

/// Asks the register how a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettleTask {
    pub run: String,
    pub source: String,
    /// The tick that made the run: an outcome that is older is not of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick: Option<Tick>,
    /// Whether the register is closed where it is empty.
    pub gives_up: bool,
    /// Why the run is given up.
    pub reason: Reason,
    pub message: String,
}

/// Restores a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTask {
    /// Name of the request.
    pub request: String,
    /// SHA-256 (hexadecimal) of the request's namespace, name and specification: who finds its receipt does nothing.
    pub digest: String,
    /// `<namespace>/<source>/<run id>`.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    pub to: RestoreTo,
    #[serde(default)]
    pub select: RestoreSelection,
    pub missing_roles: MissingRoles,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_restore: Vec<PostRestoreQuery>,
    pub attempt: i32,
    pub not_after: String,
}
