//! BackupSource: says whether the database is protected, what its newest copy is and when the next comes. It makes nothing.

mod objective;
mod status;
mod triggers;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use triggers::triggers;

use crate::{
    context::{Context, Error},
    queue::{Next, Reconcile},
    watch::{Caches, Key},
};

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
        let Some(source) = context.caches.sources.get(key) else {
            return Ok(Next::Change);
        };
        let schedules = context.caches.schedules_of(&source);
        let runs = context.caches.runs.by(Caches::RUNS_BY_SOURCE, &key.namespace, &key.name);
        let now = context.clock.now();

        let judged = status::judge(&source, &schedules, &runs, now);
        let before = source.status.clone().unwrap_or_default();
        let written = context.report.status(&context.caches.sources, &*source, &judged.status).await?;
        context
            .report
            .transitions(&written, &before.conditions, &judged.status.conditions)
            .await;
        Ok(wake(judged.changes_after, judged.status.next_tick.as_deref(), now))
    }
}

/// To be called again when the protection ends, and at the next tick, whose time is shown until then.
fn wake(protection: Option<SignedDuration>, next_tick: Option<&str>, now: Timestamp) -> Next {
    let tick = next_tick
        .and_then(|tick| tick.parse::<Timestamp>().ok())
        .map(|tick| tick.duration_since(now));
    let waits = [protection, tick].into_iter().flatten();
    let wait = waits.min().map(|wait| std::time::Duration::try_from(wait).unwrap_or_default());
    wait.map_or(Next::Change, Next::After)
}

#[cfg(test)]
mod tests;
