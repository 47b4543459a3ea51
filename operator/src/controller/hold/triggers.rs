//! What makes a hold be looked at: itself, and the reports of the keepers of its namespaces' stores.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupStore, StoreHolds};

use crate::{
    queue::Queue,
    watch::{Caches, Change, Key},
};

/// Changes of several objects at once are collected for so long.
const COLLECT: Duration = Duration::from_secs(1);

/// Connects the caches with the queue of ComplianceHolds.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.holds.listen({
        let queue = queue.clone();
        move |change| {
            if change.beyond_status() {
                queue.add(change.key());
            }
        }
    });
    caches.stores.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| reported(change)) else {
                return;
            };
            for hold in caches.holds.in_namespace(&change.key().namespace) {
                queue.add_after(Key::of(&*hold), COLLECT);
            }
        }
    });
}

/// Connects the caches with the queue of ClusterComplianceHolds.
pub fn cluster_triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.cluster_holds.listen({
        let queue = queue.clone();
        move |change| {
            if change.beyond_status() {
                queue.add(change.key());
            }
        }
    });
    caches.stores.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| reported(change)) else {
                return;
            };
            let namespace = change.key().namespace;
            for hold in caches.cluster_holds.all() {
                if hold.spec.namespaces.contains(&namespace) {
                    queue.add_after(Key::of(&*hold), COLLECT);
                }
            }
        }
    });
}

/// Whether a store is new or gone, or its keeper has reported of holds.
fn reported(change: &Change<BackupStore>) -> bool {
    let holds = |store: &Option<Arc<BackupStore>>| -> Option<Option<StoreHolds>> {
        store
            .as_ref()
            .map(|store| store.status.as_ref().and_then(|status| status.holds.clone()))
    };
    holds(&change.before) != holds(&change.after)
}
