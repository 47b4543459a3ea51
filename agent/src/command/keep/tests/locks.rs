//! Locks and legal holds that the store does not set, or does not let go.

use holdfast_crds::{LockMode, Reason};

use super::passes::hold;
use super::*;
use crate::store::StoreError;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

pub fn refusal(path: &str) -> StoreError {
    StoreError::Denied {
        call: "test",
        path: path.to_owned(),
        status: 403,
        code: "AccessDenied".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn locks_and_holds_that_cannot_be_set_are_a_finding_and_the_holds_problem() {
    let scene = Scene::new(Memory::new().with_write_lock(LockMode::Compliance, Duration::from_hours(7 * 24)));
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let mut wanted = task(|r| r.monthly = Some(3));
    wanted.holds = vec![hold(|hold| hold.scope.runs = Some(vec![runs[0].to_string()]))];
    let faulty = Faulty::new(scene.memory.clone(), |call: &Call| {
        let sets = matches!(call.kind, CallKind::SetRetained | CallKind::SetLegalHold);
        sets.then(|| Fault::Before(refusal(&call.path)))
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    let refused: Vec<_> = said
        .findings()
        .into_iter()
        .filter(|finding| finding.reason == Reason::LockRefused)
        .collect();
    assert_eq!(refused.len(), 1, "one for the source: {:?}", said.findings());
    assert_eq!(refused[0].place.as_deref(), Some("shop/orders"));
    assert!(
        refused[0].message.contains("of 1 copies") && refused[0].message.contains("lacks a right"),
        "{refused:?}"
    );
    let hold = said.lines.iter().find_map(|line| match line {
        KeepLine::Hold(report) => Some(report),
        _ => None,
    });
    let hold = hold.unwrap();
    assert_eq!((hold.copies, hold.legal_holds), (1, 0));
    assert!(hold.problem.as_ref().unwrap().contains("lacks a right"), "{hold:?}");
    // The right is there again.
    let said = scene.pass(&wanted).await;
    assert!(said.findings().is_empty(), "{:?}", said.findings());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_while_nobody_can_say_whether_the_bucket_has_locks() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    let faulty = Faulty::new(scene.memory.clone(), |call: &Call| {
        (call.kind == CallKind::ObjectLock).then(|| Fault::Before(refusal(&call.path)))
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    let blocked = said.source().blocked.clone().unwrap();
    assert_eq!(blocked.reason, Reason::CatalogueUnreadable);
    assert!(blocked.message.contains("has Object Lock cannot be told"), "{}", blocked.message);
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    assert!(said.findings().iter().any(|finding| finding.reason == Reason::LockRefused));
    assert_eq!(scene.pass(&wanted).await.source().removed, 2);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_began_to_read_since_the_source_was_read_is_not_removed() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    // The last look before its removal.
    let (memory, run, now) = (scene.memory.clone(), runs[0].clone(), scene.now());
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        if call.kind == CallKind::ListVersions && call.path.contains(run.run.as_str()) {
            let fact = Fact::Reading {
                who: "shop/restore".into(),
                until: now + DAY,
            };
            let ulid = holdfast_crds::document::Ulid::new(now, [5; 10]);
            let record = Record::new(run.clone(), ulid, label("reader"), now, None, fact);
            memory.plant(&record.path().to_string(), record.to_bytes());
        }
        None
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    assert_eq!((said.source().removed, said.source().copies), (1, 5), "{:?}", said.source());
    assert!(scene.with_data().contains(runs[0].run.as_str()));
    assert!(
        !scene.with_data().contains(runs[1].run.as_str()),
        "the others are decided as before"
    );
    scene.memory.advance(SignedDuration::from_mins(1));
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["mark", "reading", "unmark"]);
}
