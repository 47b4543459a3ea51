//! What a run's status says.

use holdfast_crds::{BackupRun, BackupRunStatus, Class, ConditionType, Finding, MESSAGE_LIMIT, Reason, RunPhase, conditions, shortened};
use jiff::Timestamp;

use super::dereference::Known;
use crate::attempt::{Course, Plan};

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
    let frozen = before.frozen.or_else(|| {
        known
            .filter(|_| !course.attempts.is_empty() || course.settle.is_some())
            .map(|known| known.frozen.clone())
    });
    let copy = plan.found.as_ref().and_then(|result| result.copy.clone()).or(before.copy);
    let findings = findings(course.phase, course.reason, course.message.as_deref());
    BackupRunStatus {
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
    }
}

/// `Ready`: accepted and worked on, or done. `Stalled`: failed for good, or cannot go on until somebody acts.
pub fn findings(phase: RunPhase, reason: Option<Reason>, message: Option<&str>) -> [Finding; 2] {
    let reason = reason.unwrap_or(Reason::Pending);
    let message = message.unwrap_or_default();
    let failed = phase == RunPhase::Failed;
    let ready = !failed && (phase.ended() || matches!(reason.class(), Class::Fine | Class::Transient));
    [
        Finding::new(ConditionType::Ready, ready, reason, message),
        Finding::new(ConditionType::Stalled, failed, reason, message),
    ]
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

/// From start to end for people: `3m12s`.
pub fn duration(start: Option<&str>, end: Option<&str>) -> Option<String> {
    let (start, end): (Timestamp, Timestamp) = (start?.parse().ok()?, end?.parse().ok()?);
    let seconds = end.duration_since(start).as_secs().max(0);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    Some(match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_for_people() {
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
        let from = "2026-01-01T00:00:00Z";
        for (to, text) in [
            ("2026-01-01T00:00:07Z", "7s"),
            ("2026-01-01T00:03:12Z", "3m12s"),
            ("2026-01-01T11:59:59Z", "11h59m"),
        ] {
            assert_eq!(duration(Some(from), Some(to)).as_deref(), Some(text));
        }
        assert_eq!(duration(Some(from), None), None);
    }

    #[test]
    fn a_run_that_waits_for_an_image_is_not_ready_and_not_stalled() {
        let [ready, stalled] = findings(RunPhase::Pending, Some(Reason::ImagePullFailed), None);
        assert_eq!((ready.status, stalled.status), (Some(false), Some(false)));
        let [ready, stalled] = findings(RunPhase::Failed, Some(Reason::DumpFailed), None);
        assert_eq!((ready.status, stalled.status), (Some(false), Some(true)));
        let [ready, stalled] = findings(RunPhase::Succeeded, Some(Reason::AlreadyDone), None);
        assert_eq!((ready.status, stalled.status), (Some(true), Some(false)));
        let [ready, _] = findings(RunPhase::Cancelled, Some(Reason::Cancelled), None);
        assert_eq!(ready.status, Some(true));
    }
}
