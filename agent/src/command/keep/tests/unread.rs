//! What cannot be read, or is not there any more, keeps everything else of its source.

use holdfast_crds::document::Acceptance;
use holdfast_crds::{CopyState, KeepCut, KeepRelease, KeepSource, Reason, Said as SaidBy, hold_id};

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
    let mut wanted = task(|r| r.keep_last = Some(3));
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
    assert_eq!((found, removed), (5, 2));
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
    let blocked = source.blocked.clone().unwrap();
    let (_, rest) = blocked.message.split_once("spec.accept: [{loss: {set: ").unwrap();
    let accepted = holdfast_crds::Accepted {
        what: Acceptance::Loss {
            set: rest.split_once("}, by: ").unwrap().0.parse().unwrap(),
        },
        said: SaidBy {
            who: "ann".to_owned(),
            why: "the bucket burnt".to_owned(),
        },
    };
    wanted.sources[0].accepted = vec![accepted];
    assert!(scene.pass(&wanted).await.lines.is_empty(), "exactly this was accepted");
    // Forty others, counted later.
    wanted.sources[0].copies_as_of = Some(scene.now());
    assert_eq!(
        scene.pass(&wanted).await.source().blocked.as_ref().unwrap().reason,
        Reason::CopiesMissing
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
    wanted.holds[0].cool_off = holdfast_crds::Span::from_seconds(1);
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["held", "legal-hold"]);
    wanted.holds[0].release = Some(KeepRelease {
        released_by: "bob".into(),
        reason: "closed".into(),
        effective_at: scene.now(),
    });
    scene.memory.advance(SignedDuration::from_mins(1));
    scene.pass(&wanted).await;
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

/// A run that commits while a pass lists, after the page of `data/` in which its parts would be and before the one of `catalog/` with its outcome.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_committed_between_the_two_listings_is_good() {
    let [first, between, last] = ["2026-03-01T02:00:00Z", "2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z"].map(at);
    let scene = Scene::new(Memory::new().without_versions().page(4));
    let wanted = task(|r| {
        (r.daily, r.weekly, r.monthly) = (Some(30), Some(30), Some(30));
        (r.quarterly, r.yearly) = (Some(30), Some(30));
    });
    for tick in [first, last] {
        scene.memory.set_clock(tick + SignedDuration::from_mins(10));
        scene.copy(tick).await;
    }
    scene.memory.advance(DAY * 2);
    scene.pass(&wanted).await;
    let elsewhere = Scene::new(Memory::new().without_versions());
    elsewhere.memory.set_clock(scene.now());
    let run = elsewhere.copy(between).await;
    let committed = objects_of(&elsewhere, &run);
    assert_eq!(committed.len(), 3);
    for (left_out, good) in [(None, 3), (Some("data/"), 2)] {
        let listed = Arc::new(Mutex::new(Vec::new()));
        let (memory, committed, order) = (scene.memory.clone(), committed.clone(), Arc::clone(&listed));
        let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
            if call.kind == CallKind::ListVersions && !call.path.starts_with("holds") {
                let mut order = order.lock().unwrap();
                order.push(call.path[..4].to_owned());
                if *order == ["cata", "data", "cata"] {
                    for (path, bytes) in committed
                        .iter()
                        .filter(|(path, _)| left_out.is_none_or(|out| !path.starts_with(out)))
                    {
                        memory.plant(path, bytes.clone());
                    }
                }
            }
            None
        });
        let said = scene.pass_through(faulty, &wanted).await.unwrap();
        assert!(listed.lock().unwrap().starts_with(&["cata".into(), "data".into(), "cata".into()]));
        assert_eq!((said.source().copies, said.source().good), (3, good), "{:?}", said.findings());
        // What is really not there is told.
        assert_eq!(said.findings().is_empty(), left_out.is_none(), "{:?}", said.findings());
        for (path, _) in objects_of(&scene, &run) {
            scene.memory.remove(&path);
        }
    }
}

fn objects_of(scene: &Scene, run: &RunPath) -> Vec<(String, Bytes)> {
    scene
        .memory
        .objects()
        .into_iter()
        .filter(|(path, _)| path.contains(run.run.as_str()))
        .collect()
}

/// F83: an older keeper comes back after a downgrade. What the newer one wrote it cannot read: of that source nothing is marked or removed, of
/// the others all goes on.
#[tokio::test(start_paused = true)]
async fn f83_a_keeper_that_is_older_than_a_manifest_removes_nothing_of_its_source() {
    let scene = Scene::new(Memory::new().without_versions());
    let mut runs = Vec::new();
    for day in 0..5 {
        let tick = at("2026-03-01T02:00:00Z") + DAY * day;
        scene.memory.set_clock(tick + SignedDuration::from_mins(10));
        runs.push(scene.copy(tick).await);
        scene.copy_of("users", "shop/offsite", &format!("users-{day}"), tick, |_| {}).await;
    }
    let wanted = task(|r| r.keep_last = Some(2));
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    let newer = runs[4].outcome().to_string();
    let outcome: serde_json::Value = serde_json::from_slice(&scene.memory.objects()[&newer]).unwrap();
    let mut later = outcome;
    later["version"] = serde_json::json!("2.0");
    scene.memory.remove(&newer);
    scene.memory.plant(&newer, later.to_string());
    scene.memory.set_clock(at("2026-03-07T02:15:00Z"));
    scene
        .copy_of("users", "shop/offsite", "users-5", at("2026-03-07T02:00:00Z"), |_| {})
        .await;
    let before = scene.memory.objects();
    let said = scene.pass(&wanted).await;
    let told = |finding: &&StoreFinding| finding.reason == Reason::FormatUnknown && finding.place == Some(runs[4].to_string());
    assert!(said.findings().iter().any(told), "{:?}", said.findings());
    let of = |name: &str| {
        let source = said.lines.iter().find_map(|line| match line {
            KeepLine::Source(source) if source.source == name => Some(source.clone()),
            _ => None,
        });
        source.unwrap()
    };
    assert_eq!(of("orders").blocked.unwrap().reason, Reason::CatalogueUnreadable);
    assert_eq!((of("users").blocked, of("users").removed), (None, 3));
    let after = scene.memory.objects();
    let gone = before
        .iter()
        .find(|(path, bytes)| path.contains("/orders/") && after.get(*path) != Some(*bytes));
    assert!(gone.is_none(), "{gone:?}");
    let new: Vec<_> = after
        .keys()
        .filter(|path| path.contains("/orders/") && !before.contains_key(*path))
        .collect();
    assert!(
        new.iter().all(|path| path.ends_with("-unmark.json")),
        "what can be read may be kept again: {new:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_source_looks_intact_because_others_have_many_findings() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    for number in 0..250 {
        scene.memory.plant(&format!("data/shop/many/stranger-{number}"), "x");
    }
    for run in &runs {
        let parts: Vec<_> = scene
            .memory
            .objects()
            .into_keys()
            .filter(|path| path.starts_with(&format!("data/{run}/")))
            .collect();
        for path in &parts {
            scene.memory.remove(path);
        }
    }
    let said = scene.pass(&task(|_| ())).await;
    let of = |place: &str| {
        said.findings()
            .iter()
            .filter(|finding| finding.place.as_deref().is_some_and(|of| of.starts_with(place)))
            .count()
    };
    assert_eq!((of("shop/many"), of("shop/orders/")), (200, 1));
    let more = said.lines.iter().filter_map(|line| match line {
        KeepLine::MoreFindings(more) => Some((more.place.as_str(), more.count)),
        _ => None,
    });
    assert_eq!(more.collect::<Vec<_>>(), [("shop/many", 50), ("shop/orders", 2)]);
    assert_eq!(said.result.kept.unwrap().findings, 253);
}

/// Six copies of which some go, and one is marked, by the next pass that is told this task.
async fn with_some_to_go(scene: &Scene) -> (Vec<RunPath>, KeepTask) {
    let runs = days(scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    let tick = scene.now();
    scene.copy(tick).await;
    (runs, wanted)
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_is_not_told_what_keeps_copies_removes_nothing() {
    let scene = Scene::new(Memory::new());
    let (runs, wanted) = with_some_to_go(&scene).await;
    let untold = KeepTask {
        untold: Some("the copies that restores read are too many".into()),
        ..wanted.clone()
    };
    let said = scene.pass(&untold).await;
    assert_eq!(scene.with_data().len(), 6);
    let blocked = said.source().blocked.clone().unwrap();
    assert_eq!(blocked.reason, Reason::KeeperTaskTooLarge);
    assert!(
        blocked.message.starts_with("the copies that restores read are too many"),
        "{}",
        blocked.message
    );
    assert_eq!(
        said.result.kept.unwrap().notes,
        ["the copies that restores read are too many: nothing is removed"]
    );
    scene.pass(&wanted).await;
    assert!(!scene.with_data().contains(runs[0].run.as_str()), "it was due");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_a_keeper_is_not_told_of_or_not_of_its_schedule_loses_nothing() {
    let scene = Scene::new(Memory::new());
    let (runs, wanted) = with_some_to_go(&scene).await;
    let cut = |schedules, sources| KeepCut {
        schedules,
        sources,
        counted: false,
        holds: false,
    };
    let no_source = KeepTask {
        cut: cut(false, true),
        ..wanted.clone()
    };
    let no_schedule = KeepTask {
        schedules: vec![],
        cut: cut(true, false),
        ..wanted.clone()
    };
    for (task, words) in [(&no_source, "this one is not told"), (&no_schedule, "gold of a copy")] {
        let said = scene.pass(task).await;
        let blocked = said.source().blocked.clone().unwrap();
        assert_eq!(blocked.reason, Reason::KeeperTaskTooLarge);
        assert!(blocked.message.contains(words), "{}", blocked.message);
        assert_eq!(scene.with_data().len(), 6);
        assert!(scene.what(&runs[2]).is_empty(), "it is not marked either");
        let summary = said.result.kept.unwrap();
        assert_eq!(summary.cut, task.cut);
        assert_eq!(summary.notes.len(), 1, "{:?}", summary.notes);
    }
    let told = KeepTask {
        sources: vec![KeepSource {
            namespace: label("shop"),
            source: label("orders"),
            copies: None,
            copies_as_of: None,
            retired: None,
            accepted: vec![],
        }],
        cut: cut(true, true),
        ..wanted
    };
    assert_eq!(scene.pass(&told).await.source().removed, 2);
    assert_eq!(scene.what(&runs[2]), ["mark"]);
}
