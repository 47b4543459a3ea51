use std::time::Duration;

use holdfast_crds::{AgentResult, BackupStore, BackupStoreStatus, TASK_VERSION};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

mod cluster;
mod experience;
mod place;

const STORE_PATH: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupstores/offsite";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: StoreController,
}

fn world() -> World {
    let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
    let store = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
        "metadata": {"name": "offsite", "namespace": "shop", "uid": "uid-offsite", "generation": 1,
            "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"s3": {"bucket": "backups", "prefix": "eu"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
    });
    context.caches.stores.watched(fake.put::<BackupStore>(STORE_PATH, store));
    World {
        fake,
        controller: StoreController::new(context.clone()),
        context,
    }
}

fn check(name: &str, passed: bool) -> Value {
    json!({"name": name, "passed": passed})
}

impl World {
    async fn reconcile(&self) -> Next {
        Box::pin(self.controller.reconcile(&Key::new("shop", "offsite"))).await.unwrap()
    }

    fn status(&self) -> BackupStoreStatus {
        serde_json::from_value(self.fake.get(STORE_PATH).unwrap()["status"].clone()).unwrap()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.status().conditions;
        let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason, condition.message)
    }

    fn at(&self, now: &str) {
        self.context.clock.observe(now.parse().unwrap());
    }

    /// The pod of a probe, in this state.
    fn pod(&self, job: &str, status: &Value) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "status": status,
            "metadata": {"name": format!("{job}-x"), "namespace": "shop", "uid": format!("uid-{job}-x"),
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": job, "holdfast.dev/store": "offsite"}},
            "spec": {"containers": [], "nodeName": "node1"},
        });
        self.context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
    }

    /// The probe's container ends and leaves this.
    fn ends(&self, job: &str, reason: Reason, message: &str, checks: &[Value]) {
        let result = AgentResult {
            version: TASK_VERSION,
            reason,
            message: message.to_owned(),
            closed: false,
            copy: None,
            probe: serde_json::from_value(json!({"checks": checks})).unwrap(),
            restored: None,
            kept: None,
            copied: None,
        };
        let terminated = json!({"exitCode": reason.exit_code(), "message": result.to_termination_message()});
        self.pod(
            job,
            &json!({"phase": if reason.exit_code() == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": terminated}}]}),
        );
    }

    fn gone(&self, job: &str) {
        for pod in self.context.caches.pods_of(&Key::new("shop", job)) {
            self.context.caches.pods.deleted(&Key::of(&*pod), pod.metadata.uid.as_deref());
        }
        let key = Key::new("shop", job);
        let uid = self.context.caches.jobs.get(&key).and_then(|job| job.metadata.uid.clone());
        self.context.caches.jobs.deleted(&key, uid.as_deref());
        self.fake.remove(&format!("/apis/batch/v1/namespaces/shop/jobs/{job}"));
    }

    fn current(&self) -> Store {
        self.context.caches.store_at(&Key::new("shop", "offsite")).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_store_is_counted_then_tried_and_then_left_alone() {
    let world = world();
    world.reconcile().await;
    assert_eq!(
        world.fake.calls(),
        ["PATCH backupstores/offsite/status", "POST jobs/offsite-p1"],
        "counted before it is made"
    );
    assert_eq!(world.condition("Ready").0, "Unknown");
    assert_eq!(refusal(&world.current()).unwrap().0, Reason::StoreNotProbed);
    let job: Job = serde_json::from_value(world.fake.get(&format!("{JOBS}/offsite-p1")).unwrap()).unwrap();
    assert_eq!(job.metadata.owner_references.unwrap()[0].uid, "uid-offsite");

    world.ends(
        "offsite-p1",
        Reason::StoreReady,
        "",
        &[check("Reach", true), check("CreateIfAbsent", true)],
    );
    assert_eq!(world.reconcile().await, Next::Change);
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "StoreReady"));
    assert!(message.contains("CreateIfAbsent"), "{message}");
    assert_eq!(world.status().location.as_deref(), Some("s3://backups/eu"));
    assert!(world.fake.get(&format!("{JOBS}/offsite-p1")).is_none(), "its Job is removed");
    assert_eq!(refusal(&world.current()), None);
    world.gone("offsite-p1");
    world.fake.calls();

    // A month later nobody has tried it again.
    world.at("2026-04-01T00:00:00Z");
    assert_eq!(world.reconcile().await, Next::Change);
    assert_eq!(world.fake.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn killed_between_the_count_and_the_job_it_makes_the_same_job() {
    let world = world();
    world.fake.fail("POST jobs/offsite-p1", 500, "killed here");
    world.controller.reconcile(&Key::new("shop", "offsite")).await.unwrap_err();
    assert_eq!(world.status().probe.unwrap().number, 1);
    world.fake.mend();
    world.fake.calls();
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["POST jobs/offsite-p1"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_said_and_tried_again_with_back_off() {
    let world = world();
    world.reconcile().await;
    let mut waits = Vec::new();
    for number in 1..=12 {
        let job = format!("offsite-p{number}");
        world.ends(&job, Reason::StoreUnreachable, "no route to s3.example", &[check("Reach", false)]);
        let Next::After(wait) = world.reconcile().await else {
            panic!("it is tried again")
        };
        waits.push(wait);
        let (status, reason, message) = world.condition("Ready");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreUnreachable"));
        assert!(
            message.contains("no route to s3.example") && message.contains("tried again after"),
            "{message}"
        );
        assert_eq!(world.condition("Stalled").0, "False", "it may go away by itself");
        assert!(
            world.fake.get(&format!("{JOBS}/{job}")).is_some(),
            "the last that failed is kept for its log"
        );
        let jobs = world.context.caches.jobs.len();
        world
            .context
            .clock
            .observe(world.context.clock.now() + jiff::SignedDuration::try_from(wait).unwrap());
        tokio::time::advance(wait).await;
        world.reconcile().await;
        assert!(jobs <= 2);
        // What the watch would show of the removal.
        world.gone(&job);
        assert_eq!(
            world.condition("Ready").1,
            "StoreUnreachable",
            "what is known stays while it is tried again"
        );
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1] * 2), "{waits:?}");
    assert!(
        waits[0] < Duration::from_secs(60) && waits[11] <= Duration::from_secs(1_800),
        "{waits:?}"
    );
    assert!(waits[11] > Duration::from_secs(800), "{waits:?}");
    assert_eq!(world.status().probe.unwrap().failures, 12);
}

#[tokio::test(start_paused = true)]
async fn what_keeps_the_pod_from_starting_is_said_and_recovers_by_itself() {
    let world = world();
    world.reconcile().await;
    world.pod("offsite-p1", &json!({"phase": "Pending"}));
    // Silent for ten seconds: then its events are read.
    world.at("2026-03-01T00:00:11Z");
    let events = "/api/v1/namespaces/shop/events";
    world.fake.put::<Value>(
        events,
        json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": [{
            "metadata": {"name": "e", "namespace": "shop"},
            "involvedObject": {"kind": "Pod", "name": "offsite-p1-x", "uid": "uid-offsite-p1-x"},
            "reason": "FailedMount", "message": "MountVolume.SetUp failed for volume \"store\" : secret \"s3\" not found",
            "lastTimestamp": "2026-03-01T00:00:10Z",
        }]}),
    );
    assert_eq!(world.reconcile().await, Next::After(Duration::from_secs(12)));
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SecretNotFound"));
    assert!(message.contains("\"s3\"") && message.contains("create the Secret"), "{message}");
    assert_eq!(world.condition("Stalled").0, "True");
    assert_eq!(refusal(&world.current()).unwrap().0, Reason::StoreNotProbed);

    // The Secret is there: the pod starts by itself.
    world.pod(
        "offsite-p1",
        &json!({"phase": "Running", "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {}}}]}),
    );
    world.reconcile().await;
    assert_eq!(world.condition("Ready").1, "Running");
    world.ends("offsite-p1", Reason::Succeeded, "", &[check("CreateIfAbsent", true)]);
    world.reconcile().await;
    assert_eq!(world.condition("Ready").0, "True");
    assert_eq!(world.condition("Stalled").0, "False");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_tried_at_once_also_during_back_off() {
    let world = world();
    world.reconcile().await;
    world.ends(
        "offsite-p1",
        Reason::StoreAccessDenied,
        "403",
        &[check("Reach", true), check("Put", false)],
    );
    world.reconcile().await;
    assert_eq!(world.condition("Stalled").0, "True", "only a person can change it");
    world.fake.calls();
    let mut store = world.fake.get(STORE_PATH).unwrap();
    store["spec"]["credentials"]["secretName"] = json!("other");
    store["metadata"]["generation"] = json!(2);
    world
        .context
        .caches
        .stores
        .watched(world.fake.put::<BackupStore>(STORE_PATH, store));
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["PATCH backupstores/offsite/status", "POST jobs/offsite-p2"]);
    assert_eq!(world.status().probe.unwrap().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_refused_is_said() {
    for (code, message, expected) in [
        (
            403,
            "jobs.batch \"offsite-p1\" is forbidden: exceeded quota: tight",
            "QuotaExceeded",
        ),
        (
            403,
            "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "AdmissionRefused",
        ),
    ] {
        let world = world();
        world.fake.fail("POST jobs/offsite-p1", code, message);
        assert!(matches!(world.reconcile().await, Next::After(_)));
        let (status, reason, said) = world.condition("Ready");
        assert_eq!((status.as_str(), reason.as_str()), ("False", expected));
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_its_status_counts_past_what_is_there() {
    let world = world();
    let mut old = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {"containers": []}}}});
    old["metadata"] = json!({"name": "offsite-p1", "namespace": "shop", "uid": "old", "labels": {"holdfast.dev/store": "offsite"}});
    world
        .context
        .caches
        .jobs
        .watched(world.fake.put::<Job>(&format!("{JOBS}/offsite-p1"), old));
    world.reconcile().await;
    assert_eq!(world.fake.calls(), ["PATCH backupstores/offsite/status", "POST jobs/offsite-p2"]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_early_takes_back_nothing_that_was_proven() {
    let world = world();
    world.reconcile().await;
    world.ends(
        "offsite-p1",
        Reason::Succeeded,
        "",
        &[check("Reach", true), check("CreateIfAbsent", true)],
    );
    world.reconcile().await;
    world.gone("offsite-p1");
    let mut store = world.fake.get(STORE_PATH).unwrap();
    store["metadata"]["generation"] = json!(2);
    world
        .context
        .caches
        .stores
        .watched(world.fake.put::<BackupStore>(STORE_PATH, store));
    world.reconcile().await;
    world.ends("offsite-p2", Reason::StoreUnreachable, "down", &[check("Reach", false)]);
    world.reconcile().await;
    assert_eq!(world.condition("Ready").1, "StoreUnreachable");
    assert_eq!(
        refusal(&world.current()),
        None,
        "a tick makes its run: the store may be back by then"
    );
    // But one that lies is refused, whatever it was before.
    world.context.clock.observe("2026-03-01T01:00:00Z".parse().unwrap());
    world.reconcile().await;
    world.gone("offsite-p2");
    world.ends(
        "offsite-p3",
        Reason::StoreUnsafe,
        "two of 8 creates succeeded",
        &[check("Reach", true), check("CreateIfAbsent", false)],
    );
    world.reconcile().await;
    assert_eq!(refusal(&world.current()).unwrap().0, Reason::StoreUnsafe);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_deletes_the_job_gets_another() {
    let world = world();
    world.reconcile().await;
    world.gone("offsite-p1");
    world.fake.calls();
    world.controller.reconcile(&Key::new("shop", "offsite")).await.unwrap();
    assert_eq!(world.fake.calls(), ["POST jobs/offsite-p1"]);
}
