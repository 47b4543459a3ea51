//! What makes a hold be looked at: itself, and the reports of the keepers of its namespaces' stores.

use std::{sync::Arc, time::Duration};

use crate::{
    queue::Queue,
    store::{Store, StoreChange},
    watch::{Caches, Key},
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
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| reported(change)) else {
                return;
            };
            for namespace in change.namespaces(&caches) {
                for hold in caches.holds.in_namespace(&namespace) {
                    queue.add_after(Key::of(&*hold), COLLECT);
                }
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
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| reported(change)) else {
                return;
            };
            let namespaces = change.namespaces(&caches);
            let of_the_cluster = change.key().namespace.is_empty();
            let reached = |named: &String| namespaces.contains(named) || (of_the_cluster && caches.vanished(named));
            for hold in caches.cluster_holds.all() {
                if hold.spec.namespaces.iter().any(reached) {
                    queue.add_after(Key::of(&*hold), COLLECT);
                }
            }
        }
    });
    // What a namespace leaves behind when it goes may be in each store of the cluster.
    caches.namespaces.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.before.is_some() != change.after.is_some()) else {
                return;
            };
            let name = change.key().name;
            for hold in caches.cluster_holds.all() {
                if hold.spec.namespaces.contains(&name) {
                    queue.add_after(Key::of(&*hold), COLLECT);
                }
            }
        }
    });
}

/// Whether a store is new or gone, serves other namespaces, or its keeper has reported of holds.
fn reported(change: &StoreChange) -> bool {
    let holds = |store: Option<&Store>| store.map(|store| store.status().and_then(|status| status.holds.clone()));
    change.differs(holds) || change.differs(|store| store?.allowed_namespaces())
}
