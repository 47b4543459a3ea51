//! What keepers found in the stores, as status shows it: the catalogue of a source, and the passes of a store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Blocked, CopyReport, KeepSummary, Reason, StoreFinding, StoreKind, StoreReference};

/// The most stores that a source's status lists.
pub const CATALOGUES: usize = 16;
/// The most findings that are listed for a source in one store.
pub const SOURCE_FINDINGS: usize = 5;
/// The most findings that a store's status lists.
pub const STORE_FINDINGS: usize = 20;
/// The most namespaces that are gone, of which a store's status tells.
pub const VANISHED_NAMESPACES: usize = 50;
/// The most sources without an object that a store's status lists.
pub const UNKNOWN_SOURCES: usize = 50;

/// What one store has of a source, as its keeper read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueInStore {
    /// Name of the store.
    pub store: String,
    #[serde(default)]
    pub store_kind: StoreKind,
    /// The store's time (RFC 3339, UTC) when the pass began that read this. Later passes that found the same leave it; the store's status
    /// says when the last one was.
    pub as_of: String,
    /// Committed copies that are not removed.
    pub copies: i64,
    /// … of which good and full.
    pub good: i64,
    /// Copies that the next pass has to find again, but for those that are removed meanwhile: if it finds fewer, nothing more is removed until
    /// a person accepts the loss. It stays as it is while copies are missing or cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<i64>,
    /// The pass (RFC 3339, UTC, as in asOf) that counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_as_of: Option<String>,
    /// Bytes of all copies.
    pub bytes: i64,
    /// Copies that a hold keeps.
    pub held: i64,
    /// Copies with a seal by a trusted key; the others are unsealed. Absent where the store has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<i64>,
    /// Copies that stay and that the store itself does not lock (yet), although it has `objectLock`.
    #[serde(default)]
    pub unlocked: i64,
    /// Copies that nothing keeps any more, and that go after the delay.
    pub marked: i64,
    /// Recovery point (RFC 3339, UTC) of the newest good copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Recovery point (RFC 3339, UTC) of the oldest good copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// Why nothing of this source is removed from this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Since when (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_since: Option<String>,
    /// The newest ten copies, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub newest_copies: Vec<CopyReport>,
    /// Slots that no good copy has, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub empty_slots: Vec<String>,
    /// What is not as it should be, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub findings: Vec<StoreFinding>,
    /// Findings beyond those that are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_findings: i64,
}

impl CatalogueInStore {
    /// The store as specifications name it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.store.clone(),
            kind: self.store_kind,
        }
    }
}

/// The passes of a store's keeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeeperStatus {
    /// Number of the pass that was started last; its Job is named after it.
    pub number: i64,
    /// Digest of what it was told: policies, holds, floors, acknowledgements.
    #[serde(default)]
    pub told: String,
    /// When it was started (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How many passes failed one after the other; the wait before the next grows with it.
    #[serde(default)]
    pub failures: i64,
    /// Whether it only reads, because another cluster owns the place.
    #[serde(default)]
    pub read_only: bool,
    /// The last pass whose report was read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pass: Option<PassStatus>,
    /// How many sources are in the store of which there is no BackupSource here.
    #[serde(default)]
    pub unknown_sources: i64,
    /// … the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub unknown: Vec<UnknownSource>,
    /// Of a ClusterBackupStore: how many namespaces that do not exist any more have copies in it. They go on under the rules that are recorded with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vanished_namespaces: i64,
    /// … the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub vanished: Vec<VanishedNamespace>,
    /// What is not as it should be, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub findings: Vec<StoreFinding>,
    /// How many copies the next pass has to find again of each source, whether it has an object or not: so the count outlives a BackupSource that
    /// is deleted and made again. At most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub counted: Vec<CountedSource>,
}

/// How many copies a store had of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CountedSource {
    /// Namespace of the source.
    pub namespace: String,
    /// Name of the source.
    pub source: String,
    /// Copies that the next pass has to find again.
    pub copies: i64,
    /// When the pass began that counted them, by the store's clock (RFC 3339, UTC).
    pub as_of: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassStatus {
    /// When it ended (RFC 3339, UTC).
    pub finished_at: String,
    pub reason: Reason,
    pub summary: KeepSummary,
}

/// A source that a store has copies of, and that no object here describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnknownSource {
    /// Namespace of the source, as the store's paths say it.
    pub namespace: String,
    /// Name of the source, as the store's paths say it.
    pub source: String,
    /// Copies of it in the store.
    pub copies: i64,
    /// What its copies have in the store, in bytes.
    pub bytes: i64,
    /// Copies of it that a hold keeps.
    pub held: i64,
    /// Recovery point (RFC 3339, UTC) of the newest good copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
}

/// What a namespace left in a store of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VanishedNamespace {
    /// Name of the namespace that is gone.
    pub namespace: String,
    /// Sources of it that have copies in the store.
    pub sources: i64,
    /// Copies of it in the store.
    pub copies: i64,
    /// What its copies have in the store, in bytes.
    pub bytes: i64,
    /// Copies of it that a hold keeps.
    pub held: i64,
    /// Recovery point (RFC 3339, UTC) of the newest good copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
}
