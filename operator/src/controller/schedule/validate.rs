//! From the schedule's texts to what `holdfast-policy` decides on.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, BackupType};
use holdfast_policy::{
    name::{Label, LabelError},
    tick::{CronError, Expression, Schedule, SeenRun, Source, Trigger, Zone, ZoneError},
};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

/// A schedule that can be worked with.
pub struct Plan {
    pub schedule: Schedule<BackupType>,
    pub sources: Vec<Source>,
}

/// Why a schedule cannot be worked with. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("metadata.name: {0}")]
    Name(#[source] LabelError),
    #[error("spec.triggers[{index}].name: {source}")]
    TriggerName {
        index: usize,
        #[source]
        source: LabelError,
    },
    #[error("spec.triggers[{name}].cron: {source}")]
    Cron {
        name: String,
        #[source]
        source: Box<CronError>,
    },
    #[error("spec.timeZone: {0}")]
    TimeZone(#[source] ZoneError),
}

/// The triggers and the zone of a schedule.
pub fn timing(schedule: &BackupSchedule) -> Result<(Vec<Trigger<BackupType>>, Zone), Invalid> {
    let zone = Zone::named(&schedule.spec.time_zone).map_err(Invalid::TimeZone)?;
    let triggers = schedule.spec.triggers.iter().enumerate().map(|(index, trigger)| {
        Ok(Trigger {
            name: Label::trigger(&trigger.name).map_err(|source| Invalid::TriggerName { index, source })?,
            kind: trigger.type_,
            expression: trigger.cron.parse::<Expression>().map_err(|source| Invalid::Cron {
                name: trigger.name.clone(),
                source: Box::new(source),
            })?,
        })
    });
    Ok((triggers.collect::<Result<_, _>>()?, zone))
}

/// What is decided on. `runs` are those of the schedule's ticks.
pub fn plan(schedule: &BackupSchedule, sources: &[Arc<BackupSource>], runs: &[Arc<BackupRun>]) -> Result<Plan, Invalid> {
    let (triggers, zone) = timing(schedule)?;
    let namespace = Label::new(&schedule.namespace().unwrap_or_default()).map_err(Invalid::Name)?;
    let mut by_source: BTreeMap<&str, Vec<SeenRun>> = BTreeMap::new();
    for run in runs {
        by_source.entry(run.spec.source.as_str()).or_default().extend(seen(run));
    }
    let sources = sources.iter().filter_map(|source| {
        // The API server lets no other name pass.
        let name = Label::new(&source.name_any()).ok()?;
        let runs = by_source.remove(name.as_str()).unwrap_or_default();
        Some(Source {
            namespace: namespace.clone(),
            name,
            created: created(&**source),
            runs,
        })
    });
    Ok(Plan {
        sources: sources.collect(),
        schedule: Schedule {
            name: Label::new(&schedule.name_any()).map_err(Invalid::Name)?,
            created: created(schedule),
            zone,
            suspended: schedule.spec.suspend,
            triggers,
        },
    })
}

fn seen(run: &BackupRun) -> Option<SeenRun> {
    let tick = run.spec.tick.as_ref()?;
    Some(SeenRun {
        trigger: tick.trigger.clone(),
        tick: tick.time.parse().ok()?,
        in_flight: !run.status.as_ref().is_some_and(|status| status.phase.ended()),
    })
}

/// When an object was created; the API server always says it.
pub fn created<K: Resource>(object: &K) -> Timestamp {
    object
        .meta()
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
