//! The decision about attempts.

use holdfast_crds::{AgentResult, Attempt, Reason, RunPhase, Span};
use holdfast_policy::{backoff::Backoff, name::job_name};
use jiff::Timestamp;

use super::{
    Act, Course, DEADLINE_GRACE, Kind, LOOK_AGAIN, Obstacle, Plan, QUEUED_FOR, Rules, Sight, after, at_most, look_again, read,
    settle::{self, Closing},
    short, written,
};
use crate::job::{End, Observation};

/// The next step. Pure; the same arguments give the same plan.
pub fn decide(course: &Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    let mut course = course.clone();
    if course.phase.ended() {
        return settle::after_the_end(course, rules, sight);
    }
    if course.start_time.is_none() {
        course.start_time = Some(written(sight.now));
    }
    if settle::in_hand(&course) {
        return settle::step(course, rules, sight);
    }
    match course.attempts.last() {
        None => before_the_first(course, rules, sight),
        Some(attempt) if attempt.finished_at.is_none() => at_work(course, rules, sight),
        Some(_) => between(course, rules, sight),
    }
}

/// Nothing to do but to wait.
pub(super) fn wait(course: Course, again: Option<Timestamp>) -> Plan {
    Plan {
        course,
        act: None,
        again,
        found: None,
    }
}

pub(super) fn say(course: &mut Course, phase: RunPhase, reason: Reason, message: impl AsRef<str>) {
    course.phase = phase;
    course.reason = Some(reason);
    course.message = Some(short(message.as_ref()));
}

/// The end, by what is known for certain.
pub(super) fn end(mut course: Course, reason: Reason, message: &str, now: Timestamp) -> Plan {
    let phase = match reason {
        Reason::Succeeded | Reason::AlreadyDone => RunPhase::Succeeded,
        Reason::Cancelled => RunPhase::Cancelled,
        _ => RunPhase::Failed,
    };
    say(&mut course, phase, reason, message);
    course.completion_time.get_or_insert_with(|| written(now));
    wait(course, None)
}

/// The end, with the copy or the restored databases.
pub(super) fn succeed(course: Course, result: AgentResult, now: Timestamp) -> Plan {
    let message = if result.message.is_empty() {
        result.reason.meaning()
    } else {
        &result.message
    };
    let plan = end(course, result.reason, message, now);
    Plan {
        found: Some(result),
        ..plan
    }
}

/// Whether this is the word of success, with all that belongs to it.
pub(super) fn is_success(result: &AgentResult, kind: Kind) -> bool {
    matches!(result.reason, Reason::Succeeded | Reason::AlreadyDone)
        && match kind {
            Kind::Run => result.closed && result.copy.is_some(),
            Kind::Restore => true,
        }
}

fn before_the_first(mut course: Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    if rules.cancel {
        let message = format!("{} before anything was started", rules.cancelled_by);
        return if rules.born_cancelled && rules.obstacle.is_none() {
            settle::ask_anyway(course, rules, sight.now, Reason::Cancelled, &message)
        } else {
            end(course, Reason::Cancelled, &message, sight.now)
        };
    }
    let Some(Obstacle { reason, message, hopeless }) = &rules.obstacle else {
        return count(course, rules, sight, 1);
    };
    if *hopeless {
        return end(course, *reason, message, sight.now);
    }
    // Whose turn has not come is not late: what it waits for has deadlines of its own.
    let patience = if *reason == Reason::Queued {
        QUEUED_FOR
    } else {
        rules.timeout.signed()
    };
    let until = after(rules.created, patience);
    if sight.now >= until {
        let patience = Span::from_seconds(patience.as_secs().unsigned_abs());
        let message = format!("nothing was started within {patience}: {message}");
        return end(course, *reason, &message, sight.now);
    }
    say(&mut course, RunPhase::Pending, *reason, message);
    wait(course, Some(until))
}

/// Counts an attempt, whose Job is made once that is written.
fn count(mut course: Course, rules: &Rules<'_>, sight: &Sight, number: i32) -> Plan {
    course.attempts.push(Attempt {
        number,
        job: job_name(rules.name, rules.kind.purpose(), number.unsigned_abs()),
        started_at: written(sight.now),
        not_after: written(after(sight.now, rules.timeout.signed())),
        job_uid: None,
        finished_at: None,
        reason: None,
        message: None,
        ran: false,
    });
    let most = at_most(rules.attempts, &course.attempts);
    let message = format!("attempt {number} of {most}: waiting for its pod");
    say(&mut course, RunPhase::Pending, Reason::Pending, message);
    Plan {
        course,
        act: Some(Act::CreateAttempt),
        again: Some(after(sight.now, LOOK_AGAIN)),
        found: None,
    }
}

/// Until when nothing is said of an attempt that was counted and whose pod is on the usual way to its start: each of these steps would
/// be a write that nobody reads.
fn begins_as_usual(course: &Course, rules: &Rules<'_>, sight: &Sight) -> Option<Timestamp> {
    let attempt = course.attempts.last()?;
    let said = course.phase == RunPhase::Pending && course.reason == Some(Reason::Pending);
    let usual = matches!(&sight.attempt.observation, Observation::Waiting { reason, .. } if *reason == Reason::Pending);
    let until = after(read(Some(&attempt.started_at)), LOOK_AGAIN);
    (said && usual && attempt.reason.is_none() && attempt.job_uid.is_none() && !rules.cancel && sight.now < until).then_some(until)
}

fn at_work(mut course: Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    let now = sight.now;
    if let Some(until) = begins_as_usual(&course, rules, sight) {
        return wait(course, Some(until));
    }
    let most = at_most(rules.attempts, &course.attempts);
    let Some(attempt) = course.attempts.last_mut() else {
        return wait(course, None);
    };
    if attempt.job_uid.is_none() {
        attempt.job_uid.clone_from(&sight.attempt.uid);
    }
    if sight.deleted_unbound && !sight.attempt.bound && attempt.reason.is_some() {
        attempt.ran = false;
    }
    let deadline = after(read(Some(&attempt.not_after)), DEADLINE_GRACE);
    let late = now >= deadline;
    let number = format!("attempt {} of {most}", attempt.number);
    match &sight.attempt.observation {
        Observation::Ended(ended) => finish(course, rules, sight, ended.clone()),
        Observation::Absent => missing(course, rules, sight, late),
        Observation::Waiting { reason, message } => {
            if rules.cancel || late || attempt.reason.is_some() {
                let why = if *reason == Reason::Pending {
                    Reason::DeadlineExceeded
                } else {
                    *reason
                };
                let message = message.clone();
                return stop(course, rules, sight, why, &message);
            }
            let waited = now.duration_since(read(Some(&attempt.started_at)));
            let look = after(now, look_again(waited));
            let message = format!("{number}: {message}");
            say(&mut course, RunPhase::Pending, *reason, message);
            wait(course, Some(look.min(deadline)))
        }
        Observation::Running => {
            attempt.ran = true;
            if rules.cancel || late || attempt.reason.is_some() {
                let message = format!("it ran for {} and did not end", rules.timeout);
                return stop(course, rules, sight, Reason::DeadlineExceeded, &message);
            }
            say(&mut course, RunPhase::Running, Reason::Running, format!("{number} is at work"));
            wait(course, Some(deadline))
        }
        Observation::Stopping { until } => {
            attempt.ran |= sight.attempt.bound;
            if (rules.cancel || late || attempt.reason.is_some()) && sight.attempt.live {
                let message = "its pod was being deleted";
                return stop(course, rules, sight, Reason::DeadlineExceeded, message);
            }
            let until = *until;
            if attempt.reason.is_none() {
                let phase = if attempt.ran { RunPhase::Running } else { RunPhase::Pending };
                say(&mut course, phase, Reason::Running, format!("{number}: its pod is being deleted"));
            }
            wait(course, Some(until))
        }
    }
}

/// Deletes the Job of the newest attempt; its end is waited for.
fn stop(mut course: Course, rules: &Rules<'_>, sight: &Sight, otherwise: Reason, message: &str) -> Plan {
    let Some(attempt) = course.attempts.last_mut() else {
        return wait(course, None);
    };
    let reason = *attempt
        .reason
        .get_or_insert(if rules.cancel { Reason::Cancelled } else { otherwise });
    let text = if reason == Reason::Cancelled { rules.cancelled_by } else { message };
    attempt.message.get_or_insert_with(|| short(text));
    // Its container may start before the deletion is heard; who deletes may take that back.
    attempt.ran |= !sight.deleted_unbound;
    let act = sight.attempt.live.then(|| Act::Delete {
        job: attempt.job.clone(),
        uid: sight.attempt.uid.clone(),
    });
    let message = format!("stopping attempt {}: {text}", attempt.number);
    let phase = course.phase;
    say(&mut course, phase, reason, message);
    Plan {
        course,
        act,
        again: Some(after(sight.now, LOOK_AGAIN)),
        found: None,
    }
}

/// There is neither the attempt's Job nor a pod of it.
fn missing(mut course: Course, rules: &Rules<'_>, sight: &Sight, late: bool) -> Plan {
    let most = at_most(rules.attempts, &course.attempts);
    let Some(attempt) = course.attempts.last_mut() else {
        return wait(course, None);
    };
    if let Some(reason) = attempt.reason {
        // We deleted it, and knew then whether it may have run.
        let gone = End {
            reason,
            message: attempt.message.clone().unwrap_or_default(),
            result: None,
            ran: attempt.ran,
        };
        return finish(course, rules, sight, gone);
    }
    if attempt.job_uid.is_some() {
        let gone = End {
            reason: Reason::JobDeleted,
            message: "somebody deleted the Job".to_owned(),
            result: None,
            ran: true,
        };
        return finish(course, rules, sight, gone);
    }
    let hopeless = matches!(&sight.refused, Some((Reason::InvalidSpec, _)));
    if !rules.cancel && !late && !hopeless {
        if let Some((reason, message)) = &sight.refused {
            let message = format!("attempt {} of {most}: {message}", attempt.number);
            say(&mut course, RunPhase::Pending, *reason, message);
        } else if course.reason == Some(Reason::Pending) {
            // It was to be made when it was counted. If it was, it is gone, and what it did is not known.
            attempt.ran = true;
        }
        return Plan {
            course,
            act: Some(Act::CreateAttempt),
            again: Some(after(sight.now, LOOK_AGAIN)),
            found: None,
        };
    }
    // Was it made and lost before we saw it? Only a refusal rules that out.
    let (reason, message) = match &sight.refused {
        _ if rules.cancel => (Reason::Cancelled, rules.cancelled_by.to_owned()),
        Some(refused) => refused.clone(),
        None => (Reason::DeadlineExceeded, "its Job could not be made in time".to_owned()),
    };
    let gone = End {
        reason,
        message,
        result: None,
        ran: sight.refused.is_none() && course.reason == Some(Reason::Pending),
    };
    finish(course, rules, sight, gone)
}

/// The newest attempt has ended.
fn finish(mut course: Course, rules: &Rules<'_>, sight: &Sight, ended: End) -> Plan {
    let now = sight.now;
    let Some(attempt) = course.attempts.last_mut() else {
        return wait(course, None);
    };
    let success = ended.result.as_ref().is_some_and(|result| is_success(result, rules.kind));
    // Why it was stopped says more than how its process took it; but success is success.
    let (reason, message) = match (attempt.reason, &attempt.message) {
        (Some(stopped), message) if !success => (stopped, message.clone().unwrap_or_default()),
        _ => (ended.reason, ended.message.clone()),
    };
    attempt.finished_at = Some(written(now));
    attempt.ran |= ended.ran;
    // Success that does not say what succeeded is no word to go by.
    let trusted = ended
        .result
        .filter(|result| success || !matches!(result.reason, Reason::Succeeded | Reason::AlreadyDone));
    let reason = if trusted.is_none() && matches!(reason, Reason::Succeeded | Reason::AlreadyDone) {
        Reason::AgentCrashed
    } else {
        reason
    };
    attempt.reason = Some(reason);
    attempt.message = Some(short(&message));
    let (number, ran) = (attempt.number, attempt.ran);
    let most = at_most(rules.attempts, &course.attempts);
    let again = reason.worth_retrying() && number < most && !rules.cancel;
    let told = || told(number, most, &message);
    match trusted {
        Some(result) if success => return succeed(course, result, now),
        // A closed register stays closed. A restore of which nothing is in place may be tried again.
        Some(result) if result.closed && (rules.kind == Kind::Run || !again) => {
            let reason = if rules.cancel { Reason::Cancelled } else { reason };
            return end(course, reason, &told(), now);
        }
        _ if rules.cancel => return settle::close(course, rules, now, Closing::GiveUp, Reason::Cancelled, rules.cancelled_by),
        _ if !again => return settle::close(course, rules, now, Closing::GiveUp, reason, &told()),
        trusted => {
            let in_doubt = ran && trusted.is_none_or(|result| !result.closed && may_have_committed(result.reason, rules.kind));
            if in_doubt {
                return settle::close(course, rules, now, Closing::Ask, reason, &told());
            }
        }
    }
    between(course, rules, sight)
}

fn told(number: i32, most: i32, message: &str) -> String {
    if most == 1 {
        return message.to_owned();
    }
    format!("attempt {number} of {most}: {message}")
}

/// Whether an agent that ends with this may have committed before, without knowing it. A dump that failed was never committed; but
/// an answer of the store may have been lost, and a restore's last statement too.
fn may_have_committed(reason: Reason, kind: Kind) -> bool {
    kind == Kind::Restore
        || !matches!(
            reason,
            Reason::InvalidSpec
                | Reason::SecretKeyMissing
                | Reason::ScratchFull
                | Reason::DatabaseUnreachable
                | Reason::DatabaseLoginFailed
                | Reason::DatabasePermissionDenied
                | Reason::DatabaseConnectionLost
                | Reason::LockTimeout
                | Reason::VersionUnsupported
                | Reason::DatabaseTlsFailed
                | Reason::NoDatabases
                | Reason::DumpFailed
                | Reason::DumpTruncated
                | Reason::ToolMissing
        )
}

/// The newest attempt ended, nothing is in doubt, and another one may follow.
pub(super) fn between(mut course: Course, rules: &Rules<'_>, sight: &Sight) -> Plan {
    let Some(last) = course.attempts.last() else {
        return before_the_first(course, rules, sight);
    };
    let (number, reason) = (last.number, last.reason.unwrap_or(Reason::AgentCrashed));
    let message = last.message.clone().unwrap_or_default();
    if rules.cancel {
        return settle::close(course, rules, sight.now, Closing::GiveUp, Reason::Cancelled, rules.cancelled_by);
    }
    let most = at_most(rules.attempts, &course.attempts);
    if number >= most || !reason.worth_retrying() {
        return settle::close(course, rules, sight.now, Closing::GiveUp, reason, &told(number, most, &message));
    }
    let delay = Backoff::ATTEMPT.delay(number.unsigned_abs(), rules.name);
    let due = after(read(last.finished_at.as_deref()), delay);
    if sight.now >= due {
        return count(course, rules, sight, number + 1);
    }
    let message = format!(
        "attempt {number} of {most} failed: {reason}: {message}; the next begins at {}",
        written(due)
    );
    say(&mut course, RunPhase::Pending, Reason::BackingOff, message);
    wait(course, Some(due))
}
