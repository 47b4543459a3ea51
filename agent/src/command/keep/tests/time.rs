//! How long a pass waited, how long it may delete, and what the next does with what was left.

use holdfast_crds::Reason;

use super::*;
use crate::store::StoreError;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

#[tokio::test(start_paused = true)]
async fn a_keeper_of_a_volume_whose_pod_had_to_wait_looks_after_it() {
    let scene = Scene::new(Memory::new().without_versions());
    days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let wanted = task(|r| r.daily = Some(30));
    let on_a_bucket = scene.invocation("offsite", &wanted);
    let mut on_a_volume = scene.invocation("offsite", &wanted);
    on_a_volume.task.store.spec =
        serde_json::from_value(serde_json::json!({"volume": {"claimName": "backups"}, "encryption": {"none": {}}})).unwrap();
    for (invocation, waited, well) in [
        (&on_a_volume, 65 * 60, true),
        (&on_a_volume, 65 * 60 + 1, false),
        (&on_a_volume, -301, false),
        (&on_a_bucket, 301, false),
    ] {
        let now = scene.now() + SignedDuration::from_secs(waited);
        let said = scene.pass_of(invocation, scene.memory.clone(), now, &wanted).await.unwrap();
        let skewed = said.findings().iter().any(|finding| finding.reason == Reason::ClockSkew);
        assert_eq!(!skewed, well, "{waited} s: {:?}", said.findings());
    }
}

/// Copies of three sources are due. Each removal takes so long that the time of a pass is over with the first.
#[tokio::test(start_paused = true)]
async fn a_pass_begins_where_the_time_of_the_one_before_was_over() {
    let scene = Scene::new(Memory::new());
    let sources = ["orders", "orders-eu", "users"];
    for day in 0..4 {
        let tick = at("2026-03-01T02:00:00Z") + DAY * day;
        scene.memory.set_clock(tick + SignedDuration::from_mins(10));
        for source in sources {
            scene
                .copy_of(source, "shop/offsite", &format!("{source}-{day}"), tick, |_| {})
                .await;
        }
    }
    let mut wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    for source in sources {
        scene.memory.set_clock(at("2026-03-06T02:20:00Z"));
        scene
            .copy_of(source, "shop/offsite", &format!("{source}-4"), at("2026-03-06T02:00:00Z"), |_| {})
            .await;
    }
    let mut told = Vec::new();
    let mut went = Vec::new();
    for _ in 0..4 {
        let memory = scene.memory.clone();
        let slow = Faulty::new(scene.memory.clone(), move |call: &Call| {
            if call.kind == CallKind::DeleteVersion && call.path.starts_with("data/") && call.path.ends_with("index.zst") {
                memory.advance(SignedDuration::from_mins(9));
            }
            None
        });
        let said = scene.pass_through(slow, &wanted).await.unwrap();
        let of = |line: &KeepLine| match line {
            KeepLine::Source(source) => Some((source.source.clone(), source.removed)),
            _ => None,
        };
        let reports: Vec<_> = said.lines.iter().filter_map(of).collect();
        // Every source is looked after and told, once.
        assert_eq!(reports.len(), 3, "{reports:?}");
        told.push(reports[0].0.clone());
        went.extend(reports.into_iter().filter(|(_, removed)| *removed > 0).map(|(source, _)| source));
        let summary = said.result.kept.unwrap();
        assert_eq!(summary.stopped_at.is_some(), summary.again_at.is_some(), "{summary:?}");
        // As the operator does.
        wanted.from = summary.stopped_at;
    }
    assert_eq!(went, ["orders-eu", "orders", "users"], "each in its turn");
    assert_eq!(
        told,
        ["orders-eu", "orders", "users", "orders-eu"],
        "in the order of listings, from there on"
    );
    assert_eq!(wanted.from, None);
}

/// 403 on delete: whoever may not delete removes nothing more, says so, and the next who may does the rest.
#[tokio::test(start_paused = true)]
async fn f44_a_delete_that_is_refused_is_told_and_done_by_the_next_pass() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.set_clock(at("2026-03-07T02:10:00Z"));
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    let refusing = Faulty::new(scene.memory.clone(), |call: &Call| {
        (call.kind == CallKind::DeleteVersion).then(|| {
            Fault::Before(StoreError::Denied {
                call: "delete",
                path: call.path.clone(),
                status: 403,
                code: "AccessDenied".to_owned(),
            })
        })
    });
    let said = scene.pass_through(refusing, &wanted).await.unwrap();
    let refused: Vec<_> = said
        .findings()
        .into_iter()
        .filter(|it| it.reason == Reason::DeleteRefused)
        .collect();
    assert!(!refused.is_empty(), "{:?}", said.findings());
    assert!(scene.with_data().contains(runs[0].run.as_str()), "nothing was deleted");
    assert_eq!(
        scene.what(&runs[0]).last(),
        Some(&"removed"),
        "what a removal is was recorded first"
    );
    let said = scene.pass(&wanted).await;
    assert!(said.findings().is_empty(), "{:?}", said.findings());
    let left = scene.with_data();
    assert!(
        !left.contains(runs[0].run.as_str()) && !left.contains(runs[1].run.as_str()),
        "{left:?}"
    );
    assert_eq!(left.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lock_at_write_that_may_end_before_the_next_pass_is_told() {
    for (hours, told) in [(1, true), (47, true), (48, false), (168, false)] {
        let scene = Scene::new(Memory::new().with_write_lock(holdfast_crds::LockMode::Governance, Duration::from_hours(hours)));
        days(&scene, "2026-03-01T02:00:00Z", 1).await;
        let said = scene.pass(&task(|_| ())).await;
        let notes = said.result.kept.unwrap().notes;
        assert_eq!(
            notes.iter().any(|note| note.contains("objectLock.atWrite is")),
            told,
            "{hours} h: {notes:?}"
        );
    }
}
