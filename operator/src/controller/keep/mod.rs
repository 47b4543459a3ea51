//! The keeper of each store: one Job at a time, after commits, daily and when what it is told changes. It decides on what it reads in the
//! store; this says which rules apply, and shows what it reports.

pub mod catalogue;
mod counted;
mod decide;
pub mod status;
pub mod task;
mod triggers;

use std::sync::Arc;

use holdfast_crds::{Class, KEEP_LINE, KeepLine, KeepSummary, KeeperStatus, Reason, StoreUse};
use jiff::Timestamp;

pub use catalogue::bounded;
pub use triggers::triggers;

use self::status::Phase;
use super::{
    jobs, report_log,
    source::{APART, committed, to_be_seen},
    store::refusal,
};
use crate::{
    context::{Context, Error},
    job::{End, Observation, Purpose},
    observation::{controller, job_state},
    queue::{Next, Reconcile},
    store::Store,
    watch::Key,
};

/// The lines of a pass's report, or why there are none.
pub type Read = report_log::Read<KeepLine>;

/// The report that `summary` is of.
pub async fn report(context: &Context, job: &Key, summary: &KeepSummary) -> Result<Read, Error> {
    let report = report_log::Report {
        mark: KEEP_LINE,
        lines: summary.lines,
        sha256: &summary.sha256,
        of: |result| result.kept.as_ref().map(|kept| (kept.lines, kept.sha256.as_str())),
    };
    report_log::read(context, job, &report).await
}

/// The controller of keepers, by their stores.
pub struct KeepController {
    context: Arc<Context>,
}

impl KeepController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Reconcile for KeepController {
    const KIND: &'static str = "Keeper";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(store) = context.caches.store_at(key) else {
            return Ok(Next::Change);
        };
        let keeper = store.status().and_then(|status| status.keeper.clone()).unwrap_or_default();
        let current = (keeper.number > 0).then(|| store.keep_job(keeper.number));
        if let Some(job) = current.as_ref().filter(|_| keeper.finished_at.is_none()) {
            let (state, look) = job_state(context, job).await?;
            return match &state.observation {
                // Counted and never made: what it is told may have changed since, and is told now.
                Observation::Absent => Box::pin(self.make(&store, job)).await,
                Observation::Waiting { reason, message } if *reason != Reason::Pending => {
                    let reason = *reason;
                    self.report(&store, &Phase::Waiting { reason, message }).await?;
                    Ok(look)
                }
                Observation::Waiting { .. } | Observation::Running | Observation::Stopping { .. } => Ok(look),
                Observation::Ended(end) => {
                    let store = Box::pin(self.finish(&store, job, end)).await?;
                    Box::pin(self.rest(&store)).await
                }
            };
        }
        Box::pin(self.rest(&store)).await
    }
}

impl KeepController {
    /// No pass is on its way: the next is begun, or waited for.
    async fn rest(&self, store: &Store) -> Result<Next, Error> {
        let context = &*self.context;
        let keeper = store.status().and_then(|status| status.keeper.clone()).unwrap_or_default();
        let last = (keeper.number > 0).then(|| store.keep_job(keeper.number));
        // The last that failed stays for its log.
        self.remove_others(store, last.filter(|_| keeper.failures > 0).as_ref()).await?;
        match refusal(store) {
            // Another cluster's place is read, and nothing else.
            Some((Reason::StoreForeign, _)) | None => {}
            Some((reason, message)) => {
                if keeper.number > 0 {
                    self.report(store, &Phase::Unusable { reason, message }).await?;
                }
                return Ok(Next::Change);
            }
        }
        let now = context.clock.now();
        let task = task::task(&context.caches, store, now);
        let told = task::told(&task);
        let name = store.key().to_string();
        let after = |news| decide::next_pass(&keeper, &name, &told, news);
        // What a pass can tell only later does not put off the pass that is due now.
        let due = after(self.committed(store).max(self.appeared(&keeper))).min(after(self.unseen(store)));
        if due > now {
            return Ok(Next::After(context.clock.until(due)));
        }
        let number = jobs::free_number(context, keeper.number, |number| store.keep_job(number));
        let read_only = task.read_only;
        let store = self.report(store, &Phase::Started { number, told, read_only }).await?;
        self.make(&store, &store.keep_job(number)).await
    }

    /// When the newest copy in this store was committed, by the runs that are objects.
    fn committed(&self, store: &Store) -> Option<Timestamp> {
        let caches = &self.context.caches;
        let runs = store.runs(caches).chain(store.runs_copied(caches));
        let own = store.reference();
        let committed = runs.filter_map(|run| {
            let status = run.status.as_ref()?;
            status.copy.as_ref()?;
            let copied = status
                .stores
                .iter()
                .find(|place| place.role == StoreUse::Copy && place.reference() == own);
            let at = match copied {
                Some(place) => place.copied_at.as_ref()?,
                None => status.completion_time.as_ref()?,
            };
            at.parse().ok()
        });
        committed.max()
    }

    /// When a pass can tell whether a copy that the last one did not find is there: by then it begins after the commit by the store's clock too.
    fn unseen(&self, store: &Store) -> Option<Timestamp> {
        let caches = &self.context.caches;
        let own = store.reference();
        let sources = store
            .namespaces(caches)
            .into_iter()
            .flat_map(|namespace| caches.sources.in_namespace(&namespace));
        let unseen = sources.filter_map(|source| {
            let status = source.status.as_ref()?;
            let copy = status.newest_copy.as_ref()?;
            let entry = status.in_store(&own).filter(|entry| to_be_seen(copy, entry))?;
            // An entry of a pass long ago says nothing that the pass after the commit will not say.
            let committed = committed(copy).filter(|at| entry.as_of.parse().is_ok_and(|as_of: Timestamp| as_of + APART >= *at))?;
            committed.checked_add(APART * 2).ok()
        });
        unseen.max()
    }

    /// When the newest object was made of those sources of which the last pass saw copies and no object: it is to show them.
    fn appeared(&self, keeper: &KeeperStatus) -> Option<Timestamp> {
        let sources = &self.context.caches.sources;
        let appeared = keeper.unknown.iter().filter_map(|unknown| {
            let source = sources.get(&Key::new(&unknown.namespace, &unknown.source))?;
            source.metadata.creation_timestamp.as_ref().map(|time| time.0)
        });
        appeared.max()
    }

    /// Makes the Job of a pass that is counted. A refusal ends the pass, with the reason.
    async fn make(&self, store: &Store, job: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let task = task::task(&context.caches, store, context.clock.now());
        let made = match task::job(context, store, &job.name, task) {
            Ok(job) => jobs::create(context, job).await?,
            Err(error) => Err((Reason::InvalidSpec, error.to_string())),
        };
        if let Err((reason, message)) = made {
            let store = self.report(store, &Phase::Failed { reason, message }).await?;
            return Box::pin(self.rest(&store)).await;
        }
        Ok(Next::Change)
    }

    /// A pass has ended: its report is read while its pod is there, then shown, and only then counts it as ended.
    async fn finish(&self, store: &Store, job: &Key, end: &End) -> Result<Store, Error> {
        let context = &*self.context;
        let Some(summary) = end.result.as_ref().and_then(|result| result.kept.as_ref()) else {
            let (reason, message) = end.without("the keeper ended without a summary of its pass");
            return self.report(store, &Phase::Failed { reason, message }).await;
        };
        match report(context, job, summary).await? {
            Ok(report) => {
                // A pass that ended early says nothing of the sources that it did not come to.
                let strays = if end.reason.class() == Class::Fine {
                    catalogue::write(context, store, summary, &report).await?
                } else {
                    let keeper = store.status().and_then(|status| status.keeper.clone()).unwrap_or_default();
                    catalogue::Strays::of(*keeper)
                };
                let passed = Phase::Passed {
                    end,
                    summary,
                    report: &report,
                    strays,
                };
                self.report(store, &passed).await
            }
            Err(why) => self.report(store, &Phase::Unreadable { end, summary, why: &why }).await,
        }
    }

    /// Removes the Jobs of this store's passes but for `keep`.
    async fn remove_others(&self, store: &Store, keep: Option<&Key>) -> Result<(), Error> {
        let mut surplus = store.jobs(&self.context.caches, Purpose::Keep);
        surplus.retain(|job| controller(&job.metadata) == store.uid());
        jobs::remove(&self.context, &surplus, keep.map_or(&[], std::slice::from_ref)).await
    }

    async fn report(&self, store: &Store, phase: &Phase<'_>) -> Result<Store, Error> {
        let after = status::status(store, phase, self.context.clock.now());
        store.report(&self.context, &after).await
    }
}

#[cfg(test)]
mod tests;
