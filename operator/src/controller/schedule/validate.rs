//! From the schedule's texts to what `holdfast-policy` decides on.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, BackupType, ConcurrencyPolicy, Weekday};
use holdfast_policy::{
    name::{Label, LabelError},
    tick::{
        CatchUp, Concurrency, CronError, Exclusion, ExclusionError, Expression, Schedule, SeenRun, Source, Trigger, Zone, ZoneError,
        leave_time,
    },
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
    #[error("spec.exclusions[{name}].{source}")]
    Exclusion {
        name: String,
        #[source]
        source: ExclusionError,
    },
    #[error("spec.exclusions: {0}")]
    Exclusions(#[source] ExclusionError),
    #[error(
        "spec.catchUp: found All with concurrencyPolicy Replace: each run would replace the one before it; use Latest, or another concurrencyPolicy"
    )]
    ReplaceAll,
}

/// When a schedule fires, whatever its sources.
pub struct Timing {
    pub triggers: Vec<Trigger<BackupType>>,
    pub zone: Zone,
    pub exclusions: Vec<Exclusion>,
    pub catch_up: CatchUp,
}

/// When a schedule fires.
pub fn timing(schedule: &BackupSchedule) -> Result<Timing, Invalid> {
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
    Ok(Timing {
        triggers: triggers.collect::<Result<_, _>>()?,
        zone,
        exclusions: exclusions(schedule)?,
        catch_up: match schedule.spec.catch_up {
            holdfast_crds::CatchUp::Skip => CatchUp::Skip,
            holdfast_crds::CatchUp::Latest => CatchUp::Latest,
            holdfast_crds::CatchUp::All if schedule.spec.concurrency_policy == ConcurrencyPolicy::Replace => {
                return Err(Invalid::ReplaceAll);
            }
            holdfast_crds::CatchUp::All => CatchUp::All,
        },
    })
}

fn exclusions(schedule: &BackupSchedule) -> Result<Vec<Exclusion>, Invalid> {
    let windows = schedule.spec.exclusions.iter().map(|window| {
        let days: Vec<_> = window.days.iter().copied().map(Weekday::number).collect();
        let dates = window.dates.as_ref().map(|dates| (dates.from.as_str(), dates.to.as_str()));
        Exclusion::new(&window.name, &days, &window.from, &window.to, dates).map_err(|source| Invalid::Exclusion {
            name: window.name.clone(),
            source,
        })
    });
    let windows: Vec<_> = windows.collect::<Result<_, _>>()?;
    leave_time(&windows).map_err(Invalid::Exclusions)?;
    Ok(windows)
}

/// What is decided on. `runs` are those of the schedule's ticks.
pub fn plan(schedule: &BackupSchedule, sources: &[Arc<BackupSource>], runs: &[Arc<BackupRun>]) -> Result<Plan, Invalid> {
    let timing = timing(schedule)?;
    let namespace = Label::new(&schedule.namespace().unwrap_or_default()).map_err(Invalid::Name)?;
    let mut by_source: BTreeMap<&str, Vec<SeenRun>> = BTreeMap::new();
    for run in runs {
        by_source.entry(run.spec.source.as_str()).or_default().extend(seen(run));
    }
    let sources = sources.iter().filter_map(|source| {
        // The API server lets no other name pass.
        let name = Label::new(&source.name_any()).ok()?;
        let runs = by_source.remove(name.as_str()).unwrap_or_default();
        let lacks = timing.triggers.iter().filter(|trigger| source.spec.lacks(trigger.kind).is_some());
        let lacks = lacks.map(|trigger| trigger.name.clone()).collect();
        Some(Source {
            namespace: namespace.clone(),
            name,
            created: created(&**source),
            runs,
            lacks,
        })
    });
    Ok(Plan {
        sources: sources.collect(),
        schedule: Schedule {
            name: Label::new(&schedule.name_any()).map_err(Invalid::Name)?,
            created: created(schedule),
            zone: timing.zone,
            suspended: schedule.spec.suspend,
            triggers: timing.triggers,
            catch_up: timing.catch_up,
            starting_deadline: schedule.spec.starting_deadline.map(holdfast_crds::Span::signed),
            concurrency: match schedule.spec.concurrency_policy {
                ConcurrencyPolicy::Forbid => Concurrency::Forbid,
                ConcurrencyPolicy::Queue => Concurrency::Queue,
                ConcurrencyPolicy::Replace => Concurrency::Replace,
            },
            exclusions: timing.exclusions,
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
