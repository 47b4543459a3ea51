//! BackupSource: says whether the database is protected, what its newest copy is and when the next comes. It makes nothing.

mod catalogue;
mod objective;
mod replicated;
mod status;
mod triggers;

use std::{collections::BTreeSet, sync::Arc};

use holdfast_crds::{BackupRun, BackupSource, RunHistory, ScheduleStore};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

pub use catalogue::{APART, committed, to_be_seen};
pub use triggers::{listen_to_schedules, triggers};

use crate::{
    context::{Context, Error},
    controller::{compliance::policies_of, history},
    queue::{Next, Reconcile},
    watch::{Caches, Key},
};

/// A tick that has passed is shown as the next for so long.
const PASSED_FOR: SignedDuration = SignedDuration::from_mins(1);

/// The controller of BackupSources.
pub struct SourceController {
    context: Arc<Context>,
}

impl SourceController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

impl Reconcile for SourceController {
    const KIND: &'static str = "BackupSource";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let runs = context.caches.runs.by(Caches::RUNS_BY_SOURCE, &key.namespace, &key.name);
        let Some(source) = context.caches.sources.get(key) else {
            return forget(context, &runs).await;
        };
        let now = context.clock.now();
        let known = known(context, &source, runs.clone());

        let judged = status::judge(&source, &known, now);
        let before = source.status.clone().unwrap_or_default();
        let written = context.report.status(&context.caches.sources, &*source, &judged.status).await?;
        context
            .report
            .transitions(&written, &before.conditions, &judged.status.conditions)
            .await;
        // By now the status says what they said.
        let history = forget(context, &runs).await?;
        Ok(wake(judged.changes_after, judged.status.next_tick.as_deref(), now).or(history))
    }
}

fn known(context: &Context, source: &BackupSource, runs: Vec<Arc<BackupRun>>) -> status::Known {
    let namespace = source.namespace().unwrap_or_default();
    let schedules = context.caches.schedules_of(source);
    let named: BTreeSet<_> = schedules
        .iter()
        .flat_map(|schedule| &schedule.spec.stores)
        .map(ScheduleStore::reference)
        .collect();
    let stores = named
        .iter()
        .filter_map(|reference| context.caches.named_store(&namespace, reference));
    status::Known {
        stores: stores.collect(),
        schedules,
        runs,
        policies: policies_of(&context.caches, &namespace),
    }
}

/// Deletes the objects of old runs of which no schedule keeps the history: those by hand, and those whose schedule is gone. The latter
/// stay for a while whatever their end, because a schedule may come back.
async fn forget(context: &Context, runs: &[Arc<BackupRun>]) -> Result<Next, Error> {
    let schedules = &context.caches.schedules;
    let schedule = |run: &BackupRun| {
        let tick = run.spec.tick.as_ref()?;
        Some(Key::new(run.namespace().unwrap_or_default(), tick.schedule.as_str()))
    };
    let kept_elsewhere = |key: &Key| schedules.get(key).is_some() || schedules.unreadable(key).is_some();
    let own: Vec<_> = runs
        .iter()
        .filter(|run| !schedule(run).is_some_and(|key| kept_elsewhere(&key)))
        .cloned()
        .collect();
    let limits = RunHistory::default();
    let history = history::surplus(&own, &limits, |run| run.spec.tick.is_some(), context.clock.now());
    let rest = history::delete(context, &context.caches.runs, &history.surplus).await?;
    Ok(rest.or(history.again(context)))
}

/// To be called again when the protection ends, and some time after the next tick, whose time is shown until then: a run that has ended by then
/// is told with the same write.
fn wake(protection: Option<SignedDuration>, next_tick: Option<&str>, now: Timestamp) -> Next {
    let tick = next_tick
        .and_then(|tick| tick.parse::<Timestamp>().ok())
        .map(|tick| tick.duration_since(now).saturating_add(PASSED_FOR));
    let waits = [protection, tick].into_iter().flatten();
    let wait = waits.min().map(|wait| std::time::Duration::try_from(wait).unwrap_or_default());
    wait.map_or(Next::Change, Next::After)
}

#[cfg(test)]
mod tests;
