//! RetentionPreview: one Job with the rights of a reader tells what a pass of the store's keeper would do. It is made once, shown, and goes after
//! its time.

mod build;
mod status;

use std::{cmp::Reverse, sync::Arc};

use holdfast_crds::{RetentionPreview, StoreKind};
use jiff::Timestamp;
use kube::ResourceExt;

use self::status::Phase;
use super::{carry_out::created, history, jobs, keep};
use crate::{
    context::{Context, Error},
    job::{Observation, PREVIEW},
    observation::{Look, Whose, job_state_of},
    queue::{Next, Queue, Reconcile},
    watch::{Caches, Change, Key},
};

/// So many previews that have ended stay in a namespace: the newest.
const KEPT: usize = 20;

/// The controller of RetentionPreviews.
pub struct PreviewController {
    context: Arc<Context>,
}

impl PreviewController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of previews.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.previews.listen({
        let queue = queue.clone();
        move |change| {
            let taken = change.after.as_ref().is_some_and(|preview| preview.status.is_none());
            if change.beyond_status() || taken {
                queue.add(change.key());
            }
        }
    });
    caches.jobs.listen({
        let queue = queue.clone();
        move |change| owner(change, &queue)
    });
    caches.pods.listen({
        let queue = queue.clone();
        move |change| owner(change, &queue)
    });
    // Previews that wait for a store.
    let (queue, all) = (queue.clone(), Arc::downgrade(caches));
    caches.listen_stores(move |change| {
        let Some(caches) = all.upgrade() else { return };
        let Some(store) = change.after.as_ref().or(change.before.as_ref()) else {
            return;
        };
        // One of the cluster may be waited for where it is not previewed: that is said once it is there.
        let previews = if change.beyond_status && store.kind() == StoreKind::ClusterBackupStore {
            caches.previews.all()
        } else {
            caches.previews.in_namespace(&store.workplace())
        };
        for preview in previews {
            let begun = preview.status.as_ref().is_some_and(|status| status.start_time.is_some());
            if preview.spec.store == store.reference() && !begun {
                queue.add(Key::of(&*preview));
            }
        }
    });
}

fn owner<K: kube::Resource>(change: &Change<K>, queue: &Queue) {
    let Some(object) = change.object() else { return };
    if let Some(preview) = object.labels().get(PREVIEW) {
        queue.add(Key::new(object.namespace().unwrap_or_default(), preview.as_str()));
    }
}

impl Reconcile for PreviewController {
    const KIND: &'static str = "RetentionPreview";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(preview) = context.caches.previews.get(key) else {
            return Ok(Next::Change);
        };
        if preview.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Change);
        }
        let known = preview.status.clone().unwrap_or_default();
        if known.phase.ended() {
            return self.forget(&preview).await;
        }
        let Some(job) = known.job.as_deref().map(|job| Key::new(key.namespace.as_str(), job)) else {
            return self.begin(&preview).await;
        };
        let whose = Whose {
            owner: preview.metadata.uid.as_deref().unwrap_or_default(),
            job: None,
        };
        let (state, look) = job_state_of(context, &job, whose, Look::Caches).await?;
        match &state.observation {
            // Said and not made, or deleted: it only reads, so it may read again.
            Observation::Absent => self.make(&preview).await,
            Observation::Waiting { reason, message } => {
                let reason = *reason;
                self.report(&preview, &Phase::Waiting { reason, message }).await?;
                Ok(look)
            }
            Observation::Running => {
                self.report(&preview, &Phase::Running).await?;
                Ok(look)
            }
            Observation::Stopping { .. } => Ok(look),
            Observation::Ended(end) => {
                let summary = end.result.as_ref().and_then(|result| result.kept.as_ref());
                let report = match summary {
                    Some(summary) => Some((summary, keep::report(context, &job, summary).await?)),
                    None => None,
                };
                let written = self.report(&preview, &Phase::Ended { end, report }).await?;
                self.forget(&written).await
            }
        }
    }
}

impl PreviewController {
    /// Says which Job it will be, then makes it.
    async fn begin(&self, preview: &RetentionPreview) -> Result<Next, Error> {
        if let Err((reason, message)) = build::job(&self.context, preview) {
            self.report(preview, &Phase::Waiting { reason, message: &message }).await?;
            return Ok(Next::Change);
        }
        let written = self.report(preview, &Phase::Begun).await?;
        self.make(&written).await
    }

    async fn make(&self, preview: &RetentionPreview) -> Result<Next, Error> {
        let refused = match build::job(&self.context, preview) {
            Ok(job) => jobs::create(&self.context, job).await?.err(),
            Err(refused) => Some(refused),
        };
        if let Some((reason, message)) = refused {
            self.report(preview, &Phase::Refused { reason, message: &message }).await?;
        }
        Ok(Next::Change)
    }

    /// Deletes what ended long ago, or is more than is kept.
    async fn forget(&self, preview: &RetentionPreview) -> Result<Next, Error> {
        let context = &*self.context;
        let now = context.clock.now();
        let mut ended = context.caches.previews.in_namespace(&preview.namespace().unwrap_or_default());
        ended.retain(|other| ended_at(other).is_some());
        ended.sort_by_key(|other| Reverse(ended_at(other)));
        let surplus: Vec<_> = ended
            .into_iter()
            .enumerate()
            .filter(|(number, other)| *number >= KEPT || forgotten_at(other).is_some_and(|at| at <= now))
            .map(|(_, other)| other)
            .collect();
        let more = history::delete(context, &context.caches.previews, &surplus).await?;
        let mine = forgotten_at(preview).filter(|at| *at > now);
        Ok(more.or(mine.map_or(Next::Change, |at| Next::After(context.clock.until(at)))))
    }

    async fn report(&self, preview: &RetentionPreview, phase: &Phase<'_>) -> Result<RetentionPreview, Error> {
        let context = &*self.context;
        let before = preview.status.clone().unwrap_or_default();
        let after = status::status(preview, phase, context.clock.now());
        let written = context.report.status(&context.caches.previews, preview, &after).await?;
        if let Some(reason) = after.reason
            && (before.phase, before.reason) != (after.phase, after.reason)
        {
            let note = after.message.as_deref().unwrap_or_default();
            context.report.event(&written, reason, after.phase.as_str(), note).await;
        }
        Ok(written)
    }
}

fn ended_at(preview: &RetentionPreview) -> Option<Timestamp> {
    let status = preview.status.as_ref().filter(|status| status.phase.ended())?;
    let said = status.completion_time.as_ref().and_then(|time| time.parse().ok());
    Some(said.unwrap_or_else(|| created(&preview.metadata)))
}

fn forgotten_at(preview: &RetentionPreview) -> Option<Timestamp> {
    ended_at(preview)?.checked_add(preview.spec.keep_for.signed()).ok()
}

#[cfg(test)]
mod tests;
