//! What is remembered of a run that has ended: fifty thousand of them are to fit beside everything else. Whoever needs more reads the object.

use holdfast_crds::{
    Attempt, BackupRun, BackupRunSpec, BackupRunStatus, BackupType, Class, CopySummary, Reason, ReplicaState, RunInStore, RunPhase,
    ScheduleReference, Span, StoreKind, StoreReference, StoreUse, Tick,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::{Key, cache::Packing};

/// How ended runs are held in their cache.
pub const PACKING: Packing<BackupRun> = Packing { pack, unpack };

/// Whether nothing more comes of a run by itself. One whose outcome is unknown is asked about again.
pub fn has_ended(run: &BackupRun) -> bool {
    let status = run.status.as_ref();
    status.is_some_and(|status| status.phase.ended() && status.reason != Some(Reason::OutcomeUnknown))
}

/// Whether the status of a run that has ended is about its specification as it is now.
pub fn is_settled(run: &BackupRun) -> bool {
    let observed = run.status.as_ref().and_then(|status| status.observed_generation);
    has_ended(run) && observed == run.metadata.generation
}

#[derive(Serialize, Deserialize)]
struct Ended {
    #[serde(rename = "u")]
    uid: Option<String>,
    #[serde(rename = "v")]
    resource_version: Option<String>,
    #[serde(rename = "g")]
    generation: Option<i64>,
    #[serde(rename = "o")]
    observed_generation: Option<i64>,
    #[serde(rename = "c")]
    created: Option<Timestamp>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(rename = "s")]
    source: String,
    #[serde(rename = "y")]
    type_: BackupType,
    #[serde(rename = "t")]
    store: Option<String>,
    #[serde(rename = "i", default, skip_serializing_if = "StoreKind::is_own")]
    store_kind: StoreKind,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleReference>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    keep_for: Option<Span>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    tick: Option<Tick>,
    #[serde(rename = "p")]
    phase: RunPhase,
    #[serde(rename = "r")]
    reason: Option<Reason>,
    #[serde(rename = "b")]
    start_time: Option<String>,
    #[serde(rename = "e")]
    completion_time: Option<String>,
    #[serde(rename = "a")]
    attempts: Vec<EndedAttempt>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    copy: Option<EndedCopy>,
    /// Where there are several.
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    stores: Vec<EndedStore>,
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    required_copies: Option<i32>,
}

/// What one of several stores has of it.
#[derive(Serialize, Deserialize)]
struct EndedStore {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "k", default, skip_serializing_if = "StoreKind::is_own")]
    kind: StoreKind,
    #[serde(rename = "s")]
    state: ReplicaState,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// Only of what a person has to look into.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    copied_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EndedAttempt {
    #[serde(rename = "n")]
    number: i32,
    #[serde(rename = "j")]
    job: String,
    #[serde(rename = "f")]
    finished_at: Option<String>,
    #[serde(rename = "r")]
    reason: Option<Reason>,
    /// Only of failures that a store's conditions show.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct EndedCopy {
    #[serde(rename = "p")]
    path: String,
    #[serde(rename = "t")]
    recovery_point: String,
    #[serde(rename = "b")]
    stored_bytes: i64,
    /// Whether its structure was not checked.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    unproven: bool,
}

fn pack(run: &BackupRun) -> Option<Vec<u8>> {
    let status = run.status.as_ref().filter(|_| has_ended(run))?;
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    let meta = &run.metadata;
    let attempts = status.attempts.iter().map(|attempt| EndedAttempt {
        number: attempt.number,
        job: attempt.job.clone(),
        finished_at: attempt.finished_at.clone(),
        reason: attempt.reason,
        message: attempt
            .message
            .clone()
            .filter(|_| attempt.reason.is_some_and(Reason::is_about_the_store)),
    });
    let ended = Ended {
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        generation: meta.generation,
        observed_generation: status.observed_generation,
        created: time(&meta.creation_timestamp),
        deleted: time(&meta.deletion_timestamp),
        source: run.spec.source.clone(),
        type_: run.spec.type_,
        store_kind: run.store().map(|store| store.kind).unwrap_or_default(),
        store: run.store().map(|store| store.name),
        schedule: run.spec.schedule.clone(),
        keep_for: run.spec.keep_for,
        tick: run.spec.tick.clone(),
        phase: status.phase,
        reason: status.reason,
        start_time: status.start_time.clone(),
        completion_time: status.completion_time.clone(),
        attempts: attempts.collect(),
        copy: status.copy.as_ref().map(|copy| EndedCopy {
            path: copy.path.clone(),
            recovery_point: copy.recovery_point.clone(),
            stored_bytes: copy.stored_bytes,
            unproven: !copy.structure_checked,
        }),
        stores: if status.stores.len() > 1 {
            status.stores.iter().map(stored).collect()
        } else {
            Vec::new()
        },
        required_copies: status.required_copies,
    };
    serde_json::to_vec(&ended).ok()
}

fn stored(place: &RunInStore) -> EndedStore {
    EndedStore {
        name: place.name.clone(),
        kind: place.kind,
        state: place.state,
        reason: place.reason,
        message: place
            .message
            .clone()
            .filter(|_| place.reason.is_some_and(|reason| reason.class() != Class::Fine)),
        copied_at: place.copied_at.clone(),
    }
}

fn unpack(key: &Key, bytes: &[u8]) -> BackupRun {
    let ended: Ended = serde_json::from_slice(bytes).expect("it was written by `pack` in this process");
    let attempts = ended.attempts.into_iter().map(|attempt| Attempt {
        number: attempt.number,
        job: attempt.job,
        started_at: String::new(),
        not_after: String::new(),
        job_uid: None,
        finished_at: attempt.finished_at,
        reason: attempt.reason,
        message: attempt.message,
        ran: true,
    });
    let copy = ended.copy.map(|copy| CopySummary {
        path: copy.path,
        recovery_point: copy.recovery_point,
        raw_bytes: 0,
        stored_bytes: copy.stored_bytes,
        parts: 0,
        databases: 0,
        database_names: Vec::new(),
        tables: 0,
        rows: None,
        structure_checked: !copy.unproven,
        manifest_digest: String::new(),
        version_id: None,
        engine: None,
        notes: Vec::new(),
    });
    let stores = ended.stores.into_iter().enumerate().map(|(place, store)| RunInStore {
        name: store.name,
        kind: store.kind,
        role: if place == 0 { StoreUse::Primary } else { StoreUse::Copy },
        state: store.state,
        reason: store.reason,
        message: store.message,
        bytes: None,
        copied_at: store.copied_at,
        version_id: None,
    });
    BackupRun {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: ended.uid,
            resource_version: ended.resource_version,
            generation: ended.generation,
            creation_timestamp: ended.created.map(Time),
            deletion_timestamp: ended.deleted.map(Time),
            ..ObjectMeta::default()
        },
        spec: BackupRunSpec {
            source: ended.source,
            type_: ended.type_,
            stores: ended
                .store
                .into_iter()
                .map(|name| StoreReference {
                    name,
                    kind: ended.store_kind,
                })
                .collect(),
            required_copies: None,
            schedule: ended.schedule,
            keep_for: ended.keep_for,
            attempts: None,
            timeout: None,
            cancel: false,
            tick: ended.tick,
        },
        status: Some(BackupRunStatus {
            observed_generation: ended.observed_generation,
            phase: ended.phase,
            reason: ended.reason,
            start_time: ended.start_time,
            completion_time: ended.completion_time,
            attempts: attempts.collect(),
            copy,
            stores: stores.collect(),
            required_copies: ended.required_copies,
            ..BackupRunStatus::default()
        }),
    }
}
