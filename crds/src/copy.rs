//! What the operator tells a copy Job, and what it reports. One Job fills one store with the copies of one source, out of another store that
//! has them, byte for byte. It goes by what it reads in the two stores alone, so that any run of it goes on where the last one ended.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackupType, FrozenStore, KeepDisposal, KeepFloor, KeepSchedule, Reason, document::Label};

/// The most runs that a copy Job is told of by name.
pub const COPY_RUNS: usize = 1_000;

/// The most lines of a copy Job's report: the newest copies have one each.
pub const COPY_LINES: usize = 5_000;

/// What a line of the report begins with in the log.
pub const COPY_LINE: &str = "holdfast-copy ";

/// Fills the task's store with the copies of one source that it is to have, from a store that has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyTask {
    /// Namespace of the source.
    pub namespace: Label,
    pub source: Label,
    /// The store that is read, with its reader's rights. It may belong to another cluster.
    pub from: FrozenStore,
    /// What kinds of copies the store is to have; empty: all. Copies that one of these needs come along, whatever their kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<BackupType>,
    /// Only these runs, and the copies that they need, at most [`COPY_RUNS`]; empty: all that `from` has of the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Label>,
    /// The rules of the store that is filled, as its keeper has them: what nothing would keep there is not brought, unless `runs` names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<KeepSchedule>,
    /// Floors of the policies that apply to the source's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<KeepFloor>,
    /// Disposals that two people agreed on: what they name is not copied any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disposals: Vec<KeepDisposal>,
    /// Nothing is written: the report tells what would be.
    #[serde(default)]
    pub preview: bool,
    /// The API server's time when the task was made (RFC 3339, UTC).
    pub now: String,
    /// Nothing is committed after this time (RFC 3339, UTC).
    pub not_after: String,
}

/// How the store that is filled stands towards one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReplicaState {
    /// It was brought in this pass.
    Copied,
    /// It was there before, with the same manifest.
    Present,
    /// It is to be brought, and this pass did not get that far, or is a preview.
    Missing,
    /// The store has another manifest under the run's name: nothing was written, and neither counts as redundancy for the other.
    Divergent,
    /// The store's register says that the run was given up there: it stays so.
    Abandoned,
    /// The store had it, and removed it, or is about to: it is not brought back.
    Removed,
    /// No rule of the store would keep it.
    NotKept,
    /// `from` removes or shreds it, or a disposal names it.
    Going,
    /// A verification in `from` failed: it is no good copy.
    NotGood,
    /// It is not encrypted, and the store takes only what is.
    NotEncrypted,
    /// A copy that it needs cannot be brought, or is about to be removed.
    ParentMissing,
    /// `from` has no copy of a run that the task names.
    NotFound,
    /// It cannot be read in `from` as it was written: tampered with, damaged, or of a newer version.
    Unreadable,
    /// Other bytes lie in the store where one of its objects belongs.
    Obstructed,
}

impl ReplicaState {
    /// Whether the store has the copy.
    pub const fn is_there(self) -> bool {
        matches!(self, Self::Copied | Self::Present)
    }

    /// Whether a person has to look into it.
    pub const fn is_problem(self) -> bool {
        matches!(
            self,
            Self::Divergent | Self::ParentMissing | Self::NotFound | Self::Unreadable | Self::Obstructed | Self::NotEncrypted
        )
    }
}

/// A line of the report: one copy. The newest come first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyLine {
    /// The run's name.
    pub run: String,
    pub state: ReplicaState,
    /// For a state that is a problem, and where a word of the list says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<String>,
    /// Bytes of its objects.
    #[serde(default)]
    pub bytes: i64,
    /// SHA-256 of the manifest's canonical bytes, as `from` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The outcome's version in the store that is filled, where that has versions and the copy is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// What was found, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// The end of a copy Job, in the termination message. The report itself is in the log: lines that are a [`CopyLine`] each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyPass {
    /// How many lines of the log are of the report.
    pub lines: u64,
    /// SHA-256 of these lines, each with its line feed: who reads the log reads exactly these.
    pub sha256: String,
    /// How many copies are in each state.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<ReplicaState, i64>,
    /// Bytes that were brought, of copies that were committed.
    pub bytes: i64,
    /// Whether every copy was looked at: then what is not there is not there for the reason that its line tells, and not for want of time.
    pub complete: bool,
    /// The newest copy that the store has now: run, and recovery point (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_recovery_point: Option<String>,
    /// Epoch of the owner of the store that is filled.
    pub epoch: i64,
}

impl CopyPass {
    /// How many copies are in this state.
    pub fn count(&self, state: ReplicaState) -> i64 {
        self.counts.get(&state).copied().unwrap_or_default()
    }

    /// How many copies the store has.
    pub fn there(&self) -> i64 {
        self.counts
            .iter()
            .filter(|(state, _)| state.is_there())
            .map(|(_, count)| count)
            .sum()
    }

    /// How many copies somebody has to look into.
    pub fn problems(&self) -> i64 {
        self.counts
            .iter()
            .filter(|(state, _)| state.is_problem())
            .map(|(_, count)| count)
            .sum()
    }
}
