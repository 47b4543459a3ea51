//! What a keeper is told, from the caches, and its Job. Pure.

use holdfast_crds::{
    Accepted, Action, BackupSchedule, BackupSource, BackupType, KEEP_LIMIT, KEEP_TIMEOUT, KeepCut, KeepSchedule, KeepSource, KeepTask,
    Reason, Said, StoreReference,
    document::{Label, RunPath, ScheduleName, Sha256},
    shortest_deletion_delay, whole_seconds,
};
use holdfast_policy::tick::{Seed, longest_interval};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde::Serialize;

use super::counted;
use crate::{
    context::Context,
    controller::{
        compliance::keep_floors,
        disposal::keep_disposals,
        hold::build::{keep_holds, unknown_first},
        schedule::timing,
        store::refusal,
    },
    job::{BuildError, TASK_LIMIT},
    store::Store,
    watch::Caches,
};

/// What of a task may be about all that it lists, in bytes; the rest is for the store.
const LISTS: usize = TASK_LIMIT / 16 * 15;
/// … and what about floors and copies in use. Without one of these a keeper would remove what has to stay: they are told whole, or nothing is
/// removed.
const KEEPING: usize = TASK_LIMIT / 8 * 3;
/// So many sources further than the pass before a pass begins to be told of them: where there are too many, each gets its turn.
const TURN: usize = 100;
/// Why what keeps copies is not told.
const UNTOLD: &str =
    "the copies that restores read, and the namespaces that compliance policies set floors for, are more than a keeper can be told of";
/// The interval that the health gate counts in where no full trigger tells one, in seconds.
const INTERVAL: u64 = 86_400;

/// What the keeper of `store` is told now.
pub fn task(caches: &Caches, store: &Store, now: Timestamp) -> KeepTask {
    task_about(caches, store, now, None, None)
}

/// … of the sources of one namespace, or one of them.
pub fn task_about(caches: &Caches, store: &Store, now: Timestamp, namespace: Option<&str>, source: Option<&str>) -> KeepTask {
    let meant = |of: &str, name: Option<&str>| {
        namespace.is_none_or(|meant| meant == of) && source.is_none_or(|meant| name.is_none_or(|name| meant == name))
    };
    let reference = store.reference();
    let namespaces = store.namespaces(caches);
    // One that may not use the store any more has no say in it: what it left goes on under the rules that are recorded with it. Holds and floors count everywhere.
    let allowed: Vec<&String> = namespaces.iter().filter(|namespace| store.allows(caches, namespace)).collect();
    let schedules = store.schedules(caches);
    let schedules = schedules
        .iter()
        .filter(|schedule| allowed.contains(&&schedule.namespace().unwrap_or_default()));
    let schedules = schedules.filter(|schedule| meant(&schedule.namespace().unwrap_or_default(), None));
    let schedules: Vec<_> = schedules.filter_map(|schedule| keep_schedule(schedule, &reference, now)).collect();
    let sources = allowed.iter().flat_map(|namespace| caches.sources.in_namespace(namespace));
    let mut sources: Vec<_> = sources.filter_map(|source| keep_source(&source, &reference)).collect();
    let keeper = store.status().and_then(|status| status.keeper.clone()).unwrap_or_default();
    counted::tell(&keeper.counted, &mut sources);
    sources.retain(|known| meant(known.namespace.as_str(), Some(known.source.as_str())));
    turn(&mut sources, keeper.number);
    let in_use = namespaces.iter().flat_map(|namespace| caches.restores.in_namespace(namespace));
    let in_use = in_use.filter_map(|restore| {
        let status = restore.status.as_ref().filter(|status| !status.phase.ended())?;
        let frozen = status.frozen.as_ref().filter(|frozen| frozen.store.reference() == reference)?;
        let mut parts = frozen.path.split('/');
        RunPath::new(parts.next()?, parts.next()?, parts.next()?).ok()
    });
    let in_use: Vec<_> = in_use.collect();
    let named: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    let floors = keep_floors(caches, &named);
    let keeping = size(&floors) + size(&in_use);
    let told = keeping <= KEEPING;
    let mut holds = keep_holds(caches, &named, store.meta().namespace.as_deref());
    unknown_first(&mut holds, store.status().and_then(|status| status.holds.as_ref()), now);
    let all = (schedules.len(), sources.len(), holds.len());
    // What is cut off is no loss: nothing is removed of sources that are not told or have copies of schedules that are not; holds go on by
    // their records, disposals wait.
    let room = LISTS - if told { keeping } else { 0 };
    let holds = fitting(holds, room / 7 * 2);
    let disposals = fitting(
        allowed.iter().flat_map(|namespace| keep_disposals(caches, namespace)).collect(),
        room / 7,
    );
    let room = room.saturating_sub(size(&holds) + size(&disposals));
    let schedules = fitting(schedules, room.saturating_sub(size(&sources)).max(room / 2));
    let sources = fitting(sources, room.saturating_sub(size(&schedules)));
    let cut = KeepCut {
        schedules: schedules.len() < all.0,
        sources: sources.len() < all.1,
        counted: keeper.counted.len() >= KEEP_LIMIT,
        holds: holds.len() < all.2,
    };
    KeepTask {
        now: whole_seconds(now),
        read_only: reads_only(store),
        preview: None,
        from: keeper.last_pass.and_then(|pass| pass.summary.stopped_at),
        schedules,
        sources,
        holds,
        floors: if told { floors } else { Vec::new() },
        in_use: if told { in_use } else { Vec::new() },
        untold: (!told).then(|| UNTOLD.to_owned()),
        disposals,
        cut,
    }
}

/// Puts first what people say, and then the others, in their turn by the number of the pass, should there be too many.
fn turn(sources: &mut [KeepSource], pass: i64) {
    let silent = |source: &KeepSource| source.retired.is_none() && source.accepted.is_empty();
    sources.sort_by_key(|source| (silent(source), source.namespace.clone(), source.source.clone()));
    let spoken = sources.partition_point(|source| !silent(source));
    let others = &mut sources[spoken..];
    let (pass, count) = (usize::try_from(pass).unwrap_or(0), others.len().max(1));
    // One further with each round, so that each comes first at some time.
    others.rotate_left((pass.saturating_mul(TURN) + pass / count) % count);
}

/// How many bytes the list has in a task.
fn size<T: Serialize>(list: &[T]) -> usize {
    serde_json::to_string(list).map_or(usize::MAX / 4, |text| text.len())
}

/// The list without what so many bytes have no room for. One that is too large itself keeps no other waiting.
fn fitting<T: Serialize>(mut list: Vec<T>, bytes: usize) -> Vec<T> {
    let mut left = bytes;
    list.retain(|item| {
        let size = serde_json::to_string(item).map_or(usize::MAX, |text| text.len() + 1);
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    list
}

/// Whether the store's place belongs to another cluster.
pub fn reads_only(store: &Store) -> bool {
    refusal(store).is_some_and(|(reason, _)| reason == Reason::StoreForeign)
}

/// Digest of what a task says that makes a pass worthwhile when it changes: not the time, and not what the pass before found.
pub fn told(task: &KeepTask) -> String {
    let mut told = KeepTask {
        now: Timestamp::UNIX_EPOCH,
        in_use: Vec::new(),
        from: None,
        ..task.clone()
    };
    told.sources
        .retain(|source| source.retired.is_some() || !source.accepted.is_empty());
    told.holds.sort_by(|a, b| a.id.cmp(&b.id));
    for source in &mut told.sources {
        (source.copies, source.copies_as_of) = (None, None);
    }
    Sha256::of(&serde_json::to_vec(&told).unwrap_or_default()).to_string()
}

/// The rules of a schedule for one of its stores.
pub fn keep_schedule(schedule: &BackupSchedule, store: &StoreReference, now: Timestamp) -> Option<KeepSchedule> {
    // One that cannot be read keeps the rules that lie with its copies.
    let timing = timing(schedule).ok()?;
    let place = schedule.spec.stores.iter().find(|place| place.reference() == *store)?;
    let mut retention = place.retention.clone().unwrap_or_default();
    retention.deletion_delay = retention.deletion_delay.max(shortest_deletion_delay(schedule.spec.timeout));
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
        retention,
        interval_seconds: interval.unwrap_or(INTERVAL),
    })
}

fn keep_source(source: &BackupSource, store: &StoreReference) -> Option<KeepSource> {
    let entry = source.status.as_ref().and_then(|status| status.in_store(store));
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
    Some(KeepSource {
        namespace: Label::new("namespace", source.namespace()?).ok()?,
        source: Label::new("source", source.name_any()).ok()?,
        copies: entry.and_then(|entry| u64::try_from(entry.expected?).ok()),
        copies_as_of: entry.and_then(|entry| entry.expected_as_of.as_ref()?.parse().ok()),
        retired: source.spec.retire.as_ref().map(|retire| said(&retire.by, &retire.reason)),
        accepted: accepted.collect(),
    })
}

/// The Job `name` of a pass.
pub fn job(context: &Context, store: &Store, name: &str, task: KeepTask) -> Result<Job, BuildError> {
    store.build(context, name, Action::Keep(Box::new(task)), KEEP_TIMEOUT.as_secs().cast_signed())
}
