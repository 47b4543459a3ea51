//! Whose turn it is: the runs of one trigger for one source go one after another, in the order of their ticks, and none starts within an
//! exclusion of its schedule.

use std::{collections::HashMap, sync::Arc};

use holdfast_crds::{BackupRun, Reason, Tick};
use holdfast_policy::tick::may_start;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    attempt::Obstacle,
    controller::schedule::{shown, timing},
    watch::{Caches, Key},
};

/// The other runs of the same trigger for the same source that have not ended.
pub fn others(caches: &Caches, run: &BackupRun) -> Vec<Arc<BackupRun>> {
    let Some(tick) = &run.spec.tick else { return Vec::new() };
    let namespace = run.namespace().unwrap_or_default();
    let mut others = caches.runs.by(Caches::RUNS_BY_SOURCE, &namespace, &run.spec.source);
    others.retain(|other| {
        let same = |of: &Tick| of.schedule == tick.schedule && of.trigger == tick.trigger && of.time != tick.time;
        in_flight(other) && other.spec.tick.as_ref().is_some_and(same)
    });
    others
}

/// That the run of a later tick takes this run's place.
pub fn replaced(caches: &Caches, run: &BackupRun) -> Option<String> {
    if !in_flight(run) {
        return None;
    }
    let others = others(caches, run);
    let newest = others
        .iter()
        .filter(|other| time(other) > time(run) && other.spec.tick.as_ref().is_some_and(|tick| tick.replaces))
        .max_by(|a, b| time(a).cmp(time(b)))?;
    Some(format!("replaced by the run {}", newest.name_any()))
}

/// What this run waits for, if it has not begun.
pub fn queued(caches: &Caches, run: &BackupRun) -> Option<Obstacle> {
    let others = others(caches, run);
    let before = others
        .iter()
        .filter(|other| time(other) < time(run))
        .min_by(|a, b| time(a).cmp(time(b)))?;
    let message = format!("waits for the run {} of an earlier tick to end", before.name_any());
    Some(Obstacle::passing(Reason::Queued, message))
}

/// Whether a run has not ended.
pub fn in_flight(run: &BackupRun) -> bool {
    !run.status.as_ref().is_some_and(|status| status.phase.ended())
}

/// Times of one form sort as they follow one another.
fn time(run: &BackupRun) -> &str {
    run.spec.tick.as_ref().map_or("", |tick| tick.time.as_str())
}

/// The exclusions of schedules, each looked at once.
#[derive(Default)]
pub struct Exclusions(HashMap<String, Option<Timestamp>>);

impl Exclusions {
    /// Until when no run of the run's schedule may start, if that is now so. A run that waited for others may be late enough to meet one.
    pub fn of(&mut self, caches: &Caches, run: &BackupRun, now: Timestamp) -> Option<Timestamp> {
        let tick = run.spec.tick.as_ref()?;
        if let Some(known) = self.0.get(&tick.schedule) {
            return *known;
        }
        let namespace = run.namespace().unwrap_or_default();
        let schedule = caches.schedules.get(&Key::new(namespace, tick.schedule.as_str()));
        let timing = schedule.and_then(|schedule| timing(&schedule).ok());
        // Where they never end, what was begun is ended.
        let end = timing.and_then(|timing| may_start(&timing.exclusions, &timing.zone, now));
        let end = end.filter(|end| *end > now);
        self.0.insert(tick.schedule.clone(), end);
        end
    }
}

/// What an exclusion of its schedule makes a run wait for.
pub fn excluded(caches: &Caches, run: &BackupRun, now: Timestamp) -> Option<(Obstacle, Timestamp)> {
    let end = Exclusions::default().of(caches, run, now)?;
    let schedule = run.spec.tick.as_ref().map_or("", |tick| tick.schedule.as_str());
    let message = format!("waits for {}: an exclusion of the schedule {schedule} lasts until then", shown(end));
    Some((Obstacle::passing(Reason::Queued, message), end))
}
