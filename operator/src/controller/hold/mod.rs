//! ComplianceHold and ClusterComplianceHold: tells keepers what is held, and says from their reports whether it is.

pub mod build;
mod status;
mod triggers;

use std::{sync::Arc, time::Duration};

use holdfast_crds::{ClusterComplianceHold, ComplianceHold, ComplianceHoldStatus, HoldRelease, HoldSelection, ReleaseBy, Span, hold_id};
use jiff::Timestamp;
use kube::ResourceExt;

pub use triggers::{cluster_triggers, triggers};

use self::status::Judged;
use crate::{
    context::{Context, Error},
    controller::schedule::created,
    queue::{Next, Reconcile},
    watch::Key,
};

/// A hold of either kind.
#[derive(Clone, Debug)]
pub struct Hold<'a> {
    /// Absent for one of the cluster.
    pub namespace: Option<String>,
    pub name: String,
    /// The namespaces whose copies it holds.
    pub namespaces: Vec<String>,
    pub select: &'a HoldSelection,
    pub reason: &'a str,
    pub placed_by: &'a str,
    pub release_by: ReleaseBy,
    pub cool_off: Span,
    pub until: Option<Timestamp>,
    pub release: Option<&'a HoldRelease>,
    pub created: Timestamp,
    pub generation: Option<i64>,
    pub status: ComplianceHoldStatus,
}

impl<'a> From<&'a ComplianceHold> for Hold<'a> {
    fn from(hold: &'a ComplianceHold) -> Self {
        let spec = &hold.spec;
        Self {
            namespace: hold.namespace(),
            name: hold.name_any(),
            namespaces: hold.namespace().into_iter().collect(),
            select: &spec.select,
            reason: &spec.reason,
            placed_by: &spec.placed_by,
            release_by: spec.release_by,
            cool_off: spec.cool_off,
            until: spec.until.as_deref().and_then(|until| until.parse().ok()),
            release: spec.release.as_ref(),
            created: created(hold),
            generation: hold.metadata.generation,
            status: hold.status.clone().unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a ClusterComplianceHold> for Hold<'a> {
    fn from(hold: &'a ClusterComplianceHold) -> Self {
        let spec = &hold.spec;
        Self {
            namespace: None,
            name: hold.name_any(),
            namespaces: spec.namespaces.clone(),
            select: &spec.select,
            reason: &spec.reason,
            placed_by: &spec.placed_by,
            release_by: spec.release_by,
            cool_off: spec.cool_off,
            until: spec.until.as_deref().and_then(|until| until.parse().ok()),
            release: spec.release.as_ref(),
            created: created(hold),
            generation: hold.metadata.generation,
            status: hold.status.clone().unwrap_or_default(),
        }
    }
}

impl Hold<'_> {
    /// Its id in every store.
    pub fn id(&self) -> holdfast_crds::document::Label {
        hold_id(self.namespace.as_deref(), &self.name)
    }
}

/// The controller of ComplianceHolds.
pub struct HoldController {
    context: Arc<Context>,
}

impl HoldController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Reconcile for HoldController {
    const KIND: &'static str = "ComplianceHold";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(hold) = context.caches.holds.get(key) else {
            return Ok(Next::Change);
        };
        let before = hold.status.clone().unwrap_or_default();
        let Judged { status, again } = status::judge(&Hold::from(&*hold), &context.caches, context.clock.now());
        let written = context.report.status(&context.caches.holds, &*hold, &status).await?;
        context.report.transitions(&written, &before.conditions, &status.conditions).await;
        Ok(wait(context, again))
    }
}

/// The controller of ClusterComplianceHolds.
pub struct ClusterHoldController {
    context: Arc<Context>,
}

impl ClusterHoldController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Reconcile for ClusterHoldController {
    const KIND: &'static str = "ClusterComplianceHold";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(hold) = context.caches.cluster_holds.get(key) else {
            return Ok(Next::Change);
        };
        let before = hold.status.clone().unwrap_or_default();
        let Judged { status, again } = status::judge(&Hold::from(&*hold), &context.caches, context.clock.now());
        let written = context
            .report
            .cluster_status(&context.caches.cluster_holds, &*hold, &status)
            .await?;
        context.report.transitions(&written, &before.conditions, &status.conditions).await;
        Ok(wait(context, again))
    }
}

fn wait(context: &Context, again: Option<Timestamp>) -> Next {
    again.map_or(Next::Change, |at| Next::After(context.clock.until(at) + Duration::from_secs(1)))
}

#[cfg(test)]
mod tests;
