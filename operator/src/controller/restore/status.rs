//! What a restore's status says.

use holdfast_crds::{MESSAGE_LIMIT, Reason, RestoreRequest, RestoreRequestStatus, RestoreTo, RunPhase, conditions, shortened};
use jiff::Timestamp;

use super::dereference::Known;
use crate::{
    attempt::{Course, Plan},
    controller::carry_out::status::{duration, findings},
};

/// The longest text of what is waited for, in bytes.
const WAITING_LIMIT: usize = 256;

/// What the status remembers of the restore's course.
pub fn course(request: &RestoreRequest) -> Course {
    let status = request.status.clone().unwrap_or_default();
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
pub fn status(request: &RestoreRequest, known: Option<&Known>, plan: &Plan, now: Timestamp) -> RestoreRequestStatus {
    let before = request.status.clone().unwrap_or_default();
    let course = plan.course.clone();
    let frozen = before.frozen.or_else(|| {
        known
            .filter(|_| !course.attempts.is_empty() || course.settle.is_some() || course.reason == Some(Reason::KeeperAtWork))
            .map(|known| known.frozen.clone())
    });
    let findings = findings(course.phase, course.reason, course.message.as_deref());
    RestoreRequestStatus {
        observed_generation: request.metadata.generation,
        phase: course.phase,
        reason: course.reason,
        message: course.message.as_deref().map(|message| shortened(message, MESSAGE_LIMIT)),
        waiting_for: waiting_for(&course),
        conditions: conditions(&before.conditions, &findings, request.metadata.generation, now),
        frozen,
        target: Some(target(&request.spec.to)),
        duration: duration(course.start_time.as_deref(), course.completion_time.as_deref()),
        restored: plan.found.as_ref().and_then(|result| result.restored.clone()).or(before.restored),
        attempts: course.attempts,
        settle: course.settle,
        start_time: course.start_time,
        completion_time: course.completion_time,
    }
}

fn waiting_for(course: &Course) -> Option<String> {
    let what = match (course.phase, course.reason) {
        (RunPhase::Pending, Some(Reason::Pending) | None) => "its pod".to_owned(),
        (RunPhase::Pending, Some(Reason::KeeperAtWork)) => "the keeper's pass to end".to_owned(),
        (RunPhase::Pending, Some(Reason::BackingOff)) => "the next attempt".to_owned(),
        (RunPhase::Pending, Some(reason)) => format!("somebody to act: {reason}"),
        (RunPhase::Settling, _) => "the target to say how it ended".to_owned(),
        _ => return None,
    };
    Some(shortened(&what, WAITING_LIMIT))
}

/// The target in one line.
fn target(to: &RestoreTo) -> String {
    match to {
        RestoreTo::Postgresql(server) => format!("postgresql://{}", server.hosts.join(",")),
    }
}
