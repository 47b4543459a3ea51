//! What makes a schedule be looked at: itself, its sources, its stores, its runs.

use std::{sync::Arc, time::Duration};

use holdfast_crds::StoreKind;

use crate::{
    queue::Queue,
    watch::{Caches, Key},
};

/// Runs end in bursts; what they say is collected for so long.
const COLLECT: Duration = Duration::from_secs(2);

/// Connects the caches with the queue of schedules.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.schedules.listen({
        let queue = queue.clone();
        move |change| {
            if change.beyond_status() {
                queue.add(change.key());
            }
        }
    });
    caches.sources.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) else {
                return;
            };
            for source in change.before.iter().chain(&change.after) {
                for schedule in caches.schedules_of(source) {
                    queue.add_after(Key::of(&*schedule), Duration::from_millis(250));
                }
            }
        }
    });
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade() else { return };
            for schedule in caches.schedules_by_store(&change.key()) {
                queue.add_after(Key::of(&*schedule), Duration::from_millis(250));
            }
        }
    });
    // A store of the cluster may allow namespaces by their labels.
    caches.namespaces.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) else {
                return;
            };
            for schedule in caches.schedules.in_namespace(&change.key().name) {
                if schedule.spec.stores.iter().any(|store| store.kind == StoreKind::ClusterBackupStore) {
                    queue.add_after(Key::of(&*schedule), Duration::from_millis(250));
                }
            }
        }
    });
    caches.runs.listen({
        let queue = queue.clone();
        move |change| {
            let phase = |run: &Option<Arc<holdfast_crds::BackupRun>>| {
                let status = run.as_ref()?.status.as_ref()?;
                Some((status.phase, status.reason))
            };
            let (before, after) = (phase(&change.before), phase(&change.after));
            let gone = change.after.is_none();
            if let Some(tick) = change.object().and_then(|run| run.spec.tick.as_ref())
                && (gone || before != after)
            {
                queue.add_after(Key::new(change.key().namespace, tick.schedule.as_str()), COLLECT);
            }
        }
    });
}
