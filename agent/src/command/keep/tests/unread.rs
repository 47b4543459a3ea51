//! What cannot be read, or is not there any more, keeps everything else of its source.

use holdfast_crds::{CopyState, KeepRelease, KeepSource, Reason, Said as SaidBy, hold_id};

use super::passes::hold;
use super::*;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

const WEEKS: i32 = 10;

#[tokio::test(start_paused = true)]
async fn a_copy_that_lost_its_register_is_neither_given_up_nor_swept() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_within = Some("90d".parse().unwrap()));
    scene.pass(&wanted).await;
    scene.memory.remove(&runs[1].outcome().to_string());
    scene.memory.advance(DAY * WEEKS);
    let said = scene.pass(&wanted).await;
    assert!(scene.with_data().contains(runs[1].run.as_str()));
    assert!(
        !scene.memory.objects().contains_key(&runs[1].outcome().to_string()),
        "nothing is decided in its place"
    );
    assert_eq!(said.source().blocked.as_ref().unwrap().reason, Reason::CatalogueUnreadable);
    let told = |finding: &&StoreFinding| finding.reason == Reason::Tampered && finding.message.contains("put it back");
    assert!(said.findings().iter().any(told), "{:?}", said.findings());
}

#[tokio::test(start_paused = true)]
async fn while_copies_are_missing_no_run_is_given_up() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    // Everything is kept, and so there are no records.
    let mut wanted = task(|_| ());
    scene.pass(&wanted).await;
    assert!(scene.what(&runs[1]).is_empty());
    scene.memory.remove(&runs[1].outcome().to_string());
    scene.memory.advance(DAY * WEEKS);
    wanted.sources = vec![counted(5)];
    let said = scene.pass(&wanted).await;
    assert_eq!(said.source().blocked.as_ref().unwrap().reason, Reason::CopiesMissing);
    assert!(scene.with_data().contains(runs[1].run.as_str()));
    // Who left it so is known to have left nothing: given up, and swept.
    wanted.sources[0].copies = Some(4);
    scene.pass(&wanted).await;
    assert!(!scene.with_data().contains(runs[1].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn copies_that_were_removed_after_they_had_been_counted_are_not_missing() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let mut wanted = task(|r| r.keep_last = Some(2));
    // Retired, so that no new copy is waited for.
    wanted.sources = vec![KeepSource {
        namespace: label("shop"),
        source: label("orders"),
        copies: None,
        copies_as_of: None,
        retired: Some(SaidBy {
            who: "ann".to_owned(),
            why: "sold".to_owned(),
        }),
        accepted: vec![],
    }];
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 3);
    let first = scene.pass(&wanted).await;
    let (found, removed) = (first.source().found, first.source().removed);
    assert_eq!((found, removed), (5, 3));
    // The operator never heard of the removals: it knows what the pass began with, and when.
    wanted.sources[0].copies = Some(5);
    wanted.sources[0].copies_as_of = Some(first.result.kept.as_ref().unwrap().started_at.parse().unwrap());
    assert_eq!(scene.pass(&wanted).await.source().blocked.as_ref().map(|it| it.reason), None);
    wanted.sources[0].copies = Some(6);
    let said = scene.pass(&wanted).await;
    assert_eq!(said.source().blocked.as_ref().unwrap().reason, Reason::CopiesMissing);
}

#[tokio::test(start_paused = true)]
async fn a_source_of_which_nothing_is_left_is_told_until_its_loss_is_accepted() {
    let scene = Scene::new(Memory::new());
    let mut wanted = task(|_| ());
    wanted.sources = vec![counted(40)];
    let said = scene.pass(&wanted).await;
    let source = said.source();
    assert_eq!((source.copies, source.unread), (0, false));
    assert_eq!(source.blocked.as_ref().unwrap().reason, Reason::CopiesMissing);
    assert!(
        said.findings()
            .iter()
            .any(|finding| finding.message.contains("40 copies have to be here"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_read_has_no_numbers() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 2).await;
    let faulty = Faulty::new(scene.memory.clone(), |call: &Call| {
        (call.kind == CallKind::Get && call.path.ends_with("outcome.json")).then(|| Fault::Before(Fault::slow_down()))
    });
    let said = scene.pass_through(faulty, &task(|_| ())).await.unwrap();
    let source = said.source();
    assert!(source.unread, "{source:?}");
    assert_eq!(source.blocked.as_ref().unwrap().reason, Reason::CatalogueUnreadable);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_source_that_cannot_be_read_stops_its_retention() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    scene.pass(&task(|r| r.keep_last = Some(2))).await;
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    // The schedule is gone, and its last word is damaged.
    let is_policy = |path: &&String| path.ends_with("-policy.json");
    let policy = scene.memory.objects().keys().find(is_policy).unwrap().clone();
    scene.memory.remove(&policy);
    scene.memory.plant(&policy, "{");
    scene.memory.advance(DAY * 3);
    let said = scene.pass(&KeepTask::default()).await;
    let blocked = said.source().blocked.clone().unwrap();
    assert_eq!(blocked.reason, Reason::CatalogueUnreadable);
    assert!(blocked.message.contains(&policy), "{}", blocked.message);
    assert_eq!(scene.with_data().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn no_legal_hold_is_lifted_while_a_record_of_a_hold_cannot_be_read() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let mut wanted = task(|_| ());
    wanted.holds = vec![hold(|hold| hold.scope.runs = Some(vec![runs[0].to_string()]))];
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["held", "legal-hold"]);
    wanted.holds[0].release = Some(KeepRelease {
        released_by: "bob".into(),
        reason: "closed".into(),
        effective_at: scene.now(),
    });
    let garbage = format!("holds/{}/01KJZZZZZZZZZZZZZZZZZZZZZZ-place.json", hold_id(Some("shop"), "tax"));
    scene.memory.plant(&garbage, "{");
    scene.memory.advance(SignedDuration::from_mins(1));
    let said = scene.pass(&wanted).await;
    assert_eq!(
        said.source().newest_copies.last().unwrap().state,
        CopyState::Kept,
        "what can be read says that it was released"
    );
    assert_eq!(scene.what(&runs[0]), ["held", "legal-hold"], "but not lifted");
}
