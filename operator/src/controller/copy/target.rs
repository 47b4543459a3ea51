//! What each store is to have of a source, from the caches. Pure.

use std::{collections::BTreeSet, sync::Arc};

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupType, CatalogueInStore, CopyState, KeepSchedule, Reason, ReplicaState, RunInStore,
    RunPhase, ScheduleStore, StoreReference, StoreUse, document::Sha256,
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use crate::{attempt::read, controller::keep::task::keep_schedule, watch::Caches};

/// A store that is to have copies of a source that others have.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub store: StoreReference,
    /// What kinds of copies schedules send there; empty: all.
    pub types: Vec<BackupType>,
    /// The rules of the schedules that name it.
    pub schedules: Vec<KeepSchedule>,
    /// Digest of what decides what the store is to have.
    pub told: String,
    /// Runs that it lacks.
    pub lacking: Vec<Lacking>,
    /// Other stores of its schedules that have copies of which nobody knows that it has them.
    pub unseen: Vec<StoreReference>,
}

/// A run that a store lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    pub run: String,
    /// The stores that have it, the primary first.
    pub from: Vec<StoreReference>,
    /// When it was committed.
    pub since: Timestamp,
}

/// The stores that are to have copies of a source which others have, in order of their names.
pub fn stores(caches: &Caches, source: &BackupSource) -> BTreeSet<StoreReference> {
    let (schedules, runs) = known(caches, source);
    let named = schedules
        .iter()
        .flat_map(|schedule| &schedule.spec.stores)
        .map(ScheduleStore::reference);
    let awaited = runs.iter().flat_map(|run| run.status.iter().flat_map(|status| &status.stores));
    let awaited = awaited
        .filter(|place| place.state == ReplicaState::Missing)
        .map(RunInStore::reference);
    named.chain(awaited).collect()
}

/// What one store is to have of a source; nothing where it is none of [`stores`].
pub fn target(caches: &Caches, source: &BackupSource, store: &StoreReference, now: Timestamp) -> Option<Target> {
    let (schedules, runs) = known(caches, source);
    let own: Vec<&BackupSchedule> = schedules
        .iter()
        .map(|schedule| &**schedule)
        .filter(|schedule| schedule.spec.stores.iter().any(|place| place.reference() == *store))
        .collect();
    let is_awaited = |place: &RunInStore| place.state == ReplicaState::Missing && place.reference() == *store;
    let awaited = |run: &Arc<BackupRun>| run.status.iter().flat_map(|status| &status.stores).any(is_awaited);
    if own.is_empty() && !runs.iter().any(awaited) {
        return None;
    }
    let lacking: Vec<_> = runs.iter().filter_map(|run| lacking(store, run, &own)).collect();
    let types = types(store, &own);
    Some(Target {
        unseen: unseen(source, store, &own, &types, &runs, &lacking),
        told: told(caches, source, store, &own),
        schedules: own.iter().filter_map(|schedule| keep_schedule(schedule, store, now)).collect(),
        lacking,
        types,
        store: store.clone(),
    })
}

/// The schedules of a source that name several stores, and its runs that are committed.
fn known(caches: &Caches, source: &BackupSource) -> (Vec<Arc<BackupSchedule>>, Vec<Arc<BackupRun>>) {
    let namespace = source.namespace().unwrap_or_default();
    let mut schedules = caches.schedules_of(source);
    schedules.retain(|schedule| schedule.spec.stores.len() > 1);
    let runs: Vec<_> = caches
        .runs
        .by(Caches::RUNS_BY_SOURCE, &namespace, &source.name_any())
        .into_iter()
        .filter(|run| committed(run))
        .collect();
    (schedules, runs)
}

/// Whether the run's copy is committed.
pub fn committed(run: &BackupRun) -> bool {
    let status = run.status.as_ref();
    run.metadata.deletion_timestamp.is_none() && status.is_some_and(|status| status.phase == RunPhase::Succeeded && status.copy.is_some())
}

/// That the store is to have the run's copy, and nobody has said yet what became of that.
fn lacking(store: &StoreReference, run: &BackupRun, schedules: &[&BackupSchedule]) -> Option<Lacking> {
    let status = run.status.as_ref()?;
    match status.stores.iter().find(|place| place.reference() == *store) {
        Some(place) if place.state != ReplicaState::Missing => return None,
        Some(_) => {}
        // The store was added to the schedule later.
        None => {
            let named = run.spec.tick.as_ref().map(|tick| &tick.schedule);
            let named = named.or(run.spec.schedule.as_ref().map(|schedule| &schedule.name))?;
            let schedule = schedules.iter().find(|schedule| schedule.name_any() == *named)?;
            let place = schedule.spec.stores.iter().find(|place| place.reference() == *store)?;
            if !place.takes(run.spec.type_) || run.store().as_ref() == Some(store) {
                return None;
            }
        }
    }
    let mut there: Vec<_> = status.stores.iter().filter(|place| place.state.is_there()).collect();
    there.sort_by_key(|place| place.role != StoreUse::Primary);
    let mut from: Vec<_> = there.into_iter().map(RunInStore::reference).collect();
    if from.is_empty() {
        from.extend(run.store());
    }
    Some(Lacking {
        run: run.name_any(),
        from,
        since: read(status.completion_time.as_deref()),
    })
}

/// The types that any of the schedules sends there.
fn types(store: &StoreReference, schedules: &[&BackupSchedule]) -> Vec<BackupType> {
    let places = schedules.iter().flat_map(|schedule| &schedule.spec.stores);
    let mut types = Vec::new();
    for place in places.filter(|place| place.reference() == *store) {
        if place.types.is_empty() {
            return Vec::new();
        }
        types.extend(&place.types);
    }
    types.sort();
    types.dedup();
    types
}

/// The catalogue of a store, as its keeper read it.
fn catalogue<'a>(source: &'a BackupSource, store: &StoreReference) -> Option<&'a CatalogueInStore> {
    source.status.as_ref()?.in_store(store)
}

fn unseen(
    source: &BackupSource,
    store: &StoreReference,
    schedules: &[&BackupSchedule],
    types: &[BackupType],
    runs: &[std::sync::Arc<BackupRun>],
    lacking: &[Lacking],
) -> Vec<StoreReference> {
    let own = catalogue(source, store);
    let mut known: BTreeSet<&str> = own
        .iter()
        .flat_map(|own| &own.newest_copies)
        .map(|copy| copy.run.as_str())
        .collect();
    known.extend(lacking.iter().map(|lacking| lacking.run.as_str()));
    for run in runs {
        let places = run.status.iter().flat_map(|status| &status.stores);
        if places.into_iter().any(|place| place.reference() == *store) || run.store().as_ref() == Some(store) {
            known.insert(run.metadata.name.as_deref().unwrap_or_default());
        }
    }
    let wanted = |type_: &str| types.is_empty() || types.iter().any(|wanted| wanted.to_string() == type_);
    let mut others = Vec::new();
    for other in schedules
        .iter()
        .flat_map(|schedule| &schedule.spec.stores)
        .map(ScheduleStore::reference)
    {
        if other == *store || others.contains(&other) {
            continue;
        }
        let Some(has) = catalogue(source, &other) else { continue };
        let good = |state| matches!(state, CopyState::Kept | CopyState::Held);
        let mut copies = has.newest_copies.iter().filter(|copy| good(copy.state) && wanted(&copy.type_));
        let more = usize::try_from(has.copies).unwrap_or(0) > has.newest_copies.len();
        let fewer = own.is_none_or(|own| own.copies < has.copies);
        if copies.any(|copy| !known.contains(copy.run.as_str())) || (more && fewer) {
            others.push(other);
        }
    }
    others
}

fn told(caches: &Caches, source: &BackupSource, store: &StoreReference, schedules: &[&BackupSchedule]) -> String {
    let namespace = source.namespace().unwrap_or_default();
    let uid = |store: &StoreReference| {
        caches
            .store(&namespace, store)
            .ok()
            .and_then(|store| store.uid().map(str::to_owned))
    };
    let schedules: Vec<_> = schedules
        .iter()
        .map(|schedule| {
            let place = schedule.spec.stores.iter().find(|place| place.reference() == *store);
            let others: Vec<_> = schedule
                .spec
                .stores
                .iter()
                .map(|place| (place.reference(), uid(&place.reference())))
                .collect();
            json!([schedule.name_any(), place, others])
        })
        .collect();
    // What a keeper misses is brought again, where another store has it.
    let blocked = catalogue(source, store).and_then(|own| own.blocked.as_ref());
    let lost = blocked.is_some_and(|blocked| blocked.reason == Reason::CopiesMissing);
    let told = json!([uid(store), schedules, lost]);
    Sha256::of(told.to_string().as_bytes()).to_string()
}
