//! Several stores: what each of them has of a run, and the copy Jobs that fill them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConditionType, Finding, Reason, ReplicaState, RunPhase, StoreKind, StoreReference};

/// The most stores of one schedule, or of one run.
pub const STORES: usize = 4;
/// The most stores whose copy Jobs a source's status lists.
pub const REPLICATIONS: usize = 16;

/// What a store is to a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StoreUse {
    /// The backup itself writes there.
    Primary,
    /// It is filled from another store.
    #[default]
    Copy,
}

/// What one store has of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunInStore {
    /// Name of the store.
    pub name: String,
    #[serde(default)]
    pub kind: StoreKind,
    pub role: StoreUse,
    /// Whether the copy is there, and if it is not, whether it is still to come.
    pub state: ReplicaState,
    /// Why it is not there, or what was done last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why the copy is not there, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
    /// Bytes that it takes there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Since when it is known to be there (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_at: Option<String>,
    /// The outcome's version there, where the store has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

impl RunInStore {
    /// A store that has nothing of the run yet.
    pub fn awaited(store: &StoreReference, role: StoreUse) -> Self {
        Self {
            name: store.name.clone(),
            kind: store.kind,
            role,
            state: ReplicaState::Missing,
            reason: Some(Reason::Pending),
            message: None,
            bytes: None,
            copied_at: None,
            version_id: None,
        }
    }

    /// The store as specifications name it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name.clone(),
            kind: self.kind,
        }
    }

    /// Whether the store's own rules want nothing of it: then nobody waits for it.
    const fn unwanted(&self) -> bool {
        matches!(self.state, ReplicaState::NotKept | ReplicaState::Removed | ReplicaState::Going)
    }
}

/// The stores of a run for people: `offsite,vault (1/2)`, the numbers being how many have it, of how many.
pub fn stores_column(stores: &[RunInStore]) -> String {
    let names: Vec<_> = stores.iter().map(|store| store.name.as_str()).collect();
    let names = names.join(",");
    if stores.len() < 2 {
        return names;
    }
    let there = stores.iter().filter(|store| store.state.is_there()).count();
    format!("{names} ({there}/{})", stores.len())
}

/// `Replicated` of a run: whether as many stores have its copy as `required` says. None where it goes to one store, or will never be.
/// A store with another manifest under the run's name counts for nothing.
pub fn replicated(stores: &[RunInStore], required: Option<i32>, phase: RunPhase) -> Option<Finding> {
    if stores.len() < 2 || (phase.ended() && phase != RunPhase::Succeeded) {
        return None;
    }
    let kind = ConditionType::Replicated;
    let there = stores.iter().filter(|store| store.state.is_there()).count();
    let wanted = stores.iter().filter(|store| !store.unwanted()).count();
    let required = required.and_then(|count| usize::try_from(count).ok()).unwrap_or(stores.len());
    let required = required.min(wanted).max(1);
    let missing: Vec<_> = stores.iter().filter(|store| !store.state.is_there()).collect();
    let each = missing.iter().map(|store| {
        let reason = store.reason.map(|reason| format!(" ({reason}")).unwrap_or_default();
        let message = store.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        let close = if reason.is_empty() { "" } else { ")" };
        format!("{} {}{reason}{message}{close}", store.name, lacks(store.state))
    });
    let each: Vec<_> = each.collect();
    let counts = format!("{there} of {} stores have the copy, {required} must", stores.len());
    let message = if each.is_empty() {
        counts
    } else {
        format!("{counts}; {}", each.join("; "))
    };
    if there >= required {
        return Some(Finding::new(kind, true, Reason::Replicated, message));
    }
    let divergent = missing.iter().find(|store| store.state == ReplicaState::Divergent);
    let worst = divergent.or_else(|| {
        missing
            .iter()
            .find(|store| store.reason.is_some_and(|reason| reason.exit_code() != 0))
    });
    let reason = worst.or(missing.first()).and_then(|store| store.reason).unwrap_or(Reason::Pending);
    Some(Finding::new(kind, false, reason, message))
}

const fn lacks(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Copied | ReplicaState::Present => "has it",
        ReplicaState::Missing => "lacks it",
        ReplicaState::Divergent => "has another copy under this name",
        ReplicaState::Abandoned => "gave the run up",
        ReplicaState::Removed => "removed it",
        ReplicaState::NotKept => "keeps none of it by its rules",
        ReplicaState::Going => "does not get it: it is being removed",
        ReplicaState::NotGood => "does not get it: it is not good",
        ReplicaState::NotEncrypted => "does not get it: it is not encrypted",
        ReplicaState::ParentMissing => "lacks a copy that it needs",
        ReplicaState::NotFound => "lacks it, and so does the store that it is copied from",
        ReplicaState::Unreadable => "lacks it, and it cannot be read where it is",
        ReplicaState::Obstructed => "has other bytes in its place",
    }
}

/// The copy Jobs that fill one store with the copies of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// The store that is filled.
    pub name: String,
    #[serde(default)]
    pub kind: StoreKind,
    /// Number of the copy Job that was started last; it is counted here before it is made.
    pub number: i64,
    /// The store that it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StoreReference>,
    /// Whether it brings all that the store is to have, and not only what runs are known to lack there.
    #[serde(default)]
    pub all: bool,
    /// Digest of the stores and schedules by which it is decided what the store is to have.
    #[serde(default)]
    pub told: String,
    /// Stores whose copies were all looked at for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub looked_at: Vec<StoreReference>,
    /// When it was started (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended; absent while it is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How many failed one after the other; the wait before the next grows with it, up to 30 minutes.
    #[serde(default)]
    pub failures: i64,
    /// How the last ended, or why the next cannot begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why copies are not brought, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Copies that the last that was looked through left out although the store is to have them.
    #[serde(default)]
    pub missing: i64,
    /// Bytes that it brought.
    #[serde(default)]
    pub bytes: i64,
}

impl Replication {
    /// The store as specifications name it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name.clone(),
            kind: self.kind,
        }
    }

    /// Whether a copy Job is counted and not known to have ended.
    pub const fn at_work(&self) -> bool {
        self.number > 0 && self.finished_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, state: ReplicaState, reason: Option<Reason>) -> RunInStore {
        let reference = StoreReference {
            name: name.to_owned(),
            kind: StoreKind::default(),
        };
        RunInStore {
            state,
            reason,
            ..RunInStore::awaited(&reference, StoreUse::Copy)
        }
    }

    #[test]
    fn replicated_counts_what_is_there_and_never_what_diverges() {
        use ReplicaState::{Copied, Divergent, Missing, NotKept, Present};
        let pending = Some(Reason::Pending);
        for (vault, required, phase, expected) in [
            (store("vault", Missing, pending), None, RunPhase::Running, Some((false, "Pending"))),
            (
                store("vault", Missing, pending),
                Some(1),
                RunPhase::Succeeded,
                Some((true, "Replicated")),
            ),
            (
                store("vault", Missing, Some(Reason::StoreUnreachable)),
                Some(2),
                RunPhase::Succeeded,
                Some((false, "StoreUnreachable")),
            ),
            (store("vault", Copied, None), None, RunPhase::Succeeded, Some((true, "Replicated"))),
            (
                store("vault", Divergent, Some(Reason::Divergent)),
                None,
                RunPhase::Succeeded,
                Some((false, "Divergent")),
            ),
            (store("vault", NotKept, None), None, RunPhase::Succeeded, Some((true, "Replicated"))),
            (store("vault", Missing, pending), None, RunPhase::Failed, None),
        ] {
            let stores = [store("offsite", Present, None), vault];
            let found = replicated(&stores, required, phase);
            let found = found.map(|finding| (finding.status == Some(true), finding.reason.as_str()));
            assert_eq!(found, expected, "{stores:?}");
        }
        assert_eq!(replicated(&[store("offsite", Present, None)], None, RunPhase::Succeeded), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let mut vault = store("vault", ReplicaState::Missing, Some(Reason::StoreFull));
        vault.message = Some("no room".to_owned());
        let stores = [store("offsite", ReplicaState::Present, None), vault];
        let finding = replicated(&stores, None, RunPhase::Succeeded).unwrap();
        assert_eq!(
            finding.message,
            "1 of 2 stores have the copy, 2 must; vault lacks it (StoreFull: no room)"
        );
        assert_eq!(stores_column(&stores), "offsite,vault (1/2)");
        assert_eq!(stores_column(&stores[..1]), "offsite");
    }
}
