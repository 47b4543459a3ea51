//! What settle Jobs find out, and what becomes of a run whose outcome is unknown.

use super::*;

#[test]
fn an_unknown_outcome_ends_the_run_and_is_asked_for_hourly_for_a_week() {
    let mut plan = attempt_ends(&running(), &rules(), silence(Reason::NodeLost), later(60));
    let mut now = later(60);
    for failure in 1..=SETTLE_LIMIT {
        assert_eq!(
            (told(&plan), plan.act.clone()),
            ((RunPhase::Settling, Reason::Settling), Some(Act::CreateSettle)),
            "{failure}"
        );
        plan = settle_ends(&plan.course, &rules(), word(Reason::StoreUnreachable, false), now);
        if failure < SETTLE_LIMIT {
            now = plan.again.unwrap();
            plan = decide(&plan.course, &rules(), &sight(now));
        }
    }
    assert_eq!(told(&plan), (RunPhase::Failed, Reason::OutcomeUnknown));
    let message = plan.course.message.clone().unwrap();
    assert!(message.contains("NodeLost") && message.contains("StoreUnreachable"), "{message}");
    let ended = plan.course.completion_time.clone();
    let mut asked = 0;
    while let Some(again) = plan.again {
        // Status holds whole seconds.
        assert!(again > after(now, UNKNOWN_INTERVAL - SignedDuration::from_secs(1)));
        now = again;
        plan = decide(&plan.course, &rules(), &sight(now));
        assert_eq!(plan.act, Some(Act::CreateSettle));
        assert!(plan.course.settle.as_ref().unwrap().gives_up);
        asked += 1;
        let found = settle_ends(&plan.course, &rules(), word(Reason::AlreadyDone, true), now);
        assert_eq!(
            (told(&found), &found.course.completion_time),
            ((RunPhase::Succeeded, Reason::AlreadyDone), &ended)
        );
        let closed = settle_ends(&plan.course, &rules(), word(Reason::Abandoned, true), now);
        assert_eq!(told(&closed), (RunPhase::Failed, Reason::NodeLost));
        plan = settle_ends(&plan.course, &rules(), word(Reason::StoreUnreachable, false), now);
        assert_eq!(told(&plan), (RunPhase::Failed, Reason::OutcomeUnknown));
    }
    assert_eq!(asked, 7 * 24 - 1);
}

#[test]
fn a_settle_job_that_gives_no_answer_is_replaced() {
    let plan = attempt_ends(&running(), &rules(), silence(Reason::NodeLost), later(60));
    let silent = settle_ends(&plan.course, &rules(), Observation::Running, later(60 + 600));
    assert_eq!(
        silent.act,
        Some(Act::Delete {
            job: "run-s1".into(),
            uid: Some("uid".into())
        })
    );
    let due = silent.again.unwrap();
    let next = decide(&silent.course, &rules(), &sight(due));
    let settle = next.course.settle.unwrap();
    assert_eq!(
        (next.act, settle.job.as_deref(), settle.failures),
        (Some(Act::CreateSettle), Some("run-s2"), 1)
    );
}

#[test]
fn an_answer_that_does_not_fit_the_question_is_no_answer() {
    let last = Rules { attempts: 1, ..rules() };
    let plan = attempt_ends(&running(), &last, silence(Reason::OutOfMemory), later(60));
    for answer in [
        word(Reason::CopyNotFound, false),
        word(Reason::Abandoned, false),
        word(Reason::Succeeded, false),
    ] {
        let plan = settle_ends(&plan.course, &last, answer, later(70));
        assert_eq!(
            (told(&plan), plan.course.settle.unwrap().failures),
            ((RunPhase::Settling, Reason::Settling), 1)
        );
    }
}

#[test]
fn a_restore_is_settled_by_its_receipt() {
    let restore = Rules {
        kind: Kind::Restore,
        ..rules()
    };
    let counted = decide(&Course::default(), &restore, &sight(at(START)));
    assert_eq!(counted.course.attempts[0].job, "run-r1");
    // The last statement may have been applied although the connection was lost.
    let lost = attempt_ends(&counted.course, &restore, word(Reason::DatabaseConnectionLost, false), later(60));
    assert_eq!(
        (lost.act, lost.course.settle.clone().unwrap().gives_up),
        (Some(Act::CreateSettle), false)
    );
    let none = settle_ends(&lost.course, &restore, word(Reason::CopyNotFound, false), later(70));
    assert_eq!(told(&none), (RunPhase::Pending, Reason::BackingOff));
    let failed = attempt_ends(&counted.course, &restore, word(Reason::TargetNotEmpty, false), later(60));
    assert!(failed.course.settle.clone().unwrap().gives_up);
    let none = settle_ends(&failed.course, &restore, word(Reason::CopyNotFound, false), later(70));
    assert_eq!(told(&none), (RunPhase::Failed, Reason::TargetNotEmpty));
    // Nothing of it is in place: it may be tried again at once, or is over.
    let early = attempt_ends(&counted.course, &restore, word(Reason::StoreUnreachable, true), later(60));
    assert_eq!((told(&early), early.course.settle), ((RunPhase::Pending, Reason::BackingOff), None));
    let certain = attempt_ends(&counted.course, &restore, word(Reason::TargetNotEmpty, true), later(60));
    assert_eq!(
        (told(&certain), certain.course.settle),
        ((RunPhase::Failed, Reason::TargetNotEmpty), None)
    );
}
