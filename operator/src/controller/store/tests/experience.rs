//! What runs meet in a store, and what becomes of it.

use super::*;

/// A store that was tried at midnight and passed.
async fn ready() -> World {
    let world = world();
    world.reconcile().await;
    world.ends(
        "offsite-p1",
        Reason::StoreReady,
        "",
        &[check("Reach", true), check("CreateIfAbsent", true)],
    );
    world.reconcile().await;
    world.gone("offsite-p1");
    assert_eq!(world.condition("Ready").0, "True");
    world.fake.calls();
    world
}

impl World {
    /// A run that began at one time and whose only attempt ended at another.
    fn met(&self, name: &str, began: &str, ended: &str, reason: Reason) {
        let phase = if reason == Reason::Succeeded { "Succeeded" } else { "Failed" };
        let run = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": began},
            "spec": {"source": "a", "stores": [{"name": "offsite"}]},
            "status": {"phase": phase, "reason": reason, "startTime": began, "completionTime": ended, "attempts": [
                {"number": 1, "job": format!("{name}-b1"), "startedAt": began, "notAfter": ended, "finishedAt": ended, "reason": reason,
                    "message": "as the agent says", "ran": true}]},
        });
        self.context.caches.runs.watched(serde_json::from_value::<BackupRun>(run).unwrap());
    }

    fn probe(&self) -> i64 {
        self.status().probe.unwrap().number
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_run_meets_reaches_the_conditions_and_starts_a_probe() {
    let world = Box::pin(ready()).await;
    world.at("2026-03-01T02:00:10Z");
    // What is wrong with the database says nothing about the store.
    world.met("a", "2026-03-01T02:00:00Z", "2026-03-01T02:00:05Z", Reason::LockTimeout);
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(world.fake.calls(), [""; 0]);
    world.met("b", "2026-03-01T02:00:00Z", "2026-03-01T02:00:08Z", Reason::StoreAccessDenied);
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["PATCH backupstores/offsite/status", "POST jobs/offsite-p2"]);
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreAccessDenied"));
    assert!(message.contains("the run b met: as the agent says"), "{message}");
    assert_eq!(world.condition("Stalled").0, "True", "only a person can change it");
    assert_eq!(refusal(&world.current()), None, "a tick makes its run all the same");
    // The same again says nothing new.
    world.pod(
        "offsite-p2",
        &json!({"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {}}}]}),
    );
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0]);
    // The probe passes: that is over.
    world.at("2026-03-01T02:00:30Z");
    world.ends(
        "offsite-p2",
        Reason::StoreReady,
        "",
        &[check("Reach", true), check("CreateIfAbsent", true)],
    );
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(
        (world.condition("Ready").0, world.condition("Stalled").0),
        ("True".into(), "False".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_too_takes_over_until_a_later_run_or_probe_succeeds() {
    let world = Box::pin(ready()).await;
    world.at("2026-03-01T02:00:10Z");
    world.met("a", "2026-03-01T02:00:00Z", "2026-03-01T02:00:08Z", Reason::StoreUnreachable);
    world.reconcile().await;
    world.ends(
        "offsite-p2",
        Reason::StoreUnreachable,
        "no route to s3.example",
        &[check("Reach", false)],
    );
    assert!(matches!(world.reconcile().await, Next::After(_)));
    assert!(world.condition("Ready").2.contains("no route"), "{:?}", world.condition("Ready"));
    // A run that began before the probe may have worked on another specification; a later one shows that the store is back.
    world.met("b", "2026-03-01T01:00:00Z", "2026-03-01T02:00:12Z", Reason::Succeeded);
    world.reconcile().await;
    assert_eq!(world.condition("Ready").0, "False");
    world.met("c", "2026-03-01T02:00:11Z", "2026-03-01T02:00:13Z", Reason::Succeeded);
    assert_eq!(world.reconcile().await, Next::Change, "nothing is left to be tried");
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "StoreReady"));
    assert!(message.contains("the run c"), "{message}");
    world.gone("offsite-p2");
    world.fake.calls();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0], "said once");
}

#[tokio::test(start_paused = true)]
async fn probes_that_pass_while_runs_go_on_failing_become_seldom() {
    let world = Box::pin(ready()).await;
    let start: jiff::Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
    let mut last = 0;
    // For two hours a run fails every 30 seconds, because the store is too full for a copy and not for a probe.
    for half_minute in 0..240 {
        let now = start + jiff::SignedDuration::from_secs(30 * half_minute);
        world.at(&now.to_string());
        world.met(&format!("r{half_minute}"), &now.to_string(), &now.to_string(), Reason::StoreFull);
        world.reconcile().await;
        if world.probe() > last {
            last = world.probe();
            let job = format!("offsite-p{last}");
            world.ends(&job, Reason::StoreReady, "", &[check("Reach", true), check("CreateIfAbsent", true)]);
            world.reconcile().await;
            world.gone(&job);
        }
    }
    assert!((3..12).contains(&last), "{last} probes in two hours");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_meets_an_unsafe_store_stops_the_next_until_it_is_tried() {
    let world = Box::pin(ready()).await;
    world.at("2026-03-01T02:00:10Z");
    world.met("a", "2026-03-01T02:00:00Z", "2026-03-01T02:00:08Z", Reason::StoreUnsafe);
    world.reconcile().await;
    assert_eq!(refusal(&world.current()).unwrap().0, Reason::StoreUnsafe);
}
