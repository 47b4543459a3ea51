use holdfast_crds::{CopySummary, TASK_VERSION};

mod settling;

use super::*;
use crate::job::{End, Observation};

const START: &str = "2026-01-01T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    after(at(START), SignedDuration::from_secs(seconds))
}

fn rules() -> Rules<'static> {
    Rules {
        name: "run",
        kind: Kind::Run,
        attempts: 3,
        timeout: Span::from_hours(6),
        cancel: false,
        cancelled_by: "cancelled",
        born_cancelled: false,
        created: at(START),
        obstacle: None,
    }
}

fn sight(now: Timestamp) -> Sight {
    Sight {
        attempt: JobState::ABSENT,
        settle: JobState::ABSENT,
        deleted_unbound: false,
        refused: None,
        now,
    }
}

fn job(observation: Observation) -> JobState {
    JobState {
        uid: Some("uid".into()),
        live: true,
        bound: true,
        observation,
    }
}

fn copy() -> CopySummary {
    serde_json::from_value(serde_json::json!({
        "path": "n/s/run", "recoveryPoint": START, "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1, "tables": 1,
        "structureChecked": true, "manifestDigest": "",
    }))
    .unwrap()
}

fn word(reason: Reason, closed: bool) -> Observation {
    let copy = matches!(reason, Reason::Succeeded | Reason::AlreadyDone).then(copy);
    let result = AgentResult {
        version: TASK_VERSION,
        reason,
        message: "as the agent says".into(),
        closed,
        copy,
        probe: None,
        restored: None,
        kept: None,
        copied: None,
    };
    Observation::Ended(End {
        reason,
        message: result.message.clone(),
        result: Some(result),
        ran: true,
    })
}

fn silence(reason: Reason) -> Observation {
    Observation::Ended(End {
        reason,
        message: "as Kubernetes says".into(),
        result: None,
        ran: true,
    })
}

/// A run whose first attempt is counted and seen at work.
fn running() -> Course {
    let counted = decide(&Course::default(), &rules(), &sight(at(START)));
    let seen = Sight {
        attempt: job(Observation::Running),
        ..sight(at(START))
    };
    decide(&counted.course, &rules(), &seen).course
}

fn attempt_ends(course: &Course, rules: &Rules<'_>, observation: Observation, now: Timestamp) -> Plan {
    let seen = Sight {
        attempt: job(observation),
        ..sight(now)
    };
    decide(course, rules, &seen)
}

fn settle_ends(course: &Course, rules: &Rules<'_>, observation: Observation, now: Timestamp) -> Plan {
    let seen = Sight {
        settle: job(observation),
        ..sight(now)
    };
    decide(course, rules, &seen)
}

fn told(plan: &Plan) -> (RunPhase, Reason) {
    (plan.course.phase, plan.course.reason.unwrap())
}

#[test]
fn an_attempt_is_counted_before_its_job_is_made() {
    let plan = decide(&Course::default(), &rules(), &sight(at(START)));
    assert_eq!(plan.act, Some(Act::CreateAttempt));
    let attempt = &plan.course.attempts[0];
    assert_eq!(
        (attempt.number, attempt.job.as_str(), attempt.not_after.as_str(), attempt.ran),
        (1, "run-b1", "2026-01-01T06:00:00Z", false)
    );
    // Killed in between: the same Job is made, and nothing is counted again.
    let again = decide(&plan.course, &rules(), &sight(later(5)));
    assert_eq!((again.act, again.course.attempts.len()), (Some(Act::CreateAttempt), 1));
}

#[test]
fn what_is_in_the_way_is_told_and_waited_for_as_long_as_an_attempt_may_take() {
    let rules = Rules {
        obstacle: Some(Obstacle::passing(Reason::SourceNotFound, "there is no BackupSource shop")),
        ..rules()
    };
    let plan = decide(&Course::default(), &rules, &sight(at(START)));
    assert_eq!((told(&plan), plan.act.clone()), ((RunPhase::Pending, Reason::SourceNotFound), None));
    assert_eq!(plan.again, Some(later(6 * 3_600)));
    let late = decide(&plan.course, &rules, &sight(later(6 * 3_600)));
    assert_eq!((told(&late), late.act), ((RunPhase::Failed, Reason::SourceNotFound), None));
    let hopeless = Rules {
        obstacle: Some(Obstacle::hopeless(Reason::InvalidSpec, "spec.from.store.path: found a/b/c")),
        ..rules
    };
    let plan = decide(&Course::default(), &hopeless, &sight(at(START)));
    assert_eq!((told(&plan), plan.act), ((RunPhase::Failed, Reason::InvalidSpec), None));
}

#[test]
fn success_is_taken_over_with_its_copy() {
    for reason in [Reason::Succeeded, Reason::AlreadyDone] {
        let plan = attempt_ends(&running(), &rules(), word(reason, true), later(60));
        assert_eq!(told(&plan), (RunPhase::Succeeded, reason));
        assert_eq!(plan.found.unwrap().copy, Some(copy()));
        assert_eq!(plan.course.completion_time.as_deref(), Some("2026-01-01T00:01:00Z"));
        assert_eq!(plan.course.settle, None);
    }
}

#[test]
fn success_without_a_copy_or_a_closed_register_is_doubted() {
    for (closed, with_copy) in [(true, false), (false, true)] {
        let mut observation = word(Reason::Succeeded, closed);
        if let Observation::Ended(end) = &mut observation
            && !with_copy
        {
            end.result.as_mut().unwrap().copy = None;
        }
        let plan = attempt_ends(&running(), &rules(), observation, later(60));
        assert_eq!(
            (told(&plan), plan.act),
            ((RunPhase::Settling, Reason::Settling), Some(Act::CreateSettle))
        );
        assert_eq!(plan.course.attempts[0].reason, Some(Reason::AgentCrashed));
    }
}

#[test]
fn a_failed_dump_is_tried_again_after_a_wait_and_a_lost_answer_of_the_store_is_asked_for_first() {
    let dump = attempt_ends(&running(), &rules(), word(Reason::DatabaseUnreachable, false), later(60));
    assert_eq!((told(&dump), dump.act.clone()), ((RunPhase::Pending, Reason::BackingOff), None));
    let due = dump.again.unwrap();
    assert!(due > later(60) && due <= later(90), "{due}");
    let early = decide(&dump.course, &rules(), &sight(after(due, -SignedDuration::from_secs(1))));
    assert_eq!((early.act, early.course.attempts.len()), (None, 1));
    let next = decide(&dump.course, &rules(), &sight(due));
    assert_eq!(
        (next.act, next.course.attempts[1].job.as_str()),
        (Some(Act::CreateAttempt), "run-b2")
    );

    let store = attempt_ends(&running(), &rules(), word(Reason::StoreFailed, false), later(60));
    let settle = store.course.settle.clone().unwrap();
    assert_eq!(
        (store.act, settle.job.as_deref(), settle.gives_up),
        (Some(Act::CreateSettle), Some("run-s1"), false)
    );
    let open = settle_ends(&store.course, &rules(), word(Reason::CopyNotFound, false), later(70));
    assert_eq!(told(&open), (RunPhase::Pending, Reason::BackingOff));
    let found = settle_ends(&store.course, &rules(), word(Reason::AlreadyDone, true), later(70));
    assert_eq!(
        (told(&found), found.found.is_some()),
        ((RunPhase::Succeeded, Reason::AlreadyDone), true)
    );
}

#[test]
fn what_only_a_person_can_change_is_not_tried_again_and_the_register_is_closed() {
    let plan = attempt_ends(&running(), &rules(), word(Reason::DatabaseLoginFailed, false), later(60));
    let settle = plan.course.settle.clone().unwrap();
    assert_eq!(
        (plan.act, settle.gives_up, settle.otherwise),
        (Some(Act::CreateSettle), true, Some(Reason::DatabaseLoginFailed))
    );
    let closed = settle_ends(&plan.course, &rules(), word(Reason::Abandoned, true), later(70));
    assert_eq!(
        (told(&closed), closed.again),
        ((RunPhase::Failed, Reason::DatabaseLoginFailed), None)
    );
    assert!(closed.course.message.unwrap().contains("as the agent says"));
    // The agent closed it itself.
    let closed = attempt_ends(&running(), &rules(), word(Reason::DatabaseLoginFailed, true), later(60));
    assert_eq!(
        (told(&closed), closed.course.settle),
        ((RunPhase::Failed, Reason::DatabaseLoginFailed), None)
    );
}

#[test]
fn the_last_attempt_closes_the_register_whatever_ended_it() {
    let last = Rules { attempts: 1, ..rules() };
    for observation in [
        word(Reason::DatabaseUnreachable, false),
        silence(Reason::JobDeleted),
        silence(Reason::OutOfMemory),
    ] {
        let plan = attempt_ends(&running(), &last, observation, later(60));
        assert!(plan.course.settle.unwrap().gives_up);
    }
}

/// Lets each attempt end so, with nothing in the register, until none follows. Gives how many there were, and the end.
fn until_the_end(rules: &Rules<'_>, mut end: impl FnMut(i32) -> Reason) -> (i32, Plan) {
    let mut plan = decide(&Course::default(), rules, &sight(at(START)));
    let mut now = at(START);
    loop {
        let number = plan.course.attempts.last().unwrap().number;
        assert_eq!(plan.act, Some(Act::CreateAttempt));
        plan = attempt_ends(&plan.course, rules, silence(end(number)), now);
        if plan.course.settle.as_ref().unwrap().gives_up {
            return (number, settle_ends(&plan.course, rules, word(Reason::Abandoned, true), now));
        }
        plan = settle_ends(&plan.course, rules, word(Reason::CopyNotFound, false), now);
        assert_eq!(told(&plan), (RunPhase::Pending, Reason::BackingOff));
        assert!(plan.again.unwrap() > now);
        now = plan.again.unwrap();
        plan = decide(&plan.course, rules, &sight(now));
    }
}

#[test]
fn what_the_cluster_takes_away_does_not_count_up_to_a_limit_of_its_own() {
    let disruptions = [Reason::Evicted, Reason::NodeLost, Reason::PodDeleted, Reason::Interrupted];
    let taken = |number: i32| disruptions[usize::try_from(number).unwrap() % 4];
    for asked in [1, 3, 10] {
        let rules = Rules {
            attempts: asked,
            ..rules()
        };
        let (number, end) = until_the_end(&rules, |_| Reason::OutOfMemory);
        assert_eq!(
            (number, told(&end)),
            (asked, (RunPhase::Failed, Reason::OutOfMemory)),
            "failures alone"
        );
        let (number, end) = until_the_end(&rules, taken);
        let all = asked + DISRUPTION_LIMIT;
        assert_eq!((number, told(&end)), (all, (RunPhase::Failed, taken(all))), "disruptions alone");
        assert!(end.course.message.unwrap().starts_with(&format!("attempt {all} of {all}: ")));
        let (number, end) = until_the_end(&rules, |number| if number <= 2 { taken(number) } else { Reason::JobDeleted });
        assert_eq!(
            (number, told(&end)),
            (asked + 2, (RunPhase::Failed, Reason::JobDeleted)),
            "first disruptions"
        );
    }
    // Three drains, and then the run goes well.
    let mut plan = decide(&Course::default(), &rules(), &sight(at(START)));
    for minute in 1..=3 {
        plan = attempt_ends(&plan.course, &rules(), word(Reason::Interrupted, false), later(3_600 * minute));
        plan = settle_ends(&plan.course, &rules(), word(Reason::CopyNotFound, false), later(3_600 * minute));
        plan = decide(&plan.course, &rules(), &sight(plan.again.unwrap()));
    }
    assert_eq!(plan.course.attempts.last().unwrap().job, "run-b4");
    let plan = attempt_ends(&plan.course, &rules(), word(Reason::Succeeded, true), later(20_000));
    assert_eq!(told(&plan), (RunPhase::Succeeded, Reason::Succeeded));
}

#[test]
fn whatever_ends_in_doubt_is_asked_for() {
    for reason in [
        Reason::NodeLost,
        Reason::PodDeleted,
        Reason::JobDeleted,
        Reason::AgentCrashed,
        Reason::OutOfMemory,
        Reason::Evicted,
    ] {
        let plan = attempt_ends(&running(), &rules(), silence(reason), later(60));
        assert_eq!(
            (told(&plan), plan.act),
            ((RunPhase::Settling, Reason::Settling), Some(Act::CreateSettle)),
            "{reason}"
        );
        assert_eq!(plan.course.attempts[0].reason, Some(reason));
    }
    // The Job is gone with its pod.
    let plan = decide(&running(), &rules(), &sight(later(60)));
    assert_eq!(
        (plan.act, plan.course.attempts[0].reason),
        (Some(Act::CreateSettle), Some(Reason::JobDeleted))
    );
}

#[test]
fn where_nothing_ran_there_is_nothing_to_settle() {
    let counted = decide(&Course::default(), &rules(), &sight(at(START))).course;
    let quota = Observation::Waiting {
        reason: Reason::QuotaExceeded,
        message: "exceeded quota".into(),
    };
    let waits = JobState {
        bound: false,
        ..job(quota)
    };
    let told_soon = decide(
        &counted,
        &rules(),
        &Sight {
            attempt: waits.clone(),
            ..sight(later(10))
        },
    );
    assert_eq!(told(&told_soon), (RunPhase::Pending, Reason::QuotaExceeded));
    let late = later(6 * 3_600 + 60);
    let stop = decide(
        &told_soon.course,
        &rules(),
        &Sight {
            attempt: waits,
            ..sight(late)
        },
    );
    assert!(matches!(stop.act, Some(Act::Delete { .. })) && stop.course.attempts[0].ran);
    let gone = decide(
        &stop.course,
        &rules(),
        &Sight {
            deleted_unbound: true,
            ..sight(late)
        },
    );
    assert_eq!((told(&gone), gone.course.settle), ((RunPhase::Failed, Reason::QuotaExceeded), None));
    // Killed between the deletion and its note: nobody knows any more, so the register is asked.
    let gone = decide(&stop.course, &rules(), &sight(late));
    assert!(gone.course.settle.unwrap().gives_up);
}

#[test]
fn a_job_that_the_api_server_refuses_is_told_and_tried_again() {
    let counted = decide(&Course::default(), &rules(), &sight(at(START))).course;
    let refused = Sight {
        refused: Some((Reason::AdmissionRefused, "policy x denied it".into())),
        ..sight(later(1))
    };
    let plan = decide(&counted, &rules(), &refused);
    assert_eq!(
        (told(&plan), plan.act),
        ((RunPhase::Pending, Reason::AdmissionRefused), Some(Act::CreateAttempt))
    );
    assert!(!plan.course.attempts[0].ran);
    let later_on = decide(&plan.course, &rules(), &sight(later(30)));
    assert!(!later_on.course.attempts[0].ran);
    // What it works on is frozen: a Job that cannot be stays so.
    let invalid = Sight {
        refused: Some((Reason::InvalidSpec, "the task has 300000 bytes".into())),
        ..sight(later(1))
    };
    let plan_invalid = decide(&counted, &rules(), &invalid);
    assert_eq!(
        (told(&plan_invalid), plan_invalid.act),
        ((RunPhase::Failed, Reason::InvalidSpec), None)
    );
    let cancelled = Rules { cancel: true, ..rules() };
    assert_eq!(
        told(&decide(&plan.course, &cancelled, &sight(later(40)))),
        (RunPhase::Cancelled, Reason::Cancelled)
    );
}

#[test]
fn cancelling_deletes_the_job_then_closes_the_register() {
    let rules = Rules { cancel: true, ..rules() };
    let stop = attempt_ends(&running(), &rules, Observation::Running, later(60));
    assert_eq!(
        stop.act,
        Some(Act::Delete {
            job: "run-b1".into(),
            uid: Some("uid".into())
        })
    );
    let gone = JobState {
        live: false,
        ..job(silence(Reason::JobDeleted))
    };
    let closing = decide(
        &stop.course,
        &rules,
        &Sight {
            attempt: gone,
            ..sight(later(65))
        },
    );
    let settle = closing.course.settle.clone().unwrap();
    assert_eq!(
        (closing.act, settle.gives_up, settle.otherwise),
        (Some(Act::CreateSettle), true, Some(Reason::Cancelled))
    );
    let closed = settle_ends(&closing.course, &rules, word(Reason::Abandoned, true), later(70));
    assert_eq!(told(&closed), (RunPhase::Cancelled, Reason::Cancelled));
    // It was faster than the cancellation.
    let committed = settle_ends(&closing.course, &rules, word(Reason::AlreadyDone, true), later(70));
    assert_eq!(told(&committed), (RunPhase::Succeeded, Reason::AlreadyDone));
    let committed = attempt_ends(&stop.course, &rules, word(Reason::Succeeded, true), later(61));
    assert_eq!(told(&committed), (RunPhase::Succeeded, Reason::Succeeded));
}

#[test]
fn cancelled_before_anything_was_started() {
    let cancelled = Rules { cancel: true, ..rules() };
    let plan = decide(&Course::default(), &cancelled, &sight(at(START)));
    assert_eq!((told(&plan), plan.act), ((RunPhase::Cancelled, Reason::Cancelled), None));
    // An object that was applied with the cancellation in it may be an old one that lost its status.
    let old = Rules {
        born_cancelled: true,
        ..cancelled
    };
    let plan = decide(&Course::default(), &old, &sight(at(START)));
    assert_eq!(plan.act, Some(Act::CreateSettle));
    let found = settle_ends(&plan.course, &old, word(Reason::AlreadyDone, true), later(9));
    assert_eq!(told(&found), (RunPhase::Succeeded, Reason::AlreadyDone));
}

#[test]
fn a_run_that_does_not_end_in_its_time_is_stopped() {
    let deadline = later(6 * 3_600 + 60);
    let before = attempt_ends(
        &running(),
        &rules(),
        Observation::Running,
        after(deadline, -SignedDuration::from_secs(1)),
    );
    assert_eq!((before.act, before.again), (None, Some(deadline)));
    let stop = attempt_ends(&running(), &rules(), Observation::Running, deadline);
    assert!(matches!(stop.act, Some(Act::Delete { .. })));
    let ended = attempt_ends(&stop.course, &rules(), word(Reason::Interrupted, false), later(6 * 3_600 + 65));
    assert_eq!(ended.course.attempts[0].reason, Some(Reason::DeadlineExceeded));
    assert!(!ended.course.settle.unwrap().gives_up, "another attempt follows");
}

#[test]
fn times_that_nobody_can_read_make_nothing_wait() {
    let mut course = running();
    course.attempts[0].not_after = "soon".into();
    let plan = attempt_ends(&course, &rules(), Observation::Running, later(60));
    assert!(matches!(plan.act, Some(Act::Delete { .. })));
}

#[test]
fn the_same_again_changes_nothing() {
    let first = attempt_ends(&running(), &rules(), Observation::Running, later(60));
    let second = attempt_ends(&first.course, &rules(), Observation::Running, later(120));
    assert_eq!((first.course, second.act), (second.course, None));
}
