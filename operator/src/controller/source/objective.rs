//! How old a source's newest copy may be, and when its next copies come, by its schedules. Pure.

use std::sync::Arc;

use holdfast_crds::{BackupSchedule, NextTicks};
use holdfast_policy::tick::{Seed, Timetable, derived_rpo};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::controller::schedule::{shown, timing};

/// How many ticks of a trigger are shown.
const TICKS: usize = 5;
/// How many triggers are shown.
const TRIGGERS: usize = 32;

/// The shortest of the objectives that schedules state; where none does, the shortest that their triggers imply. A suspended schedule's
/// counts too: the database is as unprotected as its copies are old, on purpose or not.
pub fn rpo(namespace: &str, source: &str, schedules: &[Arc<BackupSchedule>], now: Timestamp) -> Option<SignedDuration> {
    let stated = schedules.iter().filter_map(|schedule| schedule.spec.objectives.as_ref()?.rpo);
    if let Some(rpo) = stated.min() {
        return Some(rpo.signed());
    }
    let seed = Seed::of_source(namespace, source);
    let derived = schedules.iter().filter_map(|schedule| {
        let (triggers, zone) = timing(schedule).ok()?;
        let crons: Vec<_> = triggers.iter().map(|trigger| trigger.expression.resolve(&seed)).collect();
        derived_rpo(&crons, &zone, schedule.spec.timeout.signed(), now)
    });
    derived.min()
}

/// The next ticks by schedule and trigger. Suspended schedules have none.
pub fn next_ticks(namespace: &str, source: &str, schedules: &[Arc<BackupSchedule>], now: Timestamp) -> Vec<NextTicks> {
    let seed = Seed::of_source(namespace, source);
    let mut ticks = Vec::new();
    for schedule in schedules.iter().filter(|schedule| !schedule.spec.suspend) {
        let Ok((triggers, zone)) = timing(schedule) else { continue };
        for trigger in triggers {
            let timetable = Timetable::new(trigger.expression.resolve(&seed), zone.clone());
            ticks.push(NextTicks {
                schedule: schedule.name_any(),
                trigger: trigger.name.to_string(),
                cron: trigger.expression.expanded(&seed),
                time_zone: zone.name().to_owned(),
                at: timetable.after(now).take(TICKS).map(shown).collect(),
            });
        }
    }
    ticks.truncate(TRIGGERS);
    ticks
}
