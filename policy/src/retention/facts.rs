//! What a decision about the copies of one source in one store is made from.

use std::collections::BTreeMap;

use holdfast_crds::{
    Retention,
    document::{Acceptance, Label, ScheduleName, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};

use crate::tick::Zone;

/// Clocks that are further apart than this decide nothing that deletes.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What a copy is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyType {
    Full,
    Incremental,
    Differential,
    Log,
    /// A word of a later version.
    Unknown,
}

impl CopyType {
    /// The word of a manifest.
    pub fn of(word: &str) -> Self {
        match word {
            "Full" => Self::Full,
            "Incremental" => Self::Incremental,
            "Differential" => Self::Differential,
            "Log" => Self::Log,
            _ => Self::Unknown,
        }
    }
}

/// A committed copy, as its documents and the store say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFacts {
    pub run: Label,
    /// SHA-256 of the manifest's canonical bytes: how parents are named.
    pub manifest: Sha256,
    /// SHA-256 of the outcome's bytes: how approvals name it.
    pub outcome: Sha256,
    pub copy_type: CopyType,
    /// Absent for a copy made by hand.
    pub tick: Option<Timestamp>,
    pub recovery_point: Timestamp,
    /// When the store says the outcome was written.
    pub committed_at: Timestamp,
    /// The schedule that made it, or from which it was made by hand.
    pub schedule: Option<ScheduleName>,
    /// For a copy made by hand: until when it was asked to be kept.
    pub keep_until: Option<Timestamp>,
    /// The copies that it needs.
    pub parents: Vec<Sha256>,
    /// What tells its server from all others.
    pub server: Option<String>,
    pub bytes: u64,
    /// Why it is not good; absent where it is.
    pub problem: Option<String>,
    /// A document of it cannot be read, or is of a later version.
    pub unreadable: Option<String>,
    /// What was recorded: the rule, and until when.
    pub retained: Vec<(String, Timestamp)>,
    /// Holds in force that name it, now or before.
    pub holds: Vec<Label>,
    /// The store refuses to delete it up to and including then.
    pub locked_until: Option<Timestamp>,
    pub legal_hold: bool,
    pub mark: Option<Mark>,
    /// Somebody reads it until then.
    pub reading_until: Option<Timestamp>,
    /// A restore or an increment in flight needs it.
    pub in_use: bool,
}

impl CopyFacts {
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && self.unreadable.is_none()
    }

    /// What copies are ordered by: the tick, or for one by hand when it was committed; the run's name only breaks ties.
    pub fn order(&self) -> (Timestamp, &str) {
        (self.tick.unwrap_or(self.committed_at), self.run.as_str())
    }

    /// The latest that is recorded.
    pub fn retain_until(&self) -> Option<Timestamp> {
        self.retained.iter().map(|(_, until)| *until).max()
    }
}

/// A mark that was not withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub ulid: Ulid,
    pub at: Timestamp,
    /// It is not removed before.
    pub not_before: Timestamp,
}

/// The rules of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub retention: Retention,
    pub zone: Zone,
    /// Since when these rules are recorded in the store; `now` where they were not yet.
    pub since: Timestamp,
    /// The longest time between two of its full copies; absent where it is not recorded.
    pub interval: Option<SignedDuration>,
    /// The schedule is gone, or does not name this store any more: this is what was recorded of it.
    pub gone: bool,
}

/// A floor of a compliance policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    pub policy: String,
    /// Every copy stays so long after its tick.
    pub retention: Option<SignedDuration>,
    pub good_copies: Option<u32>,
}

/// All that a plan is made from.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// The time for deleting: the earlier of the clocks, see [`time_for_deleting`].
    pub now: Timestamp,
    pub copies: Vec<CopyFacts>,
    pub rules: BTreeMap<ScheduleName, Rules>,
    pub floors: Vec<Floor>,
    /// Who ended its protection, and why.
    pub retired: Option<String>,
    pub accepted: Vec<Acceptance>,
    /// How many copies the last pass left.
    pub copies_before: Option<u64>,
    /// When it counted them: what was committed later is none of them.
    pub counted_at: Option<Timestamp>,
    /// When a copy was last removed because its time was over: nothing was amiss then.
    pub removed_at: Option<Timestamp>,
    /// What went wrong while all this was read.
    pub problems: Vec<String>,
    /// Why it is not known what floors and restores keep.
    pub untold: Option<String>,
}

/// The earlier of two clocks: what is deleted must be old by both. The store's may stand behind by `waited` at most: where it is the time at
/// which a Job was made, and its pod had to wait.
///
/// # Errors
/// Says how far they are apart, where that is more than [`CLOCK_TOLERANCE`] and that.
pub fn time_for_deleting(ours: Timestamp, stores: Timestamp, waited: SignedDuration) -> Result<Timestamp, String> {
    let ahead = ours.duration_since(stores);
    if ahead > CLOCK_TOLERANCE.saturating_add(waited) || -ahead > CLOCK_TOLERANCE {
        return Err(format!(
            "our clock shows {ours}, the store's {stores}: they are {} s apart, and nothing is removed while they are more than {} s apart; set the clocks",
            ahead.abs().as_secs(),
            CLOCK_TOLERANCE.as_secs()
        ));
    }
    Ok(ours.min(stores))
}

/// The later of two clocks, but at most [`CLOCK_TOLERANCE`] after the other: for locks, which must not end too early, nor years too late
/// because one clock was wrong.
pub fn time_for_locks(ours: Timestamp, stores: Timestamp) -> Timestamp {
    let capped = ours.min(stores).checked_add(CLOCK_TOLERANCE).unwrap_or(Timestamp::MAX);
    ours.max(stores).min(capped)
}
