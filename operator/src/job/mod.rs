//! How a Job and its pod look, for every purpose, in one place; and what a Job and its pods say about how far they are.

mod build;
mod observe;
mod refusal;
mod volume;

use holdfast_crds::{Action, StoreKind, Task};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use build::{BuildError, JobRequest, MAIN_CONTAINER, TASK_LIMIT, build};
pub use observe::{End, JobState, Observation, has_ended, observe, wants_events};
pub use refusal::{next_step, of_creation};

/// Value of the label [`MANAGED_BY`] on each Job and pod of ours.
pub const MANAGER: &str = "holdfast";
/// Marks each Job and pod of ours; their watches and lists select by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the [`Purpose`] of a Job and its pods.
pub const PURPOSE: &str = "holdfast.dev/purpose";
/// Label with the name of the BackupRun that a Job works for.
pub const RUN: &str = "holdfast.dev/run";
/// Label with the name of the BackupStore that a Job tries or keeps.
pub const STORE: &str = "holdfast.dev/store";
/// … of the ClusterBackupStore.
pub const CLUSTER_STORE: &str = "holdfast.dev/cluster-store";
/// Label with the name of the RestoreRequest that a Job works for.
pub const RESTORE: &str = "holdfast.dev/restore";
/// Label with the name of the RetentionPreview that a Job works for.
pub const PREVIEW: &str = "holdfast.dev/preview";
/// Label with the name of the BackupSource.
pub const SOURCE: &str = "holdfast.dev/source";

/// The label with the name of a store of this kind.
pub const fn store_label(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::BackupStore => STORE,
        StoreKind::ClusterBackupStore => CLUSTER_STORE,
    }
}

/// What a Job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Backup,
    /// Asks the store's register how a run ended.
    Settle,
    Probe,
    Restore,
    /// Asks the target for the receipt of a restore.
    SettleRestore,
    /// Looks after a store.
    Keep,
    /// Fills a store from another.
    Copy,
}

impl Purpose {
    pub const ALL: &[Self] = &[
        Self::Backup,
        Self::Settle,
        Self::Probe,
        Self::Restore,
        Self::SettleRestore,
        Self::Keep,
        Self::Copy,
    ];

    /// The agent's subcommand, and the value of the label [`PURPOSE`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Settle => "settle",
            Self::Probe => "probe",
            Self::Restore => "restore",
            Self::SettleRestore => "settle-restore",
            Self::Keep => "keep",
            Self::Copy => "copy",
        }
    }

    /// Whether a Job, or a pod of one, is for it.
    pub fn is_of(self, meta: &ObjectMeta) -> bool {
        meta.labels.as_ref().and_then(|labels| labels.get(PURPOSE)).map(String::as_str) == Some(self.as_str())
    }

    /// Which purpose a task has.
    pub const fn of(task: &Task) -> Self {
        match task.action {
            Action::Backup(_) => Self::Backup,
            Action::Settle(_) => Self::Settle,
            Action::Probe(_) => Self::Probe,
            Action::Restore(_) => Self::Restore,
            Action::SettleRestore(_) => Self::SettleRestore,
            Action::Keep(_) => Self::Keep,
            Action::Copy(_) => Self::Copy,
        }
    }
}
