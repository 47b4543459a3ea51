//! Which of several store objects for one place has it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    store::Store,
    watch::{Caches, Key},
};

/// What decides between stores of one place; the least has it.
pub type Claim = (Proof, Option<Time>, Key);

/// What a store's probe found of the place's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    Owner,
    /// No probe has ended yet.
    Unknown,
    /// The last probe did not get as far, with credentials that are wrong or a server that is down. Such a store keeps the place from nobody, and waits for
    /// the owner alone: whichever of several gets there first is it.
    Failed,
    /// The place is somebody else's: this store must not keep it from the one whose it is.
    Foreign,
}

/// The other store object that has the place of this one, if it is not this one's.
pub fn holder(caches: &Caches, store: &Store) -> Option<Store> {
    let own = claim(store);
    let others = caches
        .stores_at(&store.place())
        .into_iter()
        .filter(|other| other.key() != store.key());
    others
        .map(|other| (claim(&other), other))
        .filter(|(claim, _)| *claim < own && claim.0 != Proof::Failed && (claim.0, own.0) != (Proof::Unknown, Proof::Failed))
        .min_by(|(one, _), (other, _)| one.cmp(other))
        .map(|(_, other)| other)
}

/// Who owns the place in the store comes first, then who is older.
pub fn claim(store: &Store) -> Claim {
    let probe = store.status().and_then(|status| status.probe.as_ref());
    let report = probe.and_then(|probe| probe.report.as_ref());
    let owner = report.and_then(|report| report.checks.iter().find(|check| check.name == "Owner"));
    let proof = match owner {
        Some(check) if check.passed => Proof::Owner,
        Some(_) => Proof::Foreign,
        None if probe.is_some_and(|probe| probe.failures > 0) => Proof::Failed,
        None => Proof::Unknown,
    };
    (proof, store.meta().creation_timestamp.clone(), store.key())
}
