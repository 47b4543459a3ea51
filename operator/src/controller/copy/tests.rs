//! Copies between stores, against an API server in memory.

use std::fmt::Write;

use holdfast_crds::{
    Action, AgentResult, BackupRun, BackupSchedule, BackupSourceStatus, BackupStore, CopySummary, ReplicaState, TASK_VERSION, Task,
    document::Sha256, layout,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use super::*;
use crate::{controller::source::SourceController, fake::Fake};

const API: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";
const NOW: &str = "2026-03-01T00:00:00Z";

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: CopyController,
}

/// The source `a`, whose schedule `gold` sends copies to `offsite` and `vault`, both of which are ready.
fn world() -> World {
    let (fake, context) = Fake::start(NOW);
    let world = World {
        fake,
        controller: CopyController::new(context.clone(), Turns::new(None), Waiting::default()),
        context,
    };
    world.store("offsite", true);
    world.store("vault", true);
    world.source(&Value::Null);
    world.schedule(&json!([{"name": "offsite", "retention": {"keepWithin": "14d"}}, {"name": "vault", "retention": {"monthly": 12}}]));
    world
}

impl World {
    fn object(&self, kind: &str, plural: &str, name: &str, rest: &Value) -> Value {
        let mut object = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": "2026-02-28T00:00:00Z"}});
        for (field, value) in rest.as_object().unwrap() {
            object[field] = value.clone();
        }
        self.fake.put(&format!("{API}/{plural}/{name}"), object)
    }

    fn store(&self, name: &str, ready: bool) {
        let (status, reason) = if ready {
            ("True", "StoreReady")
        } else {
            ("False", "StoreUnreachable")
        };
        let store = json!({
            "spec": {"s3": {"bucket": name}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}, "maxConcurrentRuns": 1},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "says the probe", "lastTransitionTime": NOW}],
                "probe": {"number": 1, "generation": 1, "finishedAt": NOW, "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}}},
        });
        let store = self.object("BackupStore", "backupstores", name, &store);
        self.context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
    }

    fn source(&self, status: &Value) {
        let source = self.object("BackupSource", "backupsources", "a", &json!({"spec": {}, "status": status}));
        self.context
            .caches
            .sources
            .watched(serde_json::from_value::<BackupSource>(source).unwrap());
    }

    fn schedule(&self, stores: &Value) {
        let spec = json!({"spec": {"sources": {"names": ["a"]}, "stores": stores, "triggers": [{"name": "nightly", "cron": "0 2 * * *"}]}});
        let schedule = self.object("BackupSchedule", "backupschedules", "gold", &spec);
        self.context
            .caches
            .schedules
            .watched(serde_json::from_value::<BackupSchedule>(schedule).unwrap());
    }

    /// A run of `gold` that was committed in `offsite`, and these lines of its stores.
    fn committed(&self, name: &str, stores: &Value) {
        let run = json!({
            "spec": {"source": "a", "stores": [{"name": "offsite"}, {"name": "vault"}],
                "tick": {"schedule": "gold", "trigger": "nightly", "time": "2026-02-28T02:00:00Z"}},
            "status": {"observedGeneration": 1, "phase": "Succeeded", "reason": "Succeeded", "completionTime": "2026-02-28T02:01:00Z",
                "frozen": {"sourceUid": "uid-a", "source": {}, "store": {"name": "offsite", "uid": "uid-offsite",
                    "spec": {"s3": {"bucket": "offsite"}, "encryption": {"none": {}}}}},
                "copy": serde_json::to_value(summary(name)).unwrap(), "stores": stores,
                "conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": NOW}]},
        });
        let run = self.object("BackupRun", "backupruns", name, &run);
        self.context.caches.runs.watched(serde_json::from_value::<BackupRun>(run).unwrap());
    }

    async fn reconcile(&self) -> Next {
        self.controller.reconcile(&Key::new("shop", "a")).await.unwrap()
    }

    fn jobs(&self) -> Vec<Job> {
        self.fake.all("jobs")
    }

    /// The newest Job and its task.
    fn task(&self) -> (String, Task) {
        let job = self.jobs().into_iter().max_by_key(ResourceExt::name_any).unwrap();
        let template = job.spec.as_ref().unwrap().template.metadata.clone().unwrap();
        (
            job.name_any(),
            serde_json::from_str(&template.annotations.unwrap()[layout::TASK_ANNOTATION]).unwrap(),
        )
    }

    fn status(&self) -> BackupSourceStatus {
        serde_json::from_value(self.fake.get(&format!("{API}/backupsources/a")).unwrap()["status"].clone()).unwrap_or_default()
    }

    fn run(&self, name: &str) -> Value {
        self.fake.get(&format!("{API}/backupruns/{name}")).unwrap()["status"].clone()
    }

    fn replicated(&self, run: &str) -> (String, String, String) {
        let conditions: Vec<Value> = serde_json::from_value(self.run(run)["conditions"].clone()).unwrap();
        let condition = conditions.into_iter().find(|condition| condition["type"] == "Replicated").unwrap();
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// The Job's container ends with this, and its log has these lines.
    fn ends(&self, reason: Reason, complete: bool, lines: &Value) {
        let (job, _) = self.task();
        let lines: Vec<CopyLine> = serde_json::from_value(lines.clone()).unwrap();
        let mut log = String::new();
        for line in &lines {
            writeln!(log, "{COPY_LINE}{}", serde_json::to_string(line).unwrap()).unwrap();
        }
        let pass = CopyPass {
            lines: lines.len() as u64,
            sha256: Sha256::of(log.as_bytes()).to_string(),
            complete,
            ..CopyPass::default()
        };
        let result = AgentResult {
            version: TASK_VERSION,
            reason,
            message: "as the agent says".to_owned(),
            closed: false,
            copy: None,
            probe: None,
            restored: None,
            kept: None,
            copied: Some(pass),
        };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{job}-x"), "namespace": "shop", "uid": format!("uid-{job}-x"), "creationTimestamp": NOW,
                "labels": {"batch.kubernetes.io/job-name": job}},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": if reason.exit_code() == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": reason.exit_code(), "message": result.to_termination_message(), "finishedAt": NOW}}}]},
        });
        self.context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
        self.fake.log(&format!("/api/v1/namespaces/shop/pods/{job}-x/log"), &log);
    }

    /// What the watch would show of Jobs that are gone.
    fn watch(&self) {
        let held = self.jobs();
        for job in self.context.caches.jobs.all() {
            if !held.iter().any(|other| other.metadata.uid == job.metadata.uid) {
                self.context.caches.jobs.deleted(&Key::of(&*job), job.metadata.uid.as_deref());
            }
        }
    }
}

fn summary(run: &str) -> CopySummary {
    let copy = json!({"path": format!("shop/a/{run}"), "recoveryPoint": "2026-02-28T02:00:00Z", "rawBytes": 1, "storedBytes": 1, "parts": 1,
        "databases": 1, "tables": 1, "structureChecked": true, "manifestDigest": "d".repeat(64)});
    serde_json::from_value(copy).unwrap()
}

/// What `offsite` has, and `vault` is to get.
fn awaited() -> Value {
    json!([{"name": "offsite", "role": "Primary", "state": "Present"}, {"name": "vault", "role": "Copy", "state": "Missing", "reason": "Pending"}])
}

#[tokio::test(start_paused = true)]
async fn what_a_run_committed_is_brought_to_the_other_store_and_shown() {
    let world = world();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0], "nothing is lacking");
    world.committed("r1", &awaited());
    world.reconcile().await;
    let (job, task) = world.task();
    assert_eq!(
        world.fake.calls(),
        ["PATCH backupsources/a/status".to_owned(), format!("POST jobs/{job}")],
        "counted before it is made"
    );
    let Action::Copy(copy) = &task.action else { panic!("{task:?}") };
    assert_eq!((task.store.name.as_str(), copy.from.name.as_str()), ("vault", "offsite"));
    assert_eq!(
        (copy.runs[0].as_str(), copy.runs.len(), copy.not_after.as_str()),
        ("r1", 1, "2026-03-01T06:00:00Z")
    );
    assert_eq!(copy.schedules[0].schedule.name, "gold", "the rules of the store that is filled");
    assert_eq!(
        (copy.schedules[0].retention.monthly, copy.schedules[0].retention.keep_within),
        (Some(12), None)
    );
    assert!(job.starts_with("a-vault-") && job.ends_with("-c1"), "{job}");
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0], "nothing happens while it is at work");

    world.ends(
        Reason::Succeeded,
        true,
        &json!([{"run": "r1", "state": "Copied", "bytes": 7, "versionId": "v2"}]),
    );
    world.reconcile().await;
    assert_eq!(
        world.fake.calls(),
        [
            format!("GET {job}-x/log"),
            "GET backupruns/r1".to_owned(),
            "PATCH backupruns/r1/status".to_owned(),
            "PATCH backupsources/a/status".to_owned(),
            format!("DELETE jobs/{job}")
        ],
        "the log is read before its pod goes"
    );
    let vault = &world.run("r1")["stores"][1];
    assert_eq!(
        (&vault["state"], &vault["bytes"], &vault["versionId"]),
        (&json!("Present"), &json!(7), &json!("v2"))
    );
    assert_eq!(world.run("r1")["storesShown"], "offsite,vault (2/2)");
    assert_eq!(world.replicated("r1").1, "Replicated");
    assert_eq!(world.run("r1")["conditions"][0]["type"], "Ready", "what was said before stays");
    assert_eq!(world.fake.events(), ["Replicated"]);
    let entry = &world.status().replication[0];
    assert_eq!(
        (entry.number, entry.failures, entry.reason, entry.at_work()),
        (1, 0, Some(Reason::Succeeded), false)
    );

    world.watch();
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(world.fake.calls(), [""; 0], "idle is silent");
    SourceController::new(world.context.clone())
        .reconcile(&Key::new("shop", "a"))
        .await
        .unwrap();
    let status = world.status();
    assert_eq!(status.missing_copies, Some(0));
    assert!(
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Replicated" && condition.status == "True")
    );
    assert_eq!(status.replication[0].number, 1, "who judges the source leaves this as it is");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_and_tried_again_with_back_off() {
    let world = world();
    world.committed("r1", &awaited());
    world.reconcile().await;
    world.ends(Reason::StoreUnreachable, false, &json!([]));
    let Next::After(wait) = world.reconcile().await else {
        panic!("it is tried again")
    };
    assert!(wait <= std::time::Duration::from_secs(30), "{wait:?}");
    let (status, reason, message) = world.replicated("r1");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreUnreachable"));
    assert!(
        message.contains("vault lacks it (StoreUnreachable: as the agent says)"),
        "{message}"
    );
    let (first, _) = world.task();
    assert!(first.ends_with("-c1"), "it stays for its log");
    world.context.clock.observe("2026-03-01T00:01:00Z".parse().unwrap());
    world.reconcile().await;
    assert!(world.task().0.ends_with("-c2"));
    assert_eq!(world.status().replication[0].failures, 1);
    // A Job that says nothing of what it was to bring is no success, and not made again and again.
    world.watch();
    world.ends(Reason::Succeeded, true, &json!([]));
    let Next::After(_) = world.reconcile().await else {
        panic!("it backs off")
    };
    assert_eq!(world.status().replication[0].failures, 2);
    assert_eq!(world.jobs().len(), 1, "the one before is gone");
}

#[tokio::test(start_paused = true)]
async fn a_divergent_copy_counts_for_nothing_and_is_left_to_people() {
    let world = world();
    world.committed("r1", &awaited());
    world.reconcile().await;
    world.ends(
        Reason::Divergent,
        true,
        &json!([{"run": "r1", "state": "Divergent", "reason": "Divergent", "message": "another manifest"}]),
    );
    assert_eq!(world.reconcile().await, Next::Change, "nothing is tried by itself");
    assert_eq!(world.replicated("r1").1, "Divergent");
    SourceController::new(world.context.clone())
        .reconcile(&Key::new("shop", "a"))
        .await
        .unwrap();
    let status = world.status();
    assert_eq!(status.missing_copies, Some(1));
    let replicated = status.conditions.iter().find(|condition| condition.type_ == "Replicated").unwrap();
    assert_eq!((replicated.status.as_str(), replicated.reason.as_str()), ("False", "Divergent"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_added_gets_the_copies_that_were_there_before() {
    let world = world();
    // A run that knew of one store alone, and copies of which there is no object.
    world.committed("r1", &json!([]));
    let copy =
        |run: &str| json!({"run": run, "type": "Full", "recoveryPoint": "2026-02-27T02:00:00Z", "bytes": 1, "state": "Kept", "why": ""});
    world.source(
        &json!({"stores": [{"store": "offsite", "asOf": NOW, "copies": 2, "good": 2, "bytes": 2, "held": 0, "marked": 0,
        "newestCopies": [copy("r1"), copy("r0")]}]}),
    );
    world.reconcile().await;
    let (_, task) = world.task();
    let Action::Copy(copied) = &task.action else { panic!("{task:?}") };
    assert_eq!(
        (copied.runs.len(), copied.from.name.as_str()),
        (0, "offsite"),
        "all that it is to have"
    );
    world.ends(
        Reason::Succeeded,
        true,
        &json!([{"run": "r1", "state": "Copied", "bytes": 1}, {"run": "r0", "state": "Copied", "bytes": 1}]),
    );
    world.reconcile().await;
    assert_eq!(world.run("r1")["storesShown"], "offsite,vault (2/2)");
    world.watch();
    world.fake.calls();
    // The keeper has not looked into the store yet; what was looked at once is not looked at again.
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(world.fake.calls(), [""; 0]);
    // Other rules of the store, other copies.
    world.schedule(&json!([{"name": "offsite"}, {"name": "vault", "retention": {"yearly": 7}}]));
    world.reconcile().await;
    assert_eq!(world.jobs().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn copies_pass_behind_backups() {
    let world = world();
    let at_work = json!({"spec": {"source": "b", "stores": [{"name": "vault"}]},
        "status": {"phase": "Running", "attempts": [{"number": 1, "job": "r2-b1", "startedAt": NOW, "notAfter": NOW, "ran": true}]}});
    let run = world.object("BackupRun", "backupruns", "r2", &at_work);
    world.context.caches.runs.watched(serde_json::from_value::<BackupRun>(run).unwrap());
    world.committed("r1", &awaited());
    let Next::After(_) = world.reconcile().await else {
        panic!("it waits")
    };
    assert_eq!((world.jobs().len(), world.replicated("r1").1.as_str()), (0, "Queued"));
    assert_eq!(world.controller.waiting.call("other"), []);
    assert_eq!(world.controller.waiting.call("shop"), [Key::new("shop", "a")]);
    world.context.caches.runs.deleted(&Key::new("shop", "r2"), Some("uid-r2"));
    world.reconcile().await;
    assert_eq!(world.jobs().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_waited_for_without_jobs() {
    let world = world();
    world.store("vault", false);
    world.committed("r1", &awaited());
    assert_eq!(world.reconcile().await, Next::Change, "its own probe finds out when it is back");
    assert_eq!((world.jobs().len(), world.replicated("r1").1.as_str()), (0, "StoreUnreachable"));
    world.fake.calls();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), [""; 0], "it is said once");
    world.store("vault", true);
    world.reconcile().await;
    assert_eq!(world.jobs().len(), 1);
    let line = &world.run("r1")["stores"][1];
    assert_eq!(line["state"], serde_json::to_value(ReplicaState::Missing).unwrap());
}
