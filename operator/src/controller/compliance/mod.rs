//! CompliancePolicy: says how many sources miss its floors, and whether what refuses in its name is in place. It makes nothing.

mod ceiling;
mod copies;
pub mod guards;
pub mod judge;
mod status;

use std::{sync::Arc, time::Duration};

use holdfast_crds::{CompliancePolicy, KeepFloor, document::Label};
use kube::ResourceExt;

use crate::{
    context::{Context, Error},
    queue::{Next, Queue, Reconcile},
    watch::{Caches, Key},
};

/// Changes of several objects at once are collected for so long.
const COLLECT: Duration = Duration::from_secs(1);

/// The controller of CompliancePolicies.
pub struct ComplianceController {
    context: Arc<Context>,
}

impl ComplianceController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of policies.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.policies.listen({
        let queue = queue.clone();
        move |change| {
            if change.beyond_status() {
                queue.add(change.key());
            }
        }
    });
    let all = |caches: &Arc<Caches>, queue: &Queue| {
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move || {
            for key in caches.upgrade().iter().flat_map(|caches| caches.policies.keys()) {
                queue.add_after(key, COLLECT);
            }
        }
    };
    caches.namespaces.listen({
        let all = all(caches, queue);
        move |change| {
            let labels = |namespace: &Option<Arc<k8s_openapi::api::core::v1::Namespace>>| namespace.as_ref().map(|it| it.labels().clone());
            if labels(&change.before) != labels(&change.after) {
                all();
            }
        }
    });
    caches.sources.listen({
        let all = all(caches, queue);
        move |change| {
            let missed = |source: &Option<Arc<holdfast_crds::BackupSource>>| {
                source.as_ref().map(|source| {
                    source
                        .status
                        .as_ref()
                        .map(|status| status.floors_missed.clone())
                        .unwrap_or_default()
                })
            };
            if missed(&change.before) != missed(&change.after) {
                all();
            }
        }
    });
    caches.guards.listen({
        let all = all(caches, queue);
        move |_| all()
    });
    caches.guard_bindings.listen({
        let all = all(caches, queue);
        move |_| all()
    });
}

impl Reconcile for ComplianceController {
    const KIND: &'static str = "CompliancePolicy";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(policy) = context.caches.policies.get(key) else {
            return Ok(Next::Change);
        };
        let before = policy.status.clone().unwrap_or_default();
        let after = status::status(&policy, &context.caches, context.clock.now());
        let written = context.report.cluster_status(&context.caches.policies, &*policy, &after).await?;
        context.report.transitions(&written, &before.conditions, &after.conditions).await;
        Ok(Next::Change)
    }
}

/// The policies that select a namespace, in order of their names.
pub fn policies_of(caches: &Caches, namespace: &str) -> Vec<Arc<CompliancePolicy>> {
    let labels = caches
        .namespaces
        .get(&Key::new("", namespace))
        .map(|namespace| namespace.labels().clone());
    let Some(labels) = labels else { return Vec::new() };
    let mut policies = caches.policies.all();
    policies.retain(|policy| policy.spec.namespaces.select(&labels));
    policies
}

/// The floors by which a keeper keeps copies of these namespaces: those of policies that are enforced.
pub fn keep_floors(caches: &Caches, namespaces: &[&str]) -> Vec<KeepFloor> {
    let enforced = caches
        .policies
        .all()
        .into_iter()
        .filter(|policy| policy.spec.mode == holdfast_crds::ComplianceMode::Enforce);
    let floors = enforced.filter_map(|policy| {
        let floors = &policy.spec.floors;
        let selected = namespaces.iter().filter(|namespace| {
            let object = caches.namespaces.get(&Key::new("", **namespace));
            object.is_some_and(|object| policy.spec.namespaces.select(object.labels()))
        });
        let namespaces: Vec<_> = selected.filter_map(|namespace| Label::new("namespace", *namespace).ok()).collect();
        let floor = KeepFloor {
            policy: policy.name_any(),
            namespaces,
            retention_seconds: floors.retention.map(holdfast_crds::Span::seconds),
            good_copies: floors.good_copies.and_then(|copies| u32::try_from(copies).ok()),
        };
        let says = floor.retention_seconds.is_some() || floor.good_copies.is_some();
        (says && !floor.namespaces.is_empty()).then_some(floor)
    });
    floors.collect()
}

#[cfg(test)]
mod tests;
