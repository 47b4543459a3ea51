//! Pods that slept through the end of their run, and of its register.

use holdfast_crds::Reason;

use super::*;
use crate::command::removed;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};
use crate::store::register::RegisterError;

const FIRST: &str = "2026-03-01T02:00:00Z";
const ZOMBIE: &str = "orders-lost";

/// A day after the other with a copy and a pass each, while the clock runs.
async fn live(scene: &Scene, task: &KeepTask, days: i32) -> Said {
    let mut last = None;
    for _ in 0..days {
        tokio::time::sleep(Duration::from_hours(24)).await;
        scene.copy(scene.now()).await;
        last = Some(scene.pass(task).await);
    }
    last.unwrap()
}

fn lost(scene: &Scene, below: &str) -> usize {
    let folder = format!("{below}/shop/orders/{ZOMBIE}/");
    scene.memory.objects().keys().filter(|path| path.starts_with(&folder)).count()
}

fn run() -> RunPath {
    RunPath::new("shop", "orders", ZOMBIE).unwrap()
}

/// F04: given up after seven days, swept, and forgotten thirty days after that. Then it wakes: its time is over by the store's clock.
#[tokio::test(start_paused = true)]
async fn f04_a_pod_that_slept_through_the_end_of_its_register_commits_nothing() {
    let scene = Scene::new(Memory::new());
    scene.memory.set_clock(at(FIRST));
    let task = task(|r| r.keep_last = Some(3));
    let outcome = scene.prepared("orders", ZOMBIE, at(FIRST), |_| {}).await;
    let store = scene.store();
    let pinned = store.claim(&scene.cluster, "shop/offsite").await.unwrap();
    let not_after = outcome.committed().unwrap().manifest().not_after;
    live(&scene, &task, 8).await;
    assert_eq!(
        (lost(&scene, "data"), lost(&scene, "catalog")),
        (0, 1),
        "swept, and given up in the register"
    );
    live(&scene, &task, 31).await;
    assert_eq!(lost(&scene, "catalog"), 0, "forgotten");

    let late = store.commit(&outcome, &pinned, not_after).await.unwrap_err();
    assert!(matches!(late, RegisterError::TooLate { .. }), "{late}");
    assert_eq!(lost(&scene, "catalog"), 0);
    // What it had still to write is cleared like what anybody left.
    scene.prepared("orders", ZOMBIE, at(FIRST), |_| {}).await;
    assert!(lost(&scene, "data") > 0);
    live(&scene, &task, 8).await;
    assert_eq!((lost(&scene, "data"), lost(&scene, "catalog")), (0, 1));
}

/// F04: it slept between its last look at the clock and its put. The put finds the register empty: it lands, of a copy whose parts are gone.
#[tokio::test(start_paused = true)]
async fn f04_an_outcome_that_lands_after_its_register_was_forgotten_counts_for_nothing_and_goes() {
    for given_up in [true, false] {
        let scene = Scene::new(Memory::new());
        scene.memory.set_clock(at(FIRST));
        let task = task(|r| r.keep_last = Some(3));
        let outcome = scene.prepared("orders", ZOMBIE, at(FIRST), |_| {}).await;
        if !given_up {
            // Another pod commits the run; in time retention removes the copy.
            assert_eq!(scene.copy_of("orders", "shop/offsite", ZOMBIE, at(FIRST), |_| {}).await, run());
        }
        let asleep = Faulty::new(scene.memory.clone(), |call: &Call| {
            let put = call.kind == CallKind::Create && call.path.ends_with("outcome.json");
            put.then(|| Fault::Slow(Duration::from_hours(24 * 60)))
        });
        let store = Store::new(asleep, Patience::RUN, 1);
        let pinned = store.claim(&scene.cluster, "shop/offsite").await.unwrap();
        let not_after = outcome.committed().unwrap().manifest().not_after;
        let world = async {
            live(&scene, &task, 59).await;
            assert_eq!((lost(&scene, "data"), lost(&scene, "catalog")), (0, 0), "forgotten");
        };
        let (landed, ()) = tokio::join!(store.commit(&outcome, &pinned, not_after), world);
        let landed = landed.unwrap();
        assert!(landed.ours, "the register was empty");
        let refused = removed::refuse(&store, &landed, landed.outcome.committed().unwrap())
            .await
            .unwrap_err();
        assert_eq!((refused.reason, refused.closed), (Reason::CopyCorrupt, true), "{}", refused.message);
        assert_eq!((lost(&scene, "data"), lost(&scene, "catalog")), (0, 1));

        let said = live(&scene, &task, 1).await;
        let place = format!("shop/orders/{ZOMBIE}");
        let told = |finding: &&StoreFinding| finding.reason == Reason::CopyCorrupt && finding.place.as_deref() == Some(&place);
        assert!(said.findings().iter().any(told), "{:?}", said.findings());
        let source = said.source();
        assert_eq!(
            (source.blocked.clone(), source.copies - source.good),
            (None, 1),
            "it is none of the good: {source:?}"
        );
        assert!(
            source
                .newest
                .as_ref()
                .is_some_and(|newest| *newest > at("2026-04-29T00:00:00Z").to_string())
        );
        // Nothing keeps it: it goes as others do, and stops nothing.
        live(&scene, &task, 3).await;
        assert_eq!(scene.what(&run()).last(), Some(&"removed"), "{:?}", scene.what(&run()));
        let said = live(&scene, &task, 1).await;
        assert!(
            said.findings().is_empty() && said.source().copies == said.source().good,
            "{:?}",
            said.findings()
        );
    }
}
