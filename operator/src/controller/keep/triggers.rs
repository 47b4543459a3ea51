//! What makes a store's keeper be looked at: the store, its Jobs and pods, commits, and all that it is told.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, RunInStore, StoreReference, StoreUse};
use kube::Resource;

use crate::{
    queue::Queue,
    store::{Store, key_of, store_of},
    watch::{Cache, Caches, Change},
};

/// Changes of several objects at once are collected for so long.
const COLLECT: Duration = Duration::from_secs(2);

/// Connects the caches with the queue of keepers.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.listen_stores({
        let queue = queue.clone();
        move |change| {
            // Also when the probe has said something.
            if change.beyond_status || change.differs(ready) {
                queue.add_after(change.key(), COLLECT);
            }
        }
    });
    caches.jobs.listen(of_store(queue));
    caches.pods.listen(of_store(queue));
    caches.runs.listen({
        let queue = queue.clone();
        move |change: &Change<BackupRun>| {
            let copy = |run: &Option<Arc<BackupRun>>| run.as_ref()?.status.as_ref()?.copy.as_ref().map(|copy| copy.path.clone());
            let store = change.after.as_ref().and_then(|run| run.store());
            if let (Some(store), true) = (store, copy(&change.before) != copy(&change.after)) {
                queue.add_after(key_of(&change.key().namespace, &store), COLLECT);
            }
            let (before, after) = (copied(change.before.as_ref()), copied(change.after.as_ref()));
            for store in after.into_iter().filter(|store| !before.contains(store)) {
                queue.add_after(key_of(&change.key().namespace, &store), COLLECT);
            }
        }
    });
    told(caches, queue, &caches.schedules);
    told(caches, queue, &caches.sources);
    // The status says since when a release or an approval counts.
    whole(caches, queue, &caches.disposals);
    whole(caches, queue, &caches.cluster_holds);
    whole(caches, queue, &caches.policies);
    whole(caches, queue, &caches.holds);
    // Which namespaces there are, and which of them a store of the cluster allows.
    caches.namespaces.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) else {
                return;
            };
            for store in caches.cluster_stores.keys() {
                queue.add_after(store, COLLECT);
            }
        }
    });
}

/// The stores that got the run's copy from another.
fn copied(run: Option<&Arc<BackupRun>>) -> Vec<StoreReference> {
    let places = run
        .and_then(|run| run.status.as_ref())
        .into_iter()
        .flat_map(|status| &status.stores);
    let copied = places.filter(|place| place.role == StoreUse::Copy && place.state.is_there());
    copied.map(RunInStore::reference).collect()
}

fn ready(store: Option<&Store>) -> Option<String> {
    let ready = store?.conditions().iter().find(|condition| condition.type_ == "Ready")?;
    Some(ready.reason.clone())
}

fn of_store<K: Resource + 'static>(queue: &Queue) -> impl Fn(&Change<K>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |change| {
        if let Some(key) = change.object().and_then(|object| store_of(object.meta())) {
            queue.add(key);
        }
    }
}

/// An object of a namespace, beyond its status.
fn told<K: Resource + Send + Sync + 'static>(caches: &Arc<Caches>, queue: &Queue, cache: &Cache<K>) {
    cache.listen(in_namespace(caches, queue, Change::beyond_status));
}

/// An object of a namespace or of the cluster, with its status.
fn whole<K: Resource + Send + Sync + 'static>(caches: &Arc<Caches>, queue: &Queue, cache: &Cache<K>) {
    cache.listen(in_namespace(caches, queue, |_| true));
}

fn in_namespace<K: Resource + Send + Sync + 'static>(
    caches: &Arc<Caches>,
    queue: &Queue,
    matters: impl Fn(&Change<K>) -> bool + Send + Sync + 'static,
) -> impl Fn(&Change<K>) + Send + Sync + 'static {
    let (caches, queue) = (Arc::downgrade(caches), queue.clone());
    move |change| {
        let Some(caches) = caches.upgrade().filter(|_| matters(change)) else {
            return;
        };
        let namespace = change.key().namespace;
        let stores = if namespace.is_empty() {
            caches.every_store()
        } else {
            caches.stores_of(&namespace)
        };
        for store in stores {
            queue.add_after(store.key(), COLLECT);
        }
    }
}
