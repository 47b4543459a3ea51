//! Runs and restores from beginning to end, against an API server in memory, with the operator killed or refused at any call.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, BackupSource, BackupStore, Reason, RestoreRequest, RunPhase, TASK_VERSION, layout};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{restore::RestoreController, run::RunController};
use crate::{
    context::{Context, Error},
    fake::{Fake, Fault},
    queue::{Next, Reconcile},
    watch::Key,
};

const NOW: &str = "2026-03-01T00:00:00Z";
const OURS: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";
const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
const PODS: &str = "/api/v1/namespaces/shop/pods";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Run,
    Restore,
}

impl Kind {
    const fn plural(self) -> &'static str {
        match self {
            Self::Run => "backupruns",
            Self::Restore => "restorerequests",
        }
    }
}

struct World {
    kind: Kind,
    fake: Fake,
    context: Arc<Context>,
}

fn store(ready: bool) -> Value {
    let mut store = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
        "metadata": {"name": "offsite", "namespace": "shop", "uid": "uid-offsite", "generation": 1, "creationTimestamp": NOW},
        "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"},
            "encryption": {"age": {"recipients": [], "identitySecretName": "age-key"}}},
    });
    if ready {
        store["status"] = json!({"probe": {"number": 1, "generation": 1, "finishedAt": NOW,
            "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}}});
    }
    store
}

fn server() -> Value {
    json!({"hosts": ["db"], "version": 15, "credentials": {"secretName": "app"}})
}

impl World {
    fn new(kind: Kind, ready: bool, spec: &Value) -> Self {
        let (fake, context) = Fake::start(NOW);
        let source = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
            "metadata": {"name": "shop", "namespace": "shop", "uid": "uid-shop", "generation": 1, "creationTimestamp": NOW},
            "spec": {"postgresql": server()},
        });
        fake.put::<BackupSource>(&format!("{OURS}/backupsources/shop"), source);
        fake.put::<BackupStore>(&format!("{OURS}/backupstores/offsite"), store(ready));
        let (name, kind_name) = match kind {
            Kind::Run => ("now", "BackupRun"),
            Kind::Restore => ("now", "RestoreRequest"),
        };
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": kind_name,
            "metadata": {"name": name, "namespace": "shop", "uid": "uid-now", "generation": 1, "creationTimestamp": NOW},
            "spec": spec,
        });
        fake.put::<Value>(&format!("{OURS}/{}/now", kind.plural()), object);
        let world = Self { kind, fake, context };
        world.watch();
        world
    }

    fn run(attempts: i32) -> Self {
        let spec = json!({"source": "shop", "stores": [{"name": "offsite"}], "attempts": attempts});
        Self::new(Kind::Run, true, &spec)
    }

    fn restore() -> Self {
        let spec = json!({"from": {"store": {"name": "offsite", "path": "shop/shop/then"}}, "to": {"postgresql": server()}});
        Self::new(Kind::Restore, true, &spec)
    }

    /// The watches show everything as it is.
    fn watch(&self) {
        let caches = &self.context.caches;
        self.fake
            .all("backupsources")
            .into_iter()
            .for_each(|object| caches.sources.watched(object));
        self.fake
            .all("backupstores")
            .into_iter()
            .for_each(|object| caches.stores.watched(object));
        self.fake
            .all::<BackupRun>("backupruns")
            .into_iter()
            .for_each(|object| caches.runs.watched(object));
        self.fake
            .all::<RestoreRequest>("restorerequests")
            .into_iter()
            .for_each(|object| caches.restores.watched(object));
        let jobs: Vec<Job> = self.fake.all("jobs");
        for key in caches.jobs.keys() {
            if !jobs.iter().any(|job| Key::of(job) == key) {
                let uid = caches.jobs.get(&key).and_then(|job| job.metadata.uid.clone());
                caches.jobs.deleted(&key, uid.as_deref());
            }
        }
        for job in jobs {
            caches.jobs.watched(job);
        }
        let pods: Vec<Pod> = self.fake.all("pods");
        for key in caches.pods.keys() {
            if !pods.iter().any(|pod| Key::of(pod) == key) {
                let uid = caches.pods.get(&key).and_then(|pod| pod.metadata.uid.clone());
                caches.pods.deleted(&key, uid.as_deref());
            }
        }
        for pod in pods {
            caches.pods.watched(pod);
        }
    }

    /// The operator is killed, and started again with nothing in memory.
    fn restart(&mut self) {
        let now = self.context.clock.now().to_string();
        self.context = self.fake.connect(&now);
        self.watch();
    }

    async fn reconcile(&self) -> Result<Next, Error> {
        let key = Key::new("shop", "now");
        match self.kind {
            Kind::Run => RunController::new(self.context.clone()).reconcile(&key).await,
            Kind::Restore => RestoreController::new(self.context.clone()).reconcile(&key).await,
        }
    }

    fn path(&self) -> String {
        format!("{OURS}/{}/now", self.kind.plural())
    }

    fn status(&self) -> Value {
        self.fake.get(&self.path()).unwrap()["status"].clone()
    }

    fn told(&self) -> (String, String) {
        let status = self.status();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        (text("phase"), text("reason"))
    }

    /// A user changes the object.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.fake.get(&self.path()).unwrap();
        change(&mut object);
        object["metadata"]["generation"] = json!(2);
        self.fake.put::<Value>(&self.path(), object);
        self.watch();
    }

    fn ended(&self) -> bool {
        let phase: RunPhase = serde_json::from_value(self.status()["phase"].clone()).unwrap_or_default();
        phase.ended()
    }

    fn jobs(&self) -> Vec<String> {
        self.fake.all::<Job>("jobs").iter().map(ResourceExt::name_any).collect()
    }

    /// What the kubelet says of the Job's pod.
    fn pod(&self, job: &str, state: &Value) {
        let owner = self.fake.get(&format!("{JOBS}/{job}")).unwrap();
        let phase = match (state.get("terminated"), state.get("running")) {
            (Some(end), _) if end["exitCode"] == 0 => "Succeeded",
            (Some(_), _) => "Failed",
            (_, Some(_)) => "Running",
            _ => "Pending",
        };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{job}-x"), "namespace": "shop", "uid": format!("uid-{job}-x"), "creationTimestamp": NOW,
                "labels": {"batch.kubernetes.io/job-name": job, "app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/run": "now"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": owner["metadata"]["uid"], "controller": true}]},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        });
        self.fake.put::<Value>(&format!("{PODS}/{job}-x"), pod);
    }

    /// The agent ends with this word, and the Job controller counts it.
    fn word(&self, job: &str, reason: Reason, closed: bool) {
        let mut result = json!({"version": TASK_VERSION, "reason": reason, "message": "as the agent says", "closed": closed});
        if reason.exit_code() == 0 {
            result["copy"] = json!({"path": "shop/shop/now", "recoveryPoint": NOW, "rawBytes": 5000, "storedBytes": 2048, "parts": 1,
                "databases": 1, "tables": 1, "structureChecked": true, "manifestDigest": "d"});
            result["restored"] = json!({"recoveryPoint": NOW, "databases": 1, "tables": 1, "rows": 7, "rawBytes": 5000});
        }
        self.pod(
            job,
            &json!({"terminated": {"exitCode": reason.exit_code(), "message": result.to_string()}}),
        );
        self.counted(job);
    }

    fn counted(&self, job: &str) {
        let path = format!("{JOBS}/{job}");
        let mut object = self.fake.get(&path).unwrap();
        object["status"] = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
        self.fake.put::<Value>(&path, object);
    }

    /// The garbage collector takes the pods whose Job is gone.
    fn collect(&self) {
        for pod in self.fake.all::<Pod>("pods") {
            let job = pod.labels()["batch.kubernetes.io/job-name"].clone();
            if self.fake.get(&format!("{JOBS}/{job}")).is_none() {
                self.fake.remove(&format!("{PODS}/{}", pod.name_any()));
            }
        }
    }

    fn task(&self, job: &str) -> Value {
        let job = self.fake.get(&format!("{JOBS}/{job}")).unwrap();
        let task = &job["spec"]["template"]["metadata"]["annotations"][layout::TASK_ANNOTATION];
        serde_json::from_str(task.as_str().unwrap()).unwrap()
    }
}

/// What the world around the operator does, by the Jobs that have no end yet.
type Script = fn(&World, job: &str, number_of_looks: usize);

/// Reconciles until the end, as the queue does: after each change and at the time that was asked for; after an error with a restart.
async fn drive(world: &mut World, script: Script) {
    let mut looks = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..80 {
        world.watch();
        let next = world.reconcile().await;
        if next.is_err() {
            world.restart();
            tokio::time::advance(Duration::from_secs(1)).await;
            continue;
        }
        if world.ended() {
            return;
        }
        world.collect();
        for job in world.jobs() {
            let look = looks.entry(job.clone()).or_default();
            *look += 1;
            script(world, &job, *look);
        }
        if let Ok(Next::After(wait)) = next {
            tokio::time::advance(wait.min(Duration::from_secs(30))).await;
        }
    }
    panic!("it does not end: {}", world.status());
}

/// Two reconciliations after the end: the first may remove Jobs, the second finds nothing to do.
async fn rest(world: &mut World) {
    for _ in 0..2 {
        world.watch();
        while world.reconcile().await.is_err() {
            world.restart();
        }
    }
    world.watch();
    world.fake.calls();
    world.reconcile().await.unwrap();
    assert_eq!(world.fake.calls(), [""; 0], "at rest there is nothing to do");
}

fn succeeds(world: &World, job: &str, look: usize) {
    match look {
        1 => world.pod(job, &json!({"running": {}})),
        2 => world.word(job, Reason::Succeeded, true),
        _ => {}
    }
}

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
async fn the_last_failed_attempt_of_a_source_stays_for_its_log() {
    let mut world = World::run(1);
    drive(&mut world, |world, job, look| {
        if look == 1 {
            world.word(job, Reason::DatabaseLoginFailed, true);
        }
    })
    .await;
    assert_eq!(world.told(), ("Failed".into(), "DatabaseLoginFailed".into()));
    rest(&mut world).await;
    assert_eq!(world.jobs(), ["now-b1"]);
    // The next run of the source fails too: its log is now the last.
    let spec = json!({"source": "shop", "stores": [{"name": "offsite"}], "attempts": 1});
    let next = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "spec": spec,
        "metadata": {"name": "next", "namespace": "shop", "uid": "uid-next", "generation": 1, "creationTimestamp": NOW}});
    world.fake.put::<Value>(&format!("{OURS}/backupruns/next"), next);
    tokio::time::advance(Duration::from_secs(60)).await;
    for _ in 0..3 {
        world.watch();
        let key = Key::new("shop", "next");
        RunController::new(world.context.clone()).reconcile(&key).await.unwrap();
        if world.fake.get(&format!("{PODS}/next-b1-x")).is_none() {
            world.word("next-b1", Reason::DatabaseLoginFailed, true);
        }
    }
    assert_eq!(world.jobs(), ["next-b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_stays_also_before_its_job_is_counted() {
    let mut world = World::run(1);
    drive(&mut world, |world, job, look| {
        if look == 1 {
            world.word(job, Reason::DatabaseLoginFailed, true);
            let path = format!("{JOBS}/{job}");
            let mut object = world.fake.get(&path).unwrap();
            object["status"] = json!({"active": 1});
            world.fake.put::<Value>(&path, object);
        }
    })
    .await;
    rest(&mut world).await;
    assert_eq!(world.jobs(), ["now-b1"]);
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

/// The agent is killed after it committed, and the settle Job finds the copy.
fn killed_after_the_commit(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 1) => world.pod(job, &json!({"running": {}})),
        ("now-b1" | "now-r1", 2) => {
            world.pod(job, &json!({"terminated": {"exitCode": 137}}));
            world.counted(job);
        }
        ("now-s1", 2) => world.word(job, Reason::AlreadyDone, true),
        _ => {}
    }
}

/// The first attempt does not reach the database; the second does.
fn second_attempt(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 2) => world.word(job, Reason::DatabaseUnreachable, world.kind == Kind::Restore),
        ("now-b2" | "now-r2", 2) => world.word(job, Reason::Succeeded, true),
        ("now-s1", 1) => world.word(job, Reason::CopyNotFound, false),
        _ => {}
    }
}

/// The user cancels a run at work; the settle Job closes the register.
fn cancelled(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 1) => world.pod(job, &json!({"running": {}})),
        ("now-b1" | "now-r1", 2) => world.change(|object| object["spec"]["cancel"] = json!(true)),
        ("now-s1", 1) if world.kind == Kind::Restore => world.word(job, Reason::CopyNotFound, false),
        ("now-s1", 1) => world.word(job, Reason::Abandoned, true),
        _ => {}
    }
}

/// Each call of a whole scenario fails once, in each way; the end is the same as without failures.
async fn each_call_fails(make: fn() -> World, script: Script, expected: (&str, &str), jobs: &[&str]) {
    let mut world = make();
    world.fake.fault(None);
    drive(&mut world, script).await;
    rest(&mut world).await;
    let calls = world.fake.count();
    let end = |world: &World| (world.told(), world.status()["attempts"].as_array().map(Vec::len), world.jobs());
    let faultless = end(&world);
    assert_eq!(faultless.0, (expected.0.to_owned(), expected.1.to_owned()));
    assert_eq!(faultless.2, jobs);
    assert!(calls > 4, "{calls}");
    let faults = [409, 429, 500, 503].map(Fault::Refused).into_iter().chain([Fault::AnswerLost]);
    for (fault, call) in faults.flat_map(|fault| (1..=calls).map(move |call| (fault, call))) {
        let mut world = make();
        world.fake.fault(Some((call, fault)));
        drive(&mut world, script).await;
        rest(&mut world).await;
        assert!(world.fake.count() >= call, "the fault never came");
        assert_eq!(end(&world), faultless, "call {call}: {fault:?}: {}", world.status());
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_run_that_succeeds_may_fail() {
    each_call_fails(|| World::run(3), succeeds, ("Succeeded", "Succeeded"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_run_killed_after_its_commit_may_fail() {
    each_call_fails(|| World::run(3), killed_after_the_commit, ("Succeeded", "AlreadyDone"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_second_attempt_may_fail() {
    each_call_fails(|| World::run(3), second_attempt, ("Succeeded", "Succeeded"), &["now-b1"]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_cancellation_may_fail() {
    each_call_fails(|| World::run(3), cancelled, ("Cancelled", "Cancelled"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_restore_may_fail() {
    each_call_fails(World::restore, succeeds, ("Succeeded", "Succeeded"), &[]).await;
    each_call_fails(World::restore, killed_after_the_commit, ("Succeeded", "AlreadyDone"), &[]).await;
    each_call_fails(World::restore, second_attempt, ("Succeeded", "Succeeded"), &["now-r1"]).await;
    each_call_fails(World::restore, cancelled, ("Cancelled", "Cancelled"), &[]).await;
}
