use holdfast_crds::{
    AgentResult, BackupSource, BackupSourceStatus, BackupStore, BackupStoreStatus, KEEP_LINE, KeepLine, KeepSummary, SourceReport,
    StoreFinding, TASK_VERSION, document::Sha256,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::source::SourceController,
    fake::{Fake, Fault},
    job::PURPOSE,
};

const API: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: KeepController,
}

/// A store that was tried, and a source.
fn world() -> World {
    let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
    let store = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
        "metadata": {"name": "offsite", "namespace": "shop", "uid": "uid-offsite", "generation": 1,
            "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"s3": {"bucket": "backups", "prefix": "eu"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "StoreReady", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"}],
            "probe": {"number": 1, "generation": 1, "finishedAt": "2026-03-01T00:00:00Z", "failures": 0,
            "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}}},
    });
    let source = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
        "metadata": {"name": "a", "namespace": "shop", "uid": "uid-a", "generation": 1, "creationTimestamp": "2026-02-28T00:00:00Z"},
        "spec": {},
    });
    let store = fake.put::<BackupStore>(&format!("{API}/backupstores/offsite"), store);
    let source = fake.put::<BackupSource>(&format!("{API}/backupsources/a"), source);
    context.caches.stores.watched(store);
    context.caches.sources.watched(source);
    World {
        fake,
        controller: KeepController::new(context.clone()),
        context,
    }
}

fn source_line(namespace: &str, source: &str) -> KeepLine {
    let report = json!({"namespace": namespace, "source": source, "found": 4, "copies": 3, "good": 2, "bytes": 300, "held": 1, "marked": 1, "removed": 1,
        "newest": "2026-02-28T22:00:00Z", "oldest": "2026-02-01T22:00:00Z",
        "blocked": {"reason": "SizeAnomalous", "message": "half of the others"},
        "newestCopies": [{"run": "a-nightly-1", "type": "Full", "recoveryPoint": "2026-02-28T22:00:00Z", "bytes": 100, "state": "Kept",
            "why": "daily 2026-02-28"}], "emptySlots": ["daily 2026-02-27"]});
    KeepLine::Source(serde_json::from_value::<SourceReport>(report).unwrap())
}

fn tampered() -> KeepLine {
    KeepLine::Finding(StoreFinding {
        reason: Reason::Tampered,
        place: Some("shop/a/a-nightly-1".to_owned()),
        message: "a second version of outcome.json".to_owned(),
    })
}

fn text(lines: &[KeepLine]) -> String {
    let lines = lines
        .iter()
        .map(|line| format!("{KEEP_LINE}{}\n", serde_json::to_string(line).unwrap()));
    lines.collect()
}

impl World {
    async fn reconcile(&self) -> Next {
        self.controller.reconcile(&Key::new("shop", "offsite")).await.unwrap()
    }

    fn status(&self) -> BackupStoreStatus {
        serde_json::from_value(self.fake.get(&format!("{API}/backupstores/offsite")).unwrap()["status"].clone()).unwrap()
    }

    fn source(&self) -> BackupSourceStatus {
        serde_json::from_value(self.fake.get(&format!("{API}/backupsources/a")).unwrap()["status"].clone()).unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.status().conditions;
        let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason, condition.message)
    }

    /// The container of a pass ends with this, and its log has that.
    fn ends(&self, job: &str, reason: Reason, lines: &[KeepLine], log: &str) {
        self.ends_at(job, reason, lines, log, "2026-03-01T00:00:10Z");
    }

    /// … of a pass that began then.
    fn ends_at(&self, job: &str, reason: Reason, lines: &[KeepLine], log: &str, began: &str) {
        let summary = KeepSummary {
            lines: lines.len() as u64,
            sha256: Sha256::of(text(lines).as_bytes()).to_string(),
            sources: 1,
            copies: 3,
            blocked: 1,
            findings: 1,
            started_at: began.to_owned(),
            epoch: 1,
            ..KeepSummary::default()
        };
        let result = AgentResult {
            version: TASK_VERSION,
            reason,
            message: "as the agent says".to_owned(),
            closed: false,
            copy: None,
            probe: None,
            restored: None,
            kept: (reason == Reason::Succeeded).then_some(summary),
            copied: None,
        };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{job}-x"), "namespace": "shop", "uid": format!("uid-{job}-x"),
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": job, "holdfast.dev/store": "offsite"}},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": if reason.exit_code() == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": reason.exit_code(), "message": result.to_termination_message(),
                        "finishedAt": "2026-03-01T00:00:00Z"}}}]},
        });
        self.context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
        self.fake.log(&format!("/api/v1/namespaces/shop/pods/{job}-x/log"), log);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_is_counted_made_read_and_shown() {
    let world = world();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["PATCH backupstores/offsite/status", "POST jobs/offsite-k1"]);
    assert_eq!(world.condition("Kept").0, "Unknown");
    let job: Job = serde_json::from_value(world.fake.get(&format!("{JOBS}/offsite-k1")).unwrap()).unwrap();
    assert_eq!(job.labels()[PURPOSE], "keep");
    // Nothing more happens while it runs.
    assert_eq!(world.fake.calls(), [""; 0]);

    let lines = [source_line("shop", "a"), source_line("gone", "b"), tampered()];
    let log = format!("the agent's own line\n{}another\n", text(&lines));
    world.ends("offsite-k1", Reason::Succeeded, &lines, &log);
    let Next::After(wait) = world.reconcile().await else {
        panic!("there is a next pass")
    };
    assert!(wait > std::time::Duration::from_secs(17 * 3_600), "{wait:?}");
    assert_eq!(
        world.fake.calls(),
        [
            "GET offsite-k1-x/log",
            "PATCH backupsources/a/status",
            "PATCH backupstores/offsite/status",
            "DELETE jobs/offsite-k1"
        ],
        "the log is read before its pod goes"
    );
    let (status, reason, message) = world.condition("Kept");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "StoreKept"));
    assert!(
        message.contains("3 copies of 1 sources") && message.contains("nothing of 1 sources is removed"),
        "{message}"
    );
    assert_eq!(world.condition("Intact").1, "Tampered");
    assert_eq!(world.condition("Ready").1, "StoreReady", "what the probe said stays");
    let keeper = world.status().keeper.unwrap();
    assert_eq!((keeper.unknown_sources, keeper.unknown[0].namespace.as_str()), (1, "gone"));
    let entry = &world.source().stores[0];
    assert_eq!((entry.store.as_str(), entry.copies, entry.good), ("offsite", 3, 2));
    assert_eq!(entry.blocked_since.as_deref(), Some("2026-03-01T00:00:00Z"));
    assert_eq!(entry.findings[0].reason, Reason::Tampered);
    assert_eq!(entry.empty_slots, ["daily 2026-02-27"]);

    // The source's controller makes of it that the newest copy is known, although there is no object of any run.
    let source = SourceController::new(world.context.clone());
    source.reconcile(&Key::new("shop", "a")).await.unwrap();
    let status = world.source();
    assert_eq!(status.newest_copy.unwrap().path, "shop/a/a-nightly-1");
    assert_eq!(status.copies, Some(3));
    let intact = status.conditions.iter().find(|condition| condition.type_ == "Intact").unwrap();
    assert_eq!((intact.status.as_str(), intact.reason.as_str()), ("False", "Tampered"));
    // The removal of the Job is known before a watch shows it.
    assert!(world.context.caches.jobs.get(&Key::new("shop", "offsite-k1")).is_none());
    world.fake.calls();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0], "idle is silent");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_appears_after_a_pass_saw_its_copies_gets_one_that_shows_them() {
    let world = world();
    world.reconcile().await;
    let lines = [source_line("shop", "a"), source_line("shop", "b")];
    world.ends("offsite-k1", Reason::Succeeded, &lines, &text(&lines));
    world.reconcile().await;
    assert_eq!(world.status().keeper.unwrap().unknown[0].source, "b");
    let source = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
        "metadata": {"name": "b", "namespace": "shop", "uid": "uid-b", "generation": 1, "creationTimestamp": "2026-03-01T00:05:00Z"},
        "spec": {},
    });
    let source = world.fake.put::<BackupSource>(&format!("{API}/backupsources/b"), source);
    world.context.caches.sources.watched(source);
    world.context.clock.observe("2026-03-01T00:05:00Z".parse().unwrap());
    let Next::After(wait) = world.reconcile().await else {
        panic!("a pass is to come")
    };
    assert_eq!(wait.as_secs(), 60, "and not only tomorrow");
    world.context.clock.observe("2026-03-01T00:06:00Z".parse().unwrap());
    world.reconcile().await;
    world.ends("offsite-k2", Reason::Succeeded, &lines, &text(&lines));
    let Next::After(wait) = world.reconcile().await else {
        panic!("there is a next pass")
    };
    assert!(wait > std::time::Duration::from_secs(17 * 3_600), "one pass is enough: {wait:?}");
    assert_eq!(world.status().keeper.unwrap().unknown, []);
}

/// A pass that finds this of source `a`; then what the next is told of it.
async fn passes(world: &World, number: i64, report: Value) -> (Option<u64>, Option<String>) {
    world.reconcile().await;
    let lines = [KeepLine::Source(serde_json::from_value(report).unwrap())];
    world.ends(&format!("offsite-k{number}"), Reason::Succeeded, &lines, &text(&lines));
    world.reconcile().await;
    let store = world.context.caches.store_at(&Key::new("shop", "offsite")).unwrap();
    let task = task::task(&world.context.caches, &store, world.context.clock.now());
    let tomorrow = world.context.clock.now() + jiff::SignedDuration::from_hours(30);
    world.context.clock.observe(tomorrow);
    let told = task.sources.first();
    (
        told.and_then(|told| told.copies),
        told.and_then(|told| told.copies_as_of).map(|at| at.to_string()),
    )
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_unread_does_not_become_the_measure_of_the_next_pass() {
    let world = world();
    let found = |copies: i64| {
        json!({"namespace": "shop", "source": "a", "found": copies, "copies": copies, "good": copies, "bytes": 1, "held": 0,
        "marked": 0, "removed": 0, "newest": "2026-02-28T22:00:00Z"})
    };
    let counted = (Some(40), Some("2026-03-01T00:00:10Z".to_owned()));
    assert_eq!(passes(&world, 1, found(40)).await, counted);
    let mut missing = found(3);
    missing["blocked"] = json!({"reason": "CopiesMissing", "message": "the last pass left 40"});
    assert_eq!(passes(&world, 2, missing).await, counted, "nobody accepted that");
    assert_eq!(world.source().stores[0].copies, 3);
    let unread = json!({"namespace": "shop", "source": "a", "unread": true, "copies": 0, "good": 0, "bytes": 0, "held": 0, "marked": 0, "removed": 0,
        "blocked": {"reason": "CatalogueUnreadable", "message": "503"}});
    assert_eq!(passes(&world, 3, unread).await, counted);
    let entry = world.source().stores.remove(0);
    assert_eq!(
        (entry.copies, entry.newest.as_deref()),
        (3, Some("2026-02-28T22:00:00Z")),
        "the numbers are those of the pass that read"
    );
    assert_eq!(entry.blocked.unwrap().reason, Reason::CatalogueUnreadable);
    assert_eq!(passes(&world, 4, found(3)).await.0, Some(3), "accepted");
}

#[tokio::test(start_paused = true)]
async fn the_measure_of_the_next_pass_outlives_a_source_that_is_deleted_and_made_again() {
    let world = world();
    let report =
        json!({"namespace": "shop", "source": "a", "found": 4, "copies": 4, "good": 4, "bytes": 1, "held": 0, "marked": 0, "removed": 0});
    let counted = (Some(4), Some("2026-03-01T00:00:10Z".to_owned()));
    assert_eq!(passes(&world, 1, report.clone()).await, counted);
    let again = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
        "metadata": {"name": "a", "namespace": "shop", "uid": "uid-again", "generation": 1, "creationTimestamp": "2026-03-02T06:00:00Z"},
        "spec": {},
    });
    let again = world.fake.put::<BackupSource>(&format!("{API}/backupsources/a"), again);
    world.context.caches.sources.watched(again);
    assert_eq!(world.source().stores, [], "it knows nothing");
    // What the pass after that misses, it does not forget.
    let mut missing = report;
    missing["found"] = json!(1);
    missing["blocked"] = json!({"reason": "CopiesMissing", "message": "the last pass left 4"});
    assert_eq!(passes(&world, 2, missing).await, counted);
    assert_eq!(world.source().stores[0].expected, None, "and its object still has none to tell");
}

#[tokio::test(start_paused = true)]
async fn the_next_pass_begins_where_the_time_of_the_last_was_over() {
    let world = world();
    let path = format!("{API}/backupstores/offsite");
    for stopped_at in [Some("shop/a".to_owned()), None] {
        let summary = KeepSummary {
            stopped_at: stopped_at.clone(),
            ..KeepSummary::default()
        };
        let mut store = world.fake.get(&path).unwrap();
        store["status"]["keeper"] =
            json!({"number": 1, "lastPass": {"finishedAt": "2026-03-01T00:00:20Z", "reason": "Succeeded", "summary": summary}});
        world.context.caches.stores.watched(world.fake.put::<BackupStore>(&path, store));
        let store = world.context.caches.store_at(&Key::new("shop", "offsite")).unwrap();
        let task = task::task(&world.context.caches, &store, world.context.clock.now());
        assert_eq!(task.from, stopped_at);
        let anywhere = holdfast_crds::KeepTask {
            from: None,
            ..task.clone()
        };
        assert_eq!(task::told(&task), task::told(&anywhere), "that is no news");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_has_room_for_each_of_its_lists() {
    let runs: Vec<String> = (0..200).map(|run| format!("shop/{}/{run:0>60}", "s".repeat(60))).collect();
    let world = world();
    for hold in 0..12 {
        let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ComplianceHold",
            "metadata": {"name": format!("h{hold:02}"), "namespace": "shop", "uid": format!("u{hold}"), "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"select": {"runs": runs}, "reason": "case", "placedBy": "alice"}});
        world.context.caches.holds.watched(serde_json::from_value(hold).unwrap());
    }
    let told = |reports: &[Value]| {
        let path = format!("{API}/backupstores/offsite");
        let mut store = world.fake.get(&path).unwrap();
        store["status"]["holds"] = json!({"startedAt": "2026-03-01T00:00:00Z", "reports": reports});
        world.context.caches.stores.watched(world.fake.put::<BackupStore>(&path, store));
        let store = world.context.caches.store_at(&Key::new("shop", "offsite")).unwrap();
        let task = task::task(&world.context.caches, &store, world.context.clock.now());
        task::job(&world.context, &store, "offsite-k1", task.clone()).unwrap();
        task
    };
    let mut reports = Vec::new();
    for pass in 0..6 {
        let task = told(&reports);
        let names: Vec<_> = task.holds.iter().map(|hold| hold.name.clone()).collect();
        assert_eq!(
            names,
            [format!("h{:02}", pass * 2), format!("h{:02}", pass * 2 + 1)],
            "those that the store knows are in force by their records"
        );
        assert!(task.cut.holds);
        let recorded = task
            .holds
            .iter()
            .map(|hold| json!({"id": hold.id, "name": hold.name, "told": hold.digest(), "recorded": true, "copies": 0, "legalHolds": 0}));
        reports.extend(recorded);
    }
    // All are known. The one that is being released is told until its release is recorded.
    let hold = world.context.caches.holds.get(&Key::new("shop", "h11")).unwrap();
    let mut hold = (*hold).clone();
    hold.spec.release = Some(serde_json::from_value(json!({"releasedBy": "bob", "reason": "settled"})).unwrap());
    hold.status = Some(serde_json::from_value(json!({"releaseEffectiveAt": "2026-03-02T00:00:00Z"})).unwrap());
    world.context.caches.holds.watched(hold);
    assert_eq!(told(&reports).holds[0].name, "h11");
    reports[11]["releasedAt"] = json!("2026-03-02T00:00:00Z");
    assert_eq!(told(&reports).holds[0].name, "h00");
    // Once it is over, the store tells of it no more.
    reports.pop();
    world.context.clock.observe("2026-03-02T00:00:01Z".parse().unwrap());
    assert_eq!(told(&reports).holds[0].name, "h00");
}

#[tokio::test(start_paused = true)]
async fn of_too_many_sources_each_is_told_in_its_turn_and_the_task_says_that_it_is_cut() {
    let world = world();
    let caches = &world.context.caches;
    let entry = json!({"store": "offsite", "asOf": "2026-03-01T00:00:10Z", "copies": 40, "good": 40, "expected": 40,
        "expectedAsOf": "2026-03-01T00:00:10Z", "bytes": 1, "held": 0, "marked": 0});
    for number in 0..3_000 {
        let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
            "metadata": {"name": format!("source-{number:04}"), "namespace": "shop", "uid": format!("s{number}")}, "spec": {},
            "status": {"stores": [entry]}});
        caches.sources.watched(serde_json::from_value(source).unwrap());
    }
    let path = format!("{API}/backupstores/offsite");
    let told = |number: i64| {
        let mut store = world.fake.get(&path).unwrap();
        store["status"]["keeper"] = json!({"number": number});
        caches.stores.watched(world.fake.put::<BackupStore>(&path, store));
        let store = caches.store_at(&Key::new("shop", "offsite")).unwrap();
        let task = task::task(caches, &store, world.context.clock.now());
        task::job(&world.context, &store, "offsite-k1", task.clone()).unwrap();
        task
    };
    let first = told(0);
    assert!((1_500..3_000).contains(&first.sources.len()), "{}", first.sources.len());
    assert!(first.cut.sources && !first.cut.schedules, "{:?}", first.cut);
    assert_eq!(task::told(&first), task::told(&told(1)), "whose turn it is is no news");
    let mut seen = std::collections::BTreeSet::new();
    seen.extend((0..30).flat_map(|number| told(number).sources).map(|source| source.source));
    assert_eq!(seen.len(), 3_001);

    for number in 0..2_000 {
        let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
            "metadata": {"name": format!("schedule-{number:04}"), "namespace": "shop", "uid": format!("g{number}")},
            "spec": {"sources": {"names": ["a"]}, "triggers": [{"name": "nightly", "cron": "0 9 * * *"}], "timeout": "3d",
                "stores": [{"name": "offsite", "retention": {"daily": 7}}]}});
        caches.schedules.watched(serde_json::from_value(schedule).unwrap());
    }
    let both = told(0);
    assert!(both.cut.sources && both.cut.schedules, "{:?}", both.cut);
    assert!((400..2_000).contains(&both.schedules.len()), "{}", both.schedules.len());
    assert!((800..2_000).contains(&both.sources.len()), "{}", both.sources.len());
    let delay = both.schedules[0].retention.deletion_delay;
    assert_eq!(delay, holdfast_crds::Span::from_hours(73), "an attempt may last for three days");
}

/// A restore in flight of the copy with this number.
fn restoring(world: &World, number: usize) {
    let run = format!("{number:0>60}");
    let restore = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "RestoreRequest",
        "metadata": {"name": format!("r{number}"), "namespace": "shop", "uid": format!("u{number}")},
        "spec": {"from": {"run": {"name": run}}, "to": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "db"}}}},
        "status": {"phase": "Running", "frozen": {"path": format!("shop/{}/{run}", "s".repeat(60)), "store": {"name": "offsite", "uid": "uid-offsite",
            "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}}}}}});
    world.context.caches.restores.watched(serde_json::from_value(restore).unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_keeps_copies_is_told_whole_or_nothing_is_removed() {
    let world = world();
    let store = world.context.caches.store_at(&Key::new("shop", "offsite")).unwrap();
    let told = || task::task(&world.context.caches, &store, world.context.clock.now());
    for number in 0..400 {
        restoring(&world, number);
    }
    let fits = told();
    assert_eq!((fits.in_use.len(), &fits.untold), (400, &None));
    task::job(&world.context, &store, "offsite-k1", fits).unwrap();
    for number in 400..1_200 {
        restoring(&world, number);
    }
    let many = told();
    assert_eq!(many.in_use.len(), 0);
    let fewer = holdfast_crds::KeepTask {
        untold: None,
        ..many.clone()
    };
    assert_ne!(task::told(&many), task::told(&fewer), "once they are told, a pass comes at once");
    assert!(
        many.untold
            .as_ref()
            .is_some_and(|why| why.contains("more than a keeper can be told of")),
        "{:?}",
        many.untold
    );
    task::job(&world.context, &store, "offsite-k1", many).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_full_of_everything_is_made() {
    let world = world();
    for number in 0..550 {
        restoring(&world, number);
    }
    let caches = &world.context.caches;
    let long = "s".repeat(58);
    for number in 0..1_000 {
        let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
            "metadata": {"name": format!("{long}-{number:03}"), "namespace": "shop", "uid": format!("s{number}"), "generation": 1},
            "spec": {"retire": {"by": "ann", "reason": "r".repeat(512)}}});
        caches.sources.watched(serde_json::from_value(source).unwrap());
        let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
            "metadata": {"name": format!("{long}-{number:03}"), "namespace": "shop", "uid": format!("g{number}")},
            "spec": {"sources": {"names": ["a"]}, "triggers": [{"name": "nightly", "cron": "0 9 * * *"}], "stores": [{"name": "offsite"}]}});
        caches.schedules.watched(serde_json::from_value(schedule).unwrap());
        let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ComplianceHold",
            "metadata": {"name": format!("{long}-{number:03}"), "namespace": "shop", "uid": format!("h{number}")},
            "spec": {"select": {"runs": ["shop/a/b"]}, "reason": "r".repeat(512), "placedBy": "alice"}});
        caches.holds.watched(serde_json::from_value(hold).unwrap());
    }
    let store = caches.store_at(&Key::new("shop", "offsite")).unwrap();
    let task = task::task(caches, &store, world.context.clock.now());
    assert_eq!(task.in_use.len(), 550);
    for (what, count) in [
        ("sources", task.sources.len()),
        ("schedules", task.schedules.len()),
        ("holds", task.holds.len()),
    ] {
        assert!((20..1_000).contains(&count), "{count} {what}");
    }
    task::job(&world.context, &store, "offsite-k1", task).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_finds_the_same_writes_no_source_until_a_copy_is_missed() {
    let world = world();
    let lines = [source_line("shop", "a")];
    let pass = async |number: u32, at: &str| {
        world.context.clock.observe(at.parse().unwrap());
        world.reconcile().await;
        let job = format!("offsite-k{number}");
        world.ends_at(&job, Reason::Succeeded, &lines, &text(&lines), at);
        world.reconcile().await;
        world.fake.calls()
    };
    let wrote = |calls: &[String]| calls.iter().any(|call| call.contains("backupsources"));
    assert!(wrote(&pass(1, "2026-03-01T00:00:10Z").await));
    assert_eq!(world.source().stores[0].as_of, "2026-03-01T00:00:10Z");
    assert!(!wrote(&pass(2, "2026-03-02T00:00:10Z").await), "nothing is new");
    assert_eq!(
        world.status().keeper.unwrap().last_pass.unwrap().summary.started_at,
        "2026-03-02T00:00:10Z"
    );

    let path = format!("{API}/backupsources/a");
    let mut source = world.fake.get(&path).unwrap();
    source["status"]["newestCopy"] = json!({"run": "b", "store": "offsite", "path": "shop/a/b", "recoveryPoint": "2026-03-02T09:00:00Z",
        "storedBytes": 1, "committedAt": "2026-03-02T09:00:00Z"});
    let source = world.fake.put::<BackupSource>(&path, source);
    world.context.caches.sources.watched(source);
    assert!(wrote(&pass(3, "2026-03-03T00:00:10Z").await), "the pass did not find the new copy");
    assert_eq!(world.source().stores[0].as_of, "2026-03-03T00:00:10Z");
}

/// A source that is protected by the copy of run `b`, which was committed at nine on the second of March, after a pass at that time.
async fn committed_after_a_pass(at: &str) -> (World, SourceController) {
    let world = world();
    let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "gold", "namespace": "shop", "uid": "uid-gold", "creationTimestamp": "2026-02-28T00:00:00Z"},
        "spec": {"sources": {"names": ["a"]}, "triggers": [{"name": "nightly", "cron": "0 9 * * *"}], "stores": [{"name": "offsite"}],
            "objectives": {"rpo": "26h"}}});
    world.context.caches.schedules.watched(serde_json::from_value(schedule).unwrap());
    let controller = SourceController::new(world.context.clone());
    pass(&world, 1, source_line("shop", "a"), at).await;
    let run = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": "b", "namespace": "shop", "uid": "uid-b", "creationTimestamp": "2026-03-02T09:00:00Z"},
        "spec": {"source": "a", "stores": [{"name": "offsite"}]},
        "status": {"phase": "Succeeded", "reason": "Succeeded", "completionTime": "2026-03-02T09:00:30Z",
            "copy": {"path": "shop/a/b", "recoveryPoint": "2026-03-02T09:00:00Z", "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1,
                "tables": 1, "structureChecked": true, "manifestDigest": "d"}}});
    world.context.caches.runs.watched(serde_json::from_value(run).unwrap());
    world.context.clock.observe("2026-03-02T09:00:31Z".parse().unwrap());
    controller.reconcile(&Key::new("shop", "a")).await.unwrap();
    assert_eq!(protected(&world), ("True".to_owned(), "b".to_owned()));
    (world, controller)
}

/// One pass that begins then by all clocks, and reports this. Gives when the next is.
async fn pass(world: &World, number: u32, line: KeepLine, at: &str) -> Next {
    world.context.clock.observe(at.parse().unwrap());
    world.reconcile().await;
    let (job, lines) = (format!("offsite-k{number}"), [line]);
    world.ends_at(&job, Reason::Succeeded, &lines, &text(&lines), at);
    world.reconcile().await
}

/// `Protected` of the source, and the run of its newest copy.
fn protected(world: &World) -> (String, String) {
    let status = world.source();
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Protected").unwrap();
    (
        condition.status.clone(),
        status.newest_copy.map(|copy| copy.run).unwrap_or_default(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_the_first_pass_finds_bad_protects_nothing_any_more() {
    for state in ["NotGood", "Shredded", "Removing"] {
        let (world, source) = committed_after_a_pass("2026-03-01T00:00:10Z").await;
        let KeepLine::Source(mut report) = source_line("shop", "a") else {
            panic!("it is of a source")
        };
        let bad = json!({"run": "b", "type": "Full", "recoveryPoint": "2026-03-02T09:00:00Z", "bytes": 1, "state": state, "why": ""});
        report.newest_copies.insert(0, serde_json::from_value(bad).unwrap());
        pass(&world, 2, KeepLine::Source(report), "2026-03-02T09:01:40Z").await;
        source.reconcile(&Key::new("shop", "a")).await.unwrap();
        assert_eq!(protected(&world), ("False".to_owned(), "a-nightly-1".to_owned()), "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_shredded_on_purpose_is_shown_with_its_disposal_and_is_no_finding() {
    let world = world();
    let KeepLine::Source(mut report) = source_line("shop", "a") else {
        panic!("it is of a source")
    };
    let why = "disposal shop/erase: the store locks its data until 2026-04-01T00:00:00Z";
    let shredded =
        json!({"run": "b", "type": "Full", "recoveryPoint": "2026-02-28T23:00:00Z", "bytes": 1, "state": "Shredded", "why": why});
    report.newest_copies.insert(0, serde_json::from_value(shredded).unwrap());
    pass(&world, 1, KeepLine::Source(report), "2026-03-01T00:00:10Z").await;
    let status = world.source();
    let copy = &status.stores[0].newest_copies[0];
    assert_eq!((copy.state, copy.why.as_str()), (holdfast_crds::CopyState::Shredded, why));
    assert_eq!((status.stores[0].copies, status.stores[0].good), (3, 2));
    assert_eq!(world.condition("Intact").0, "True");
    SourceController::new(world.context.clone())
        .reconcile(&Key::new("shop", "a"))
        .await
        .unwrap();
    let conditions = world.source().conditions;
    let intact = conditions.iter().find(|condition| condition.type_ == "Intact").unwrap();
    assert_eq!(intact.status, "True");
}

#[tokio::test(start_paused = true)]
async fn findings_that_are_not_told_one_by_one_are_counted() {
    let world = world();
    let mut lines: Vec<_> = std::iter::repeat_with(tampered).take(7).collect();
    let more = json!({"moreFindings": {"place": "shop/a", "count": 50}});
    lines.push(serde_json::from_value(more).unwrap());
    world.reconcile().await;
    world.ends("offsite-k1", Reason::Succeeded, &lines, &text(&lines));
    world.reconcile().await;
    let entry = world.source().stores.remove(0);
    assert_eq!((entry.findings.len(), entry.more_findings), (5, 52));
    SourceController::new(world.context.clone())
        .reconcile(&Key::new("shop", "a"))
        .await
        .unwrap();
    let conditions = world.source().conditions;
    let intact = conditions.iter().find(|condition| condition.type_ == "Intact").unwrap();
    assert_eq!((intact.status.as_str(), intact.reason.as_str()), ("False", "Tampered"));
    assert!(intact.message.contains("and 56 more"), "{}", intact.message);
}

#[tokio::test(start_paused = true)]
async fn a_commit_right_after_a_pass_is_looked_at_within_minutes() {
    let (world, _) = committed_after_a_pass("2026-03-02T08:58:00Z").await;
    let Next::After(wait) = world.reconcile().await else {
        panic!("there is a next pass")
    };
    assert!(wait.as_secs() < 120, "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_found_protects_until_a_pass_that_began_after_its_commit_by_either_clock() {
    let (world, source) = committed_after_a_pass("2026-03-01T00:00:10Z").await;
    let Next::After(wait) = pass(&world, 2, source_line("shop", "a"), "2026-03-02T09:01:40Z").await else {
        panic!("there is a next pass")
    };
    assert_eq!(
        world.source().stores[0].as_of,
        "2026-03-02T09:01:40Z",
        "that it was not found is news"
    );
    source.reconcile(&Key::new("shop", "a")).await.unwrap();
    assert_eq!(protected(&world).1, "b", "the pass may have begun before the commit");
    assert_eq!(wait.as_secs(), 9 * 60 + 50, "eleven minutes after the commit, not a day");
    // The store's clock is four minutes behind, and all the same later than the commit.
    let line = [source_line("shop", "a")];
    world.context.clock.observe("2026-03-02T09:11:30Z".parse().unwrap());
    world.reconcile().await;
    world.ends_at("offsite-k3", Reason::Succeeded, &line, &text(&line), "2026-03-02T09:07:30Z");
    let Next::After(wait) = world.reconcile().await else {
        panic!("there is a next pass")
    };
    source.reconcile(&Key::new("shop", "a")).await.unwrap();
    assert_eq!(protected(&world), ("False".to_owned(), "a-nightly-1".to_owned()));
    assert!(wait.as_secs() > 17 * 3_600, "one more pass is enough: {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_not_what_the_keeper_wrote_changes_no_catalogue() {
    let world = world();
    world.reconcile().await;
    let lines = [source_line("shop", "a")];
    world.ends("offsite-k1", Reason::Succeeded, &lines, &text(&[tampered()]));
    world.reconcile().await;
    let (status, reason, message) = world.condition("Kept");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReportUnreadable"), "{message}");
    assert_eq!(
        world.status().keeper.unwrap().last_pass.unwrap().summary.copies,
        3,
        "the summary is shown all the same"
    );
    assert_eq!(world.source(), BackupSourceStatus::default());
}

#[tokio::test(start_paused = true)]
async fn each_call_after_the_end_may_fail_and_the_log_is_read_again() {
    let calls = ended_pass(None).await;
    assert!(calls >= 4, "{calls}");
    for call in 1..=calls {
        ended_pass(Some((call, Fault::Refused(500)))).await;
    }
}

/// A pass ends, one call after that fails or none, and the keeper comes to rest. Gives the number of calls.
async fn ended_pass(fault: Option<(usize, Fault)>) -> usize {
    let world = world();
    world.reconcile().await;
    let lines = [source_line("shop", "a")];
    world.ends("offsite-k1", Reason::Succeeded, &lines, &text(&lines));
    world.fake.fault(fault);
    let key = Key::new("shop", "offsite");
    let first = world.controller.reconcile(&key).await;
    assert_eq!(first.is_err(), fault.is_some(), "{fault:?}");
    if fault.is_some() {
        world.reconcile().await;
    }
    assert_eq!(world.condition("Kept").0, "True", "{fault:?}");
    assert_eq!(world.source().stores[0].copies, 3, "{fault:?}");
    assert!(world.fake.get(&format!("{JOBS}/offsite-k1")).is_none(), "{fault:?}");
    world.fake.count()
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_is_said_and_made_again_with_back_off() {
    let world = world();
    world.reconcile().await;
    world.ends("offsite-k1", Reason::StoreUnreachable, &[], "");
    let Next::After(wait) = world.reconcile().await else {
        panic!("there is a next pass")
    };
    assert!(wait <= std::time::Duration::from_secs(60), "{wait:?}");
    assert_eq!(world.condition("Kept").1, "StoreUnreachable");
    assert!(world.fake.get(&format!("{JOBS}/offsite-k1")).is_some(), "it stays for its log");
    world.context.clock.observe("2026-03-01T00:02:00Z".parse().unwrap());
    world.fake.calls();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["PATCH backupstores/offsite/status", "POST jobs/offsite-k2"]);
}

#[tokio::test(start_paused = true)]
async fn who_retires_a_source_is_told_to_the_keeper_at_once_and_a_foreign_store_is_only_read() {
    let world = world();
    let store = (*world.context.caches.stores.get(&Key::new("shop", "offsite")).unwrap()).clone();
    let now = world.context.clock.now();
    let before = task::task(&world.context.caches, &store.clone().into(), now);
    assert!(!before.read_only);
    let retired: Value = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
        "metadata": {"name": "a", "namespace": "shop", "uid": "uid-a", "resourceVersion": "9"},
        "spec": {"retire": {"by": "ann", "reason": "sold"}, "accept": [{"by": "ann", "reason": "dropped a table", "size": {"run": "a-1"}}]},
    });
    world.context.caches.sources.watched(serde_json::from_value(retired).unwrap());
    let after = task::task(&world.context.caches, &store.clone().into(), now);
    assert_ne!(task::told(&before), task::told(&after));
    assert_eq!(after.sources[0].retired.as_ref().unwrap().who, "ann");
    assert_eq!(after.sources[0].accepted.len(), 1);

    let mut foreign = store.clone();
    foreign.status.as_mut().unwrap().conditions[0].reason = "StoreForeign".to_owned();
    assert!(task::task(&world.context.caches, &foreign.into(), now).read_only);
}

#[tokio::test(start_paused = true)]
async fn each_of_several_stores_has_its_own_retention_and_a_pass_after_what_was_copied_to_it() {
    let world = world();
    let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "gold", "namespace": "shop", "uid": "uid-gold"},
        "spec": {"sources": {"names": ["a"]}, "triggers": [{"name": "nightly", "cron": "0 2 * * *"}],
            "stores": [{"name": "near", "retention": {"keepLast": 7}}, {"name": "offsite", "types": ["Full"], "retention": {"monthly": 12}}]}});
    world.context.caches.schedules.watched(serde_json::from_value(schedule).unwrap());
    let store = world.context.caches.store_at(&Key::new("shop", "offsite")).unwrap();
    let told = task::task(&world.context.caches, &store, world.context.clock.now());
    let retention = &told.schedules[0].retention;
    assert_eq!((told.schedules.len(), retention.monthly, retention.keep_last), (1, Some(12), None));

    let run = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": "r", "namespace": "shop", "uid": "uid-r", "creationTimestamp": "2026-02-28T00:00:00Z"},
        "spec": {"source": "a", "stores": [{"name": "near"}, {"name": "offsite"}]},
        "status": {"phase": "Succeeded", "reason": "Succeeded", "completionTime": "2026-02-28T02:00:00Z",
            "stores": [{"name": "near", "role": "Primary", "state": "Present"},
                {"name": "offsite", "role": "Copy", "state": "Present", "copiedAt": "2026-02-28T05:00:00Z"}],
            "copy": {"path": "shop/a/r", "recoveryPoint": "2026-02-28T02:00:00Z", "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1,
                "tables": 1, "structureChecked": true, "manifestDigest": "d"}}});
    world.context.caches.runs.watched(serde_json::from_value(run).unwrap());
    let committed = world.controller.committed(&store).unwrap();
    assert_eq!(
        committed.to_string(),
        "2026-02-28T05:00:00Z",
        "when it came there, not when it was made"
    );
}
