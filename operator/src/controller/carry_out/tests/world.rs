//! A namespace with one run or restore, against an API server in memory, and what the world around the operator does.

use std::{sync::Arc, time::Duration};

use holdfast_crds::{BackupRun, BackupSource, BackupStore, Reason, RestoreRequest, RunPhase, TASK_VERSION, layout};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    context::{Context, Error},
    controller::{
        restore::RestoreController,
        run::{RunController, Turns},
    },
    fake::Fake,
    queue::{Next, Reconcile},
    watch::Key,
};

pub const NOW: &str = "2026-03-01T00:00:00Z";
pub const OURS: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";
pub const JOBS: &str = "/apis/batch/v1/namespaces/shop/jobs";
pub const PODS: &str = "/api/v1/namespaces/shop/pods";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Run,
    Restore,
}

impl Kind {
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Run => "backupruns",
            Self::Restore => "restorerequests",
        }
    }
}

pub struct World {
    pub kind: Kind,
    pub fake: Fake,
    pub context: Arc<Context>,
    pub turns: Turns,
}

pub fn store(ready: bool) -> Value {
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

pub fn server() -> Value {
    json!({"hosts": ["db"], "version": 15, "credentials": {"secretName": "app"}})
}

impl World {
    pub fn new(kind: Kind, ready: bool, spec: &Value) -> Self {
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
        let world = Self {
            kind,
            fake,
            context,
            turns: Turns::default(),
        };
        world.watch();
        world
    }

    pub fn run(attempts: i32) -> Self {
        let spec = json!({"source": "shop", "stores": [{"name": "offsite"}], "attempts": attempts});
        Self::new(Kind::Run, true, &spec)
    }

    pub fn restore() -> Self {
        let spec = json!({"from": {"store": {"name": "offsite", "path": "shop/shop/then"}}, "to": {"postgresql": server()}});
        Self::new(Kind::Restore, true, &spec)
    }

    /// The watches show everything as it is.
    pub fn watch(&self) {
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
            .all("backupschedules")
            .into_iter()
            .for_each(|object| caches.schedules.watched(object));
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
    pub fn restart(&mut self) {
        let now = self.context.clock.now().to_string();
        self.context = self.fake.connect(&now);
        self.turns = Turns::default();
        self.watch();
    }

    pub async fn reconcile(&self) -> Result<Next, Error> {
        let key = Key::new("shop", "now");
        match self.kind {
            Kind::Run => RunController::new(self.context.clone(), self.turns.clone()).reconcile(&key).await,
            Kind::Restore => RestoreController::new(self.context.clone()).reconcile(&key).await,
        }
    }

    /// The watches show everything, then one run is reconciled.
    pub async fn look_at(&self, run: &str) {
        self.watch();
        let controller = RunController::new(self.context.clone(), self.turns.clone());
        controller.reconcile(&Key::new("shop", run)).await.unwrap();
        self.watch();
    }

    /// Another run of the same source, with one attempt.
    pub fn another_run(&self, name: &str) {
        let run = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": NOW},
            "spec": {"source": "shop", "stores": [{"name": "offsite"}], "attempts": 1}});
        self.fake.put::<Value>(&format!("{OURS}/backupruns/{name}"), run);
    }

    /// Kubernetes changes a field of an object.
    pub fn set(&self, path: &str, field: &str, value: Value) {
        let mut object = self.fake.get(path).unwrap();
        object[field] = value;
        self.fake.put::<Value>(path, object);
    }

    /// The phase of a Job's pod, which the kubelet tells later than what its containers do.
    pub fn set_phase(&self, job: &str, phase: &str) {
        let path = format!("{PODS}/{job}-x");
        let mut status = self.fake.get(&path).unwrap()["status"].clone();
        status["phase"] = json!(phase);
        self.set(&path, "status", status);
    }

    pub fn path(&self) -> String {
        format!("{OURS}/{}/now", self.kind.plural())
    }

    pub fn status(&self) -> Value {
        self.fake.get(&self.path()).unwrap()["status"].clone()
    }

    pub fn told(&self) -> (String, String) {
        let status = self.status();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        (text("phase"), text("reason"))
    }

    /// A user changes the object.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.fake.get(&self.path()).unwrap();
        change(&mut object);
        object["metadata"]["generation"] = json!(2);
        self.fake.put::<Value>(&self.path(), object);
        self.watch();
    }

    pub fn ended(&self) -> bool {
        let phase: RunPhase = serde_json::from_value(self.status()["phase"].clone()).unwrap_or_default();
        phase.ended()
    }

    pub fn jobs(&self) -> Vec<String> {
        self.fake.all::<Job>("jobs").iter().map(ResourceExt::name_any).collect()
    }

    /// What the kubelet says of the Job's pod.
    pub fn pod(&self, job: &str, state: &Value) {
        let owner = self.fake.get(&format!("{JOBS}/{job}")).unwrap();
        let phase = match (state.get("terminated"), state.get("running")) {
            (Some(end), _) if end["exitCode"] == 0 => "Succeeded",
            (Some(_), _) => "Failed",
            (_, Some(_)) => "Running",
            _ => "Pending",
        };
        let mut labels = owner["spec"]["template"]["metadata"]["labels"].clone();
        labels["batch.kubernetes.io/job-name"] = json!(job);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{job}-x"), "namespace": "shop", "uid": format!("uid-{job}-x"), "creationTimestamp": NOW,
                "labels": labels,
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": owner["metadata"]["uid"], "controller": true}]},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        });
        self.fake.put::<Value>(&format!("{PODS}/{job}-x"), pod);
    }

    /// The agent ends with this word, and the Job controller counts it.
    pub fn word(&self, job: &str, reason: Reason, closed: bool) {
        let mut result = json!({"version": TASK_VERSION, "reason": reason, "message": "as the agent says", "closed": closed});
        if reason.exit_code() == 0 {
            let (run, _) = job.rsplit_once('-').unwrap();
            result["copy"] = json!({"path": format!("shop/shop/{run}"), "recoveryPoint": NOW, "rawBytes": 5000, "storedBytes": 2048, "parts": 1,
                "databases": 1, "tables": 1, "structureChecked": true, "manifestDigest": "d"});
            result["restored"] = json!({"recoveryPoint": NOW, "databases": 1, "tables": 1, "rows": 7, "rawBytes": 5000});
        }
        self.pod(
            job,
            &json!({"terminated": {"exitCode": reason.exit_code(), "message": result.to_string()}}),
        );
        self.counted(job);
    }

    pub fn counted(&self, job: &str) {
        let path = format!("{JOBS}/{job}");
        let mut object = self.fake.get(&path).unwrap();
        object["status"] = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
        self.fake.put::<Value>(&path, object);
    }

    /// The garbage collector takes the pods whose Job is gone, and their logs with them.
    pub fn collect(&self) {
        for pod in self.fake.all::<Pod>("pods") {
            let job = pod.labels()["batch.kubernetes.io/job-name"].clone();
            if self.fake.get(&format!("{JOBS}/{job}")).is_none() {
                self.fake.remove(&format!("{PODS}/{}", pod.name_any()));
                self.fake.remove(&format!("{PODS}/{}/log", pod.name_any()));
            }
        }
    }

    pub fn task(&self, job: &str) -> Value {
        let job = self.fake.get(&format!("{JOBS}/{job}")).unwrap();
        let task = &job["spec"]["template"]["metadata"]["annotations"][layout::TASK_ANNOTATION];
        serde_json::from_str(task.as_str().unwrap()).unwrap()
    }
}

/// What the world around the operator does, by the Jobs that have no end yet.
pub type Script = fn(&World, job: &str, number_of_looks: usize);

/// Reconciles until the end, as the queue does: after each change and at the time that was asked for; after an error with a restart.
pub async fn drive(world: &mut World, script: Script) {
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
pub async fn rest(world: &mut World) {
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

pub fn succeeds(world: &World, job: &str, look: usize) {
    match look {
        1 => world.pod(job, &json!({"running": {}})),
        2 => world.word(job, Reason::Succeeded, true),
        _ => {}
    }
}
