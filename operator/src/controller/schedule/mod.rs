//! BackupSchedule: makes a run for each tick of each source, exactly once, and says how they went.

mod apply;
mod build;
mod status;
mod triggers;
mod validate;

use std::sync::Arc;

use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, Reason, ScheduleStore};
use holdfast_policy::tick::{Decision, Schedule, decide};
use jiff::Timestamp;
use kube::ResourceExt;

pub use triggers::triggers;
pub use validate::{Plan, Timing, created, plan, timing};

use crate::{
    context::{Context, Error},
    controller::{
        history,
        stores::{choose, unusable},
    },
    queue::{Next, Reconcile},
    watch::{Caches, Key},
};

/// The controller of BackupSchedules.
pub struct ScheduleController {
    context: Arc<Context>,
}

/// What a schedule refers to, as the caches know it.
struct References {
    sources: Vec<Arc<BackupSource>>,
    /// Names that it lists and that do not exist.
    missing: Vec<String>,
    /// Whether runs have a store to write to, or why they have none.
    writable: Result<(), (Reason, String)>,
    /// A store that cannot be written to while another can.
    without: Option<(Reason, String)>,
    /// Runs of its ticks.
    runs: Vec<Arc<BackupRun>>,
}

impl ScheduleController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    fn dereference(&self, schedule: &BackupSchedule) -> References {
        let caches = &self.context.caches;
        let namespace = schedule.namespace().unwrap_or_default();
        let (sources, missing) = caches.selected(schedule);
        let stores: Vec<_> = schedule.spec.stores.iter().map(ScheduleStore::reference).collect();
        References {
            sources,
            missing,
            writable: choose(caches, &namespace, &stores).map(|_| ()),
            without: stores.iter().find_map(|store| unusable(caches, &namespace, store)),
            runs: caches.runs.by(Caches::RUNS_BY_SCHEDULE, &namespace, &schedule.name_any()),
        }
    }
}

impl Reconcile for ScheduleController {
    const KIND: &'static str = "BackupSchedule";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(schedule) = context.caches.schedules.get(key) else {
            return Ok(Next::Change);
        };
        let references = self.dereference(&schedule);
        let now = context.clock.now();

        let plan = plan(&schedule, &references.sources, &references.runs);
        let obstacle = status::obstacle(&plan, &references.writable);
        let (decision, made) = match &plan {
            Ok(plan) => {
                let progress = status::progress(schedule.status.as_ref());
                let decision = decide(&plan.schedule, &plan.sources, &progress, now);
                let made = match obstacle {
                    Some(_) => apply::Made::default(),
                    None => apply::fire(context, &schedule, &decision.fire).await,
                };
                (Some(decision), made)
            }
            Err(_) => (None, apply::Made::default()),
        };

        // Runs that were just made are in the cache.
        let runs = context
            .caches
            .runs
            .by(Caches::RUNS_BY_SCHEDULE, &key.namespace, &schedule.name_any());
        let found = status::Found {
            sources: &references.sources,
            missing: &references.missing,
            without: references.without.as_ref(),
            runs: &runs,
            obstacle: obstacle.as_ref(),
            decision: decision.as_ref(),
            made: &made,
        };
        let before = schedule.status.clone().unwrap_or_default();
        let after = status::status(&schedule, &found, now);
        let written = context.report.status(&context.caches.schedules, &*schedule, &after).await?;
        context.report.transitions(&written, &before.conditions, &after.conditions).await;
        if let (Ok(plan), Some(decision), None, None) = (&plan, &decision, &obstacle, &made.failed) {
            tell(context, &written, decision, &plan.schedule).await;
        }

        let history = history::surplus(&runs, &schedule.spec.history, |_| false, now);
        let rest = history::delete(context, &context.caches.runs, &history.surplus).await?;
        if let Some(error) = made.failed {
            return Err(error);
        }
        let tick = wake(decision.as_ref());
        Ok(tick.or(history.again(context)).or(rest))
    }
}

/// When to look again by itself: at the next tick, and not before.
fn wake<K>(decision: Option<&Decision<'_, K>>) -> Next {
    let wait = decision.and_then(|decision| decision.wake_after);
    wait.and_then(|wait| wait.try_into().ok()).map_or(Next::Change, Next::After)
}

/// Events about ticks that got no run and about clocks, once: they are told with the watermark that passes them.
async fn tell<K>(context: &Context, schedule: &BackupSchedule, decision: &Decision<'_, K>, rules: &Schedule<K>) {
    for (reason, note) in status::notes(decision, rules) {
        let action = if reason == Reason::ClockWasWrong { "Clock" } else { "Tick" };
        context.report.event(schedule, reason, action, &note).await;
    }
}

/// A time as statuses show it: RFC 3339 in UTC, whole seconds.
pub fn shown(time: Timestamp) -> String {
    holdfast_crds::whole_seconds(time).to_string()
}

#[cfg(test)]
mod tests;
