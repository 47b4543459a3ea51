//! What cannot be read, or is not there any more, keeps everything else of its source.

use holdfast_crds::document::HoldScope;
use holdfast_crds::{CopyState, KeepHold, KeepRelease, KeepSource, Reason, hold_id};

use super::*;

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
    wanted.sources = vec![KeepSource {
        namespace: label("shop"),
        source: label("orders"),
        copies: Some(5),
        retired: None,
        accepted: vec![],
    }];
    let said = scene.pass(&wanted).await;
    assert_eq!(said.source().blocked.as_ref().unwrap().reason, Reason::CopiesMissing);
    assert!(scene.with_data().contains(runs[1].run.as_str()));
    // Who left it so is known to have left nothing: given up, and swept.
    wanted.sources[0].copies = Some(4);
    scene.pass(&wanted).await;
    assert!(!scene.with_data().contains(runs[1].run.as_str()));
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
    wanted.holds = vec![KeepHold {
        id: hold_id(Some("shop"), "tax"),
        namespace: Some("shop".into()),
        name: "tax".into(),
        placed_by: "ann".into(),
        reason: "audit of 2026".into(),
        scope: HoldScope {
            runs: Some(vec![runs[0].to_string()]),
            ..HoldScope::default()
        },
        until: None,
        release: None,
    }];
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
