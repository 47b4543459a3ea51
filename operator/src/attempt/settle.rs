//! The decision about settle Jobs: who asks the register, what an answer means, and what happens where there is none.

use holdfast_crds::{AgentResult, Reason, RunPhase, Settle};
use holdfast_policy::{
    backoff::Backoff,
    name::{JobPurpose, job_name},
};
use jiff::Timestamp;

use super::{
    Act, Course, LOOK_AGAIN, Plan, Rules, SETTLE_LIMIT, SETTLE_TIMEOUT, Sight, UNKNOWN_FOR, UNKNOWN_INTERVAL, after, any_ran,
    decide::{between, end, is_success, say, succeed, wait},
    read, short, written,
};
use crate::job::Observation;

/// What is done where the register is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Nothing: another attempt follows.
    Ask,
    /// It is closed.
    GiveUp,
}

/// Whether a settle Job is at work, or is to be repeated.
pub fn in_hand(course: &Course) -> bool {
    course
        .settle
        .as_ref()
        .is_some_and(|settle| settle.finished_at.is_none() || settle.failures > 0)
}

/// Ends the run with `otherwise` unless the register says that it succeeded; or asks before another attempt. Where no container ran,
/// the register cannot have anything to say.
pub fn close(course: Course, rules: &Rules<'_>, now: Timestamp, closing: Closing, otherwise: Reason, message: &str) -> Plan {
    if !any_ran(&course) {
        return end(course, otherwise, message, now);
    }
    ask(course, rules, now, closing, otherwise, message)
}

/// Closes the register although nothing of this object ran: an object of its name may have run before.
pub fn ask_anyway(course: Course, rules: &Rules<'_>, now: Timestamp, otherwise: Reason, message: &str) -> Plan {
    ask(course, rules, now, Closing::GiveUp, otherwise, message)
}

fn ask(course: Course, rules: &Rules<'_>, now: Timestamp, closing: Closing, otherwise: Reason, message: &str) -> Plan {
    let settle = Settle {
        count: course.settle.as_ref().map_or(0, |settle| settle.count),
        gives_up: closing == Closing::GiveUp,
        otherwise: Some(otherwise),
        otherwise_message: Some(short(message)),
        ..Settle::default()
    };
    start(course, rules, now, settle)
}

/// Counts a settle Job, which is made once that is written.
fn start(mut course: Course, rules: &Rules<'_>, now: Timestamp, before: Settle) -> Plan {
    let count = before.count.saturating_add(1);
    course.settle = Some(Settle {
        count,
        job: Some(job_name(rules.name, JobPurpose::Settle, count.unsigned_abs())),
        started_at: Some(written(now)),
        finished_at: None,
        ..before
    });
    if !course.phase.ended() {
        let what = why(&course);
        say(&mut course, RunPhase::Settling, Reason::Settling, what);
    }
    Plan {
        course,
        act: Some(Act::CreateSettle),
        again: Some(after(now, LOOK_AGAIN)),
        found: None,
    }
}

fn why(course: &Course) -> String {
    let settle = course.settle.clone().unwrap_or_default();
    let otherwise = settle.otherwise.unwrap_or(Reason::OutcomeUnknown);
    let message = settle.otherwise_message.unwrap_or_default();
    let what = if settle.gives_up {
        "closing the register"
    } else {
        "asking the register"
    };
    format!("{what} after: {otherwise}: {message}")
}

/// A settle Job is at work, or the wait before the next one is.
pub fn step(mut course: Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    let Some(mut settle) = course.settle.clone() else {
        return wait(course, None);
    };
    if rules.cancel && settle.otherwise != Some(Reason::Cancelled) && !course.phase.ended() {
        // Whatever it was about: if the register holds no copy, the run is cancelled. A Job that only asks is followed by one that closes.
        settle.otherwise = Some(Reason::Cancelled);
        settle.otherwise_message = Some(rules.cancelled_by.to_owned());
        course.settle = Some(settle.clone());
    }
    if settle.finished_at.is_some() {
        return repeat(course, rules, sight, settle);
    }
    let now = sight.now;
    let deadline = after(read(settle.started_at.as_deref()), SETTLE_TIMEOUT);
    let job = settle.job.clone().unwrap_or_default();
    let delete = sight.settle.live.then(|| Act::Delete {
        job,
        uid: sight.settle.uid.clone(),
    });
    let mut message = match (&sight.settle.observation, &sight.refused) {
        (Observation::Ended(ended), _) => {
            let ended = ended.clone();
            return match ended.result {
                Some(result) => answered(course, rules, sight, settle, result),
                None => unanswered(course, rules, sight, settle, &format!("{}: {}", ended.reason, ended.message), None),
            };
        }
        (Observation::Absent, Some((reason, message))) => format!("; its Job is refused: {reason}: {message}"),
        (Observation::Waiting { reason, message }, _) if *reason != Reason::Pending => format!("; its pod waits: {reason}: {message}"),
        _ => String::new(),
    };
    if now >= deadline {
        let said = format!("no answer within {} minutes{message}", SETTLE_TIMEOUT.as_mins());
        return unanswered(course, rules, sight, settle, &said, delete);
    }
    message.insert_str(0, &why(&course));
    if !course.phase.ended() {
        say(&mut course, RunPhase::Settling, Reason::Settling, message);
    }
    let act = (sight.settle.observation == Observation::Absent).then_some(Act::CreateSettle);
    Plan {
        course,
        act,
        again: Some(after(now, LOOK_AGAIN).min(deadline)),
        found: None,
    }
}

/// A settle Job gave an answer.
fn answered(mut course: Course, rules: &Rules<'_>, sight: &Sight, mut settle: Settle, result: AgentResult) -> Plan {
    let now = sight.now;
    if is_success(&result, rules.kind) {
        settle.finished_at = Some(written(now));
        settle.failures = 0;
        course.settle = Some(settle);
        return succeed(course, result, now);
    }
    let nothing_there = result.reason == Reason::CopyNotFound;
    // A restore has no register that could be closed: without a receipt it did not happen, and its agents stop at their deadline.
    let closed = match rules.kind {
        super::Kind::Run => result.closed && !matches!(result.reason, Reason::Succeeded | Reason::AlreadyDone),
        super::Kind::Restore => settle.gives_up && (result.closed || nothing_there),
    };
    if closed {
        settle.finished_at = Some(written(now));
        settle.failures = 0;
        let mut reason = settle.otherwise.unwrap_or(Reason::Abandoned);
        let mut message = settle.otherwise_message.clone().unwrap_or_default();
        match (rules.kind, result.reason) {
            // What the target holds of it: nothing, or a database beside that could not be dropped.
            (super::Kind::Restore, _) => message = format!("{message}; {}", result.message),
            // Whatever happened to the attempt, only another name helps.
            (super::Kind::Run, Reason::CopyRemoved) => (reason, message) = (result.reason, result.message),
            (super::Kind::Run, _) => {}
        }
        course.settle = Some(settle);
        return end(course, reason, &message, now);
    }
    if nothing_there && !settle.gives_up {
        settle.finished_at = Some(written(now));
        settle.failures = 0;
        course.settle = Some(settle);
        return between(course, rules, sight);
    }
    let said = format!("{}: {}", result.reason, result.message);
    unanswered(course, rules, sight, settle, &said, None)
}

/// A settle Job found nothing out.
fn unanswered(mut course: Course, rules: &Rules<'_>, sight: &Sight, mut settle: Settle, said: &str, act: Option<Act>) -> Plan {
    settle.finished_at = Some(written(sight.now));
    settle.failures = settle.failures.saturating_add(1);
    let failures = settle.failures;
    course.settle = Some(settle);
    if !course.phase.ended() {
        if failures >= SETTLE_LIMIT {
            return unknown(course, rules, sight, said, act);
        }
        let message = format!("{}; the store did not say: {said}", why(&course));
        say(&mut course, RunPhase::Settling, Reason::Settling, message);
    }
    let again = due(&course, rules);
    Plan {
        course,
        act,
        again,
        found: None,
    }
}

/// The run ends for now; it is asked again hourly, and the register is then closed.
fn unknown(mut course: Course, rules: &Rules<'_>, sight: &Sight, said: &str, act: Option<Act>) -> Plan {
    let Some(settle) = &mut course.settle else {
        return wait(course, None);
    };
    settle.gives_up = true;
    let otherwise = settle.otherwise.unwrap_or(Reason::AgentCrashed);
    let message = format!(
        "the {} failed ({otherwise}: {}), and whether it committed cannot be read: {said}; it is asked again every hour for 7 days",
        rules.kind.noun(),
        settle.otherwise_message.as_deref().unwrap_or_default(),
    );
    let plan = end(course, Reason::OutcomeUnknown, &message, sight.now);
    Plan {
        act,
        again: due(&plan.course, rules),
        ..plan
    }
}

/// When the next settle Job is due, after one that found nothing out; none if it is given up.
fn due(course: &Course, rules: &Rules<'_>) -> Option<Timestamp> {
    let settle = course.settle.as_ref()?;
    let finished = read(settle.finished_at.as_deref());
    if !course.phase.ended() {
        let failures = settle.failures.unsigned_abs();
        return Some(after(finished, Backoff::ATTEMPT.delay(failures, rules.name)));
    }
    let due = after(finished, UNKNOWN_INTERVAL);
    let last = after(read(course.completion_time.as_deref()), UNKNOWN_FOR);
    (due < last).then_some(due)
}

/// The wait before another settle Job.
fn repeat(course: Course, rules: &Rules<'_>, sight: &Sight, mut settle: Settle) -> Plan {
    match due(&course, rules) {
        Some(due) if sight.now >= due => {
            settle.gives_up |= settle.otherwise == Some(Reason::Cancelled);
            start(course, rules, sight.now, settle)
        }
        again => wait(course, again),
    }
}

/// The run has ended; only an unknown outcome may still become known.
pub fn after_the_end(course: Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    if course.reason == Some(Reason::OutcomeUnknown) && in_hand(&course) {
        return step(course, rules, sight);
    }
    wait(course, None)
}
