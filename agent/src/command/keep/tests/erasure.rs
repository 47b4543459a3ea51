//! What a disposal may call gone.

use holdfast_crds::document::HoldScope;
use holdfast_crds::{CopyReport, CopyState, DisposalReport, KeepDisposal, KeepPreview, Reason};

use super::locks::refusal;
use super::previews::preview;
use super::*;
use crate::store::Lock;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

fn erase(edit: impl FnOnce(&mut HoldScope)) -> KeepTask {
    let mut scope = HoldScope::default();
    edit(&mut scope);
    KeepTask {
        disposals: vec![KeepDisposal {
            namespace: "shop".into(),
            name: "erase".into(),
            scope,
            basis: "GDPR Art. 17".into(),
            requested_by: "ann".into(),
            approved_by: "bob".into(),
        }],
        ..task(|_| ())
    }
}

fn told(said: &Said) -> DisposalReport {
    let report = said.lines.iter().find_map(|line| match line {
        KeepLine::Disposal(report) => Some(report.clone()),
        _ => None,
    });
    report.unwrap_or_else(|| panic!("{:?}", said.lines))
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_left_and_not_gone() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let all = erase(|scope| scope.sources = Some(vec!["shop/orders".into()]));
    // The whole source.
    let faulty = Faulty::new(scene.memory.clone(), |call: &Call| {
        let read = call.kind == CallKind::Get && call.path.starts_with("catalog/shop/orders");
        read.then(|| Fault::Before(refusal(&call.path)))
    });
    let report = told(&scene.pass_through(faulty, &all).await.unwrap());
    assert_eq!((report.left, report.removed), (1, 0), "{report:?}");
    assert!(report.problem.unwrap().contains("shop/orders cannot be read"));
    assert_eq!(scene.with_data().len(), 3);
    // One outcome.
    let outcome = runs[1].outcome().to_string();
    scene.memory.remove(&outcome);
    scene.memory.plant(&outcome, "{");
    let report = told(&scene.pass(&all).await);
    assert_eq!((report.left, report.removed), (3, 0), "nothing is destroyed beside it: {report:?}");
    // The request names another source, which has nothing.
    let other = erase(|scope| scope.sources = Some(vec!["shop/ordrs".into()]));
    let report = told(&scene.pass(&other).await);
    assert_eq!((report.left, report.removed), (0, 0));
    assert_eq!(report.told, Some(other.disposals[0].digest()));
    assert_ne!(report.told, Some(all.disposals[0].digest()));
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_store_does_not_let_go_are_no_removal() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let key = format!("catalog/{}/key-pod-1-1.age", runs[0]);
    scene.memory.plant(&key, "sealed");
    let wanted = erase(|scope| scope.runs = Some(vec![runs[0].to_string()]));
    // Somebody sets a legal hold once the records are written: only the pruner sees it.
    let (memory, path) = (scene.memory.clone(), key.clone());
    let hold = move |on: bool| {
        let lock = Lock {
            legal_hold: on,
            ..memory.locked(&path)
        };
        memory.force_lock(&path, lock);
    };
    let set = hold.clone();
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        if call.kind == CallKind::Create && call.path.ends_with("-shredded.json") {
            set(true);
        }
        None
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    let report = told(&said);
    assert_eq!((report.left, report.removed, report.deferred), (1, 0, 1), "{report:?}");
    assert!(report.problem.unwrap().contains("does not let its keys go"));
    assert_eq!(report.shredded, 0, "its keys are there");
    let copy = oldest(&said);
    assert_eq!(copy.state, CopyState::NotGood);
    assert_eq!(copy.why, "disposal shop/erase: the store does not let its keys go (1 objects)");
    assert_eq!(said.source().good, 2);
    assert!(said.findings().is_empty(), "{:?}", said.findings());
    let again = scene.pass(&wanted).await;
    assert!(again.findings().is_empty(), "{:?}", again.findings());
    assert_eq!((oldest(&again).state, again.source().good), (CopyState::NotGood, 2));
    assert!(!scene.what(&runs[0]).contains(&"removed"), "{:?}", scene.what(&runs[0]));
    hold(false);
    let report = told(&scene.pass(&wanted).await);
    assert_eq!((report.left, report.removed), (0, 1), "{report:?}");
    assert!(!scene.memory.objects().contains_key(&key));
}

/// What the report says of the oldest copy that it lists.
fn oldest(said: &Said) -> &CopyReport {
    said.source().newest_copies.last().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_shredded_is_shown_as_that_while_the_store_keeps_its_data_and_is_nothing_to_look_into() {
    let mut scene = Scene::new(Memory::new().with_object_lock());
    scene.encrypted = true;
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let wanted = erase(|scope| scope.runs = Some(vec![runs[0].to_string()]));
    // The store locks the data once the records are written.
    let memory = scene.memory.clone();
    let data = scene
        .memory
        .objects()
        .into_keys()
        .filter(|path| path.starts_with(&format!("data/{}/", runs[0])));
    let data: Vec<_> = data.collect();
    let hold = move |on: bool| {
        for path in &data {
            let lock = Lock {
                legal_hold: on,
                ..memory.locked(path)
            };
            memory.force_lock(path, lock);
        }
    };
    let set = hold.clone();
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        if call.kind == CallKind::Create && call.path.ends_with("-shredded.json") {
            set(true);
        }
        None
    });
    let first = scene.pass_through(faulty, &wanted).await.unwrap();
    let second = scene.pass(&wanted).await;
    for said in [&first, &second] {
        let report = told(said);
        assert_eq!(
            (report.left, report.removed, report.deferred, report.shredded),
            (1, 0, 1, 1),
            "{report:?}"
        );
        assert_eq!((said.source().copies, said.source().good), (2, 2), "it is none of the copies");
        let copy = oldest(said);
        assert_eq!((copy.state, copy.run.as_str()), (CopyState::Shredded, runs[0].run.as_str()));
        assert!(copy.why.starts_with("disposal shop/erase: "), "{}", copy.why);
        assert!(copy.why.contains("its data"), "{}", copy.why);
        assert!(said.findings().is_empty(), "{:?}", said.findings());
    }
    // Also to who previews by hand, without knowing of the request.
    let by_hand = KeepTask {
        preview: Some(KeepPreview::default()),
        ..task(|_| ())
    };
    let (result, copies) = preview(&scene, &by_hand).await;
    let summary = result.kept.unwrap();
    assert_eq!((summary.findings, summary.preview.unwrap().kept), (0, 2));
    assert_eq!(copies.last().unwrap().state, CopyState::Shredded);
    assert_eq!(
        copies.last().unwrap().why,
        "disposal shop/erase: not all of its data was deleted yet"
    );
    // Where the request is gone, somebody has to look.
    let orphaned = scene.pass(&task(|_| ())).await;
    assert_eq!(oldest(&orphaned).state, CopyState::NotGood);
    let why = orphaned
        .findings()
        .into_iter()
        .find(|finding| finding.reason == Reason::CopyCorrupt)
        .unwrap();
    assert!(why.message.contains("no approved request shop/erase names it"), "{}", why.message);
    hold(false);
    scene.pass(&wanted).await;
    let done = scene.pass(&wanted).await;
    assert_eq!((told(&done).left, told(&done).removed), (0, 1));
    assert_eq!(oldest(&done).run, runs[1].run.as_str());
}

#[tokio::test(start_paused = true)]
async fn where_only_keys_may_be_deleted_the_copy_is_shredded_in_the_same_pass_and_what_is_refused_is_told() {
    let mut scene = Scene::new(Memory::new().with_object_lock());
    scene.encrypted = true;
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let wanted = erase(|scope| scope.runs = Some(vec![runs[0].to_string()]));
    let faulty = Faulty::new(scene.memory.clone(), |call: &Call| {
        let data = call.kind == CallKind::DeleteVersion && call.path.starts_with("data/");
        data.then(|| Fault::Before(refusal(&call.path)))
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    let report = told(&said);
    assert_eq!((report.left, report.removed, report.shredded), (1, 0, 1), "{report:?}");
    assert_eq!((said.source().copies, oldest(&said).state), (2, CopyState::Shredded));
    assert!(oldest(&said).why.contains("AccessDenied"), "{}", oldest(&said).why);
    assert!(
        said.findings().iter().any(|finding| finding.reason == Reason::DeleteRefused),
        "{:?}",
        said.findings()
    );
    // What is deleted after that is told by a pass that follows at once.
    let swept = scene.pass(&wanted).await;
    assert!(swept.result.kept.unwrap().again_at.is_some());
    let done = scene.pass(&wanted).await;
    assert_eq!((told(&done).left, told(&done).removed), (0, 1));
    assert_eq!(done.result.kept.unwrap().again_at, None);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_for_its_disposal_says_so() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 2).await;
    let data = scene
        .memory
        .objects()
        .into_keys()
        .find(|path| path.starts_with(&format!("data/{}/", runs[0])));
    let lock = Lock {
        legal_hold: true,
        ..Lock::default()
    };
    scene.memory.force_lock(&data.unwrap(), lock);
    let said = scene.pass(&erase(|scope| scope.runs = Some(vec![runs[0].to_string()]))).await;
    let copy = oldest(&said);
    assert_eq!((copy.state, said.source().good), (CopyState::Kept, 2), "it can be read");
    assert_eq!(
        copy.why,
        format!("disposal shop/erase: {} is under legal hold in the store", runs[0].run)
    );
}

#[tokio::test(start_paused = true)]
async fn what_retention_removed_and_the_store_still_has_is_left() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let mut wanted = erase(|scope| scope.runs = Some(vec![runs[0].to_string()]));
    let disposals = std::mem::take(&mut wanted.disposals);
    wanted.schedules[0].retention.keep_last = Some(4);
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    let refuses = |kind: CallKind| {
        Faulty::new(scene.memory.clone(), move |call: &Call| {
            (call.kind == kind && call.path.starts_with("data/")).then(|| Fault::Before(refusal(&call.path)))
        })
    };
    scene.pass_through(refuses(CallKind::DeleteVersion), &wanted).await.unwrap();
    assert!(scene.what(&runs[0]).contains(&"removed"));
    wanted.disposals = disposals;
    let report = told(&scene.pass_through(refuses(CallKind::DeleteVersion), &wanted).await.unwrap());
    assert_eq!((report.left, report.removed), (1, 0), "{report:?}");
    scene.pass(&wanted).await;
    let report = told(&scene.pass(&wanted).await);
    assert_eq!((report.left, report.removed), (0, 1), "{report:?}");
}
