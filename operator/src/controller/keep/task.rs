//! What a keeper is told, from the caches, and its Job. Pure.

use holdfast_crds::{
    Accepted, Action, BackupSchedule, BackupSource, BackupStore, BackupType, FrozenStore, KEEP_LIMIT, KeepSchedule, KeepSource, KeepTask,
    Reason, Said, StoreKind, TASK_VERSION, Task,
    document::{Label, RunPath, ScheduleName, Sha256},
    whole_seconds,
};
use holdfast_policy::tick::{Seed, longest_interval};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use crate::{
    context::Context,
    controller::{compliance::keep_floors, disposal::keep_disposals, hold::build::keep_holds, schedule::timing, store::refusal},
    job::{BuildError, JobRequest, TASK_LIMIT, build},
    watch::Caches,
};

/// The time that a pass has, in seconds.
const TIMEOUT: i64 = 3_600;
/// What of a task may be about sources, in bytes: the other lists need room too.
const SOURCES: usize = TASK_LIMIT / 2;
/// The interval that the health gate counts in where no full trigger tells one, in seconds.
const INTERVAL: u64 = 86_400;

/// What the keeper of `store` is told now.
pub fn task(caches: &Caches, store: &BackupStore, now: Timestamp) -> KeepTask {
    let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
    let schedules = caches.schedules.by(Caches::SCHEDULES_BY_STORE, &namespace, &name);
    let schedules = schedules.iter().filter_map(|schedule| keep_schedule(schedule, &name, now));
    let mut sources: Vec<_> = caches
        .sources
        .in_namespace(&namespace)
        .iter()
        .filter_map(|source| keep_source(source, &name))
        .collect();
    // What people say comes first, should there be too many.
    sources.sort_by_key(|source| (source.retired.is_none() && source.accepted.is_empty(), source.source.clone()));
    sources.truncate(KEEP_LIMIT);
    while serde_json::to_string(&sources).map_or(0, |text| text.len()) > SOURCES {
        sources.truncate(sources.len() / 2);
    }
    let in_use = caches.restores.in_namespace(&namespace);
    let in_use = in_use.iter().filter_map(|restore| {
        let status = restore.status.as_ref().filter(|status| !status.phase.ended())?;
        let frozen = status.frozen.as_ref().filter(|frozen| frozen.store.name == name)?;
        let mut parts = frozen.path.split('/');
        RunPath::new(parts.next()?, parts.next()?, parts.next()?).ok()
    });
    KeepTask {
        now: whole_seconds(now),
        // A place of another cluster is only read.
        preview: reads_only(store),
        preview_at: None,
        schedules: schedules.take(KEEP_LIMIT).collect(),
        sources,
        holds: keep_holds(caches, &namespace),
        floors: keep_floors(caches, &[&namespace]),
        in_use: in_use.take(KEEP_LIMIT).collect(),
        disposals: keep_disposals(caches, &namespace),
    }
}

/// Whether the store's place belongs to another cluster.
pub fn reads_only(store: &BackupStore) -> bool {
    refusal(store).is_some_and(|(reason, _)| reason == Reason::StoreForeign)
}

/// Digest of what a task says that makes a pass worthwhile when it changes: not the time, and not what the pass before found.
pub fn told(task: &KeepTask) -> String {
    let mut told = KeepTask {
        now: Timestamp::UNIX_EPOCH,
        in_use: Vec::new(),
        ..task.clone()
    };
    told.sources
        .retain(|source| source.retired.is_some() || !source.accepted.is_empty());
    for source in &mut told.sources {
        source.copies = None;
    }
    Sha256::of(&serde_json::to_vec(&told).unwrap_or_default()).to_string()
}

fn keep_schedule(schedule: &BackupSchedule, store: &str, now: Timestamp) -> Option<KeepSchedule> {
    // One that cannot be read keeps the rules that lie with its copies.
    let timing = timing(schedule).ok()?;
    let retention = schedule.spec.stores.iter().find(|place| place.name == store)?.retention.clone();
    let (namespace, name) = (schedule.namespace()?, schedule.name_any());
    let seed = Seed::of_source(&namespace, &name);
    let full = timing.triggers.iter().filter(|trigger| trigger.kind == BackupType::Full);
    let crons: Vec<_> = full.map(|trigger| trigger.expression.resolve(&seed)).collect();
    let interval = longest_interval(&crons, &timing.zone, now).and_then(|interval| u64::try_from(interval.as_secs()).ok());
    Some(KeepSchedule {
        schedule: ScheduleName {
            namespace: Some(namespace),
            name,
        },
        time_zone: timing.zone.name().to_owned(),
        retention: retention.unwrap_or_default(),
        interval_seconds: interval.unwrap_or(INTERVAL),
    })
}

fn keep_source(source: &BackupSource, store: &str) -> Option<KeepSource> {
    let entry = source
        .status
        .as_ref()
        .and_then(|status| status.stores.iter().find(|entry| entry.store == store));
    let said = |who: &str, why: &str| Said {
        who: who.to_owned(),
        why: why.to_owned(),
    };
    let accepted = source.spec.accept.iter().filter_map(|accept| {
        Some(Accepted {
            what: accept.acceptance()?,
            said: said(&accept.by, &accept.reason),
        })
    });
    let source = KeepSource {
        namespace: Label::new("namespace", source.namespace()?).ok()?,
        source: Label::new("source", source.name_any()).ok()?,
        copies: entry.and_then(|entry| u64::try_from(entry.copies).ok()),
        retired: source.spec.retire.as_ref().map(|retire| said(&retire.by, &retire.reason)),
        accepted: accepted.collect(),
    };
    (source.copies.is_some() || source.retired.is_some() || !source.accepted.is_empty()).then_some(source)
}

/// The Job `name` of a pass.
pub fn job(context: &Context, store: &BackupStore, name: &str, task: KeepTask) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: store.namespace().unwrap_or_default(),
        store: FrozenStore {
            kind: StoreKind::BackupStore,
            name: store.name_any(),
            uid: store.uid().unwrap_or_default(),
            spec: store.spec.clone(),
        },
        action: Action::Keep(Box::new(task)),
    };
    build(&JobRequest {
        name,
        owner: store.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: store.spec.job.as_ref(),
        identity_secret: None,
        timeout: TIMEOUT,
    })
}
