//! DisposalRequest: tells keepers what two people agreed to remove, and says from their reports how far it is.

mod status;

use std::{sync::Arc, time::Duration};

use holdfast_crds::{DisposalRequest, KeepDisposal, document::HoldScope};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    context::{Context, Error},
    queue::{Next, Queue, Reconcile},
    store::Store,
    watch::{Caches, Key},
};

/// Changes of several objects at once are collected for so long.
const COLLECT: Duration = Duration::from_secs(1);

/// The controller of DisposalRequests.
pub struct DisposalController {
    context: Arc<Context>,
}

impl DisposalController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of requests.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.disposals.listen({
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
            let reports = |store: Option<&Store>| {
                let holds = store.map(|store| store.status().and_then(|status| status.holds.as_ref()));
                holds.map(|holds| holds.map(|holds| holds.disposals.clone()))
            };
            let Some(caches) = caches.upgrade().filter(|_| change.differs(reports)) else {
                return;
            };
            for namespace in change.namespaces(&caches) {
                for request in caches.disposals.in_namespace(&namespace) {
                    queue.add_after(Key::of(&*request), COLLECT);
                }
            }
        }
    });
}

impl Reconcile for DisposalController {
    const KIND: &'static str = "DisposalRequest";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(request) = context.caches.disposals.get(key) else {
            return Ok(Next::Change);
        };
        let before = request.status.clone().unwrap_or_default();
        let stores = context.caches.stores_of(&key.namespace);
        let after = status::status(&request, &stores, context.clock.now());
        let written = context.report.status(&context.caches.disposals, &*request, &after).await?;
        context.report.transitions(&written, &before.conditions, &after.conditions).await;
        Ok(Next::Change)
    }
}

/// The disposals that a keeper of a store with copies of this namespace is told of: those that were approved and whose approval was seen.
pub fn keep_disposals(caches: &Caches, namespace: &str) -> Vec<KeepDisposal> {
    let requests = caches.disposals.in_namespace(namespace);
    requests.iter().filter_map(|request| keep_disposal(request)).collect()
}

fn keep_disposal(request: &DisposalRequest) -> Option<KeepDisposal> {
    let spec = &request.spec;
    let approval = spec.approval.as_ref()?;
    let approved_at: Timestamp = request.status.as_ref()?.approved_at.as_ref()?.parse().ok()?;
    let namespace = request.namespace()?;
    let inside = format!("{namespace}/");
    let time = |text: Option<&String>| text.and_then(|text| text.parse::<Timestamp>().ok());
    let range = spec.scope.recovery_points.as_ref();
    let until = time(range.and_then(|range| range.until.as_ref()));
    Some(KeepDisposal {
        name: request.name_any(),
        scope: HoldScope {
            sources: (!spec.scope.sources.is_empty())
                .then(|| spec.scope.sources.iter().map(|source| format!("{inside}{source}")).collect()),
            namespaces: Some(vec![namespace.clone()]),
            runs: (!spec.scope.runs.is_empty()).then(|| spec.scope.runs.iter().filter(|run| run.starts_with(&inside)).cloned().collect()),
            from: time(range.and_then(|range| range.from.as_ref())),
            to: Some(until.map_or(approved_at, |until| until.min(approved_at))),
        },
        namespace,
        basis: spec.legal_basis.clone(),
        requested_by: spec.requested_by.clone(),
        approved_by: approval.approved_by.clone(),
    })
}

#[cfg(test)]
mod tests;
