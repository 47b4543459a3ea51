//! What a run's status says.

use holdfast_crds::{
    BackupRun, BackupRunStatus, ConditionType, MESSAGE_LIMIT, ReplicaState, RunInStore, RunPhase, StoreReference, StoreUse, conditions,
    replicated, shortened, stores_column,
};
use jiff::Timestamp;

use super::dereference::Known;
use crate::{
    attempt::{Course, Plan},
    controller::carry_out::status::{duration, findings},
};

/// What the status remembers of the run's course.
pub fn course(run: &BackupRun) -> Course {
    let status = run.status.clone().unwrap_or_default();
    Course {
        phase: status.phase,
        reason: status.reason,
        message: status.message,
        attempts: status.attempts,
        settle: status.settle,
        start_time: status.start_time,
        completion_time: status.completion_time,
    }
}

/// The status to be written.
pub fn status(run: &BackupRun, known: Option<&Known>, plan: &Plan, now: Timestamp) -> BackupRunStatus {
    let before = run.status.clone().unwrap_or_default();
    let course = plan.course.clone();
    let begun = known.filter(|_| !course.attempts.is_empty() || course.settle.is_some());
    let frozen = before.frozen.clone().or_else(|| begun.map(|known| known.frozen.clone()));
    let copy = plan.found.as_ref().and_then(|result| result.copy.clone()).or(before.copy.clone());
    let findings = findings(course.phase, course.reason, course.message.as_deref());
    let (mut stores, required_copies) = match begun {
        Some(known) if before.stores.is_empty() => (awaited(&known.stores), known.required_copies),
        _ => (before.stores.clone(), before.required_copies),
    };
    if let (Some(copy), Some(primary)) = (&copy, stores.first_mut().filter(|_| course.phase == RunPhase::Succeeded))
        && !primary.state.is_there()
    {
        *primary = RunInStore {
            state: ReplicaState::Present,
            reason: None,
            message: None,
            bytes: Some(copy.stored_bytes),
            copied_at: course.completion_time.clone(),
            version_id: copy.version_id.clone(),
            ..primary.clone()
        };
    }
    let status = BackupRunStatus {
        observed_generation: run.metadata.generation,
        phase: course.phase,
        reason: course.reason,
        message: course.message.as_deref().map(|message| shortened(message, MESSAGE_LIMIT)),
        conditions: conditions(&before.conditions, &findings, run.metadata.generation, now),
        frozen,
        size: copy.as_ref().map(|copy| size(copy.stored_bytes)),
        duration: duration(course.start_time.as_deref(), course.completion_time.as_deref()),
        attempts: course.attempts,
        settle: course.settle,
        start_time: course.start_time,
        completion_time: course.completion_time,
        copy,
        required_copies,
        ..BackupRunStatus::default()
    };
    with_stores(&before, status, stores, run.metadata.generation, now)
}

/// What the stores have of a run before it has a copy.
fn awaited(stores: &[StoreReference]) -> Vec<RunInStore> {
    let role = |place| if place == 0 { StoreUse::Primary } else { StoreUse::Copy };
    let each = stores.iter().enumerate();
    each.map(|(place, store)| RunInStore::awaited(store, role(place))).collect()
}

/// The status that says what each store has of the run.
pub fn with_stores(
    before: &BackupRunStatus,
    status: BackupRunStatus,
    stores: Vec<RunInStore>,
    generation: Option<i64>,
    now: Timestamp,
) -> BackupRunStatus {
    let said: Vec<_> = replicated(&stores, status.required_copies, status.phase).into_iter().collect();
    let mut all = status.conditions;
    all.retain(|condition| condition.type_ != ConditionType::Replicated.as_str());
    all.extend(conditions(&before.conditions, &said, generation, now));
    BackupRunStatus {
        conditions: all,
        stores_shown: (!stores.is_empty()).then(|| stores_column(&stores)),
        stores,
        ..status
    }
}

/// Bytes for people: `1.2 GiB`.
pub fn size(bytes: i64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let bytes = u64::try_from(bytes).unwrap_or(0);
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let sizes = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_288_490_189, "1.2 GiB"),
            (i64::MAX, "8388607.9 TiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }
}
