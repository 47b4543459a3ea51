//! `keep`: looks after a store. It lists what lies there, source by source, records what is kept until when, marks what nothing keeps, and
//! removes what was marked long enough ago. Every decision is made by `holdfast_policy::retention`, from what was read in this pass.

mod act;
pub(super) mod disposal;
pub(super) mod disposing;
pub(super) mod facts;
pub(super) mod holds;
pub(super) mod inventory;
mod leftover;
mod lock;
pub mod preview;
pub(super) mod read;
pub(super) mod removal;
mod remove;
pub(super) mod report;
mod seals;
mod show;
mod source;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_crds::document::Label;
use holdfast_crds::{AgentResult, DisposalReport, KEEP_TIMEOUT, KeepLine, KeepTask, Reason, SHORTEST_LOCK_AT_WRITE, Span, StoreRole};
use holdfast_policy::retention::{time_for_deleting, time_for_locks};
use jiff::{SignedDuration, Timestamp};

pub use self::preview::KeepArgs;

use self::act::Hand;
use self::holds::{Held, Holds};
use self::inventory::{Found, Inventory};
use self::report::Report;
use super::place;
use crate::config::Invocation;
use crate::result::{Failure, plain};
use crate::store::{OwnerError, Patience, Store, StorePath};

/// Uploads that were begun so long ago and never ended are aborted.
const UPLOAD_AGE: Duration = Duration::from_hours(7 * 24);

/// Looks after the task's store, or tells what a pass would do.
pub async fn run(invocation: &Invocation, task: &KeepTask) -> Result<AgentResult, Failure> {
    let report = match &task.preview {
        None => Report::to_stdout(),
        Some(_) => Report::to_stdout().previewing(Box::new(show::Table::default())),
    };
    run_reporting(invocation, task, report).await
}

async fn run_reporting(invocation: &Invocation, task: &KeepTask, report: Report) -> Result<AgentResult, Failure> {
    let (doing, roles) = match &task.preview {
        None => ("keep", (StoreRole::Keeper, StoreRole::Pruner)),
        Some(_) => ("preview", (StoreRole::Reader, StoreRole::Reader)),
    };
    invocation.progress.enter(doing, &invocation.task.store.name);
    let store = place::open_as(invocation, Patience::RUN, roles.0)?;
    let pruner = place::open_as(invocation, Patience::RUN, roles.1)?;
    tokio::select! {
        kept = run_with(invocation, task, (&store, &pruner), Timestamp::now, report) => kept,
        () = invocation.cancel.cancelled() => Err(Failure::new(Reason::Interrupted, "the keeper was asked to stop; the next pass goes on where it was")),
    }
}

/// Looks after an open store, which the second handle deletes from, with `our_clock` as the clock that is not the store's.
pub async fn run_with(
    invocation: &Invocation,
    task: &KeepTask,
    stores: (&Store, &Store),
    our_clock: impl FnOnce() -> Timestamp,
    report: Report,
) -> Result<AgentResult, Failure> {
    let mut pass = Pass::begin(invocation, task, stores, our_clock, report).await?;
    let store = pass.store;
    let inventories = match &task.preview {
        None => Inventory::beginning_with(store, task.from.as_deref())?,
        Some(only) => vec![Inventory::within(store, only.namespace.as_ref(), only.source.as_ref())?],
    };
    for mut inventory in inventories {
        while let Some(found) = inventory.next().await? {
            match found {
                Found::Source(folder) => pass.source(*folder).await?,
                Found::Foreign(names) => pass.foreign(&names),
            }
        }
    }
    if task.preview.is_none() {
        pass.vanished();
    }
    pass.seal(invocation).await?;
    Ok(pass.end().await)
}

/// One pass.
struct Pass<'a> {
    task: &'a KeepTask,
    store: &'a Store,
    pruner: &'a Store,
    /// Absent where the store is only read: in previews, and where another cluster owns it.
    hand: Option<Arc<Hand>>,
    /// Whether anything is recorded or removed for sources.
    acts: bool,
    /// Whether the store has locks.
    locks: bool,
    /// Why that cannot be told: then nothing is removed.
    locks_unknown: Option<String>,
    /// The time for deleting.
    now: Timestamp,
    /// The time from which locks are counted.
    lock_time: Timestamp,
    /// How many objects were asked for locks that no record tells.
    asked: usize,
    /// The store's time when the pass began.
    began: Timestamp,
    holds: Holds,
    seals: seals::Seals,
    report: Report,
    /// The source that the pass is at, as `<namespace>/<source>`.
    at: String,
    /// The sources that were listed, as `<namespace>/<source>`.
    seen: HashSet<String>,
    /// What each hold holds.
    held: BTreeMap<Label, Held>,
    /// How far each disposal is, by `<namespace>/<name>`.
    disposals: BTreeMap<String, DisposalReport>,
}

impl<'a> Pass<'a> {
    async fn begin(
        invocation: &Invocation,
        task: &'a KeepTask,
        (store, pruner): (&'a Store, &'a Store),
        our_clock: impl FnOnce() -> Timestamp,
        mut report: Report,
    ) -> Result<Self, Failure> {
        // The first answer also tells the store's time.
        let owner = store.owner().await.map_err(|error| owner_failure(&error))?;
        let our_clock = our_clock();
        let mut holds = Holds::read(store).await?;
        let started = store
            .now()
            .ok_or_else(|| Failure::new(Reason::StoreUnsafe, "the store's answers have no Date: no pass is possible"))?;
        let holder = invocation.task.store.holder(&invocation.task.namespace);
        let hand = if task.read_only || task.preview.is_some() {
            None
        } else {
            match store.claim(&invocation.task.cluster, &holder).await {
                Ok(pinned) => Some(Arc::new(Hand::new(
                    store.clone(),
                    pruner.clone(),
                    invocation.pod.clone(),
                    pinned,
                    started,
                ))),
                Err(error @ OwnerError::Foreign { .. }) => {
                    report.note(format!("{error}: the store is only read"));
                    report.finding(Reason::StoreForeign, None, error.to_string());
                    None
                }
                Err(error) => return Err(owner_failure(&error)),
            }
        };
        let epoch = hand.as_ref().map(|hand| hand.epoch()).or(owner.map(|owner| owner.epoch()));
        report.summary.epoch = epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0);
        report.summary.started_at = started.to_string();
        report.summary.cut = task.cut.clone();
        if let Some(untold) = &task.untold {
            report.note(format!("{untold}: nothing is removed"));
        }
        if task.cut.sources || task.cut.schedules {
            report.note("there are more sources or schedules than a keeper can be told of: nothing is removed of those that are not told");
        }
        let mut acts = hand.is_some();
        let seals = seals::Seals::read(invocation, acts, &mut report)?;
        // A volume has no clock but the time at which the Job was made: its pod may have waited since.
        let waited = match &invocation.task.store.spec.volume {
            Some(_) => SignedDuration::try_from(KEEP_TIMEOUT).unwrap_or(SignedDuration::ZERO),
            None => SignedDuration::ZERO,
        };
        let now = match time_for_deleting(our_clock, started, waited) {
            Ok(now) => now,
            Err(problem) => {
                report.finding(Reason::ClockSkew, None, problem);
                acts = false;
                our_clock.min(started)
            }
        };
        if let Some(hand) = &hand {
            holds.record(hand, &task.holds).await?;
        }
        // A reader may not ask for locks: a preview goes by what keepers recorded of them.
        let supported = if task.preview.is_some() {
            holds.suppose(&task.holds, &invocation.pod, started);
            Ok(false)
        } else {
            store.supports_locks().await
        };
        let (locks, locks_unknown) = match supported {
            Ok(locks) => (locks, None),
            Err(error) => {
                let problem = format!("whether the bucket has Object Lock cannot be told: {error}");
                report.finding(
                    Reason::LockRefused,
                    None,
                    format!("{problem}; nothing is removed, locked or held in the store"),
                );
                (false, Some(problem))
            }
        };
        Ok(Self {
            task,
            store,
            pruner,
            hand,
            acts,
            locks,
            locks_unknown,
            now,
            lock_time: time_for_locks(our_clock, started),
            asked: 0,
            began: started,
            holds,
            seals,
            report,
            at: String::new(),
            seen: HashSet::new(),
            held: BTreeMap::new(),
            disposals: Self::unstarted(task),
        })
    }

    fn foreign(&mut self, names: &[String]) {
        for name in names {
            let message = format!("{name} is nothing that Holdfast writes; it is left alone");
            self.report.finding(Reason::ForeignObject, None, message);
        }
    }

    async fn end(mut self) -> AgentResult {
        if self.acts
            && let Ok(data) = "data".parse::<StorePath>()
        {
            match self.pruner.abort_leftovers(&data, UPLOAD_AGE).await {
                Ok(0) => {}
                Ok(aborted) => tracing::info!(aborted, "uploads that nobody ended were aborted"),
                Err(error) => self.report.note(format!(
                    "old uploads cannot be listed ({error}); let a lifecycle rule of the bucket abort them"
                )),
            }
        }
        if !self.locks && self.locks_unknown.is_none() && !self.held.is_empty() && self.task.preview.is_none() {
            self.report
                .note("the bucket has no legal holds: only Holdfast keeps what is held from being removed");
        }
        if let Some(short) = self
            .store
            .backend()
            .write_lock()
            .filter(|lock| lock.length < SHORTEST_LOCK_AT_WRITE.std())
        {
            self.report.note(format!(
                "objectLock.atWrite is {}: locks of new copies may end before a pass extends them, which comes once a day; make it {SHORTEST_LOCK_AT_WRITE} or longer",
                Span::from_seconds(short.length.as_secs())
            ));
        }
        self.holds.report(&self.task.holds, &self.held, self.now, &mut self.report);
        for report in std::mem::take(&mut self.disposals).into_values() {
            self.report.line(&KeepLine::Disposal(report));
        }
        let summary = self.report.finish();
        let message = match &summary.preview {
            Some(counts) => preview::told(&summary, counts, self.task),
            None => format!(
                "{} copies of {} sources, {} held, {} marked, {} removed, {} sources blocked, {} findings",
                summary.copies, summary.sources, summary.held, summary.marked, summary.removed, summary.blocked, summary.findings
            ),
        };
        AgentResult {
            kept: Some(summary),
            ..plain(Reason::Succeeded, message)
        }
    }
}

fn owner_failure(error: &OwnerError) -> Failure {
    Failure::new(error.reason(), error.to_string())
}
