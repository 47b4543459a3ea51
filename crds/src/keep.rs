//! What the operator tells a keeper, and what the keeper reports. The keeper decides on what it reads in the store; this only says which
//! policies, holds and acknowledgements apply.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Reason, ReleaseBy, Retention, Span,
    compliance_hold::default_cool_off,
    document::{Acceptance, HoldScope, Label, RunPath, ScheduleName, Sha256, canonical_bytes},
};

/// The most sources that a store's status counts copies of.
pub const KEEP_LIMIT: usize = 1_000;

/// How long after its start a keeper may still delete, by the store's clock: then every keeper that is older than a hold is harmless.
pub const KEEP_DELETES_FOR: std::time::Duration = std::time::Duration::from_secs(600);

/// How long a keeper's Job may last, its pod's waiting included.
pub const KEEP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Looks after a store: inventory, retention, holds, locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepTask {
    /// The API server's time when the task was made.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub now: Timestamp,
    /// Nothing is written or deleted, because another cluster owns the place.
    #[serde(default)]
    pub read_only: bool,
    /// Nothing is written or deleted: the report tells what would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<KeepPreview>,
    /// The source (`<namespace>/<source>`) that the pass begins with: then the rest, and those before it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The schedules that write to this store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<KeepSchedule>,
    /// What is known of sources, beyond what the store says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<KeepSource>,
    /// Holds that are objects now. Holds whose objects are gone stay in force by their records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<KeepHold>,
    /// Floors of the policies that apply to namespaces of this store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<KeepFloor>,
    /// Copies that a restore in flight reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_use: Vec<RunPath>,
    /// Why `floors` and `in_use` are not told: then nothing is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
    /// Disposals that two people agreed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disposals: Vec<KeepDisposal>,
    /// Which of these lists do not tell all that there is.
    #[serde(default, skip_serializing_if = "KeepCut::is_nothing")]
    pub cut: KeepCut,
}

/// Which lists of a task are cut, because all of them would be too long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KeepCut {
    /// There are more schedules: nothing is removed of a source with a copy of one that is not told.
    pub schedules: bool,
    /// There are more sources: nothing is removed of one that is not told.
    pub sources: bool,
    /// The store's status counts no more sources: how many copies of one without an object have to be there is not known, and nothing of it is removed.
    pub counted: bool,
    /// There are more holds: what the store knows goes on by its records, and the next passes are told the others.
    pub holds: bool,
}

impl KeepCut {
    /// Whether all is told.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a preview is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepPreview {
    /// Name of the RetentionPreview; absent by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// As if it were then, and keepers had come as usual until then; by default now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
    /// Only of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    /// Only of this source of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Label>,
    /// Rules that take the place of those in force: what differs because of them is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proposed: Vec<ProposedRules>,
}

/// Rules that are not applied yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProposedRules {
    /// Whose they would be; of every schedule that has rules in this store where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleName>,
    pub retention: Retention,
    /// By default that of the rules in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// As [`KeepSchedule::interval_seconds`]; by default that of the rules in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<u64>,
}

/// A schedule's rules for this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepSchedule {
    pub schedule: ScheduleName,
    pub time_zone: String,
    pub retention: Retention,
    /// The longest time between two ticks of its full trigger, in seconds: the health gate counts in it.
    pub interval_seconds: u64,
}

/// What the operator knows of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepSource {
    pub namespace: Label,
    pub source: Label,
    /// How many copies have to be there, but for those that were removed since `copies_as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u64>,
    /// When the pass began that counted them, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub copies_as_of: Option<Timestamp>,
    /// Whether its protection ended on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Said>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Accepted>,
}

/// Who says something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    pub who: String,
    pub why: String,
}

/// What a person accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    pub what: Acceptance,
    #[serde(flatten)]
    pub said: Said,
}

/// A hold object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepHold {
    /// See [`hold_id`].
    pub id: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    pub placed_by: String,
    #[serde(default)]
    pub release_by: ReleaseBy,
    #[serde(default = "default_cool_off")]
    pub cool_off: Span,
    pub reason: String,
    pub scope: HoldScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
    /// Set once it is being released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<KeepRelease>,
}

impl KeepHold {
    /// Digest of what it holds and how long, by which the report of a pass is told from one that knew another hold of this name.
    pub fn digest(&self) -> Sha256 {
        hold_digest(&self.id, &self.scope, self.until)
    }
}

/// [`KeepHold::digest`] of what a hold says.
pub fn hold_digest(id: &Label, scope: &HoldScope, until: Option<Timestamp>) -> Sha256 {
    Sha256::of(&canonical_bytes(&(id, scope, until)))
}

/// A disposal that one person requested and another approved: keys first, then data. What is held or locked waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepDisposal {
    pub namespace: String,
    /// Name of the DisposalRequest.
    pub name: String,
    /// Its `to` is never after the approval.
    pub scope: HoldScope,
    /// The duty that it fulfils.
    pub basis: String,
    pub requested_by: String,
    pub approved_by: String,
}

impl KeepDisposal {
    /// SHA-256 of all of it: tells it from another request of the same name.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&canonical_bytes(self))
    }
}

/// The release of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepRelease {
    pub released_by: String,
    pub reason: String,
    /// The end of the cool-off.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub effective_at: Timestamp,
}

/// A floor of a compliance policy: what is below it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepFloor {
    /// Name of the policy.
    pub policy: String,
    /// The namespaces that it applies to now.
    pub namespaces: Vec<Label>,
    /// Every copy stays so long after its tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Option<u64>,
    /// So many good full copies of each source stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_copies: Option<u32>,
}

/// The id of a hold: the same object has the same id in every cluster, so that a hold that is applied again in a new cluster is the hold
/// that the store knows. `<name, 40>-<16 of the SHA-256 of namespace/name>`.
pub fn hold_id(namespace: Option<&str>, name: &str) -> Label {
    let digest = Sha256::of(format!("{}/{name}", namespace.unwrap_or_default()).as_bytes()).to_string();
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(40)
        .collect();
    let id = format!("h{}-{}", plain.trim_end_matches('-'), &digest[..16]);
    Label::new("hold", id).expect("it begins with a letter, ends with a digit of the digest and has at most 58 of a-z, 0-9 and -")
}

/// The end of a pass, in the termination message. The report itself is in the log: lines that are a [`KeepLine`] each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepSummary {
    /// How many lines of the log are of the report.
    pub lines: u64,
    /// SHA-256 of these lines, each with its line feed: who reads the log reads exactly these.
    pub sha256: String,
    /// Sources that have copies in the store.
    pub sources: i64,
    /// Copies in the store, those that are marked included.
    pub copies: i64,
    /// What the copies have in the store, in bytes.
    pub bytes: i64,
    /// Copies that nothing keeps any more, and that go after the delay.
    pub marked: i64,
    /// Copies that this pass removed.
    pub removed: i64,
    /// Copies that a hold keeps.
    pub held: i64,
    /// Copies with a seal by a trusted key.
    #[serde(default)]
    pub sealed: i64,
    /// The public key (Ed25519, in hexadecimal) that it seals with; absent where the store has no seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<String>,
    /// Sources of which nothing is removed until somebody has looked.
    pub blocked: i64,
    /// Copies and objects that are missing, corrupt, tampered with, divergent or foreign.
    pub findings: i64,
    /// The store's clock at the beginning: holds that are older than this were seen.
    pub started_at: String,
    /// What the pass was not told.
    #[serde(default, skip_serializing_if = "KeepCut::is_nothing")]
    pub cut: KeepCut,
    /// Epoch of the store's owner that it worked in.
    pub epoch: i64,
    /// When (RFC 3339, UTC) another pass can do what this one could not: the end of a lock, of a hold, or at once where its time was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<String>,
    /// The source (`<namespace>/<source>`) at which the time in which a pass may delete was over: the next pass begins there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Of a preview: what would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewCounts>,
    /// What could not be done at all, such as setting legal holds; at most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The copies of a preview, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewCounts {
    /// Copies that stay, those that are held or not good among them.
    pub kept: i64,
    /// Copies that nothing keeps, and that wait for the end of the delay.
    pub marked: i64,
    /// What those have in the store, in bytes.
    pub marked_bytes: i64,
    /// Copies that are removed.
    pub removed: i64,
    /// What those have in the store, in bytes.
    pub removed_bytes: i64,
    /// Copies that are marked or removed, and would stay under the rules in force.
    pub more: i64,
    /// What those have in the store, in bytes.
    pub more_bytes: i64,
    /// Copies that stay, and would be marked or removed under the rules in force.
    pub fewer: i64,
}

impl PreviewCounts {
    /// Counts a copy.
    pub fn add(&mut self, copy: &CopyReport) {
        match copy.state {
            CopyState::Marked => {
                self.marked += 1;
                self.marked_bytes = self.marked_bytes.saturating_add(copy.bytes);
            }
            CopyState::Removing => {
                self.removed += 1;
                self.removed_bytes = self.removed_bytes.saturating_add(copy.bytes);
            }
            CopyState::Shredded => {}
            CopyState::Kept | CopyState::Held | CopyState::NotGood => self.kept += 1,
        }
        if let Some(before) = copy.in_force {
            match (before.goes(), copy.state.goes()) {
                (false, true) => {
                    self.more += 1;
                    self.more_bytes = self.more_bytes.saturating_add(copy.bytes);
                }
                (true, false) => self.fewer += 1,
                _ => {}
            }
        }
    }
}

/// The most copies that the report of a preview lists, those that go first; the log has all.
pub const PREVIEW_COPIES: usize = 100;

/// What a line of the report begins with in the log.
pub const KEEP_LINE: &str = "holdfast-report ";

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeepLine {
    Source(SourceReport),
    Hold(HoldReport),
    Disposal(DisposalReport),
    Finding(StoreFinding),
    /// Findings of a source that were not told one by one.
    MoreFindings(MoreFindings),
    /// A copy that was sealed in this pass; its source was told of before.
    Sealed(SealedCopy),
    /// Only in previews: what becomes of one copy (its run as `<namespace>/<source>/<run>`), and why.
    Copy(CopyReport),
}

/// A copy that was read back and sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedCopy {
    pub namespace: String,
    pub source: String,
    /// The run's name.
    pub run: String,
}

/// What a store has of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    pub namespace: String,
    pub source: String,
    /// It could not be read: the numbers say nothing, `blocked` says why.
    #[serde(default)]
    pub unread: bool,
    /// The pass was not told how many copies have to be here.
    #[serde(default)]
    pub uncompared: bool,
    /// Committed copies when the pass began.
    #[serde(default)]
    pub found: i64,
    /// Committed copies that are not removed.
    pub copies: i64,
    /// … of which good and full.
    pub good: i64,
    /// Bytes of all copies.
    pub bytes: i64,
    /// Copies that a hold keeps.
    pub held: i64,
    /// Copies with a seal by a trusted key, when the source was looked at.
    #[serde(default)]
    pub sealed: i64,
    /// Copies that stay and that the store itself does not lock, although it has `objectLock`.
    #[serde(default)]
    pub unlocked: i64,
    /// Copies that nothing keeps any more, and that go after the delay.
    pub marked: i64,
    /// Removed in this pass.
    pub removed: i64,
    /// Recovery points (RFC 3339, UTC) of the newest and the oldest good copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Recovery point of the oldest copy (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// Why nothing of this source is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// The newest ten copies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub newest_copies: Vec<CopyReport>,
    /// Slots that no good copy has, such as `2026-W48 (weekly)`; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub empty_slots: Vec<String>,
}

/// Why retention stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    pub reason: Reason,
    /// What was found and what a person can do, with the digest that an approval names.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    /// The run's name.
    pub run: String,
    /// What kind of copy it is, such as Full.
    #[serde(rename = "type")]
    pub type_: String,
    /// RFC 3339, UTC.
    pub recovery_point: String,
    /// What it has in the store, in bytes.
    pub bytes: i64,
    pub state: CopyState,
    /// Of a preview of proposed rules: what becomes of it under the rules in force, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<CopyState>,
    /// Whether it has a seal by a trusted key. A preview in the cluster trusts `publicKeys` alone: it has not the keeper's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Kept at least until then (RFC 3339, UTC), where a rule, a floor or a lock says so; `why` has what may keep it for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
    /// The store itself refuses to delete it until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<String>,
    /// Why it is kept, or why it goes.
    #[schemars(length(max = 256))]
    pub why: String,
    /// SHA-256 of the manifest's canonical bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
}

/// What becomes of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CopyState {
    Kept,
    Held,
    /// Nothing keeps it: it is removed after the delay.
    Marked,
    /// It is removed now (in a preview: would be).
    Removing,
    /// It is there and not good: not counted, not restored without asking.
    NotGood,
    /// A disposal destroyed its keys, so that nobody can read it any more: `why` names it, and what waits. It is no finding, and does not count.
    Shredded,
}

impl CopyState {
    /// Whether nothing keeps the copy.
    pub const fn goes(self) -> bool {
        matches!(self, Self::Marked | Self::Removing)
    }
}

/// How a hold stands in this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldReport {
    /// The hold's UID, which names its record in the store.
    pub id: String,
    /// Namespace of the hold; none for a ClusterComplianceHold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the hold.
    pub name: String,
    /// [`KeepHold::digest`] of the hold that the pass was told of, else of how it was last placed, by its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Sha256>,
    /// Whether its record was read back.
    pub recorded: bool,
    /// When the store took its newest placing (RFC 3339, UTC): each keeper that began later has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_at: Option<String>,
    /// Whether a release is recorded, and since when it counts (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    /// Why the release that the pass was told of is none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub refused: Option<String>,
    /// Copies that it holds here.
    pub copies: i64,
    /// … on which the bucket's own legal hold is set and was read back.
    pub legal_holds: i64,
    /// Why the store does not keep to it yet; none where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub problem: Option<String>,
}

/// How a disposal stands in this store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisposalReport {
    /// Namespace of the DisposalRequest.
    pub namespace: String,
    /// Name of the DisposalRequest.
    pub name: String,
    /// [`KeepDisposal::digest`] of the request that the pass was told of: one of the same name with another scope is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Sha256>,
    /// Copies of its scope whose data is still here, and what of it cannot be read.
    pub left: i64,
    /// … whose keys were destroyed, so that nobody can read them any more.
    pub shredded: i64,
    /// Copies of its scope whose data is gone.
    pub removed: i64,
    /// Copies of its scope that a hold or a lock keeps.
    pub deferred: i64,
    /// Why it is not carried out yet; none where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub problem: Option<String>,
}

/// How many findings of a source were counted and not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoreFindings {
    /// `<namespace>/<source>`.
    pub place: String,
    pub count: i64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreFinding {
    pub reason: Reason,
    /// `<namespace>/<source>` or `<namespace>/<source>/<run>`; absent where it concerns the whole store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What was found, and what to do.
    #[schemars(length(max = 512))]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_hold_is_a_label_whatever_the_name() {
        for name in ["a", "tax-2026", "a.b.c", &"x".repeat(63), "0-"] {
            let id = hold_id(Some("shop"), name);
            assert_ne!(id, hold_id(None, name), "namespaced and cluster-wide holds are two");
            assert_ne!(id, hold_id(Some("shop2"), name));
            assert_eq!(id, hold_id(Some("shop"), name));
        }
    }
}
