use std::time::Duration;

use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, BackupSourceStatus};
use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

const SOURCE: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupsources/a";

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": "2026-03-01T00:00:00Z", "generation": 1,
        "labels": {"tier": "gold"}})
}

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: SourceController,
}

/// A source made at midnight; it is 00:30.
fn world() -> World {
    let (fake, context) = Fake::start("2026-03-01T00:30:00Z");
    let source = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": meta("a"),
        "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}},
    });
    context.caches.sources.watched(fake.put::<BackupSource>(SOURCE, source));
    World {
        fake,
        controller: SourceController::new(context.clone()),
        context,
    }
}

impl World {
    fn schedule(&self, name: &str, spec: &Value) {
        let mut merged = json!({
            "sources": {"matchLabels": {"tier": "gold"}}, "stores": [{"name": "offsite"}],
            "triggers": [{"name": "nightly", "cron": "0 2 * * *"}],
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            merged[field] = value.clone();
        }
        let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": meta(name), "spec": merged});
        self.context
            .caches
            .schedules
            .watched(serde_json::from_value::<BackupSchedule>(schedule).unwrap());
    }

    /// A run that ended, with a copy of `point` if it succeeded.
    fn run(&self, name: &str, phase: &str, reason: &str, ended: &str, point: Option<&str>) {
        self.run_with(name, (phase, reason), ended, point, true);
    }

    /// A run that succeeded, with a copy whose structure could not be checked.
    fn opaque(&self, name: &str, at: &str) {
        self.run_with(name, ("Succeeded", "Succeeded"), at, Some(at), false);
    }

    fn run_with(&self, name: &str, (phase, reason): (&str, &str), ended: &str, point: Option<&str>, checked: bool) {
        let copy = point.map(|point| {
            json!({
                "path": format!("shop/a/{name}"), "recoveryPoint": point, "rawBytes": 1, "storedBytes": 7, "parts": 1, "databases": 1,
                "tables": 1, "structureChecked": checked, "manifestDigest": "00",
            })
        });
        let mut run = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": meta(name),
            "spec": {"source": "a", "stores": [{"name": "offsite"}]},
            "status": {"phase": phase, "reason": reason, "completionTime": ended},
        });
        run["metadata"]["creationTimestamp"] = json!(ended);
        if let Some(copy) = copy {
            run["status"]["copy"] = copy;
        }
        self.context.caches.runs.watched(serde_json::from_value::<BackupRun>(run).unwrap());
    }

    async fn reconcile(&self) -> Next {
        self.controller.reconcile(&Key::new("shop", "a")).await.unwrap()
    }

    fn status(&self) -> BackupSourceStatus {
        serde_json::from_value(self.fake.get(SOURCE).unwrap()["status"].clone()).unwrap()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.status().conditions;
        let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason, condition.message)
    }

    fn protected(&self) -> (String, String, String) {
        self.condition("Protected")
    }

    /// A run that a tick made and that succeeded.
    fn tick_run(&self, name: &str, schedule: &str, time: &str) {
        let run = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": meta(name),
            "spec": {"source": "a", "stores": [{"name": "offsite"}], "tick": {"schedule": schedule, "trigger": "nightly", "time": time}},
            "status": {"phase": "Succeeded", "reason": "Succeeded", "completionTime": time},
        });
        self.context.caches.runs.watched(serde_json::from_value::<BackupRun>(run).unwrap());
    }

    fn at(&self, now: &str) {
        self.context.clock.observe(now.parse().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_nothing_schedules_says_so() {
    let world = world();
    assert_eq!(world.reconcile().await, Next::Change);
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NotScheduled"));
    assert!(message.contains("BackupSchedule"), "{message}");
    assert_eq!(world.status().rpo_seconds, None);
}

#[tokio::test(start_paused = true)]
async fn protection_ends_by_itself_at_the_moment_it_does() {
    let world = world();
    world.schedule("gold", &json!({"objectives": {"rpo": "25h"}}));
    world.reconcile().await;
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NeverCopied"));
    assert!(message.contains("2026-03-02T01:00:00Z"), "its creation and 25 hours: {message}");
    world.fake.events();

    world.at("2026-03-01T02:05:00Z");
    world.run("r1", "Succeeded", "Succeeded", "2026-03-01T02:04:00Z", Some("2026-03-01T02:00:10Z"));
    world.reconcile().await;
    assert_eq!(world.protected().0, "True");
    assert_eq!(world.fake.events(), ["Protected", "Succeeded"]);
    let status = world.status();
    assert_eq!(status.rpo_seconds, Some(25 * 3_600));
    assert_eq!(status.next_tick.as_deref(), Some("2026-03-02T02:00:00Z"));
    assert_eq!(status.next_ticks[0].at.len(), 5);

    // Nothing happens at the next tick: its time is shown anew, and then the wait is for the end of protection.
    world.at("2026-03-02T02:00:00Z");
    assert_eq!(world.reconcile().await, Next::After(Duration::from_secs(3_611)));
    assert_eq!(world.protected().0, "True");
    world.at("2026-03-02T03:00:11Z");
    world.reconcile().await;
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CopyTooOld"));
    assert!(message.contains("r1") && message.contains("25h"), "{message}");
    assert_eq!(world.fake.events(), ["CopyTooOld"]);
}

#[tokio::test(start_paused = true)]
async fn says_nothing_twice() {
    let world = world();
    world.schedule("gold", &json!({}));
    let next = world.reconcile().await;
    world.fake.calls();
    assert_eq!(world.reconcile().await, next);
    assert_eq!(world.fake.calls(), Vec::<String>::new());
    assert_eq!(next, Next::After(Duration::from_secs(91 * 60)), "a minute after the tick at 02:00");
}

#[tokio::test(start_paused = true)]
async fn the_newest_copy_outlives_the_object_of_its_run_and_never_goes_back() {
    let world = world();
    world.schedule("gold", &json!({}));
    world.run(
        "new",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:20:00Z",
        Some("2026-03-01T00:19:00Z"),
    );
    // Ended later, but is older: a slow one, or one that was settled late.
    world.run(
        "old",
        "Succeeded",
        "AlreadyDone",
        "2026-03-01T00:25:00Z",
        Some("2026-02-28T23:00:00Z"),
    );
    world.run("bad", "Failed", "LockTimeout", "2026-03-01T00:24:00Z", None);
    world.reconcile().await;
    let copy = world.status().newest_copy.unwrap();
    assert_eq!(
        (copy.run.as_str(), copy.store.as_str(), copy.path.as_str(), copy.stored_bytes),
        ("new", "offsite", "shop/a/new", 7)
    );
    assert_eq!(world.status().last_run.unwrap().name, "old");
    for run in ["new", "old", "bad"] {
        world
            .context
            .caches
            .runs
            .deleted(&Key::new("shop", run), Some(&format!("uid-{run}")));
    }
    assert!(world.context.caches.runs.is_empty());
    world.reconcile().await;
    assert_eq!(world.status().newest_copy.unwrap().run, "new");
    assert_eq!(world.status().last_run.unwrap().name, "old");
    world.run(
        "older",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:29:00Z",
        Some("2026-02-27T00:00:00Z"),
    );
    world.reconcile().await;
    assert_eq!(world.status().newest_copy.unwrap().run, "new");
    assert_eq!(world.status().last_run.unwrap().name, "older");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_says_nothing_about_the_source() {
    let world = world();
    world.schedule("gold", &json!({}));
    world.run("stopped", "Cancelled", "Cancelled", "2026-03-01T00:10:00Z", None);
    world.reconcile().await;
    let last = || world.condition("LastRunSucceeded");
    assert_eq!(last().0, "Unknown");
    world.run(
        "good",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:12:00Z",
        Some("2026-03-01T00:11:00Z"),
    );
    world.run("again", "Cancelled", "Cancelled", "2026-03-01T00:20:00Z", None);
    world.reconcile().await;
    let (status, _, message) = last();
    assert!(status == "True" && message.starts_with("good "), "{status}: {message}");
    assert_eq!(world.status().last_run.unwrap().name, "good");
    world.run("bad", "Failed", "LockTimeout", "2026-03-01T00:25:00Z", None);
    world.run("third", "Cancelled", "Cancelled", "2026-03-01T00:28:00Z", None);
    world.reconcile().await;
    assert_eq!(last().1, "LockTimeout");
}

#[tokio::test(start_paused = true)]
async fn a_copy_from_the_future_is_told_and_takes_no_other_s_place() {
    let world = world();
    world.schedule("gold", &json!({"objectives": {"rpo": "25h"}}));
    world.run(
        "odd",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:05:00Z",
        Some("2106-01-01T00:00:00Z"),
    );
    world.reconcile().await;
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ClockWasWrong"), "{message}");
    // The next copy counts, and the odd one is a note.
    world.run(
        "good",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:20:00Z",
        Some("2026-03-01T00:19:00Z"),
    );
    world.reconcile().await;
    assert_eq!(world.protected().0, "True");
    let status = world.status();
    assert_eq!(
        (
            status.newest_copy.unwrap().run.as_str(),
            status.implausible_copy.unwrap().run.as_str()
        ),
        ("good", "odd")
    );
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ClockWasWrong"));
    assert!(message.contains("odd") && message.contains("2106"), "{message}");
    // Its time comes, and it is no younger for that.
    world.run(
        "ahead",
        "Succeeded",
        "Succeeded",
        "2026-03-01T00:25:00Z",
        Some("2026-03-02T00:00:00Z"),
    );
    world.at("2026-03-02T12:00:00Z");
    world.reconcile().await;
    assert_eq!(world.protected().1, "CopyTooOld");
    // The objects of their runs go, and with them the note; what is known of the newest copy stays.
    for run in ["odd", "good", "ahead"] {
        let uid = format!("uid-{run}");
        world.context.caches.runs.deleted(&Key::new("shop", run), Some(&uid));
    }
    world.reconcile().await;
    assert_eq!(world.status().newest_copy.unwrap().run, "good");
    assert_eq!(
        (world.status().implausible_copy, world.condition("Ready").1.as_str()),
        (None, "Accepted")
    );
}

#[tokio::test(start_paused = true)]
async fn runs_by_hand_have_a_history_limit_too() {
    let world = world();
    let deleted = |calls: Vec<String>| -> Vec<String> {
        let mut deleted: Vec<_> = calls.into_iter().filter(|call| call.starts_with("DELETE")).collect();
        deleted.sort();
        deleted
    };
    world.at("2026-03-09T00:00:00Z");
    for day in 1..=7 {
        let ended = format!("2026-03-0{day}T00:10:00Z");
        world.run(&format!("day{day}"), "Succeeded", "Succeeded", &ended, Some(&ended));
        world.run(&format!("bad{day}"), "Failed", "LockTimeout", &ended, None);
    }
    let next = world.reconcile().await;
    let old = ["bad1", "day1", "day2", "day3", "day4", "day5"].map(|run| format!("DELETE backupruns/{run}"));
    assert_eq!(deleted(world.fake.calls()), old);
    assert!(matches!(next, Next::After(_)), "failed ones have a time");
    assert_eq!(world.status().newest_copy.unwrap().run, "day7", "the status says what they said");
    // A tick's run is its schedule's to forget; once that is gone, it is treated as one by hand, but not at once.
    for index in 0..7 {
        world.tick_run(&format!("tick{index}"), "gold", "2026-03-08T02:00:00Z");
    }
    world.schedule("gold", &json!({}));
    world.reconcile().await;
    assert_eq!(deleted(world.fake.calls()), [""; 0]);
    world.context.caches.schedules.deleted(&Key::new("shop", "gold"), Some("uid-gold"));
    world.reconcile().await;
    let gone = deleted(world.fake.calls());
    assert!(!gone.iter().any(|call| call.contains("tick")), "{gone:?}");
    world.at("2026-03-15T03:00:00Z");
    world.reconcile().await;
    assert!(deleted(world.fake.calls()).iter().any(|call| call == "DELETE backupruns/tick6"));
    // Also where the source is gone.
    for index in 0..7 {
        world.run(&format!("later{index}"), "Succeeded", "Succeeded", "2026-03-14T00:00:00Z", None);
    }
    world.context.caches.sources.deleted(&Key::new("shop", "a"), Some("uid-a"));
    world.reconcile().await;
    assert_eq!(world.context.caches.runs.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_objective_is_the_shortest_stated_else_the_shortest_implied() {
    for (schedules, seconds) in [
        (vec![json!({})], Some(30 * 3_600)), // a day, and six hours for an attempt
        (vec![json!({"timeout": "1h"})], Some(25 * 3_600)),
        (
            vec![
                json!({"timeout": "1h"}),
                json!({"timeout": "30m", "triggers": [{"name": "hourly", "cron": "H * * * *"}]}),
            ],
            Some(5_400),
        ),
        (
            vec![
                json!({"objectives": {"rpo": "2d"}}),
                json!({"objectives": {"rpo": "26h"}}),
                json!({"timeout": "1h"}),
            ],
            Some(26 * 3_600),
        ),
        // On purpose or not: without copies the database is not protected.
        (vec![json!({"objectives": {"rpo": "26h"}, "suspend": true})], Some(26 * 3_600)),
        (vec![json!({"triggers": [{"name": "bad", "cron": "0 25 * * *"}]})], None),
        (vec![json!({"sources": {"matchLabels": {"tier": "silver"}}})], None),
    ] {
        let world = world();
        for (index, schedule) in schedules.iter().enumerate() {
            world.schedule(&format!("s{index}"), schedule);
        }
        world.reconcile().await;
        assert_eq!(world.status().rpo_seconds, seconds, "{schedules:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn shows_the_cron_that_holds_for_this_source() {
    let world = world();
    world.schedule(
        "gold",
        &json!({"triggers": [{"name": "nightly", "cron": "H H(1-3) * * *"}], "timeZone": "Europe/Zurich"}),
    );
    world.schedule("paused", &json!({"suspend": true}));
    world.reconcile().await;
    let ticks = world.status().next_ticks;
    assert_eq!(ticks.len(), 1, "a suspended schedule has no ticks");
    assert_eq!(
        (ticks[0].schedule.as_str(), ticks[0].trigger.as_str(), ticks[0].time_zone.as_str()),
        ("gold", "nightly", "Europe/Zurich")
    );
    let mut fields = ticks[0].cron.split(' ');
    let minute: u8 = fields.next().unwrap().parse().unwrap();
    let hour: u8 = fields.next().unwrap().parse().unwrap();
    assert!(minute < 60 && (1..=3).contains(&hour), "{}", ticks[0].cron);
    assert_eq!(ticks[0].at.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_needs_nothing() {
    let world = world();
    world.context.caches.sources.deleted(&Key::new("shop", "a"), Some("uid-a"));
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(world.fake.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_re_created_meanwhile_is_left_alone() {
    let world = world();
    let mut other = world.fake.get(SOURCE).unwrap();
    other["metadata"]["uid"] = json!("another");
    world.fake.put::<BackupSource>(SOURCE, other);
    let error = world.controller.reconcile(&Key::new("shop", "a")).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(world.fake.get(SOURCE).unwrap().get("status").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_structure_could_not_be_checked_protects_nothing() {
    let world = world();
    world.schedule("gold", &json!({"objectives": {"rpo": "25h"}}));
    world.opaque("opaque", "2026-03-01T02:00:00Z");
    world.at("2026-03-01T03:00:00Z");
    world.reconcile().await;
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CopyUnproven"));
    assert!(message.contains("run opaque") && message.contains("structure"), "{message}");
    let status = world.status();
    assert_eq!((status.newest_copy, status.unproven_copy.unwrap().run.as_str()), (None, "opaque"));
    assert_eq!(world.condition("LastRunSucceeded").0, "True", "it can be restored");
    // Its run's object goes, and what is known of it stays.
    world.context.caches.runs.deleted(&Key::new("shop", "opaque"), Some("uid-opaque"));
    world.reconcile().await;
    assert_eq!(world.protected().1, "CopyUnproven");
    // A good one that is newer counts, and the other is of no interest any more.
    world.run(
        "good",
        "Succeeded",
        "Succeeded",
        "2026-03-01T04:00:00Z",
        Some("2026-03-01T04:00:00Z"),
    );
    world.at("2026-03-01T05:00:00Z");
    world.reconcile().await;
    assert_eq!((world.protected().1.as_str(), world.status().unproven_copy), ("Protected", None));
    // One after it does not displace it; and once it is too old, the newer one is no help.
    world.opaque("again", "2026-03-02T02:00:00Z");
    world.at("2026-03-02T03:00:00Z");
    world.reconcile().await;
    let (status, reason, message) = world.protected();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Protected"));
    assert!(message.contains("run good") && message.contains("run again"), "{message}");
    world.at("2026-03-02T06:00:00Z");
    world.reconcile().await;
    assert_eq!(
        (world.protected().0.as_str(), world.protected().1.as_str()),
        ("False", "CopyUnproven")
    );
    assert_eq!(world.status().newest_copy.unwrap().run, "good");
}
