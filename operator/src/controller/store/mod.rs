//! BackupStore and ClusterBackupStore: tries the store by a Job, at first, after each change, when runs met a failure, and again while it fails.

mod apply;
mod build;
mod decide;
mod experience;
mod place;
mod status;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, Reason};
use kube::{Resource, ResourceExt};

use self::{
    decide::{Step, decide},
    experience::{Experience, Met},
    status::Phase,
};
use crate::{
    context::{Context, Error},
    controller::jobs,
    observation::job_state,
    queue::{Next, Queue, Reconcile},
    store::{Store, key_of, store_of},
    watch::{Caches, Change, Key},
};

pub use status::{down, refusal, unusable};

/// Runs meet a failing store in bursts; what they say is collected for so long.
const COLLECT: Duration = Duration::from_secs(2);

/// The controller of stores of both kinds.
pub struct StoreController {
    context: Arc<Context>,
}

impl StoreController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of stores.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.listen_stores({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            if change.beyond_status {
                queue.add(change.key());
            }
            let Some(caches) = caches.upgrade().filter(|_| change.differs(|store| store.map(place::claim))) else {
                return;
            };
            // A place cannot change, but an object may be deleted and made anew for another before anybody sees it.
            let places: BTreeSet<_> = change.before.iter().chain(&change.after).map(Store::place).collect();
            for store in places.iter().flat_map(|place| caches.stores_at(place)) {
                queue.add(store.key());
            }
        }
    });
    caches.runs.listen({
        let (caches, queue) = (Arc::downgrade(caches), queue.clone());
        move |change| {
            if let Some(caches) = caches.upgrade() {
                met(&caches, change, &queue);
            }
        }
    });
    caches.jobs.listen({
        let queue = queue.clone();
        move |change| {
            if let Some(key) = change.object().and_then(|job| store_of(job.meta())) {
                queue.add(key);
            }
        }
    });
    caches.pods.listen({
        let queue = queue.clone();
        move |change| {
            if let Some(key) = change.object().and_then(|pod| store_of(pod.meta())) {
                queue.add(key);
            }
        }
    });
}

/// A store is looked at when a run fails because of it, and when one succeeds although the store is said to be not ready.
fn met(caches: &Caches, change: &Change<BackupRun>, queue: &Queue) {
    let Some(run) = &change.after else { return };
    let before = change.before.as_ref().map(|run| experience::of(run)).unwrap_or_default();
    let after = experience::of(run);
    let Some(last) = after.last().filter(|last| before.last() != Some(last)) else {
        return;
    };
    let namespace = run.namespace().unwrap_or_default();
    let Some(key) = run.store().map(|store| key_of(&namespace, &store)) else {
        return;
    };
    let news = match last.met {
        Met::Failure { .. } => true,
        Met::Success => caches.store_at(&key).is_some_and(|store| last.clears(&store)),
    };
    if news {
        queue.add_after(key, COLLECT);
    }
}

impl Reconcile for StoreController {
    const KIND: &'static str = "BackupStore";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(store) = context.caches.store_at(key) else {
            return Ok(Next::Change);
        };
        let now = context.clock.now();
        let probe = store.status().and_then(|status| status.probe.clone());
        let current = probe.as_ref().map(|probe| store.probe_job(probe.number));
        let (state, look) = match (&probe, &current) {
            (Some(probe), Some(job)) if probe.finished_at.is_none() => {
                let (state, look) = job_state(context, job).await?;
                (Some(state), look)
            }
            _ => (None, Next::Change),
        };

        let met = experience::newest(store.kind(), store.runs(&context.caches));
        let contradicts = |met: &&Experience| probe.as_ref().is_some_and(|probe| met.contradicts(probe).is_some());
        match decide(&store, state.as_ref(), met.as_ref(), now) {
            Step::Start | Step::Make if place::holder(&context.caches, &store).is_some() => {
                self.rest(&store, Phase::Same, None, None).await
            }
            Step::Start => {
                let number = jobs::free_number(context, probe.as_ref().map_or(0, |probe| probe.number), |number| {
                    store.probe_job(number)
                });
                let met = met.as_ref().filter(contradicts);
                let store = self.report(&store, Phase::Started { number, met }).await?;
                self.make(&store, number).await
            }
            Step::Make => {
                let number = probe.map_or(1, |probe| probe.number);
                self.make(&store, number).await
            }
            Step::Watch => {
                let phase = state.as_ref().map_or(Phase::Same, Phase::of);
                self.report(&store, phase).await?;
                Ok(look)
            }
            Step::Finish(end) => {
                let store = self.report(&store, Phase::Finished(&end)).await?;
                self.rest(&store, Phase::Same, current, met.as_ref()).await
            }
            Step::Rest => {
                let news = met.as_ref().filter(|met| contradicts(met) || met.clears(&store));
                self.rest(&store, news.map_or(Phase::Same, Phase::Met), current, met.as_ref()).await
            }
        }
    }
}

impl StoreController {
    /// No probe is on its way, and none is made while another store has the place. The Job of the `last` stays for its log where that failed.
    async fn rest(&self, store: &Store, phase: Phase<'_>, last: Option<Key>, met: Option<&Experience>) -> Result<Next, Error> {
        let context = &*self.context;
        let holder = place::holder(&context.caches, store);
        let store = self.report(store, holder.as_ref().map_or(phase, Phase::Taken)).await?;
        let keep = last.filter(|_| holder.is_none() && decide::next_try(&store, None).is_some());
        let again = decide::next_try(&store, met).filter(|_| holder.is_none());
        apply::remove_others(context, &store, keep.as_ref()).await?;
        Ok(again.map_or(Next::Change, |at| Next::After(context.clock.until(at))))
    }

    /// Makes the Job of a probe that is counted. A refusal ends the probe, with the reason.
    async fn make(&self, store: &Store, number: i64) -> Result<Next, Error> {
        let key = store.probe_job(number);
        let made = match build::job(&self.context, store, &key.name) {
            Ok(job) => jobs::create(&self.context, job).await?,
            Err(error) => Err((Reason::InvalidSpec, error.to_string())),
        };
        let Err((reason, message)) = made else {
            return Ok(Next::Change);
        };
        let store = self.report(store, Phase::Refused { reason, message }).await?;
        let again = decide::next_try(&store, None);
        Ok(again.map_or(Next::Change, |at| Next::After(self.context.clock.until(at))))
    }

    async fn report(&self, store: &Store, phase: Phase<'_>) -> Result<Store, Error> {
        let after = status::status(store, &phase, self.context.clock.now());
        store.report(&self.context, &after).await
    }
}

#[cfg(test)]
mod tests;
