mod stores;

use std::time::Duration;

use holdfast_crds::{BackupRun, BackupSchedule, BackupScheduleStatus, BackupSource, BackupStore};
use serde_json::{Value, json};

use super::*;
use crate::{controller::history::tests::past, fake::Fake};

const RUNS: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupruns";
const SCHEDULE: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupschedules/gold";

fn meta(name: &str, created: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": created, "generation": 1})
}

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: ScheduleController,
}

/// A namespace at 02:10 with a schedule that fires at 02:00, made at 01:00, for the sources `a` and `b`, and a store that was tried.
fn world(spec: &Value) -> World {
    let (fake, context) = Fake::start("2026-03-01T02:10:00Z");
    let mut merged = json!({
        "sources": {"names": ["a", "b"]},
        "stores": [{"name": "offsite"}],
        "triggers": [{"name": "nightly", "cron": "0 2 * * *"}],
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        merged[field] = value.clone();
    }
    let mut schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "spec": merged});
    schedule["metadata"] = meta("gold", "2026-03-01T01:00:00Z");
    context.caches.schedules.watched(fake.put::<BackupSchedule>(SCHEDULE, schedule));
    for name in ["a", "b"] {
        let source = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": meta(name, "2026-03-01T01:00:00Z"),
            "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}},
        });
        context
            .caches
            .sources
            .watched(serde_json::from_value::<BackupSource>(source).unwrap());
    }
    let world = World {
        fake,
        controller: ScheduleController::new(context.clone()),
        context,
    };
    world.store(json!([{"name": "CreateIfAbsent", "passed": true}]), "StoreReady");
    world
}

impl World {
    fn store(&self, checks: Value, reason: &str) {
        let ready = json!({
            "type": "Ready", "status": if reason == "StoreReady" { "True" } else { "False" },
            "reason": reason, "message": "seen", "lastTransitionTime": "2026-03-01T01:00:00Z",
        });
        let mut store = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta("offsite", "2026-03-01T01:00:00Z"),
            "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
            "status": {"conditions": [ready], "probe": {"number": 1, "generation": 1, "report": {"checks": []}}},
        });
        store["status"]["probe"]["report"]["checks"] = checks;
        self.context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
    }

    async fn reconcile(&self) -> Result<Next, Error> {
        self.controller.reconcile(&Key::new("shop", "gold")).await
    }

    fn status(&self) -> BackupScheduleStatus {
        serde_json::from_value(self.fake.get(SCHEDULE).unwrap()["status"].clone()).unwrap()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let status = self.status();
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason, condition.message)
    }

    /// A run ends as its controller would say it.
    fn end(&self, run: &str, phase: &str, reason: &str, at: &str) {
        let path = format!("{RUNS}/{run}");
        let mut object = self.fake.get(&path).unwrap();
        object["status"] = json!({"phase": phase, "reason": reason, "completionTime": at});
        let run = self.fake.put::<BackupRun>(&path, object);
        self.context.caches.runs.watched(run);
    }
}

fn runs_of(calls: &[String]) -> Vec<&str> {
    let names = calls.iter().filter_map(|call| call.strip_prefix("POST backupruns/"));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

fn name(source: &str) -> String {
    let label = |text| holdfast_policy::name::Label::new(text).unwrap();
    let tick = "2026-03-01T02:00:00Z".parse().unwrap();
    holdfast_policy::name::run_name(&label("shop"), &label("gold"), &label("nightly"), &label(source), tick)
}

#[tokio::test(start_paused = true)]
async fn a_tick_makes_one_run_per_source_and_then_the_watermark() {
    let world = world(&json!({}));
    let next = world.reconcile().await.unwrap();
    let calls = world.fake.calls();
    assert_eq!(runs_of(&calls), [name("a"), name("b")]);
    assert_eq!(calls.last().unwrap(), "PATCH backupschedules/gold/status");
    // The next tick is tomorrow's; nothing happens before.
    assert_eq!(next, Next::After(Duration::from_secs(23 * 3_600 + 50 * 60)));

    let run = world.fake.get(&format!("{RUNS}/{}", name("a"))).unwrap();
    let schedule: BackupSchedule = serde_json::from_value(world.fake.get(SCHEDULE).unwrap()).unwrap();
    let policy_digest = schedule.spec.policy_digest().to_string();
    assert_eq!(
        run["spec"]["tick"],
        json!({"schedule": "gold", "trigger": "nightly", "time": "2026-03-01T02:00:00Z", "generation": 1,
            "policyDigest": policy_digest})
    );
    assert_eq!(run["spec"]["timeout"], "6h");
    assert!(run["metadata"].get("ownerReferences").is_none(), "a run outlives its schedule");

    let status = world.status();
    // A new schedule's first watermark is its first look.
    assert_eq!(status.triggers[0].watermark, "2026-03-01T02:10:00Z");
    assert_eq!((status.triggers[0].fired, status.triggers[0].missed), (2, 0));
    assert_eq!(status.next_tick.as_deref(), Some("2026-03-02T02:00:00Z"));
    assert_eq!(world.condition("Ready").1, "Accepted");
    assert_eq!(world.condition("LastRunSucceeded").0, "Unknown");

    // Idle: nothing is read or written.
    assert_eq!(world.reconcile().await.unwrap(), next);
    assert_eq!(world.fake.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_api_servers_date_decides_and_not_the_clock_of_this_machine() {
    let world = world(&json!({}));
    world.context.clock.observe("2026-03-01T01:59:00Z".parse().unwrap());
    let server = world.context.clock.now();
    assert!(Timestamp::now().duration_since(server).abs() > jiff::SignedDuration::from_hours(1));
    // The answer's second has just begun or is nearly over.
    let Next::After(wait) = world.reconcile().await.unwrap() else {
        panic!("there is a next tick")
    };
    assert!((59..=60).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(runs_of(&world.fake.calls()), [""; 0], "by the API server the tick is a minute away");
    tokio::time::advance(wait).await;
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a"), name("b")]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_killed_operator_made_is_adopted_and_counted_once() {
    let first = world(&json!({}));
    first.fake.fail("PATCH backupschedules/gold/status", 500, "killed here");
    first.reconcile().await.unwrap_err();
    first.fake.mend();
    first.fake.calls();
    // A new process: the caches know nothing of the runs yet, as if their watch lagged.
    let again = world(&json!({}));
    for source in ["a", "b"] {
        let path = format!("{RUNS}/{}", name(source));
        again.fake.put::<BackupRun>(&path, first.fake.get(&path).unwrap());
    }
    again.reconcile().await.unwrap();
    let calls = again.fake.calls();
    assert_eq!(runs_of(&calls).len(), 2, "both are refused as existing: {calls:?}");
    assert_eq!(again.status().triggers[0].fired, 2);
    assert_eq!(again.condition("Ready").1, "Accepted");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_took_is_said_and_stops_nothing() {
    let world = world(&json!({}));
    let path = format!("{RUNS}/{}", name("a"));
    let mut taken = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "spec": {"source": "a", "stores": [{"name": "offsite"}]},
    });
    taken["metadata"] = meta(&name("a"), "2026-03-01T01:00:00Z");
    world.fake.put::<BackupRun>(&path, taken);
    world.reconcile().await.unwrap();
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NameTaken"));
    assert!(message.contains(&name("a")), "{message}");
    assert!(world.fake.get(&format!("{RUNS}/{}", name("b"))).is_some());
    let trigger = &world.status().triggers[0];
    assert_eq!(
        (trigger.fired, trigger.missed, trigger.watermark.as_str()),
        (1, 1, "2026-03-01T02:10:00Z")
    );
    // It stays visible until a tick shows that it is over.
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready").1, "NameTaken");
}

#[tokio::test(start_paused = true)]
async fn one_source_that_fails_does_not_stop_the_next() {
    let world = world(&json!({}));
    let call = format!("POST backupruns/{}", name("a"));
    world.fake.fail(&call, 500, "etcd has no leader");
    world.reconcile().await.unwrap_err();
    assert!(world.fake.get(&format!("{RUNS}/{}", name("b"))).is_some());
    assert!(world.status().triggers.is_empty(), "no watermark passes a tick without its run");
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "BackingOff"));
    assert!(message.contains("etcd has no leader"), "{message}");
    // The next try makes only what is missing.
    world.fake.mend();
    world.fake.calls();
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a")]);
    assert_eq!(world.status().triggers[0].fired, 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_admission_refuses_is_not_tried_for_ever() {
    let world = world(&json!({}));
    world
        .fake
        .fail(&format!("POST backupruns/{}", name("a")), 403, "exceeded quota: runs");
    world.reconcile().await.unwrap();
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AdmissionRefused"));
    assert!(message.contains("exceeded quota: runs"), "{message}");
    assert_eq!(world.status().triggers[0].watermark, "2026-03-01T02:10:00Z");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_not_tried_gets_its_tick_when_it_is() {
    let world = world(&json!({}));
    for (checks, reason, expected) in [
        (json!([]), "SecretNotFound", "StoreNotProbed"),
        (json!([{"name": "CreateIfAbsent", "passed": false}]), "StoreUnsafe", "StoreUnsafe"),
        (json!([{"name": "CreateIfAbsent", "passed": true}]), "StoreForeign", "StoreForeign"),
    ] {
        world.store(checks, reason);
        world.reconcile().await.unwrap();
        assert!(runs_of(&world.fake.calls()).is_empty(), "{reason}");
        let (status, said, message) = world.condition("Ready");
        assert_eq!((status.as_str(), said.as_str()), ("False", expected));
        assert!(message.contains("offsite"), "{message}");
        let stalled = if expected == "StoreNotProbed" { "False" } else { "True" };
        assert_eq!(world.condition("Stalled").0, stalled);
        assert!(world.status().triggers.is_empty(), "the tick waits");
    }
    // Any other trouble of a store that was tried stops no tick: it may be over by then.
    world.store(json!([{"name": "CreateIfAbsent", "passed": true}]), "StoreUnreachable");
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()).len(), 2);
    assert_eq!(world.condition("Ready").1, "Accepted");
}

#[tokio::test(start_paused = true)]
async fn ticks_while_nothing_could_act_are_caught_up_once() {
    let world = world(&json!({"triggers": [{"name": "hourly", "cron": "*/10 * * * *"}]}));
    world.reconcile().await.unwrap();
    world.fake.calls();
    world.fake.events();
    for run in world.context.caches.runs.all() {
        world.end(&run.name_any(), "Succeeded", "Succeeded", "2026-03-01T02:11:00Z");
    }
    world.context.clock.observe("2026-03-01T03:05:00Z".parse().unwrap());
    world.reconcile().await.unwrap();
    let calls = world.fake.calls();
    assert_eq!(runs_of(&calls).len(), 2);
    assert!(runs_of(&calls)[0].contains("20260301t0300z"), "{calls:?}");
    let trigger = &world.status().triggers[0];
    // Before the first look six ticks of each source had passed (01:10 to 02:00), and now four more (02:20 to 02:50).
    assert_eq!((trigger.fired, trigger.missed, trigger.skipped), (4, 20, 0));
    assert_eq!(world.fake.events(), ["Succeeded", "TicksMissed"]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_skipped_while_the_run_before_is_in_flight() {
    let world = world(&json!({}));
    world.reconcile().await.unwrap();
    world.end(&name("a"), "Succeeded", "Succeeded", "2026-03-01T02:30:00Z");
    world.fake.calls();
    world.context.clock.observe("2026-03-02T02:00:30Z".parse().unwrap());
    world.reconcile().await.unwrap();
    let calls = world.fake.calls();
    assert_eq!(runs_of(&calls).len(), 1, "only a's: {calls:?}");
    assert_eq!(world.status().triggers[0].skipped, 1);
    assert!(world.fake.events().contains(&"RunInFlight".to_owned()));
    // The same run costs the next tick too: that is counted, and not told again.
    world.context.clock.observe("2026-03-03T02:00:30Z".parse().unwrap());
    world.reconcile().await.unwrap();
    assert_eq!(world.status().triggers[0].skipped, 3, "b's, and a's second");
    let told = world.fake.events();
    assert_eq!(told.iter().filter(|reason| *reason == "RunInFlight").count(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn catch_up_deadline_and_queue_are_what_the_schedule_says() {
    let hourly = json!([{"name": "hourly", "cron": "*/10 * * * *"}]);
    // The first look is at 02:10; the schedule was made at 01:00.
    for (spec, runs, counts, event) in [
        (json!({"catchUp": "Skip"}), vec!["0210"], (2, 0, 12, 0), "TicksMissed"),
        (
            json!({"catchUp": "All"}),
            vec!["0110", "0120", "0130", "0140", "0150", "0200", "0210"],
            (14, 0, 0, 0),
            "",
        ),
        (
            json!({"catchUp": "All", "startingDeadline": "15m"}),
            vec!["0200", "0210"],
            (4, 0, 0, 10),
            "TicksDropped",
        ),
        (json!({"concurrencyPolicy": "Queue"}), vec!["0210"], (2, 0, 12, 0), "TicksMissed"),
        // 01:05 to 02:05: at its end the newest of what it held is made up for, and no event complains.
        (
            json!({"exclusions": [{"name": "load", "days": ["Sun"], "from": "01:05", "to": "02:10"}], "triggers": [{"name": "hourly", "cron": "5 * * * *"}]}),
            vec!["0205"],
            (2, 0, 2, 0),
            "",
        ),
    ] {
        let mut merged = json!({"triggers": hourly});
        for (field, value) in spec.as_object().unwrap() {
            merged[field] = value.clone();
        }
        let world = world(&merged);
        world.reconcile().await.unwrap();
        let calls = world.fake.calls();
        let ticks: std::collections::BTreeSet<_> = runs_of(&calls).iter().map(|run| run[run.len() - 14..][..4].to_owned()).collect();
        assert_eq!(ticks.into_iter().collect::<Vec<_>>(), runs, "{spec}");
        let trigger = &world.status().triggers[0];
        assert_eq!((trigger.fired, trigger.skipped, trigger.missed, trigger.dropped), counts, "{spec}");
        let events: Vec<_> = world
            .fake
            .events()
            .into_iter()
            .filter(|reason| reason.starts_with("Ticks"))
            .collect();
        assert_eq!(events.concat(), event, "{spec}");
    }
}

#[tokio::test(start_paused = true)]
async fn within_an_exclusion_nothing_starts_and_it_wakes_at_its_end() {
    let office = json!({"exclusions": [{"name": "office", "days": ["Sun"], "from": "01:30", "to": "08:00"}]});
    let world = world(&office);
    assert_eq!(
        world.reconcile().await.unwrap(),
        Next::After(Duration::from_secs(5 * 3_600 + 50 * 60))
    );
    assert!(runs_of(&world.fake.calls()).is_empty());
    assert_eq!(world.status().next_tick.as_deref(), Some("2026-03-01T08:00:00Z"));
    world.context.clock.observe("2026-03-01T08:00:00Z".parse().unwrap());
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a"), name("b")]);
}

#[tokio::test(start_paused = true)]
async fn a_type_that_the_engine_lacks_is_said_and_not_replaced_by_another() {
    let world = world(&json!({"triggers": [
        {"name": "nightly", "cron": "0 2 * * *"}, {"name": "hourly", "type": "Incremental", "cron": "0 * * * *"},
    ]}));
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a"), name("b")], "the others go on");
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "TypeUnsupported"));
    assert!(
        message.contains("spec.triggers[hourly].type: found Incremental, but PostgreSQL") && message.contains("a, b have no runs"),
        "{message}"
    );
    world.context.clock.observe("2026-03-01T05:00:01Z".parse().unwrap());
    world.reconcile().await.unwrap();
    assert!(runs_of(&world.fake.calls()).is_empty());
    assert_eq!(world.status().next_tick.as_deref(), Some("2026-03-02T02:00:00Z"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_replaces_says_so() {
    let world = world(&json!({"concurrencyPolicy": "Replace"}));
    world.reconcile().await.unwrap();
    world.fake.calls();
    world.context.clock.observe("2026-03-02T02:00:01Z".parse().unwrap());
    world.reconcile().await.unwrap();
    let calls = world.fake.calls();
    assert_eq!(runs_of(&calls).len(), 2, "those in flight forbid nothing: {calls:?}");
    let run = world.fake.get(&format!("{RUNS}/{}", runs_of(&calls)[0])).unwrap();
    assert_eq!(run["spec"]["tick"]["replaces"], true);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_schedule_makes_nothing_and_catches_nothing_up() {
    let suspended = world(&json!({"suspend": true}));
    assert_eq!(suspended.reconcile().await.unwrap(), Next::Change);
    assert!(runs_of(&suspended.fake.calls()).is_empty());
    assert_eq!(suspended.condition("Ready").1, "Suspended");
    assert_eq!(suspended.status().suspended_since.as_deref(), Some("2026-03-01T02:10:00Z"));
    // Resumed: the tick of the suspended time is not made.
    let mut schedule = suspended.fake.get(SCHEDULE).unwrap();
    schedule["spec"]["suspend"] = json!(false);
    schedule["metadata"]["generation"] = json!(2);
    suspended
        .context
        .caches
        .schedules
        .watched(suspended.fake.put::<BackupSchedule>(SCHEDULE, schedule));
    suspended.reconcile().await.unwrap();
    assert!(runs_of(&suspended.fake.calls()).is_empty());
    assert_eq!(suspended.status().suspended_since, None);
    assert_eq!(suspended.status().triggers[0].watermark, "2026-03-01T02:10:00Z");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_worked_with_is_named() {
    for (spec, reason, words) in [
        (
            json!({"timeZone": "Europe/Zuerich"}),
            "InvalidSpec",
            vec!["spec.timeZone", "Europe/Zuerich"],
        ),
        (
            json!({"triggers": [{"name": "nightly", "cron": "0 25 * * *"}]}),
            "InvalidSpec",
            vec!["spec.triggers[nightly].cron", "25"],
        ),
        (
            json!({"exclusions": [{"name": "office", "from": "08:00", "to": "18:00", "dates": {"from": "2026-02-30", "to": "2026-03-01"}}]}),
            "InvalidSpec",
            vec!["spec.exclusions[office].dates.from", "2026-02-30"],
        ),
        (
            json!({"exclusions": [{"name": "always", "from": "00:00", "to": "24:00"}]}),
            "InvalidSpec",
            vec!["spec.exclusions", "no minute"],
        ),
        (
            json!({"catchUp": "All", "concurrencyPolicy": "Replace"}),
            "InvalidSpec",
            vec!["spec.catchUp", "Replace"],
        ),
        (
            json!({"stores": [{"name": "absent"}]}),
            "StoreNotFound",
            vec!["spec.stores", "absent"],
        ),
        (
            json!({"sources": {"matchLabels": {"tier": "gold"}}}),
            "NoSources",
            vec!["spec.sources"],
        ),
        (
            json!({"sources": {"names": ["a", "nobody"]}}),
            "SourceNotFound",
            vec!["spec.sources.names", "nobody"],
        ),
    ] {
        let world = world(&spec);
        world.reconcile().await.unwrap();
        let (status, said, message) = world.condition("Ready");
        assert_eq!((status.as_str(), said.as_str()), ("False", reason));
        for word in words {
            assert!(message.contains(word), "{message}");
        }
    }
    // A name that does not exist does not keep the others from their runs.
    let world = world(&json!({"sources": {"names": ["a", "nobody"]}}));
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a")]);
}

#[tokio::test(start_paused = true)]
async fn a_watermark_from_the_future_is_set_back_and_said() {
    let world = world(&json!({}));
    let mut schedule = world.fake.get(SCHEDULE).unwrap();
    schedule["status"] = json!({"triggers": [{"name": "nightly", "watermark": "2106-02-07T06:28:15Z", "expression": "0 2 * * * UTC"}]});
    world
        .context
        .caches
        .schedules
        .watched(world.fake.put::<BackupSchedule>(SCHEDULE, schedule));
    world.reconcile().await.unwrap();
    assert_eq!(world.status().triggers[0].watermark, "2026-03-01T02:10:00Z");
    let (status, reason, _) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ClockWasWrong"));
    assert_eq!(world.fake.events().iter().filter(|reason| *reason == "ClockWasWrong").count(), 2);
    // Still to be seen, until a tick comes as it should.
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready").1, "ClockWasWrong");
    world.context.clock.observe("2026-03-02T02:00:01Z".parse().unwrap());
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready").1, "Accepted");
}

#[tokio::test(start_paused = true)]
async fn says_whose_newest_run_failed() {
    let world = world(&json!({}));
    world.reconcile().await.unwrap();
    world.end(&name("a"), "Succeeded", "Succeeded", "2026-03-01T02:05:00Z");
    world.end(&name("b"), "Failed", "LockTimeout", "2026-03-01T02:06:00Z");
    world.reconcile().await.unwrap();
    let (status, reason, message) = world.condition("LastRunSucceeded");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "LockTimeout"));
    assert!(message.contains(&name("b")), "{message}");
    let failing = world.status().failing;
    assert_eq!(
        (failing.len(), failing[0].source.as_str(), failing[0].reason),
        (1, "b", Reason::LockTimeout)
    );
    world.end(&name("b"), "Succeeded", "Succeeded", "2026-03-01T02:07:00Z");
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("LastRunSucceeded").0, "True");
    // Objects of runs are only history: what they said stays.
    for run in ["a", "b"] {
        world.context.caches.runs.deleted(&Key::new("shop", name(run)), None);
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("LastRunSucceeded").0, "True");
}

#[tokio::test(start_paused = true)]
async fn old_runs_are_deleted() {
    let world = world(&json!({"history": {"perSource": 1}}));
    for (index, run) in past(&[
        ("Succeeded", "Succeeded", 24),
        ("Succeeded", "Succeeded", 48),
        ("Succeeded", "Succeeded", 72),
    ])
    .iter()
    .enumerate()
    {
        let run = world
            .fake
            .put::<BackupRun>(&format!("{RUNS}/r{index}"), serde_json::to_value(&**run).unwrap());
        world.context.caches.runs.watched(run);
    }
    world.reconcile().await.unwrap();
    let deleted: Vec<String> = world.fake.calls().into_iter().filter(|call| call.starts_with("DELETE")).collect();
    assert_eq!(deleted, ["DELETE backupruns/r1", "DELETE backupruns/r2"]);
    assert!(world.context.caches.runs.get(&Key::new("shop", "r1")).is_none());
}
