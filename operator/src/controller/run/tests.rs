//! Runs that wait for others, against an API server in memory.

use holdfast_crds::Reason;
use serde_json::{Value, json};

mod stores;
mod writes;

use super::*;
use crate::controller::carry_out::tests::world::{Kind, OURS, World};

/// A run of a tick at this hour.
fn tick(world: &World, name: &str, trigger: &str, hour: u32, replaces: bool) {
    let run = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"source": "shop", "stores": [{"name": "offsite"}], "attempts": 1,
            "tick": {"schedule": "gold", "trigger": trigger, "time": format!("2026-02-28T{hour:02}:00:00Z"), "replaces": replaces}}});
    world.fake.put::<Value>(&format!("{OURS}/backupruns/{name}"), run);
}

fn told(world: &World, run: &str) -> (String, String, String) {
    let status = world.fake.get(&format!("{OURS}/backupruns/{run}")).unwrap()["status"].clone();
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    (text("phase"), text("reason"), text("message"))
}

/// A world whose own run, `now`, is one by hand that has ended.
fn world() -> World {
    let world = World::new(Kind::Run, true, &json!({"source": "shop", "stores": [{"name": "offsite"}]}));
    world.fake.remove(&world.path());
    world.context.caches.runs.deleted(&Key::new("shop", "now"), None);
    world
}

#[tokio::test(start_paused = true)]
async fn runs_of_a_trigger_go_one_after_another_in_the_order_of_their_ticks() {
    let world = world();
    for (name, trigger, hour) in [
        ("third", "hourly", 3),
        ("first", "hourly", 1),
        ("second", "hourly", 2),
        ("other", "nightly", 2),
    ] {
        tick(&world, name, trigger, hour, false);
    }
    for name in ["third", "second", "first", "other"] {
        world.look_at(name).await;
    }
    assert_eq!(world.jobs(), ["first-b1", "other-b1"]);
    let (phase, reason, message) = told(&world, "third");
    assert_eq!((phase.as_str(), reason.as_str()), ("Pending", "Queued"));
    assert!(message.contains("run first"), "{message}");

    // What ends makes the others look again.
    let queue = Queue::default();
    triggers(&world.context, &world.turns, &queue);
    world.word("first-b1", Reason::Succeeded, true);
    world.look_at("first").await;
    assert_eq!(told(&world, "first").0, "Succeeded");
    assert!(queue.depth() >= 2, "the second and the third look again: {}", queue.depth());
    for name in ["third", "second"] {
        world.look_at(name).await;
    }
    assert_eq!(told(&world, "second").1, "Pending");
    let (_, reason, message) = told(&world, "third");
    assert_eq!(reason, "Queued");
    assert!(message.contains("run second"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_replaces_begins_when_what_it_replaces_has_ended() {
    let world = world();
    tick(&world, "first", "hourly", 1, false);
    world.look_at("first").await;
    world.pod("first-b1", &json!({"running": {}}));
    world.look_at("first").await;
    tick(&world, "second", "hourly", 2, true);
    world.look_at("second").await;
    assert_eq!(told(&world, "second").1, "Queued");
    // Its Job goes, its register is closed by a settle Job, then it has ended.
    world.look_at("first").await;
    world.collect();
    world.look_at("first").await;
    assert_eq!(world.jobs(), ["first-s1"]);
    let settle = world.task("first-s1");
    assert_eq!(settle["action"]["settle"]["message"], "replaced by the run second");
    world.look_at("second").await;
    assert_eq!(told(&world, "second").1, "Queued", "the register is not closed yet");
    world.word("first-s1", Reason::Abandoned, true);
    world.look_at("first").await;
    let (phase, reason, message) = told(&world, "first");
    assert_eq!((phase.as_str(), reason.as_str()), ("Cancelled", "Cancelled"));
    assert!(message.contains("replaced by the run second"), "{message}");
    world.look_at("second").await;
    assert_eq!(world.jobs(), ["second-b1"]);
    // A third that does not replace only waits.
    tick(&world, "third", "hourly", 3, false);
    world.look_at("third").await;
    world.look_at("second").await;
    assert_eq!(
        (told(&world, "second").1, told(&world, "third").1),
        ("Pending".to_owned(), "Queued".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_is_not_late() {
    let world = world();
    tick(&world, "first", "hourly", 1, false);
    world.look_at("first").await;
    tick(&world, "second", "hourly", 2, false);
    world.context.clock.observe("2026-03-02T00:00:00Z".parse().unwrap());
    world.look_at("second").await;
    assert_eq!(
        told(&world, "second").1,
        "Queued",
        "a day is longer than the six hours of an attempt"
    );
    world.context.clock.observe("2026-03-08T00:00:01Z".parse().unwrap());
    world.look_at("second").await;
    let (phase, reason, message) = told(&world, "second");
    assert_eq!((phase.as_str(), reason.as_str()), ("Failed", "Queued"));
    assert!(
        message.starts_with("nothing was started within 7d: waits for the run first"),
        "{message}"
    );
}

/// The BackupSchedule `gold`, of this generation and timeout.
fn gold(world: &World, generation: i64, timeout: &str) {
    let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "gold", "namespace": "shop", "uid": "uid-gold", "generation": generation, "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"sources": {"names": ["shop"]}, "stores": [{"name": "offsite"}], "triggers": [{"name": "nightly", "cron": "0 2 * * *"}],
            "attempts": 1, "timeout": timeout}});
    let schedule = world
        .fake
        .put::<holdfast_crds::BackupSchedule>(&format!("{OURS}/backupschedules/gold"), schedule);
    world.context.caches.schedules.watched(schedule);
}

#[tokio::test(start_paused = true)]
async fn a_run_by_hand_takes_stores_attempts_and_timeout_from_the_schedule_that_it_names() {
    let world = World::new(Kind::Run, true, &json!({"source": "shop", "schedule": {"name": "gold"}}));
    let queue = Queue::default();
    triggers(&world.context, &world.turns, &queue);
    world.look_at("now").await;
    let (phase, reason, message) = told(&world, "now");
    assert_eq!((phase.as_str(), reason.as_str()), ("Pending", "ScheduleNotFound"));
    assert!(message.contains("spec.schedule") && message.contains("gold"), "{message}");
    let before = queue.depth();
    gold(&world, 7, "12h");
    assert_eq!(queue.depth(), before.max(1), "it looks again");
    world.look_at("now").await;
    let task = world.task("now-b1")["action"]["backup"].clone();
    assert_eq!((&task["final"], &task["notAfter"]), (&json!(true), &json!("2026-03-01T12:00:00Z")));
    assert_eq!(
        (
            &task["schedule"]["name"],
            &task["schedule"]["generation"],
            &task["keepFor"],
            &task["tick"]
        ),
        (&json!("gold"), &json!(7), &Value::Null, &Value::Null)
    );
    // Frozen: what the schedule says later is of no consequence, even for a run that lost its status.
    gold(&world, 8, "1h");
    world.change(|object| object["status"] = Value::Null);
    world.look_at("now").await;
    let frozen = world.status()["frozen"]["schedule"].clone();
    assert_eq!((&frozen["generation"], &frozen["timeout"]), (&json!(7), &json!("12h")));
    world.word("now-b1", Reason::Succeeded, true);
    world.look_at("now").await;
    assert_eq!(told(&world, "now").0, "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn the_copy_of_a_run_by_hand_is_kept_for_what_it_says_or_thirty_days() {
    for (more, kept) in [(json!({}), "30d"), (json!({"keepFor": "400d"}), "400d")] {
        let mut spec = json!({"source": "shop", "stores": [{"name": "offsite"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let world = World::new(Kind::Run, true, &spec);
        world.look_at("now").await;
        assert_eq!(world.task("now-b1")["action"]["backup"]["keepFor"], kept);
    }
    let world = world();
    tick(&world, "first", "hourly", 1, false);
    world.look_at("first").await;
    assert_eq!(
        world.task("first-b1")["action"]["backup"]["keepFor"],
        Value::Null,
        "the schedule says that"
    );
}

/// A source whose newest copy is of this hour, with an objective of a day, and a run of it by hand.
fn source_and_run(world: &World, name: &str, copied_at: &str) {
    let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"postgresql": {"hosts": ["db"], "version": 15, "credentials": {"secretName": "app"}}},
        "status": {"rpoSeconds": 86_400, "newestCopy": {"run": "r", "store": "offsite", "path": "p", "recoveryPoint": copied_at, "storedBytes": 1}}});
    world.fake.put::<Value>(&format!("{OURS}/backupsources/{name}"), source);
    let run = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": format!("of-{name}"), "namespace": "shop", "uid": format!("uid-of-{name}"), "generation": 1,
            "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"source": name, "stores": [{"name": "offsite"}], "attempts": 1}});
    world.fake.put::<Value>(&format!("{OURS}/backupruns/of-{name}"), run);
    world.watch();
}

/// A world with these sources and runs, whose store takes so many at once.
fn crowd(limit: u32, sources: &[(&str, &str)]) -> World {
    let world = world();
    let mut store = crate::controller::carry_out::tests::world::store(true);
    store["spec"]["maxConcurrentRuns"] = json!(limit);
    world.fake.put::<Value>(&format!("{OURS}/backupstores/offsite"), store);
    for (name, copied_at) in sources {
        source_and_run(&world, name, copied_at);
    }
    world
}

#[tokio::test(start_paused = true)]
async fn runs_wait_for_their_turn_in_the_order_of_their_objectives() {
    let world = crowd(
        2,
        &[
            ("calm", "2026-02-28T23:00:00Z"),
            ("urgent", "2026-02-28T02:00:00Z"),
            ("late", "2026-02-01T00:00:00Z"),
            ("soon", "2026-02-28T12:00:00Z"),
        ],
    );
    let queue = Queue::default();
    triggers(&world.context, &world.turns, &queue);
    // Whoever is looked at first.
    for name in ["of-calm", "of-soon", "of-urgent", "of-late"] {
        world.look_at(name).await;
    }
    assert_eq!(world.jobs(), ["of-late-b1", "of-urgent-b1"]);
    let (phase, reason, message) = told(&world, "of-calm");
    assert_eq!((phase.as_str(), reason.as_str()), ("Pending", "Queued"));
    assert!(
        message.contains("place 2: the BackupStore offsite takes 2 runs at once"),
        "{message}"
    );
    assert!(told(&world, "of-soon").2.contains("place 1"));

    // One ends: the next is called, and no other.
    let before = queue.depth();
    world.word("of-late-b1", Reason::Succeeded, true);
    world.look_at("of-late").await;
    assert!(queue.depth() > before);
    let now = world.context.clock.now();
    assert_eq!(world.turns.next(&world.context.caches, "shop", now), [Key::new("shop", "of-soon")]);
    world.look_at("of-calm").await;
    assert!(told(&world, "of-calm").2.contains("place 1"), "the room is that of the other");
    assert_eq!(world.jobs(), ["of-urgent-b1"]);
    world.look_at("of-soon").await;
    assert_eq!(world.jobs(), ["of-soon-b1", "of-urgent-b1"]);
    world.look_at("of-calm").await;
    assert!(told(&world, "of-calm").2.contains("place 1"));
    // A higher limit is noticed.
    let mut store = crate::controller::carry_out::tests::world::store(true);
    store["spec"]["maxConcurrentRuns"] = json!(3);
    world.fake.put::<Value>(&format!("{OURS}/backupstores/offsite"), store);
    world.look_at("of-calm").await;
    assert_eq!(world.jobs(), ["of-calm-b1", "of-soon-b1", "of-urgent-b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_operator_counts_what_is_at_work() {
    let mut world = crowd(1, &[("a", "2026-02-28T02:00:00Z"), ("b", "2026-02-28T01:00:00Z")]);
    world.look_at("of-b").await;
    world.restart();
    world.turns = Turns::default();
    world.look_at("of-a").await;
    assert_eq!(
        (world.jobs(), told(&world, "of-a").1),
        (vec!["of-b-b1".to_owned()], "Queued".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_its_limit_too_and_who_cannot_begin_takes_no_place() {
    let mut world = crowd(
        4,
        &[
            ("a", "2026-02-28T02:00:00Z"),
            ("b", "2026-02-28T03:00:00Z"),
            ("c", "2026-02-28T04:00:00Z"),
        ],
    );
    world.turns = Turns::new(Some(1));
    // The most urgent names a store that does not exist.
    source_and_run(&world, "lost", "2026-02-01T00:00:00Z");
    let path = format!("{OURS}/backupruns/of-lost");
    let mut lost = world.fake.get(&path).unwrap();
    lost["spec"]["stores"] = json!([{"name": "absent"}]);
    world.fake.put::<Value>(&path, lost);
    let queue = Queue::default();
    triggers(&world.context, &world.turns, &queue);
    world.look_at("of-a").await;
    let (_, reason, message) = told(&world, "of-a");
    assert_eq!(reason, "Queued", "it may be that the more urgent one begins");
    assert!(message.contains("runs of a namespace"), "{message}");
    let before = queue.depth();
    world.look_at("of-lost").await;
    assert_eq!(told(&world, "of-lost").1, "StoreNotFound");
    assert!(queue.depth() >= before, "{} {before}", queue.depth());
    for name in ["of-c", "of-b", "of-a"] {
        world.look_at(name).await;
    }
    assert_eq!(world.jobs(), ["of-a-b1"]);
    // A cancelled one makes room, and so does one that is deleted.
    world.turns = Turns::new(Some(2));
    world.look_at("of-b").await;
    assert_eq!(world.jobs(), ["of-a-b1", "of-b-b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waited_starts_in_no_exclusion_of_its_schedule() {
    let world = world();
    gold(&world, 1, "6h");
    let path = format!("{OURS}/backupschedules/gold");
    let mut schedule = world.fake.get(&path).unwrap();
    schedule["spec"]["exclusions"] = json!([{"name": "load", "from": "23:30", "to": "01:00"}]);
    let schedule = world.fake.put::<holdfast_crds::BackupSchedule>(&path, schedule);
    world.context.caches.schedules.watched(schedule);
    tick(&world, "first", "hourly", 1, false);
    world.watch();
    let controller = RunController::new(world.context.clone(), world.turns.clone());
    let next = controller.reconcile(&Key::new("shop", "first")).await.unwrap();
    assert_eq!(next, Next::After(std::time::Duration::from_secs(3_600)));
    let (_, reason, message) = told(&world, "first");
    assert_eq!(reason, "Queued");
    assert!(
        message.contains("2026-03-01T01:00:00Z") && message.contains("schedule gold"),
        "{message}"
    );
    world.context.clock.observe("2026-03-01T01:00:00Z".parse().unwrap());
    world.look_at("first").await;
    assert_eq!(world.jobs(), ["first-b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_type_that_the_engine_lacks_ends_the_run_at_once() {
    let spec = json!({"source": "shop", "type": "Incremental", "stores": [{"name": "offsite"}]});
    let world = World::new(Kind::Run, true, &spec);
    world.look_at("now").await;
    let (phase, reason, message) = told(&world, "now");
    assert_eq!((phase.as_str(), reason.as_str()), ("Failed", "TypeUnsupported"));
    assert!(
        message.contains("spec.type: found Incremental") && message.contains("has only Full"),
        "{message}"
    );
    assert_eq!(world.jobs(), [""; 0]);
}
