//! The run of a tick.

use std::collections::BTreeMap;

use holdfast_crds::{BackupRun, BackupRunSpec, BackupSchedule, BackupType, ConcurrencyPolicy, Tick};
use holdfast_policy::tick::Firing;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::shown;
use crate::job::{MANAGED_BY, MANAGER, SOURCE};

/// Label of a run with the name of its schedule.
pub const SCHEDULE_LABEL: &str = "holdfast.dev/schedule";

/// The run that a tick makes. It has no owner: it outlives its schedule, as its copy does.
pub fn run(schedule: &BackupSchedule, firing: &Firing<'_, BackupType>) -> BackupRun {
    let source = firing.source.name.to_string();
    let (stores, required_copies) = schedule.spec.stores_for(firing.trigger.kind);
    BackupRun {
        metadata: ObjectMeta {
            name: Some(firing.run.clone()),
            namespace: schedule.namespace(),
            labels: Some(BTreeMap::from([
                (MANAGED_BY.to_owned(), MANAGER.to_owned()),
                (SCHEDULE_LABEL.to_owned(), schedule.name_any()),
                (SOURCE.to_owned(), source.clone()),
            ])),
            ..ObjectMeta::default()
        },
        spec: BackupRunSpec {
            source,
            type_: firing.trigger.kind,
            stores,
            required_copies,
            schedule: None,
            keep_for: None,
            attempts: Some(schedule.spec.attempts),
            timeout: Some(schedule.spec.timeout),
            cancel: false,
            tick: Some(Tick {
                schedule: schedule.name_any(),
                trigger: firing.trigger.name.to_string(),
                time: shown(firing.tick),
                generation: schedule.metadata.generation.unwrap_or_default(),
                policy_digest: Some(schedule.spec.policy_digest().to_string()),
                replaces: schedule.spec.concurrency_policy == ConcurrencyPolicy::Replace,
            }),
        },
        status: None,
    }
}

/// Whether a run that exists under the name is the one that this tick makes.
pub fn same_tick(existing: &BackupRun, wanted: &BackupRun) -> bool {
    let of = |run: &BackupRun| {
        let tick = run.spec.tick.clone()?;
        Some((run.spec.source.clone(), tick.schedule, tick.trigger, tick.time))
    };
    of(wanted).is_some() && of(existing) == of(wanted)
}
