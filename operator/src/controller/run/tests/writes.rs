//! What a run costs the API server, from its tick until all is at rest, with queues and controllers as the operator runs them.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use holdfast_crds::{BackupSchedule, TASK_VERSION};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    controller::{
        carry_out::tests::world::{JOBS, NOW, OURS, PODS, World},
        run::{self, RunController},
        schedule::{self, ScheduleController},
        source::{self, SourceController},
    },
    queue::{self, Queue},
    watch::Key,
};

const SCHEDULE: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupschedules/gold";
const STEP: Duration = Duration::from_millis(500);

/// A namespace with a source that is copied each hour, and the operator at work on it.
struct Hourly {
    world: World,
    /// When the Job was first seen, by its name.
    jobs: BTreeMap<String, Instant>,
    /// How long an agent is at work.
    takes: Duration,
}

impl Hourly {
    fn start(takes: Duration) -> Self {
        let world = World::run(1);
        world.fake.remove(&world.path());
        let (context, turns) = (world.context.clone(), world.turns.clone());
        context.caches.runs.deleted(&Key::new("shop", "now"), Some("uid-now"));
        let gold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
            "metadata": {"name": "gold", "namespace": "shop", "uid": "uid-gold", "generation": 1, "creationTimestamp": NOW},
            "spec": {"sources": {"names": ["shop"]}, "stores": [{"name": "offsite"}], "triggers": [{"name": "hourly", "cron": "0 * * * *"}]}});
        let queues: [Queue; 3] = Default::default();
        schedule::triggers(&context.caches, &queues[0]);
        run::triggers(&context, &turns, &queues[1]);
        source::triggers(&context.caches, &queues[2]);
        world.fake.put::<Value>(SCHEDULE, gold);
        let [schedules, runs, sources] = queues;
        sources.add(Key::new("shop", "shop"));
        let metrics = || context.metrics.clone();
        tokio::spawn(queue::run(
            Arc::new(ScheduleController::new(context.clone())),
            schedules,
            metrics(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(RunController::new(context.clone(), turns)),
            runs,
            metrics(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(SourceController::new(context.clone())),
            sources,
            metrics(),
            pending(),
        ));
        Self {
            world,
            jobs: BTreeMap::new(),
            takes,
        }
    }

    /// The watches show everything, and scheduler, kubelet and Job controller do their part.
    fn look(&mut self) {
        let schedule: BackupSchedule = serde_json::from_value(self.world.fake.get(SCHEDULE).unwrap()).unwrap();
        self.world.context.caches.schedules.watched(schedule);
        self.world.watch();
        self.world.collect();
        for job in self.world.fake.all::<Job>("jobs") {
            let age = self.jobs.entry(job.name_any()).or_insert_with(Instant::now).elapsed();
            self.play(&job, age);
        }
    }

    fn play(&self, job: &Job, age: Duration) {
        let (name, run) = (job.name_any(), job.labels()["holdfast.dev/run"].clone());
        let seconds = Duration::from_secs;
        let begins = seconds(5);
        let state = match age {
            age if age < seconds(1) => return,
            age if age < begins => json!({"waiting": {"reason": "ContainerCreating"}}),
            age if age < begins + self.takes => json!({"running": {"startedAt": NOW}}),
            _ => {
                let copy = json!({"path": format!("shop/shop/{run}"), "recoveryPoint": self.world.context.clock.now().to_string(), "rawBytes": 5000,
                    "storedBytes": 2048, "parts": 1, "databases": 1, "tables": 1, "structureChecked": true, "manifestDigest": "d"});
                let word = json!({"version": TASK_VERSION, "reason": "Succeeded", "message": "copied", "closed": true, "copy": copy});
                json!({"terminated": {"exitCode": 0, "message": word.to_string()}})
            }
        };
        let path = format!("{PODS}/{name}-x");
        let held = self.world.fake.get(&path);
        let before = held.as_ref().map(|pod| &pod["status"]["containerStatuses"][0]["state"]);
        if before.is_some_and(|before| before.as_object().unwrap().keys().eq(state.as_object().unwrap().keys())) {
            return;
        }
        let phase = match (state.get("running"), state.get("terminated")) {
            (Some(_), _) => "Running",
            (_, Some(_)) => "Succeeded",
            _ => "Pending",
        };
        let mut spec = json!({"containers": []});
        if age >= seconds(2) {
            spec["nodeName"] = json!("node1");
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-x"), "namespace": "shop", "uid": format!("uid-{name}-x"), "creationTimestamp": NOW,
                "labels": {"batch.kubernetes.io/job-name": name, "app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/run": run},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.metadata.uid, "controller": true}]},
            "spec": spec,
            "status": {"phase": phase, "containerStatuses": [
                {"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}});
        self.world.fake.put::<Value>(&path, pod);
        if phase == "Succeeded" {
            self.world.set(
                &format!("{JOBS}/{name}"),
                "status",
                json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}),
            );
        }
    }

    /// What is written until that time, runs and Jobs without their names.
    async fn writes_until(&mut self, time: &str) -> Vec<String> {
        self.world.fake.calls();
        let until = time.parse().unwrap();
        while self.world.context.clock.now() < until {
            self.look();
            sleep(STEP).await;
        }
        let calls = self.world.fake.calls().into_iter().filter(|call| !call.starts_with("GET"));
        let mut writes: Vec<_> = calls.map(|call| anonymous(&call)).collect();
        writes.sort();
        writes
    }
}

fn anonymous(call: &str) -> String {
    let parts: Vec<_> = call.split('/').collect();
    match parts[..] {
        [what, _, status] if what.ends_with("backupruns") => format!("{what}/RUN/{status}"),
        [what, _] if what.ends_with("backupruns") => format!("{what}/RUN"),
        [what, _] if what.ends_with("jobs") => format!("{what}/JOB"),
        _ => call.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_costs_eight_writes_and_rest_costs_none() {
    let mut hourly = Hourly::start(Duration::from_secs(20));
    hourly.writes_until("2026-03-01T00:59:30Z").await;
    // The first run also says that one has succeeded.
    let first = hourly.writes_until("2026-03-01T01:05:00Z").await;
    assert_eq!(first.len(), 9, "{first:?}");
    assert_eq!(hourly.writes_until("2026-03-01T01:59:30Z").await, [""; 0]);
    let run = hourly.writes_until("2026-03-01T02:05:00Z").await;
    assert_eq!(
        run,
        [
            "DELETE jobs/JOB",
            // Its attempt before the Job is made, that it runs, its end.
            "PATCH backupruns/RUN/status",
            "PATCH backupruns/RUN/status",
            "PATCH backupruns/RUN/status",
            "PATCH backupschedules/gold/status",
            "PATCH backupsources/shop/status",
            "POST backupruns/RUN",
            "POST jobs/JOB",
        ]
    );
    assert_eq!(hourly.world.fake.all::<Value>("backupruns").len(), 2);
    assert_eq!(hourly.world.jobs(), [""; 0]);
    // A longer one lets the next tick be shown meanwhile.
    hourly.takes = Duration::from_secs(600);
    hourly.writes_until("2026-03-01T02:59:30Z").await;
    let long = hourly.writes_until("2026-03-01T03:15:00Z").await;
    assert_eq!(long.len(), 9, "{long:?}");
    assert_eq!(long.iter().filter(|call| *call == "PATCH backupsources/shop/status").count(), 2);
    assert!(hourly.world.fake.get(&format!("{OURS}/backupsources/shop")).is_some());
}
