//! Runs and restores from beginning to end, against an API server in memory.

use std::time::Duration;

use holdfast_crds::Reason;
use serde_json::{Value, json};

mod faults;
pub mod world;

use self::world::{JOBS, Kind, NOW, OURS, PODS, World, drive, rest, server, store, succeeds};
use crate::{queue::Next, watch::Key};

#[tokio::test(start_paused = true)]
async fn a_run_is_counted_made_watched_and_tidied() {
    let mut world = World::run(3);
    world.reconcile().await.unwrap();
    assert_eq!(
        world.fake.calls(),
        ["PATCH backupruns/now/status", "POST jobs/now-b1"],
        "counted before it is made"
    );
    let status = world.status();
    assert_eq!(
        (&status["phase"], &status["attempts"][0]["job"]),
        (&json!("Pending"), &json!("now-b1"))
    );
    assert_eq!(status["frozen"]["source"]["postgresql"]["hosts"], json!(["db"]));
    let task = world.task("now-b1");
    assert_eq!(
        (&task["action"]["backup"]["attempt"], &task["action"]["backup"]["final"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(task["action"]["backup"]["notAfter"], "2026-03-01T06:00:00Z");
    drive(&mut world, succeeds).await;
    assert_eq!(world.told(), ("Succeeded".into(), "Succeeded".into()));
    let status = world.status();
    assert_eq!(
        (&status["size"], &status["copy"]["path"]),
        (&json!("2.0 KiB"), &json!("shop/shop/now"))
    );
    rest(&mut world).await;
    assert_eq!(world.jobs(), [""; 0]);
    assert_eq!(world.fake.events(), ["Pending", "Running", "Succeeded"], "one for each transition");
}

#[tokio::test(start_paused = true)]
async fn an_ended_run_of_which_little_is_remembered_keeps_all_that_its_status_says() {
    let mut world = World::run(3);
    drive(&mut world, succeeds).await;
    rest(&mut world).await;
    let before = world.status();
    world.restart();
    world.fake.calls();
    let held = world.context.caches.runs.get(&Key::new("shop", "now")).unwrap();
    assert!(held.status.as_ref().unwrap().frozen.is_none(), "it is held in a small form");
    world.reconcile().await.unwrap();
    assert_eq!(world.fake.calls(), [""; 0], "at rest nothing is read or written");
    // Who cancels it now changes the generation, which the status follows, and nothing else.
    world.change(|object| object["spec"]["cancel"] = json!(true));
    world.reconcile().await.unwrap();
    assert_eq!(world.fake.calls(), ["GET backupruns/now", "PATCH backupruns/now/status"]);
    let mut after = world.status();
    assert_eq!(after["observedGeneration"], 2);
    after["observedGeneration"] = before["observedGeneration"].clone();
    for (condition, held) in after["conditions"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(before["conditions"].as_array().unwrap())
    {
        condition["observedGeneration"] = held["observedGeneration"].clone();
    }
    assert_eq!(after, before);
    rest(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_of_a_run_takes_what_the_run_pinned() {
    let spec = json!({"from": {"run": {"name": "then"}}, "to": {"postgresql": server()}});
    let mut world = World::new(Kind::Restore, true, &spec);
    world.another_run("then");
    let path = format!("{OURS}/backupruns/then");
    world.set(
        &path,
        "status",
        json!({"phase": "Succeeded", "reason": "Succeeded", "completionTime": NOW, "observedGeneration": 1,
            "frozen": {"sourceUid": "uid-shop", "source": {"postgresql": server()},
                "store": {"name": "offsite", "uid": "uid-offsite", "spec": store(true)["spec"]}},
            "copy": {"path": "shop/shop/then", "recoveryPoint": NOW, "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1, "tables": 1,
                "structureChecked": true, "manifestDigest": "d".repeat(64), "versionId": "v7"}}),
    );
    world.watch();
    drive(&mut world, succeeds).await;
    assert_eq!(world.told().0, "Succeeded", "{}", world.status());
    let frozen = &world.status()["frozen"];
    assert_eq!(
        (&frozen["manifestDigest"], &frozen["versionId"], &frozen["path"]),
        (&json!("d".repeat(64)), &json!("v7"), &json!("shop/shop/then"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_restore_is_counted_made_watched_and_tidied() {
    let mut world = World::restore();
    drive(&mut world, succeeds).await;
    assert_eq!(world.told(), ("Succeeded".into(), "Succeeded".into()));
    let status = world.status();
    assert_eq!(
        (&status["restored"]["rows"], &status["target"]),
        (&json!(7), &json!("postgresql://db"))
    );
    assert_eq!(
        (&status["frozen"]["path"], &status["waitingFor"]),
        (&json!("shop/shop/then"), &Value::Null)
    );
    rest(&mut world).await;
    assert_eq!(world.jobs(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_object_of_a_finished_restore_goes_after_90_days() {
    let mut world = World::restore();
    drive(&mut world, succeeds).await;
    rest(&mut world).await;
    let after = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
    tokio::time::advance(after(89)).await;
    let next = world.reconcile().await.unwrap();
    assert!(matches!(next, Next::After(wait) if wait > after(0) && wait <= after(1)), "{next:?}");
    tokio::time::advance(after(1)).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.fake.calls(), ["DELETE restorerequests/now"]);
    assert!(world.context.caches.restores.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restore_opens_the_copy_with_the_identity_that_it_or_its_store_names() {
    let world = World::restore();
    world.reconcile().await.unwrap();
    let job = world.fake.get(&format!("{JOBS}/now-r1")).unwrap().to_string();
    assert!(job.contains("\"age-key\""), "{job}");
    assert_eq!(world.task("now-r1")["action"]["restore"]["digest"].as_str().unwrap().len(), 64);
}

#[tokio::test(start_paused = true)]
async fn requests_that_can_never_be_carried_out_say_why_at_once() {
    let path = |path: &str| json!({"from": {"store": {"name": "offsite", "path": path}}, "to": {"postgresql": server()}});
    let world = World::new(Kind::Restore, true, &path("other/shop/then"));
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Failed".into(), "InvalidSpec".into()));
    assert!(world.status()["message"].as_str().unwrap().contains("spec.from.store.path"));
    // Nor a copy of others that somebody wrote into a status: that of the request itself, or of the run that it names.
    let frozen = |path: &str| json!({"store": {"name": "offsite", "uid": "uid-offsite", "spec": store(true)["spec"]}, "path": path});
    for foreign in ["other/shop/then", "shop/../other", "shop/shop/then/more"] {
        let world = World::new(Kind::Restore, true, &path("shop/shop/then"));
        world.set(&world.path(), "status", json!({"frozen": frozen(foreign)}));
        world.watch();
        world.reconcile().await.unwrap();
        assert_eq!(world.told(), ("Failed".into(), "InvalidSpec".into()));
        let message = world.status()["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains(&format!("status.frozen.path: found {foreign}, expected shop/")),
            "{message}"
        );
        assert_eq!(world.jobs(), [""; 0]);
    }
    let world = World::new(
        Kind::Restore,
        true,
        &json!({"from": {"run": {"name": "then"}}, "to": {"postgresql": server()}}),
    );
    world.another_run("then");
    let mut status = frozen("");
    status.as_object_mut().unwrap().remove("path");
    status["sourceUid"] = json!("uid-shop");
    status["source"] = json!({"postgresql": server()});
    let copy = json!({"path": "other/shop/then", "recoveryPoint": NOW, "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1, "tables": 1,
        "structureChecked": true, "manifestDigest": "d".repeat(64)});
    let status = json!({"phase": "Succeeded", "reason": "Succeeded", "completionTime": NOW, "frozen": status, "copy": copy});
    world.set(&format!("{OURS}/backupruns/then"), "status", status);
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Failed".into(), "InvalidSpec".into()));
    let message = world.status()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("status.copy.path of the BackupRun then: found other/shop/then"),
        "{message}"
    );
    let world = World::new(Kind::Restore, true, &path("shop/shop/then"));
    let mut store = store(true);
    store["spec"]["encryption"] = json!({"age": {"recipients": []}});
    world.fake.put::<Value>(&format!("{OURS}/backupstores/offsite"), store);
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Failed".into(), "KeyMissing".into()));
    assert!(world.status()["message"].as_str().unwrap().contains("spec.identitySecretName"));
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_its_store_to_be_tried() {
    let spec = json!({"source": "shop", "stores": [{"name": "offsite"}]});
    let world = World::new(Kind::Run, false, &spec);
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "StoreNotProbed".into()));
    assert_eq!(world.jobs(), [""; 0]);
    world.fake.put::<Value>(&format!("{OURS}/backupstores/offsite"), store(true));
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.jobs(), ["now-b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_job_is_told_and_made_once_it_is_let() {
    let world = World::run(3);
    world.fake.fail(
        "POST jobs/now-b1",
        403,
        "jobs \"now-b1\" is forbidden: exceeded quota: tight, requested: count/jobs.batch=1",
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "QuotaExceeded".into()));
    world.fake.mend();
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.jobs(), ["now-b1"]);
    assert_eq!(world.status()["attempts"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_an_earlier_run_of_this_name_is_not_taken_for_ours() {
    let world = World::run(3);
    let foreign = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "now-b1", "namespace": "shop", "uid": "old",
        "ownerReferences": [{"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "name": "now", "uid": "uid-before", "controller": true}]}});
    world.fake.put::<Value>(&format!("{JOBS}/now-b1"), foreign);
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "NameTaken".into()));
    world.fake.remove(&format!("{JOBS}/now-b1"));
    world.watch();
    world.reconcile().await.unwrap();
    assert_ne!(world.fake.get(&format!("{JOBS}/now-b1")).unwrap()["metadata"]["uid"], "old");
}

#[tokio::test(start_paused = true)]
async fn caches_that_lag_end_nothing() {
    let world = World::run(3);
    world.reconcile().await.unwrap();
    world.watch();
    world.reconcile().await.unwrap();
    world.pod("now-b1", &json!({"running": {}}));
    // The watch of Jobs tells of a deletion that never was, and that of pods is late.
    let key = Key::new("shop", "now-b1");
    let uid = world.context.caches.jobs.get(&key).unwrap().metadata.uid.clone();
    world.context.caches.jobs.deleted(&key, uid.as_deref());
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Running".into(), "Running".into()));
}

#[tokio::test(start_paused = true)]
async fn only_the_last_failed_job_of_a_source_is_kept() {
    let world = World::run(1);
    for (name, kept) in [("now", "now-b1"), ("next", "next-b1")] {
        if name != "now" {
            world.another_run(name);
        }
        let job = format!("{name}-b1");
        tokio::time::advance(Duration::from_secs(60)).await;
        world.look_at(name).await;
        world.pod(&job, &json!({"running": {}}));
        world.look_at(name).await;
        // As a cluster tells it, one after the other: the container has ended, then its pod, then its Job is counted.
        world.word(&job, Reason::NoDatabases, true);
        let counted = world.fake.get(&format!("{JOBS}/{job}")).unwrap()["status"].clone();
        world.set(&format!("{JOBS}/{job}"), "status", json!({"active": 1}));
        world.set_phase(&job, "Running");
        world.look_at(name).await;
        assert_eq!(world.jobs(), [kept], "the container has ended");
        world.set_phase(&job, "Failed");
        world.look_at(name).await;
        assert_eq!(world.jobs(), [kept], "the pod has ended");
        world.set(&format!("{JOBS}/{job}"), "status", counted);
        for run in [name, "now"] {
            world.look_at(run).await;
            assert_eq!(world.jobs(), [kept], "the Job is counted");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_pod_is_lost_is_not_kept_to_start_another() {
    let world = World::run(1);
    world.look_at("now").await;
    world.pod("now-b1", &json!({"running": {}}));
    world.look_at("now").await;
    // Its node is gone: the pod is deleted, and nobody says that it ended.
    let pod = format!("{PODS}/now-b1-x");
    world.set(&pod, "metadata", {
        let mut metadata = world.fake.get(&pod).unwrap()["metadata"].clone();
        metadata["deletionTimestamp"] = json!(NOW);
        metadata
    });
    tokio::time::advance(Duration::from_secs(120)).await;
    for _ in 0..3 {
        world.look_at("now").await;
    }
    assert_eq!(world.told().0, "Settling");
    assert_eq!(world.jobs(), ["now-s1"], "{}", world.status());
}

#[tokio::test(start_paused = true)]
async fn a_lost_status_is_found_in_the_jobs() {
    let mut world = World::run(3);
    world.reconcile().await.unwrap();
    world.pod("now-b1", &json!({"running": {}}));
    world.watch();
    world.reconcile().await.unwrap();
    let mut object = world.fake.get(&world.path()).unwrap();
    object.as_object_mut().unwrap().remove("status");
    world.fake.put::<Value>(&world.path(), object);
    world.restart();
    world.fake.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Running".into(), "Running".into()));
    assert_eq!(world.fake.calls(), ["PATCH backupruns/now/status"], "nothing is started again");
    assert_eq!(world.status()["attempts"][0]["job"], "now-b1");
    drive(&mut world, succeeds).await;
    assert_eq!(world.told(), ("Succeeded".into(), "Succeeded".into()));
}

/// The store says nothing: every settle Job ends without an answer.
fn the_store_is_silent(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1", 1) => world.pod(job, &json!({"running": {}})),
        ("now-b1", 2) => {
            world.pod(job, &json!({"terminated": {"exitCode": 137}}));
            world.counted(job);
        }
        (_, 2) => world.word(job, Reason::StoreUnreachable, false),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_writes_into_the_status_of_an_unknown_outcome_makes_no_loop_of_settle_jobs() {
    let mut world = World::run(1);
    drive(&mut world, the_store_is_silent).await;
    assert_eq!(world.told(), ("Failed".into(), "OutcomeUnknown".into()));
    rest(&mut world).await;
    let count = |world: &World| world.status()["settle"]["count"].as_i64().unwrap();
    let before = count(&world);
    // An hour ago, says another manager; and what an apply leaves out stays as others wrote it.
    world
        .fake
        .meddle(&world.path(), "/settle/finishedAt", json!("2026-02-28T00:00:00Z"));
    for _ in 0..5 {
        world.watch();
        world.reconcile().await.unwrap();
        assert_eq!(count(&world), before + 1, "{}", world.status());
    }
    assert_eq!(world.status()["settle"]["finishedAt"], Value::Null, "a Job of it is at work");
    let job = format!("now-s{}", before + 1);
    assert_eq!(world.jobs(), ["now-b1", &job]);
    world.word(&job, Reason::AlreadyDone, true);
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Succeeded".into(), "AlreadyDone".into()));
    rest(&mut world).await;
}

/// Events are the only place where Kubernetes says why a pod is not made, and no watch shows them.
#[tokio::test(start_paused = true)]
async fn what_kubernetes_says_of_a_pod_is_passed_on_within_30_s_however_long_it_has_waited() {
    let world = World::run(3);
    world.reconcile().await.unwrap();
    let job = world.fake.get(&format!("{JOBS}/now-b1")).unwrap();
    let mut waited = Duration::ZERO;
    let hour = Duration::from_secs(3_600);
    while waited < hour {
        world.watch();
        let Next::After(wait) = world.reconcile().await.unwrap() else {
            panic!("after {waited:?} nothing looks again")
        };
        assert!(wait <= Duration::from_secs(30), "after {waited:?}: {wait:?}");
        tokio::time::advance(wait).await;
        waited += wait;
    }
    assert_eq!(world.told(), ("Pending".into(), "Pending".into()));
    let refusal = json!({"metadata": {"name": "now-b1.1", "namespace": "shop"}, "type": "Warning", "reason": "FailedCreate",
        "involvedObject": {"kind": "Job", "name": "now-b1", "namespace": "shop", "uid": job["metadata"]["uid"]},
        "message": "Error creating: pods \"now-b1-54tf2\" is forbidden: exceeded quota: tight, requested: pods=1, used: pods=0, limited: pods=0",
        "lastTimestamp": world.context.clock.now().to_string()});
    let events = json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": [refusal]});
    world.fake.put::<Value>("/api/v1/namespaces/shop/events", events);
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "QuotaExceeded".into()), "{}", world.status());
}

#[tokio::test(start_paused = true)]
async fn a_restore_waits_for_a_run_that_is_not_there_and_says_how_else_its_copy_is_named() {
    let spec = json!({"from": {"run": {"name": "then"}}, "to": {"postgresql": server()}, "timeout": "5m"});
    let mut world = World::new(Kind::Restore, true, &spec);
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "RunNotFound".into()));
    let message = world.status()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("spec.from.run.name: there is no BackupRun then in this namespace") && message.contains("spec.from.store"),
        "{message}"
    );
    assert_eq!(world.jobs(), [""; 0]);
    drive(&mut world, |_, job, _| panic!("{job} was made")).await;
    assert_eq!(world.told().0, "Failed", "{}", world.status());
    rest(&mut world).await;
}
