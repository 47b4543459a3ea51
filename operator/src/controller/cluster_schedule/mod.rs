//! ClusterBackupSchedule: makes a BackupSchedule in each selected namespace that has a source for it. All that follows, from the tick to
//! the copy, is that of any BackupSchedule.

mod apply;
mod status;

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupSchedule, BackupSource, ClusterBackupSchedule, Reason};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt};

use crate::{
    context::{Context, Error},
    job::{MANAGED_BY, MANAGER},
    observation::controller,
    queue::{Next, Queue, Reconcile},
    watch::{Caches, Key},
};

/// Label of a BackupSchedule with the name of the ClusterBackupSchedule that it is of.
pub const CLUSTER_SCHEDULE_LABEL: &str = "holdfast.dev/cluster-schedule";
/// Namespaces, sources and schedules change in bursts; they are collected for so long.
const COLLECT: Duration = Duration::from_millis(500);
/// When what the API server refused is tried again.
const REFUSED: Duration = Duration::from_secs(600);
/// The API server itself needs a moment until it judges by a policy that has changed.
const POLICIES: Duration = Duration::from_secs(5);

/// The controller of ClusterBackupSchedules.
pub struct ClusterScheduleController {
    context: Arc<Context>,
}

impl ClusterScheduleController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of cluster-wide schedules.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.cluster_schedules.listen({
        let queue = queue.clone();
        move |change| {
            if change.beyond_status() {
                queue.add(change.key());
            }
        }
    });
    let all = |wait: Duration| {
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move || {
            for key in caches.upgrade().iter().flat_map(|caches| caches.cluster_schedules.keys()) {
                queue.add_after(key, wait);
            }
        }
    };
    caches.policies.listen({
        let all = all(POLICIES);
        move |change| {
            if change.beyond_status() {
                all();
            }
        }
    });
    caches.namespaces.listen({
        let all = all(COLLECT);
        move |change| {
            let labels = |namespace: &Option<Arc<Namespace>>| namespace.as_ref().map(|namespace| namespace.labels().clone());
            if labels(&change.before) != labels(&change.after) {
                all();
            }
        }
    });
    caches.sources.listen({
        let all = all(COLLECT);
        move |change| {
            let labels = |source: &Option<Arc<BackupSource>>| source.as_ref().map(|source| source.labels().clone());
            if labels(&change.before) != labels(&change.after) {
                all();
            }
        }
    });
    caches.schedules.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            let Some(caches) = caches.upgrade() else { return };
            // One of ours, or one whose name we need.
            let name = change.key().name;
            if caches.cluster_schedules.get(&Key::new("", name.as_str())).is_some() {
                queue.add_after(Key::new("", name), COLLECT);
            }
        }
    });
}

impl Reconcile for ClusterScheduleController {
    const KIND: &'static str = "ClusterBackupSchedule";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(schedule) = context.caches.cluster_schedules.get(key) else {
            return Ok(Next::Change);
        };
        if schedule.metadata.deletion_timestamp.is_some() {
            // The garbage collector takes what it made.
            return Ok(Next::Change);
        }
        let wanted = wanted(&context.caches, &schedule);
        let made = apply::apply(context, &schedule, &wanted).await;
        let before = schedule.status.clone().unwrap_or_default();
        let after = status::status(&schedule, &wanted, &made, context.clock.now());
        let written = context
            .report
            .cluster_status(&context.caches.cluster_schedules, &*schedule, &after)
            .await?;
        context.report.transitions(&written, &before.conditions, &after.conditions).await;
        let refused = made.problems.iter().any(|problem| problem.reason == Reason::AdmissionRefused);
        match made.failed {
            Some(error) => Err(error),
            // What refuses it may be anybody's policy, quota or webhook, of whose changes nobody tells.
            None if refused => Ok(Next::After(REFUSED)),
            None => Ok(Next::Change),
        }
    }
}

/// The schedules that there are to be, in order of their namespaces. Pure but for the caches.
fn wanted(caches: &Caches, schedule: &ClusterBackupSchedule) -> Vec<BackupSchedule> {
    let namespaces = caches.namespaces.all();
    let selected = namespaces.iter().filter(|namespace| {
        namespace.metadata.deletion_timestamp.is_none() && schedule.spec.namespace_selector.selects(namespace.labels())
    });
    let mut wanted: Vec<_> = selected
        .map(|namespace| child(schedule, &namespace.name_any()))
        .filter(|child| !caches.selected(child).0.is_empty())
        .collect();
    wanted.sort_by_key(ResourceExt::namespace);
    wanted
}

fn child(schedule: &ClusterBackupSchedule, namespace: &str) -> BackupSchedule {
    BackupSchedule {
        metadata: ObjectMeta {
            name: Some(schedule.name_any()),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                [(MANAGED_BY, MANAGER), (CLUSTER_SCHEDULE_LABEL, &schedule.name_any())]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            // Nothing waits for it when its owner is deleted.
            owner_references: schedule.controller_owner_ref(&()).map(|owner| {
                vec![OwnerReference {
                    block_owner_deletion: None,
                    ..owner
                }]
            }),
            ..ObjectMeta::default()
        },
        spec: schedule.spec.schedule.clone(),
        status: None,
    }
}

/// Whether a BackupSchedule was made by this one.
fn is_of(child: &BackupSchedule, schedule: &ClusterBackupSchedule) -> bool {
    controller(&child.metadata).is_some() && controller(&child.metadata) == schedule.metadata.uid.as_deref()
}

#[cfg(test)]
mod tests;
