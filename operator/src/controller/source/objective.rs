//! How old a source's newest copy may be, and when its next copies come, by its schedules. Pure.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_crds::{BackupSchedule, BackupSource, BackupType, NextTicks};
use holdfast_policy::tick::{CatchUp, Seed, Timetable, derived_rpo, may_start};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::controller::schedule::{Timing, shown, timing};

/// How many ticks of a trigger are shown.
const TICKS: usize = 5;
/// How many ticks are looked at, where exclusions hide most of them.
const LOOKED_AT: usize = 1_000;
/// How many triggers are shown.
const TRIGGERS: usize = 32;

/// The shortest of the objectives that schedules state; where none does, the shortest that their triggers imply. A suspended schedule's
/// counts too: the database is as unprotected as its copies are old, on purpose or not.
pub fn rpo(source: &BackupSource, schedules: &[Arc<BackupSchedule>], now: Timestamp) -> Option<SignedDuration> {
    let stated = schedules.iter().filter_map(|schedule| schedule.spec.objectives.as_ref()?.rpo);
    if let Some(rpo) = stated.min() {
        return Some(rpo.signed());
    }
    let seed = seed(source);
    let derived = schedules.iter().filter_map(|schedule| {
        let timing = timing(schedule).ok()?;
        let triggers = timing.triggers.iter().filter(|trigger| source.spec.lacks(trigger.kind).is_none());
        let crons: Vec<_> = triggers.map(|trigger| trigger.expression.resolve(&seed)).collect();
        let exclusions = (timing.exclusions.as_slice(), timing.catch_up);
        derived_rpo(&crons, &timing.zone, exclusions, schedule.spec.timeout.signed(), now)
    });
    derived.min()
}

/// The longest time between two full copies of the source by each schedule that makes any.
pub fn intervals(source: &BackupSource, schedules: &[Arc<BackupSchedule>], now: Timestamp) -> BTreeMap<String, SignedDuration> {
    let seed = seed(source);
    let interval = |schedule: &Arc<BackupSchedule>| {
        let timing = timing(schedule).ok()?;
        let full = timing.triggers.iter().filter(|trigger| trigger.kind == BackupType::Full);
        let crons: Vec<_> = full.map(|trigger| trigger.expression.resolve(&seed)).collect();
        let exclusions = (timing.exclusions.as_slice(), timing.catch_up);
        let longest = derived_rpo(&crons, &timing.zone, exclusions, SignedDuration::ZERO, now)?;
        Some((schedule.name_any(), longest))
    };
    schedules.iter().filter_map(interval).collect()
}

fn seed(source: &BackupSource) -> Seed {
    Seed::of_source(&source.namespace().unwrap_or_default(), &source.name_any())
}

/// The next ticks by schedule and trigger. Suspended schedules have none.
pub fn next_ticks(source: &BackupSource, schedules: &[Arc<BackupSchedule>], now: Timestamp) -> Vec<NextTicks> {
    let seed = seed(source);
    let mut ticks = Vec::new();
    for schedule in schedules.iter().filter(|schedule| !schedule.spec.suspend) {
        let Ok(timing) = timing(schedule) else { continue };
        for trigger in timing.triggers.iter().filter(|trigger| source.spec.lacks(trigger.kind).is_none()) {
            let timetable = Timetable::new(trigger.expression.resolve(&seed), timing.zone.clone());
            let mut at: Vec<Timestamp> = Vec::new();
            for start in timetable.after(now).take(LOOKED_AT).filter_map(|tick| start(&timing, tick)) {
                if at.last() != Some(&start) {
                    at.push(start);
                }
                if at.len() == TICKS {
                    break;
                }
            }
            ticks.push(NextTicks {
                schedule: schedule.name_any(),
                trigger: trigger.name.to_string(),
                cron: trigger.expression.expanded(&seed),
                time_zone: timing.zone.name().to_owned(),
                at: at.into_iter().map(shown).collect(),
            });
        }
    }
    ticks.truncate(TRIGGERS);
    ticks
}

/// When a tick's run starts: where it lies in an exclusion, at its end, or not at all.
fn start(timing: &Timing, tick: Timestamp) -> Option<Timestamp> {
    let start = may_start(&timing.exclusions, &timing.zone, tick)?;
    (timing.catch_up != CatchUp::Skip || start == tick).then_some(start)
}
