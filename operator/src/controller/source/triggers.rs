//! What makes a source be looked at: itself, its schedules, its runs.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, BackupSource, CatalogueInStore, CompliancePolicy, Replication};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use crate::{
    controller::store::unusable,
    queue::Queue,
    watch::{Caches, Key},
};

/// Changes of several objects at once are collected for so long.
const COLLECT: Duration = Duration::from_millis(500);

fn catalogue(source: Option<&Arc<BackupSource>>) -> &[CatalogueInStore] {
    let status = source.and_then(|source| source.status.as_ref());
    status.map(|status| status.stores.as_slice()).unwrap_or_default()
}

fn replication(source: Option<&Arc<BackupSource>>) -> &[Replication] {
    let status = source.and_then(|source| source.status.as_ref());
    status.map(|status| status.replication.as_slice()).unwrap_or_default()
}

/// Queues the sources that a schedule selects, or selected, when it changes.
pub fn listen_to_schedules(caches: &Arc<Caches>, queue: &Queue, collect: Duration) {
    caches.schedules.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) else {
                return;
            };
            for schedule in change.before.iter().chain(&change.after) {
                for source in caches.selected(schedule).0 {
                    queue.add_after(Key::of(&*source), collect);
                }
            }
        }
    });
}

/// Connects the caches with the queue of sources.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.sources.listen({
        let queue = queue.clone();
        move |change| {
            // Also when a keeper or a copy Job has said something.
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            if change.beyond_status() || catalogue(before) != catalogue(after) || replication(before) != replication(after) {
                queue.add(change.key());
            }
        }
    });
    listen_to_schedules(caches, queue, COLLECT);
    // What its compliance is judged by: stores, policies, and the labels of its namespace.
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let told = change.beyond_status || change.differs(|store| store.and_then(unusable));
            let Some(caches) = caches.upgrade().filter(|_| told) else {
                return;
            };
            for schedule in caches.schedules_by_store(&change.key()) {
                for source in caches.selected(&schedule).0 {
                    queue.add_after(Key::of(&*source), COLLECT);
                }
            }
        }
    });
    let of_namespace = |caches: &Caches, queue: &Queue, namespace: &str| {
        for source in caches.sources.in_namespace(namespace) {
            queue.add_after(Key::of(&*source), COLLECT);
        }
    };
    caches.policies.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) else {
                return;
            };
            for namespace in caches.namespaces.all() {
                let selected = |policy: &Arc<CompliancePolicy>| policy.spec.namespaces.select(namespace.labels());
                if change.before.iter().chain(&change.after).any(selected) {
                    of_namespace(&caches, &queue, &namespace.name_any());
                }
            }
        }
    });
    caches.namespaces.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let labels = |namespace: &Option<Arc<Namespace>>| namespace.as_ref().map(|namespace| namespace.labels().clone());
            if labels(&change.before) != labels(&change.after)
                && let Some(caches) = caches.upgrade()
                && !caches.policies.is_empty()
            {
                of_namespace(&caches, &queue, &change.key().name);
            }
        }
    });
    caches.runs.listen({
        let queue = queue.clone();
        move |change| {
            let end = |run: &Option<Arc<BackupRun>>| {
                let status = run.as_ref()?.status.as_ref().filter(|status| status.phase.ended())?;
                let stores: Vec<_> = status
                    .stores
                    .iter()
                    .map(|place| (place.reference(), place.state, place.reason))
                    .collect();
                Some((status.phase, status.reason, status.copy.clone(), stores))
            };
            let after = end(&change.after);
            if after.is_some() && after != end(&change.before) {
                let source = change.object().map(|run| run.spec.source.clone()).unwrap_or_default();
                queue.add_after(Key::new(change.key().namespace, source), COLLECT);
            }
        }
    });
}
