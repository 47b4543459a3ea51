use holdfast_crds::{
    AgentResult, BackupStore, Blocked, BlockedSource, ClusterBackupStore, CopyReport, CopyState, KEEP_LINE, KeepLine, KeepSummary,
    KeepTask, PreviewCounts, Reason, RetentionPreviewStatus, RunPhase, SourceReport, TASK_VERSION, Task, document::Sha256, layout,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use super::*;
use crate::fake::{Fake, Fault};

const GROUP: &str = "/apis/holdfast.dev/v1alpha1";
const API: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop";

struct World {
    /// Where its previews are.
    namespace: &'static str,
    fake: Fake,
    context: Arc<Context>,
    controller: PreviewController,
}

fn world() -> World {
    world_in("shop")
}

fn world_in(namespace: &'static str) -> World {
    let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
    World {
        namespace,
        fake,
        controller: PreviewController::new(context.clone()),
        context,
    }
}

impl World {
    fn store(&self) {
        let store = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
            "metadata": {"name": "offsite", "namespace": "shop", "uid": "uid-offsite", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"s3": {"bucket": "backups"}, "encryption": {"none": {}},
                "credentials": {"roles": {"writer": {"secretName": "w"}, "reader": {"secretName": "r"}, "keeper": {"secretName": "k"}}}},
            "status": ready(),
        });
        let store = self.fake.put::<BackupStore>(&format!("{API}/backupstores/offsite"), store);
        self.context.caches.stores.watched(store);
    }

    /// A store of the cluster, which lets `shop` and `news` write, and not the namespace that its keeper works in.
    fn cluster_store(&self) {
        let vault = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore",
            "metadata": {"name": "vault", "uid": "uid-vault", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"s3": {"bucket": "backups"}, "encryption": {"none": {}}, "allowedNamespaces": {"names": ["shop", "news"]},
                "credentials": {"writer": {"secretName": "tenants"}, "reader": {"secretName": "tenants-reader"}},
                "maintenance": {"namespace": "stores", "credentials":
                    {"roles": {"writer": {"secretName": "w"}, "reader": {"secretName": "r"}, "keeper": {"secretName": "k"}}}}},
            "status": ready(),
        });
        let vault = self
            .fake
            .put::<ClusterBackupStore>(&format!("{GROUP}/clusterbackupstores/vault"), vault);
        self.context.caches.cluster_stores.watched(vault);
    }

    fn path(&self, name: &str) -> String {
        format!("{GROUP}/namespaces/{}/retentionpreviews/{name}", self.namespace)
    }

    fn preview(&self, name: &str, spec: &Value) {
        let preview = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "RetentionPreview",
            "metadata": {"name": name, "namespace": self.namespace, "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": spec,
        });
        let preview = self.fake.put::<RetentionPreview>(&self.path(name), preview);
        self.context.caches.previews.watched(preview);
    }

    async fn reconcile(&self, name: &str) -> Next {
        self.controller.reconcile(&Key::new(self.namespace, name)).await.unwrap()
    }

    fn status(&self, name: &str) -> RetentionPreviewStatus {
        serde_json::from_value(self.fake.get(&self.path(name)).unwrap()["status"].clone()).unwrap()
    }

    fn task(&self, job: &str) -> (Job, Task) {
        let path = format!("/apis/batch/v1/namespaces/{}/jobs/{job}", self.namespace);
        let job: Job = serde_json::from_value(self.fake.get(&path).unwrap()).unwrap();
        let template = &job.spec.as_ref().unwrap().template;
        let task = &template.metadata.as_ref().unwrap().annotations.as_ref().unwrap()[layout::TASK_ANNOTATION];
        let task = serde_json::from_str(task).unwrap();
        (job, task)
    }

    /// The container of the Job ends with this report, and its log has that.
    fn ends(&self, job: &str, reason: Reason, lines: &[KeepLine], log: &str) {
        let text = text(lines);
        let summary = KeepSummary {
            lines: lines.len() as u64,
            sha256: Sha256::of(text.as_bytes()).to_string(),
            sources: 1,
            copies: 150,
            bytes: 1_500,
            preview: Some(PreviewCounts {
                kept: 148,
                marked: 2,
                marked_bytes: 20,
                ..PreviewCounts::default()
            }),
            started_at: "2026-03-01T00:00:10Z".to_owned(),
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
        let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": job, "controller": true,
            "uid": self.context.caches.jobs.get(&Key::new(self.namespace, job)).unwrap().metadata.uid}]);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{job}-x"), "namespace": self.namespace, "uid": format!("uid-{job}-x"), "ownerReferences": owner,
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": job, PREVIEW: "what-if"}},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": if reason == Reason::Succeeded { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": reason.exit_code(), "message": result.to_termination_message(),
                        "finishedAt": "2026-03-01T00:00:00Z"}}}]},
        });
        self.context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
        self.fake
            .log(&format!("/api/v1/namespaces/{}/pods/{job}-x/log", self.namespace), log);
    }
}

fn ready() -> Value {
    json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "StoreReady", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"}],
        "probe": {"number": 1, "generation": 1, "finishedAt": "2026-03-01T00:00:00Z", "failures": 0,
            "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}},
    })
}

/// The Secrets that the pod of a Job mounts.
fn secrets(job: &Job) -> Vec<&str> {
    let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let volumes = pod.volumes.iter().flatten();
    volumes
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref())
        .collect()
}

/// What the keeper of a preview is told.
fn told(task: Task) -> KeepTask {
    let holdfast_crds::Action::Keep(keep) = task.action else { panic!() };
    *keep
}

fn copies(count: usize) -> Vec<KeepLine> {
    let copy = |number: usize| {
        KeepLine::Copy(CopyReport {
            run: format!("shop/orders/r-{number}"),
            type_: "Full".to_owned(),
            recovery_point: "2026-02-01T02:00:00Z".to_owned(),
            bytes: 10,
            state: if number < 2 { CopyState::Marked } else { CopyState::Kept },
            in_force: None,
            kept_until: None,
            locked_until: None,
            sealed: false,
            why: "nothing keeps it".to_owned(),
            manifest_digest: None,
        })
    };
    (0..count).map(copy).collect()
}

fn text(lines: &[KeepLine]) -> String {
    let lines = lines
        .iter()
        .map(|line| format!("{KEEP_LINE}{}\n", serde_json::to_string(line).unwrap()));
    lines.collect()
}

fn spec() -> Value {
    json!({"store": {"name": "offsite"}, "at": "2026-12-31T00:00:00Z", "source": "orders", "keepFor": "1d",
        "proposed": {"schedule": "gold", "retention": {"monthly": 12}}})
}

#[tokio::test(start_paused = true)]
async fn a_preview_is_one_job_with_a_readers_rights_and_its_report_is_shown_bounded() {
    let world = world();
    world.store();
    world.preview("what-if", &spec());
    world.reconcile("what-if").await;
    let calls = world.fake.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("POST jobs")).count(), 1, "{calls:?}");
    let (job, task) = world.task("what-if-v1");
    assert_eq!(job.labels()[PREVIEW], "what-if");
    assert_eq!(secrets(&job), ["r"], "the reader's credentials, and no others");
    let asked = told(task).preview.unwrap();
    assert_eq!(
        (asked.namespace.unwrap().as_str(), asked.source.unwrap().as_str()),
        ("shop", "orders")
    );
    assert_eq!(asked.at.unwrap().to_string(), "2026-12-31T00:00:00Z");
    assert_eq!(asked.proposed[0].schedule.as_ref().unwrap().name, "gold");
    assert_eq!(world.status("what-if").phase, RunPhase::Pending);

    let lines = copies(100);
    world.ends("what-if-v1", Reason::Succeeded, &lines, &text(&lines));
    let Next::After(wait) = world.reconcile("what-if").await else {
        panic!("it goes after its time")
    };
    assert_eq!(wait, std::time::Duration::from_secs(86_400));
    let status = world.status("what-if");
    assert_eq!((status.phase, status.reason), (RunPhase::Succeeded, Some(Reason::Succeeded)));
    assert_eq!((status.copies, status.listed.len(), status.not_listed), (150, 100, 50));
    assert_eq!(status.counts.unwrap().marked_bytes, 20);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.status, "True");
    world.fake.calls();
    world.reconcile("what-if").await;
    assert_eq!(world.fake.calls(), [""; 0], "idle is silent");
    world.context.clock.observe("2026-03-02T00:00:01Z".parse().unwrap());
    world.reconcile("what-if").await;
    assert_eq!(world.fake.calls(), ["DELETE retentionpreviews/what-if"]);
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_read_logs_the_counts_are_shown() {
    let world = world();
    world.store();
    world.preview("what-if", &spec());
    world.reconcile("what-if").await;
    let lines = copies(3);
    world.ends("what-if-v1", Reason::Succeeded, &lines, "");
    world.fake.fail("GET what-if-v1-x/log", 403, "forbidden");
    world.reconcile("what-if").await;
    let status = world.status("what-if");
    assert_eq!(
        (status.phase, status.listed.len(), status.not_listed),
        (RunPhase::Succeeded, 0, 150)
    );
    assert!(status.message.unwrap().contains("see kubectl logs job/what-if-v1"));
    assert_eq!(status.counts.unwrap().marked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_preview_waits_for_its_store_and_says_what_is_wrong() {
    let world = world();
    world.preview("what-if", &spec());
    world.reconcile("what-if").await;
    let status = world.status("what-if");
    assert_eq!((status.phase, status.reason), (RunPhase::Pending, Some(Reason::StoreNotFound)));
    world.store();
    world.reconcile("what-if").await;
    assert_eq!(world.status("what-if").reason, Some(Reason::Pending));
    world.ends("what-if-v1", Reason::StoreAccessDenied, &[], "");
    world.reconcile("what-if").await;
    let status = world.status("what-if");
    assert_eq!((status.phase, status.reason), (RunPhase::Failed, Some(Reason::StoreAccessDenied)));
    assert!(status.message.unwrap().contains("as the agent says; make a new preview"));
}

#[tokio::test(start_paused = true)]
async fn a_store_of_the_cluster_is_previewed_where_its_keeper_works_with_all_its_namespaces() {
    let world = world_in("stores");
    world.cluster_store();
    world.preview(
        "all",
        &json!({"store": {"name": "vault", "kind": "ClusterBackupStore"}, "keepFor": "1d"}),
    );
    world.reconcile("all").await;
    let (job, task) = world.task("all-v1");
    assert_eq!(secrets(&job), ["r"], "the reader's of maintenance, and none of a tenant's");
    assert_eq!(job.owner_references()[0].name, "all");
    assert_eq!(told(task).preview.unwrap().namespace, None);
    // Removals may stand still of two sources of one name.
    let blocked = |namespace: &str| BlockedSource {
        namespace: namespace.to_owned(),
        source: "orders".to_owned(),
        blocked: Blocked {
            reason: Reason::CopiesMissing,
            message: "one is gone".to_owned(),
        },
    };
    let lines = ["news", "shop"].map(|namespace| {
        let BlockedSource { source, blocked, .. } = blocked(namespace);
        KeepLine::Source(SourceReport {
            namespace: namespace.to_owned(),
            source,
            blocked: Some(blocked),
            ..SourceReport::default()
        })
    });
    world.ends("all-v1", Reason::Succeeded, &lines, &text(&lines));
    world.reconcile("all").await;
    assert_eq!(world.status("all").blocked, [blocked("news"), blocked("shop")]);

    let one = json!({"store": {"name": "vault", "kind": "ClusterBackupStore"}, "sourceNamespace": "shop", "source": "orders", "keepFor": "1d",
        "proposed": {"schedule": "gold", "retention": {"monthly": 12}}});
    world.preview("one", &one);
    world.reconcile("one").await;
    let asked = told(world.task("one-v1").1).preview.unwrap();
    assert_eq!(
        (asked.namespace.unwrap().as_str(), asked.source.unwrap().as_str()),
        ("shop", "orders")
    );
    assert_eq!(asked.proposed[0].schedule.as_ref().unwrap().namespace.as_deref(), Some("shop"));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_told_nothing_of_a_store_of_the_cluster_but_where_it_is_previewed() {
    let world = world();
    let wanted = json!({"store": {"name": "vault", "kind": "ClusterBackupStore"}, "keepFor": "1d"});
    world.preview("theirs", &wanted);
    world.reconcile("theirs").await;
    assert_eq!(world.status("theirs").reason, Some(Reason::StoreNotFound));
    world.cluster_store();
    world.reconcile("theirs").await;
    let status = world.status("theirs");
    assert_eq!(
        (status.phase, status.reason, status.job),
        (RunPhase::Pending, Some(Reason::StoreNotAllowed), None)
    );
    let message = status.message.unwrap();
    assert!(
        message.starts_with("spec.store: found ClusterBackupStore vault in namespace shop")
            && message.contains("maintenance namespace stores"),
        "{message}"
    );
    assert!(!world.fake.calls().iter().any(|call| call.starts_with("POST jobs")));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_store_of_the_cluster_is_looked_at_when_it_comes_and_what_began_is_not() {
    for (namespace, begun) in [("stores", false), ("shop", false), ("stores", true)] {
        let world = world_in(namespace);
        if begun {
            world.cluster_store();
        }
        let wanted = json!({"store": {"name": "vault", "kind": "ClusterBackupStore"}, "keepFor": "1d"});
        world.preview("what-if", &wanted);
        world.reconcile("what-if").await;
        let queue = Queue::default();
        triggers(&world.context.caches, &queue);
        world.cluster_store();
        assert_eq!(queue.depth(), usize::from(!begun), "{namespace}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_preview_may_fail_and_it_is_made_once_and_shown() {
    let calls = whole_preview(None).await;
    assert!(calls >= 4, "{calls}");
    for call in 1..=calls {
        whole_preview(Some((call, Fault::Refused(500)))).await;
    }
}

/// A preview is made and ends, while one call fails or none. Gives the number of calls.
async fn whole_preview(fault: Option<(usize, Fault)>) -> usize {
    let world = world();
    world.store();
    world.preview("what-if", &spec());
    world.fake.fault(fault);
    let key = Key::new("shop", "what-if");
    let mut failed = 0;
    while world.controller.reconcile(&key).await.is_err() {
        failed += 1;
    }
    let lines = copies(2);
    world.ends("what-if-v1", Reason::Succeeded, &lines, &text(&lines));
    while world.controller.reconcile(&key).await.is_err() {
        failed += 1;
    }
    assert_eq!(failed, usize::from(fault.is_some()), "{fault:?}");
    assert_eq!(world.status("what-if").listed.len(), 2, "{fault:?}");
    world.fake.count()
}

#[tokio::test(start_paused = true)]
async fn of_previews_that_ended_the_newest_twenty_stay() {
    let world = world();
    world.store();
    for number in 0..22 {
        let name = format!("p{number:02}");
        world.preview(&name, &spec());
        let key = Key::new("shop", name.as_str());
        let preview = world.context.caches.previews.get(&key).unwrap();
        let done = RetentionPreviewStatus {
            phase: RunPhase::Succeeded,
            completion_time: Some(format!("2026-03-01T00:00:{number:02}Z")),
            ..RetentionPreviewStatus::default()
        };
        world
            .context
            .report
            .status(&world.context.caches.previews, &*preview, &done)
            .await
            .unwrap();
    }
    world.fake.calls();
    world.reconcile("p21").await;
    let mut calls = world.fake.calls();
    calls.sort();
    assert_eq!(calls, ["DELETE retentionpreviews/p00", "DELETE retentionpreviews/p01"]);
}
