//! Locks and legal holds that the store does not set, or does not let go.

use holdfast_crds::{LockMode, Reason};

use super::passes::hold;
use super::*;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};
use crate::store::{Lock, Retained, StoreError};

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

fn week() -> Memory {
    Memory::new().with_write_lock(LockMode::Compliance, Duration::from_hours(7 * 24))
}

/// The least lock of the run's objects: none where one has none.
fn least(scene: &Scene, run: &RunPath) -> Option<Timestamp> {
    let objects = scene.memory.objects();
    let outcome = run.outcome().to_string();
    let of_run = objects.keys().filter(|path| path.starts_with(&run.data()) || **path == outcome);
    of_run.map(|path| scene.memory.locked(path).until()).min().flatten()
}

#[tokio::test(start_paused = true)]
async fn copies_from_before_the_store_had_locks_are_locked_for_as_long_as_they_are_kept() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 4).await;
    let wanted = task(|r| r.keep_within = Some(holdfast_crds::Span::from_hours(14 * 24)));
    scene.pass(&wanted).await;
    assert_eq!(least(&scene, &runs[0]), None);
    // `objectLock` is added, with locks at write that are longer than the copies' age.
    let scene = Scene::new(
        scene
            .memory
            .clone()
            .with_write_lock(LockMode::Compliance, Duration::from_hours(30 * 24)),
    );
    let said = scene.pass(&wanted).await;
    // The newest two stay as the newest good ones, without an end: for the length of a lock at write, from now on.
    for (run, day) in runs[..2].iter().zip(15..) {
        assert_eq!(least(&scene, run), Some(at(&format!("2026-03-{day}T02:00:00Z"))), "{run}");
    }
    let told: Vec<_> = said.source().newest_copies.iter().map(|copy| copy.locked_until.clone()).collect();
    assert_eq!(told[3].as_deref(), Some("2026-03-15T02:00:00Z"), "{told:?}");
    let reads = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&reads);
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        *counted.lock().unwrap() += u32::from(call.kind == CallKind::LockOf);
        None
    });
    scene.pass_through(faulty, &wanted).await.unwrap();
    assert_eq!(*reads.lock().unwrap(), 0, "what is recorded is not asked for again");
    assert!(least(&scene, &runs[3]).unwrap() >= scene.now() + DAY * 30);
    assert_eq!(said.source().unlocked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_began_long_before_the_commit_is_extended_and_a_fresh_one_is_only_recorded() {
    let scene = Scene::new(week());
    let fresh = scene.copy(at("2026-03-01T02:00:00Z")).await;
    let old = scene.copy(at("2026-03-02T02:00:00Z")).await;
    // A part that an earlier Job put, six days ago by the time of the pass.
    let part = scene
        .memory
        .objects()
        .keys()
        .find(|path| path.starts_with(&old.data()))
        .unwrap()
        .clone();
    let retained = Some(Retained {
        mode: LockMode::Compliance,
        until: scene.now() + DAY,
    });
    scene.memory.force_lock(
        &part,
        Lock {
            retained,
            legal_hold: false,
        },
    );
    scene.memory.advance(SignedDuration::from_hours(1));
    let started = scene.now();
    scene.pass(&task(|_| ())).await;
    assert!(least(&scene, &old).unwrap() >= started + DAY * 7);
    let locked = |run: &RunPath| {
        scene.facts(run).into_iter().find_map(|fact| match fact {
            Fact::Locked { until } => Some(until),
            _ => None,
        })
    };
    assert_eq!(locked(&old), least(&scene, &old));
    assert_eq!(locked(&fresh), least(&scene, &fresh), "as the store shows it, not extended");
    assert!(locked(&fresh).unwrap() < started + DAY * 7);
}

#[tokio::test(start_paused = true)]
async fn short_locks_are_counted_from_the_later_clock() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let run = scene.copy(at("2026-03-01T02:00:00Z")).await;
    let scene = Scene::new(scene.memory.clone().with_write_lock(LockMode::Compliance, Duration::from_hours(24)));
    let ahead = scene.now() + SignedDuration::from_mins(4);
    let wanted = task(|_| ());
    let invocation = scene.invocation("offsite", &wanted);
    scene.pass_of(&invocation, scene.memory.clone(), ahead, &wanted).await.unwrap();
    assert!(least(&scene, &run).unwrap() >= ahead + DAY);
}
