use holdfast_crds::{BackupSource, ClusterBackupScheduleStatus};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

const NOW: &str = "2026-03-01T02:10:00Z";
const OBJECT: &str = "/apis/holdfast.dev/v1alpha1/clusterbackupschedules/gold";

struct World {
    fake: Fake,
    context: Arc<Context>,
    controller: ClusterScheduleController,
}

/// Namespaces with the label `team: shop` (one without) and a source of tier gold in three of them.
fn world() -> World {
    let (fake, context) = Fake::start(NOW);
    for (name, team) in [("shop-a", "shop"), ("shop-b", "shop"), ("shop-empty", "shop"), ("other", "other")] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
        context
            .caches
            .namespaces
            .watched(serde_json::from_value::<Namespace>(namespace).unwrap());
    }
    for namespace in ["shop-a", "shop-b", "other"] {
        let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
            "metadata": {"name": "db", "namespace": namespace, "uid": format!("uid-{namespace}"), "labels": {"tier": "gold"}},
            "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}}});
        context
            .caches
            .sources
            .watched(serde_json::from_value::<BackupSource>(source).unwrap());
    }
    let world = World {
        fake,
        controller: ClusterScheduleController::new(context.clone()),
        context,
    };
    world.schedule("0 2 * * *", "shop");
    world
}

impl World {
    fn schedule(&self, cron: &str, team: &str) {
        let mut schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupSchedule",
            "metadata": {"name": "gold", "uid": "uid-gold", "generation": 1, "creationTimestamp": NOW},
            "spec": {"namespaceSelector": {"matchLabels": {"team": team}},
                "schedule": {"sources": {"matchLabels": {"tier": "gold"}}, "stores": [{"name": "offsite"}],
                    "triggers": [{"name": "nightly", "cron": cron}]}}});
        if let Some(held) = self.fake.get(OBJECT) {
            schedule["status"] = held["status"].clone();
        }
        let schedule = self.fake.put::<ClusterBackupSchedule>(OBJECT, schedule);
        self.context.caches.cluster_schedules.watched(schedule);
    }

    async fn reconcile(&self) -> Vec<String> {
        self.controller.reconcile(&Key::new("", "gold")).await.unwrap();
        let mut calls = self.fake.calls();
        calls.sort();
        calls
    }

    fn child(&self, namespace: &str) -> Option<Value> {
        self.fake
            .get(&format!("/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/backupschedules/gold"))
    }

    fn ready(&self) -> (String, String, String) {
        let status: ClusterBackupScheduleStatus = serde_json::from_value(self.fake.get(OBJECT).unwrap()["status"].clone()).unwrap();
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status, ready.reason, ready.message)
    }
}

#[tokio::test(start_paused = true)]
async fn each_selected_namespace_with_a_source_has_its_schedule() {
    let world = world();
    let calls = world.reconcile().await;
    assert_eq!(
        calls,
        [
            "PATCH clusterbackupschedules/gold/status",
            "POST backupschedules/gold",
            "POST backupschedules/gold"
        ]
    );
    let child = world.child("shop-a").unwrap();
    assert_eq!(child["spec"]["triggers"][0]["cron"], "0 2 * * *");
    assert_eq!(child["metadata"]["labels"][CLUSTER_SCHEDULE_LABEL], "gold");
    let owner = &child["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("ClusterBackupSchedule"), &json!("uid-gold"))
    );
    assert!(world.child("shop-b").is_some() && world.child("shop-empty").is_none() && world.child("other").is_none());
    assert_eq!(world.ready().1, "Accepted");
    assert!(world.ready().2.contains("2 namespaces"));
    // Idle: nothing is written.
    assert_eq!(world.reconcile().await, [""; 0]);

    // Another cron, and what somebody changed, are brought there.
    world.schedule("0 3 * * *", "shop");
    let calls = world.reconcile().await;
    assert_eq!(
        calls.iter().filter(|call| *call == "PUT backupschedules/gold").count(),
        2,
        "{calls:?}"
    );
    assert_eq!(world.child("shop-b").unwrap()["spec"]["triggers"][0]["cron"], "0 3 * * *");
    assert_eq!(world.reconcile().await, [""; 0]);

    // Other namespaces are selected: the schedules of the others go.
    world.schedule("0 3 * * *", "other");
    world.reconcile().await;
    assert!(world.child("shop-a").is_none() && world.child("shop-b").is_none() && world.child("other").is_some());
    world.schedule("0 3 * * *", "nobody");
    world.reconcile().await;
    assert!(world.child("other").is_none());
    assert_eq!((world.ready().0, world.ready().1), ("False".to_owned(), "NoSources".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_there_is_not_taken_and_stops_no_other_namespace() {
    let world = world();
    let theirs = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "gold", "namespace": "shop-a", "uid": "uid-theirs"},
        "spec": {"sources": {"names": ["db"]}, "stores": [{"name": "own"}], "triggers": [{"name": "t", "cron": "0 0 * * *"}]}});
    let path = "/apis/holdfast.dev/v1alpha1/namespaces/shop-a/backupschedules/gold";
    world
        .context
        .caches
        .schedules
        .watched(world.fake.put::<BackupSchedule>(path, theirs));
    world.reconcile().await;
    assert_eq!(world.child("shop-a").unwrap()["spec"]["stores"][0]["name"], "own");
    assert!(world.child("shop-b").is_some());
    let (status, reason, message) = world.ready();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NameTaken"));
    assert!(message.contains("shop-a/gold"), "{message}");
    // Nor is it deleted with the others.
    world.schedule("0 3 * * *", "nobody");
    world.reconcile().await;
    assert!(world.child("shop-a").is_some() && world.child("shop-b").is_none());
}

#[tokio::test(start_paused = true)]
async fn what_a_namespace_refuses_or_lacks_is_said_and_stops_no_other() {
    let world = world();
    world.fake.fail("POST backupschedules/gold", 403, "exceeded quota: schedules");
    world.reconcile().await;
    let (status, reason, message) = world.ready();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AdmissionRefused"));
    assert!(
        message.contains("exceeded quota") && message.contains("1 namespaces more"),
        "{message}"
    );
    world.fake.mend();
    world.reconcile().await;
    assert_eq!(world.ready().1, "Accepted");
    // What a schedule says of itself is shown.
    let mut child = world.child("shop-b").unwrap();
    child["status"] = json!({"sources": 1, "conditions": [{"type": "Ready", "status": "False", "reason": "StoreNotFound",
        "message": "spec.stores: there is no offsite", "lastTransitionTime": NOW}]});
    let path = "/apis/holdfast.dev/v1alpha1/namespaces/shop-b/backupschedules/gold";
    world
        .context
        .caches
        .schedules
        .watched(world.fake.put::<BackupSchedule>(path, child));
    world.reconcile().await;
    let (status, reason, message) = world.ready();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreNotFound"));
    assert!(message.contains("namespace shop-b"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_a_compliance_policy_refuses_is_said_with_its_words_and_tried_again_slowly() {
    let world = world();
    world.reconcile().await;
    let words = "ValidatingAdmissionPolicy 'holdfast.compliance-schedules' denied request: spec.suspend: found true";
    // An edit that is refused: the schedules go on as they were.
    world.fake.fail("PUT backupschedules/gold", 403, words);
    world.schedule("0 3 * * *", "shop");
    let key = Key::new("", "gold");
    assert_eq!(world.controller.reconcile(&key).await.unwrap(), Next::After(REFUSED));
    let status: ClusterBackupScheduleStatus = serde_json::from_value(world.fake.get(OBJECT).unwrap()["status"].clone()).unwrap();
    let problems: Vec<_> = status
        .problems
        .iter()
        .map(|problem| (problem.namespace.as_str(), problem.reason))
        .collect();
    assert_eq!(
        problems,
        [("shop-a", Reason::AdmissionRefused), ("shop-b", Reason::AdmissionRefused)]
    );
    let said = &status.problems[0].message;
    assert!(
        said.contains(words) && said.contains("shop-a/gold, which goes on as it is"),
        "{said}"
    );
    assert_eq!(world.child("shop-a").unwrap()["spec"]["triggers"][0]["cron"], "0 2 * * *");
    let queue = Queue::default();
    triggers(&world.context.caches, &queue);
    let policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "CompliancePolicy", "metadata": {"name": "gold"},
        "spec": {"namespaces": {"all": {}}, "mode": "Audit", "floors": {"goodCopies": 2}}});
    world.context.caches.policies.watched(serde_json::from_value(policy).unwrap());
    assert_eq!(queue.waiting(), 1, "another policy may let it pass");

    // A schedule that is to go and may not: it stays, which is said, and stops no other.
    world.fake.mend();
    world.reconcile().await;
    world.fake.fail("DELETE backupschedules/gold", 403, words);
    for team in ["other", "nobody"] {
        world.schedule("0 3 * * *", team);
        assert_eq!(world.controller.reconcile(&key).await.unwrap(), Next::After(REFUSED));
        let (status, reason, message) = world.ready();
        assert_eq!((status.as_str(), reason.as_str()), ("False", "AdmissionRefused"));
        assert!(
            message.contains("refuses to delete the schedule") && message.contains(words),
            "{message}"
        );
        assert!(world.child("shop-a").is_some() && world.child("other").is_some());
    }
    world.fake.mend();
    assert_eq!(world.controller.reconcile(&key).await.unwrap(), Next::Change);
    assert!(world.child("shop-a").is_none() && world.child("other").is_none());
    assert_eq!(world.ready().1, "NoSources");
}

/// Tells the first object that it is called for.
struct Seen(std::sync::Mutex<Option<tokio::sync::oneshot::Sender<Key>>>);

impl Reconcile for Seen {
    const KIND: &'static str = "ClusterBackupSchedule";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        if let Some(done) = self.0.lock().unwrap().take() {
            done.send(key.clone()).unwrap();
        }
        Ok(Next::Change)
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_a_source_and_a_schedule_that_change_call_it() {
    let change: [fn(&World); 3] = [
        |world| {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop-c", "labels": {"team": "shop"}}});
            world.context.caches.namespaces.watched(serde_json::from_value(namespace).unwrap());
        },
        |world| {
            let mut source = serde_json::to_value(&*world.context.caches.sources.get(&Key::new("shop-a", "db")).unwrap()).unwrap();
            source["metadata"]["labels"] = json!({"tier": "none"});
            world.context.caches.sources.watched(serde_json::from_value(source).unwrap());
        },
        |world| {
            let (schedules, key) = (&world.context.caches.schedules, Key::new("shop-a", "gold"));
            let uid = schedules.get(&key).unwrap().uid();
            schedules.deleted(&key, uid.as_deref());
        },
    ];
    for change in change {
        let world = world();
        world.reconcile().await;
        let queue = Queue::default();
        triggers(&world.context.caches, &queue);
        change(&world);
        let (done, seen) = tokio::sync::oneshot::channel();
        let seen_by = Arc::new(Seen(std::sync::Mutex::new(Some(done))));
        let metrics = world.context.metrics.clone();
        let running = tokio::spawn(crate::queue::run(seen_by, queue, metrics, std::future::pending()));
        let called = tokio::time::timeout(Duration::from_secs(2), seen).await.unwrap().unwrap();
        assert_eq!(called, Key::new("", "gold"));
        running.abort();
    }
}
