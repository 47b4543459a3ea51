//! What makes a source's copies be looked at: commits, its stores and schedules, its copy Jobs, and room in a store.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, BackupSource, CatalogueInStore, ReplicaState, RunInStore};
use kube::{Resource, ResourceExt};

use super::{Waiting, target::committed};
use crate::{
    controller::{run::counts, source::listen_to_schedules},
    job::{Purpose, SOURCE},
    queue::Queue,
    store::{Store, StoreChange},
    watch::{Caches, Change, Key},
};

/// Commits come in bursts; they are collected for so long.
const COLLECT: Duration = Duration::from_secs(2);

/// Connects the caches with the queue of copies.
pub fn triggers(caches: &Arc<Caches>, waiting: &Waiting, queue: &Queue) {
    caches.sources.listen({
        let queue = queue.clone();
        move |change| {
            let taken = change.after.as_ref().is_some_and(|source| source.status.is_none());
            if change.beyond_status() || taken || catalogue(change.before.as_ref()) != catalogue(change.after.as_ref()) {
                queue.add_after(change.key(), COLLECT);
            }
        }
    });
    listen_to_schedules(caches, queue, COLLECT);
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            if let Some(caches) = caches.upgrade().filter(|_| change.beyond_status || change.differs(ready)) {
                of_store(&caches, change, &queue);
            }
        }
    });
    caches.runs.listen({
        let (queue, waiting) = (queue.clone(), waiting.clone());
        move |change| {
            let namespace = change.key().namespace;
            if let Some(run) = change.after.as_ref().filter(|run| lacks(run))
                && places(change.before.as_ref()) != places(change.after.as_ref())
            {
                queue.add_after(Key::new(namespace.as_str(), run.spec.source.as_str()), COLLECT);
            }
            let counted = |run: &Option<Arc<BackupRun>>| run.as_ref().is_some_and(|run| counts(run));
            if counted(&change.before) && !counted(&change.after) {
                for key in waiting.call(&namespace) {
                    queue.add(key);
                }
            }
        }
    });
    caches.jobs.listen(of_job(queue, waiting));
    caches.pods.listen(of_job(queue, waiting));
}

fn catalogue(source: Option<&Arc<BackupSource>>) -> &[CatalogueInStore] {
    let status = source.and_then(|source| source.status.as_ref());
    status.map(|status| status.stores.as_slice()).unwrap_or_default()
}

/// Whether a store is to get the run's copy from another.
fn lacks(run: &BackupRun) -> bool {
    let mut places = run.status.iter().flat_map(|status| &status.stores);
    committed(run) && places.any(|place| place.state == ReplicaState::Missing)
}

fn places(run: Option<&Arc<BackupRun>>) -> Vec<(ReplicaState, bool)> {
    let Some(run) = run else { return Vec::new() };
    let places: Vec<RunInStore> = run.status.as_ref().map(|status| status.stores.clone()).unwrap_or_default();
    places.into_iter().map(|place| (place.state, committed(run))).collect()
}

fn ready(store: Option<&Store>) -> Option<(String, String)> {
    let ready = store?.conditions().iter().find(|condition| condition.type_ == "Ready")?;
    Some((ready.status.clone(), ready.reason.clone()))
}

/// The sources whose copies go to this store, or come from it.
fn of_store(caches: &Caches, change: &StoreChange, queue: &Queue) {
    for schedule in caches.schedules_by_store(&change.key()) {
        if schedule.spec.stores.len() > 1 {
            for source in caches.selected(&schedule).0 {
                queue.add_after(Key::of(&*source), COLLECT);
            }
        }
    }
    let name = change.key().name;
    for namespace in change.namespaces(caches) {
        for source in caches.sources.in_namespace(&namespace) {
            let mut entries = source.status.iter().flat_map(|status| &status.replication);
            if entries.any(|entry| entry.name == name || entry.from.as_ref().is_some_and(|from| from.name == name)) {
                queue.add_after(Key::of(&*source), COLLECT);
            }
        }
    }
}

fn of_job<K: Resource + 'static>(queue: &Queue, waiting: &Waiting) -> impl Fn(&Change<K>) + Send + Sync + 'static {
    let (queue, waiting) = (queue.clone(), waiting.clone());
    move |change| {
        let Some(object) = change.object() else { return };
        if !Purpose::Copy.is_of(object.meta()) {
            return;
        }
        let namespace = object.namespace().unwrap_or_default();
        if let Some(source) = object.labels().get(SOURCE) {
            queue.add(Key::new(namespace.as_str(), source.as_str()));
        }
        // What is gone leaves room.
        if change.after.is_none() {
            for key in waiting.call(&namespace) {
                queue.add(key);
            }
        }
    }
}
