use std::time::Duration;

use holdfast_crds::BackupStore;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{
        carry_out::tests::world::{JOBS, Kind, NOW, OURS, World, drive, server, succeeds},
        keep::KeepController,
    },
    queue::Next,
    store::Store,
};

const STORE: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupstores/offsite";

/// A restore of `shop/shop/then`, of which the last pass left so many copies marked.
fn world(marked: i64) -> World {
    let world = World::restore();
    world.set(
        &format!("{OURS}/backupsources/shop"),
        "status",
        json!({"stores": [{"store": "offsite", "asOf": NOW, "copies": 3, "good": 3, "bytes": 3, "held": 0, "marked": marked,
            "newestCopies": [{"run": "newest", "type": "Full", "recoveryPoint": NOW, "bytes": 1, "state": "Kept", "why": "daily"}]}]}),
    );
    world.watch();
    world
}

/// What the store's status says of its keeper.
fn keeper(world: &World, keeper: &Value) {
    let mut status = world.fake.get(STORE).unwrap()["status"].clone();
    status["keeper"] = keeper.clone();
    world.set(STORE, "status", status);
    world.watch();
}

fn at_work() -> Value {
    json!({"number": 1, "told": "t", "startedAt": NOW, "failures": 0})
}

fn ended() -> Value {
    json!({"number": 1, "told": "t", "startedAt": NOW, "finishedAt": NOW, "failures": 0})
}

/// The copies that a pass which begins now is told to leave.
fn in_use(world: &World) -> Vec<String> {
    let store: BackupStore = serde_json::from_value(world.fake.get(STORE).unwrap()).unwrap();
    let task = crate::controller::keep::task::task(&world.context.caches, &Store::Own(Arc::new(store)), world.context.clock.now());
    task.in_use.iter().map(ToString::to_string).collect()
}

async fn keep(world: &World) {
    let controller = KeepController::new(world.context.clone());
    controller.reconcile(&Key::new("shop", "offsite")).await.unwrap();
    world.watch();
}

#[tokio::test(start_paused = true)]
async fn a_restore_waits_for_a_pass_that_was_built_before_it_and_the_next_leaves_its_copy() {
    let world = world(1);
    keep(&world).await;
    assert_eq!(world.jobs(), ["offsite-k1"]);
    assert_eq!(world.task("offsite-k1")["action"]["keep"]["inUse"], Value::Null);
    world.reconcile().await.unwrap();
    world.watch();
    assert_eq!(world.told(), ("Pending".into(), "KeeperAtWork".into()));
    let status = world.status();
    assert_eq!(status["waitingFor"], json!("the keeper's pass to end"));
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("shop/offsite-k1") && message.contains("shop/shop/then"),
        "{message}"
    );
    assert_eq!(world.jobs(), ["offsite-k1"]);
    assert_eq!(
        in_use(&world),
        ["shop/shop/then"],
        "the next pass knows, though the restore has not begun"
    );
    // Its Job is deleted by hand and made again: that pass knows.
    let in_the_way = || {
        let caches = &world.context.caches;
        let request = caches.restores.get(&Key::new("shop", "now")).unwrap();
        let known = dereference::known(caches, &request, None).ok().unwrap();
        keeper::at_work(caches, "shop", &known.frozen).is_some()
    };
    let job = format!("{JOBS}/offsite-k1");
    let pass = world.fake.get(&job).unwrap();
    let mut told = pass.clone();
    let mut task = world.task("offsite-k1");
    task["action"]["keep"]["inUse"] = json!(["shop/shop/then"]);
    told["spec"]["template"]["metadata"]["annotations"][holdfast_crds::layout::TASK_ANNOTATION] = json!(task.to_string());
    assert!(in_the_way());
    for (job_now, waits) in [(told, false), (pass, true)] {
        world.fake.put::<Value>(&job, job_now);
        world.watch();
        assert_eq!(in_the_way(), waits);
    }
    // The end of the pass wakes it.
    let queue = Queue::default();
    triggers(&world.context.caches, &queue);
    keeper(&world, &ended());
    assert_eq!(queue.waiting(), 1);
    world.reconcile().await.unwrap();
    assert_eq!(world.told(), ("Pending".into(), "Pending".into()));
    assert!(world.jobs().contains(&"now-r1".to_owned()), "{:?}", world.jobs());
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_begins_after_a_restore_is_told_and_the_restore_goes_on() {
    let mut world = world(1);
    world.reconcile().await.unwrap();
    world.watch();
    assert_eq!(world.jobs(), ["now-r1"]);
    keep(&world).await;
    assert_eq!(world.task("offsite-k1")["action"]["keep"]["inUse"], json!(["shop/shop/then"]));
    drive(&mut world, |world, job, look| {
        if job == "now-r1" {
            succeeds(world, job, look);
        }
    })
    .await;
    assert_eq!(world.told().0, "Succeeded", "{}", world.status());
    assert_eq!(in_use(&world), [""; 0]);
}

/// Both look after they said what they are about to do: the pass began between the restore's status and its Job.
#[tokio::test(start_paused = true)]
async fn a_pass_that_begins_between_status_and_job_of_a_restore_is_seen() {
    let world = world(1);
    world.fake.fail("POST jobs/now-r1", 500, "later");
    assert!(world.reconcile().await.is_err());
    world.fake.mend();
    world.watch();
    assert_eq!(world.status()["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(world.jobs(), [""; 0]);
    keeper(&world, &at_work());
    world.reconcile().await.unwrap();
    world.watch();
    assert_eq!(world.told(), ("Pending".into(), "KeeperAtWork".into()));
    assert_eq!(world.jobs(), [""; 0]);
    keeper(&world, &ended());
    tokio::time::advance(Duration::from_secs(30)).await;
    world.reconcile().await.unwrap();
    assert_eq!(world.jobs(), ["now-r1"]);
    assert_eq!(world.status()["attempts"].as_array().unwrap().len(), 1, "it was no attempt");
}

#[tokio::test(start_paused = true)]
async fn a_restore_of_a_copy_that_no_pass_can_remove_does_not_wait() {
    for (marked, path, keeping, waits) in [
        (0, "shop/shop/then", at_work(), false),
        (1, "shop/shop/newest", at_work(), false),
        (1, "shop/shop/then", at_work(), true),
        (1, "shop/shop/then", ended(), false),
        (1, "shop/shop/then", json!({"number": 1, "startedAt": NOW, "readOnly": true}), false),
        // The pass before did not say what it marked.
        (0, "shop/shop/then", json!({"number": 2, "startedAt": NOW, "failures": 1}), true),
        // Nobody told of that source yet.
        (0, "shop/unknown/then", at_work(), true),
    ] {
        let spec = json!({"from": {"store": {"name": "offsite", "path": path}}, "to": {"postgresql": server()}});
        let world = {
            let known = world(marked);
            let fresh = World::new(Kind::Restore, true, &spec);
            let source = known.fake.get(&format!("{OURS}/backupsources/shop")).unwrap();
            fresh.set(&format!("{OURS}/backupsources/shop"), "status", source["status"].clone());
            fresh
        };
        keeper(&world, &keeping);
        let next = world.reconcile().await.unwrap();
        assert_eq!(world.told().1 == "KeeperAtWork", waits, "{marked} {path} {keeping}");
        assert_eq!(world.fake.get(&format!("{JOBS}/now-r1")).is_none(), waits);
        assert!(matches!(next, Next::After(_)), "{next:?}");
    }
    // What is to be erased goes in any pass.
    let world = world(0);
    let disposal = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "DisposalRequest", "metadata": {"name": "erase", "namespace": "shop", "uid": "e"},
        "spec": {"scope": {"sources": ["shop"]}, "legalBasis": "a", "requestedBy": "a", "approval": {"approvedBy": "b"}}, "status": {"approvedAt": NOW}});
    let disposal = world.fake.put(&format!("{OURS}/disposalrequests/erase"), disposal);
    world.context.caches.disposals.watched(disposal);
    keeper(&world, &at_work());
    world.reconcile().await.unwrap();
    assert_eq!(world.told().1, "KeeperAtWork");
}
