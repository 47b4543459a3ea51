//! Disposals: what holds and locks defer, and that it resumes.

use super::passes::hold;
use super::*;
use holdfast_crds::document::HoldScope;
use holdfast_crds::{DisposalReport, KeepDisposal, KeepRelease, LockMode, Span};

fn disposal(runs: &[&RunPath]) -> KeepDisposal {
    KeepDisposal {
        namespace: "shop".into(),
        name: "erase-7".into(),
        scope: HoldScope {
            runs: Some(runs.iter().map(ToString::to_string).collect()),
            ..HoldScope::default()
        },
        basis: "GDPR Art. 17".into(),
        requested_by: "ann".into(),
        approved_by: "bob".into(),
    }
}

fn told(said: &Said) -> DisposalReport {
    match said.lines.last() {
        Some(KeepLine::Disposal(report)) => report.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_disposal_destroys_what_it_names_once_holds_let_go() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let key = format!("catalog/{}/key-pod-1-1.age", runs[0]);
    scene.memory.plant(&key, "sealed");
    let mut wanted = KeepTask {
        disposals: vec![disposal(&[&runs[0], &runs[1]])],
        ..KeepTask::default()
    };
    wanted.holds = vec![hold(|hold| {
        hold.cool_off = Span::from_seconds(1);
        hold.scope.runs = Some(vec![runs[0].to_string()]);
    })];
    let waits = scene.pass(&wanted).await;
    let report = told(&waits);
    assert_eq!((report.left, report.deferred, report.removed), (1, 1, 1), "{report:?}");
    assert!(report.problem.unwrap().contains("held by"));
    assert_eq!(waits.source().copies, 2);
    assert!(scene.memory.objects().contains_key(&key));
    wanted.holds = vec![hold(|hold| {
        hold.cool_off = Span::from_seconds(1);
        hold.scope.runs = Some(vec![runs[0].to_string()]);
        hold.release = Some(KeepRelease {
            released_by: "bob".into(),
            reason: "closed".into(),
            effective_at: scene.now(),
        });
    })];
    scene.memory.advance(SignedDuration::from_mins(1));
    scene.pass(&wanted).await;
    scene.memory.advance(SignedDuration::from_mins(1));
    let done = told(&scene.pass(&wanted).await);
    assert_eq!((done.left, done.removed), (0, 2), "{done:?}");
    assert!(!scene.memory.objects().contains_key(&key));
    assert_eq!(scene.with_data(), BTreeSet::from([runs[2].run.to_string()]));
    let facts = scene.facts(&runs[1]);
    let Some(Fact::Shredded { disposal, basis }) = facts.iter().find(|fact| fact.what() == "shredded") else {
        panic!("{facts:?}")
    };
    assert_eq!(
        (disposal.as_str(), basis.as_str()),
        ("shop/erase-7", "GDPR Art. 17; requested by ann, approved by bob")
    );
}

#[tokio::test(start_paused = true)]
async fn a_lock_defers_a_disposal_is_not_made_longer_and_says_when_to_come_again() {
    let scene = Scene::new(Memory::new().with_write_lock(LockMode::Compliance, Duration::from_hours(1)));
    let runs = days(&scene, "2026-03-01T02:00:00Z", 1).await;
    let mut wanted = task(|r| r.monthly = Some(3));
    wanted.disposals = vec![disposal(&[&runs[0]])];
    // At half of its time a lock without a known end would be renewed.
    scene.memory.advance(SignedDuration::from_mins(40));
    let waits = scene.pass(&wanted).await;
    let report = told(&waits);
    assert_eq!((report.left, report.deferred, report.removed), (1, 1, 0), "{report:?}");
    assert!(report.problem.unwrap().contains("locked by the store until 2026-03-01T03:1"));
    let again: Timestamp = waits.result.kept.unwrap().again_at.unwrap().parse().unwrap();
    assert!(again > at("2026-03-01T03:10:00Z") && again < at("2026-03-01T03:15:00Z"), "{again}");
    assert!(!scene.what(&runs[0]).contains(&"locked"), "{:?}", scene.what(&runs[0]));
    scene.memory.set_clock(again);
    let done = scene.pass(&wanted).await;
    assert_eq!((told(&done).left, told(&done).removed), (0, 1));
    assert_eq!(scene.with_data(), BTreeSet::new());
    assert_eq!(done.result.kept.unwrap().again_at, None);
}

#[tokio::test(start_paused = true)]
async fn the_buckets_own_hold_is_told_by_the_pass_that_sets_it_and_lets_go_in_the_pass_that_lifts_it() {
    let scene = Scene::new(Memory::new().with_write_lock(LockMode::Governance, Duration::from_hours(1)));
    let runs = days(&scene, "2026-03-01T02:00:00Z", 1).await;
    let mut wanted = KeepTask {
        disposals: vec![disposal(&[&runs[0]])],
        holds: vec![hold(|hold| {
            hold.cool_off = Span::from_seconds(1);
            hold.scope.runs = Some(vec![runs[0].to_string()]);
        })],
        ..KeepTask::default()
    };
    let placed = scene.pass(&wanted).await;
    let holds = placed.lines.iter().filter_map(|line| match line {
        KeepLine::Hold(hold) => Some((hold.copies, hold.legal_holds)),
        _ => None,
    });
    assert_eq!(holds.collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(told(&placed).deferred, 1);
    scene.memory.advance(SignedDuration::from_hours(2));
    let effective_at = scene.now();
    wanted.holds = vec![hold(|hold| {
        hold.cool_off = Span::from_seconds(1);
        hold.scope.runs = Some(vec![runs[0].to_string()]);
        hold.release = Some(KeepRelease {
            released_by: "bob".into(),
            reason: "closed".into(),
            effective_at,
        });
    })];
    scene.pass(&wanted).await;
    scene.memory.advance(SignedDuration::from_mins(1));
    let done = told(&scene.pass(&wanted).await);
    assert_eq!((done.left, done.removed), (0, 1), "{done:?}");
    assert_eq!(scene.with_data(), BTreeSet::new());
}
