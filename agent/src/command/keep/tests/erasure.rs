//! What a disposal may call gone.

use holdfast_crds::document::HoldScope;
use holdfast_crds::{DisposalReport, KeepDisposal};

use super::locks::refusal;
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
    assert!(!scene.what(&runs[0]).contains(&"removed"), "{:?}", scene.what(&runs[0]));
    hold(false);
    let report = told(&scene.pass(&wanted).await);
    assert_eq!((report.left, report.removed), (0, 1), "{report:?}");
    assert!(!scene.memory.objects().contains_key(&key));
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
