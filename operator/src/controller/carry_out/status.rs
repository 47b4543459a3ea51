//! What the statuses of runs and restores say in the same words.

use holdfast_crds::{Class, ConditionType, Finding, Reason, RunPhase};
use jiff::Timestamp;

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
    fn durations_for_people() {
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
