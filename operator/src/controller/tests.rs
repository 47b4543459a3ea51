//! From a tick to a copy in each of two stores: the controllers of schedules, runs and copies on one API server in memory, with pods that do
//! their work, while each call of the whole way fails once, in each way, and the operator is killed at each.

use std::{collections::BTreeMap, time::Duration};

use holdfast_crds::{BackupRun, COPY_LINE, CopyPass, Reason, TASK_VERSION, document::Sha256};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::{advance, error::Elapsed, timeout};

use super::{
    carry_out::tests::world::{Kind, NOW, OURS, PODS, World, server, store},
    copy::{CopyController, Waiting},
    run::{RunController, Turns},
    schedule::ScheduleController,
};
use crate::{
    fake::{Fake, Fault},
    queue::Reconcile,
    watch::Key,
};

/// A moment after the only tick.
const AFTER_THE_TICK: &str = "2026-03-01T02:00:10Z";
/// Who has no answer for so long was killed.
const NO_ANSWER: Duration = Duration::from_secs(60);

/// The source `shop`, and the schedule `gold` that sends its copies to `offsite` and `vault`.
fn world() -> World {
    let (fake, context) = Fake::start(AFTER_THE_TICK);
    let metadata =
        |name: &str| json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": NOW});
    let put = |plural: &str, kind: &str, mut object: Value| {
        object["apiVersion"] = json!("holdfast.dev/v1alpha1");
        object["kind"] = json!(kind);
        let path = format!("{OURS}/{plural}/{}", object["metadata"]["name"].as_str().unwrap());
        fake.put::<Value>(&path, object);
    };
    for name in ["offsite", "vault"] {
        let mut store = store(true);
        store["metadata"] = metadata(name);
        store["spec"]["s3"]["bucket"] = json!(name);
        store["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "reason": "StoreReady", "message": "", "lastTransitionTime": NOW}]);
        put("backupstores", "BackupStore", store);
    }
    let source = json!({"metadata": metadata("shop"), "spec": {"postgresql": server()}});
    put("backupsources", "BackupSource", source);
    let spec = json!({"sources": {"names": ["shop"]}, "stores": [{"name": "offsite"}, {"name": "vault"}],
        "triggers": [{"name": "nightly", "cron": "0 2 * * *"}]});
    put(
        "backupschedules",
        "BackupSchedule",
        json!({"metadata": metadata("gold"), "spec": spec}),
    );
    let world = World {
        kind: Kind::Run,
        fake,
        context,
        turns: Turns::default(),
    };
    world.watch();
    world
}

/// Each controller looks once at what is its own. Tells whether a call failed; an error is that the operator was killed.
async fn look(world: &World) -> Result<bool, Elapsed> {
    let context = || world.context.clone();
    world.watch();
    let schedules = ScheduleController::new(context());
    let mut failed = timeout(NO_ANSWER, schedules.reconcile(&Key::new("shop", "gold"))).await?.is_err();
    world.watch();
    let runs = RunController::new(context(), world.turns.clone());
    for run in world.fake.all::<BackupRun>("backupruns") {
        failed |= timeout(NO_ANSWER, runs.reconcile(&Key::of(&run))).await?.is_err();
    }
    world.watch();
    let copies = CopyController::new(context(), world.turns.clone(), Waiting::default());
    failed |= timeout(NO_ANSWER, copies.reconcile(&Key::new("shop", "shop"))).await?.is_err();
    Ok(failed)
}

/// What the agent of a Job does: it runs, and then it has done its work.
fn work(world: &World, job: &str, look: usize) {
    match look {
        1 => world.pod(job, &json!({"running": {}})),
        2 if job.contains("-vault-") => {
            let run = world.fake.all::<BackupRun>("backupruns")[0].name_any();
            let line = json!({"run": run, "state": "Copied", "bytes": 2048});
            let log = format!("{COPY_LINE}{line}\n");
            let pass = CopyPass {
                lines: 1,
                sha256: Sha256::of(log.as_bytes()).to_string(),
                complete: true,
                ..CopyPass::default()
            };
            let result = json!({"version": TASK_VERSION, "reason": "Succeeded", "message": "", "closed": false, "copied": pass});
            let now = world.context.clock.now().to_string();
            world.pod(
                job,
                &json!({"terminated": {"exitCode": 0, "message": result.to_string(), "finishedAt": now}}),
            );
            world.fake.log(&format!("{PODS}/{job}-x/log"), &log);
            world.counted(job);
        }
        2 => world.word(job, Reason::Succeeded, true),
        _ => {}
    }
}

/// Time passes until long after the copies are where they belong. Gives the Jobs that there were, each as often as it was made.
async fn drive(world: &mut World, restarts: bool) -> Vec<String> {
    let mut looks = BTreeMap::<(String, Option<String>), usize>::new();
    for _ in 0..12 {
        let looked = look(world).await;
        if looked.is_err() || (restarts && looked == Ok(true)) {
            world.restart();
        }
        world.collect();
        for job in world.fake.all::<Job>("jobs") {
            let look = looks.entry((job.name_any(), job.uid())).or_default();
            *look += 1;
            work(world, &job.name_any(), *look);
        }
        advance(Duration::from_secs(30)).await;
    }
    world.fake.calls();
    assert_eq!(look(world).await, Ok(false));
    assert_eq!(world.fake.calls(), [""; 0], "at rest there is nothing to do");
    looks.into_keys().map(|(job, _)| job).collect()
}

/// All that is told at rest, but for times.
fn told(world: &World) -> Value {
    let status = |path: &str| world.fake.get(&format!("{OURS}/{path}")).unwrap()["status"].clone();
    let of = |all: &Value, fields: &[&str]| -> Value {
        let each = all.as_array().into_iter().flatten();
        each.map(|one| fields.iter().map(|field| one[*field].clone()).collect::<Value>())
            .collect()
    };
    let runs = world.fake.all::<Value>("backupruns").into_iter().map(|run| {
        let status = &run["status"];
        json!({
            "name": run["metadata"]["name"], "tick": run["spec"]["tick"]["time"], "phase": status["phase"], "reason": status["reason"],
            "attempts": of(&status["attempts"], &["job", "reason"]), "settle": status["settle"], "shown": status["storesShown"],
            "stores": of(&status["stores"], &["name", "state", "bytes"]),
            "conditions": of(&status["conditions"], &["type", "status", "reason"]),
        })
    });
    let schedule = status("backupschedules/gold");
    json!({
        "runs": runs.collect::<Value>(),
        "ticks": of(&schedule["triggers"], &["name", "fired", "skipped", "missed", "dropped"]),
        "schedule": of(&schedule["conditions"], &["type", "status", "reason"]),
        "copies": of(&status("backupsources/shop")["replication"], &["store", "number", "failures", "reason"]),
        "jobs": world.jobs(),
    })
}

#[tokio::test(start_paused = true)]
async fn each_call_from_the_tick_to_a_copy_in_two_stores_may_fail_and_the_operator_may_be_killed_at_each() {
    let mut world = self::world();
    world.fake.fault(None);
    let jobs = drive(&mut world, false).await;
    let calls = world.fake.count();
    let faultless = told(&world);
    let run = &faultless["runs"][0];
    assert_eq!(faultless["runs"].as_array().map(Vec::len), Some(1), "{faultless:#}");
    assert_eq!((&run["phase"], &run["reason"]), (&json!("Succeeded"), &json!("Succeeded")));
    assert_eq!(run["stores"], json!([["offsite", "Present", 2048], ["vault", "Present", 2048]]));
    assert_eq!(faultless["ticks"], json!([["nightly", 1, 0, 0, 0]]));
    let made = |job: &String| (job.ends_with("-b1"), job.starts_with("shop-vault-") && job.ends_with("-c1"));
    assert!(
        jobs.len() == 2 && jobs.iter().any(|job| made(job).0) && jobs.iter().any(|job| made(job).1),
        "{jobs:?}"
    );
    assert!(calls > 12, "{calls}");

    let faults = [409, 429, 500, 503]
        .map(Fault::Refused)
        .into_iter()
        .chain([Fault::AnswerLost, Fault::Killed]);
    for (fault, call) in faults.flat_map(|fault| (1..=calls).map(move |call| (fault, call))) {
        // Who is killed is always started again; after an answer that is no good, the operator goes on or is started again.
        for restarts in if fault == Fault::Killed { &[true][..] } else { &[false, true] } {
            let case = format!("call {call}: {fault:?}, restarts: {restarts}");
            let mut world = self::world();
            world.fake.fault(Some((call, fault)));
            assert_eq!(drive(&mut world, *restarts).await, jobs, "{case}");
            assert!(world.fake.count() >= call, "{case}: it never came");
            assert_eq!(told(&world), faultless, "{case}");
        }
    }
}
