//! Several store objects for one place.

use holdfast_crds::{ClusterBackupStore, ProbeCheck};

use super::*;
use crate::controller::{keep::KeepController, stores};

/// Stores for one place, by their keys.
struct Stores {
    fake: Fake,
    context: Arc<Context>,
}

fn path(key: &Key) -> String {
    match key.namespace.as_str() {
        "" => format!("/apis/holdfast.dev/v1alpha1/clusterbackupstores/{}", key.name),
        namespace => format!("/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/backupstores/{}", key.name),
    }
}

impl Stores {
    fn new() -> Self {
        let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
        Self { fake, context }
    }

    /// A store that was made in this second. What its probe found of the owner, if there was one.
    fn give(&self, namespace: &str, name: &str, second: u8, owner: Option<bool>) -> Key {
        let key = Key::new(namespace, name);
        let kind = if namespace.is_empty() {
            "ClusterBackupStore"
        } else {
            "BackupStore"
        };
        let mut store = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "uid": format!("uid-{namespace}-{name}-{second}"), "generation": 1,
                "creationTimestamp": format!("2026-03-01T00:00:{second:02}Z")},
            "spec": {"s3": {"bucket": "backups", "prefix": "eu"}, "encryption": {"none": {}}},
        });
        if namespace.is_empty() {
            store["spec"]["allowedNamespaces"] = json!({"names": ["shop"]});
            store["spec"]["credentials"] = json!({"writer": {"secretName": "s3"}});
            store["spec"]["maintenance"] = json!({"namespace": "stores", "credentials": {"secretName": "s3"}});
        } else {
            store["metadata"]["namespace"] = json!(namespace);
            store["spec"]["credentials"] = json!({"secretName": "s3"});
        }
        if let Some(passed) = owner {
            let ready = if passed {
                ("True", "StoreReady")
            } else {
                ("False", "StoreForeign")
            };
            store["status"] = json!({
                "conditions": [{"type": "Ready", "status": ready.0, "reason": ready.1, "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"}],
                "probe": {"number": 1, "generation": 1, "startedAt": "2026-03-01T00:00:00Z", "finishedAt": "2026-03-01T00:00:00Z",
                    "report": {"checks": [check("CreateIfAbsent", true), check("Owner", passed)]}},
            });
        }
        if namespace.is_empty() {
            let store = self.fake.put::<ClusterBackupStore>(&path(&key), store);
            self.context.caches.cluster_stores.watched(store);
        } else {
            self.context.caches.stores.watched(self.fake.put::<BackupStore>(&path(&key), store));
        }
        key
    }

    fn delete(&self, key: &Key) {
        self.fake.remove(&path(key));
        let uid = self.at(key).uid().map(ToOwned::to_owned);
        self.context.caches.stores.deleted(key, uid.as_deref());
    }

    fn at(&self, key: &Key) -> Store {
        self.context.caches.store_at(key).unwrap()
    }

    /// Reconciles the store and its keeper, and gives the Jobs that were made.
    async fn made(&self, key: &Key) -> Vec<String> {
        self.fake.calls();
        Box::pin(StoreController::new(self.context.clone()).reconcile(key)).await.unwrap();
        Box::pin(KeepController::new(self.context.clone()).reconcile(key)).await.unwrap();
        self.fake.calls().into_iter().filter(|call| call.starts_with("POST jobs")).collect()
    }

    fn ready(&self, key: &Key) -> (String, String) {
        let store = self.at(key);
        let ready = store.conditions().iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.reason.clone(), ready.message.clone())
    }

    /// The probe of this number ends, and found this of the owner.
    async fn probed(&self, key: &Key, number: i64, owner: bool) {
        let checks = vec![check("CreateIfAbsent", true), check("Owner", owner)];
        let reason = if owner { Reason::StoreReady } else { Reason::StoreForeign };
        self.probe_ended(key, number, reason, checks).await;
    }

    /// The probe of this number ends before it asks for the owner: the store does not know its credentials.
    async fn not_let_in(&self, key: &Key, number: i64) {
        let checks = vec![check("Reach", false)];
        self.probe_ended(key, number, Reason::StoreAccessDenied, checks).await;
    }

    async fn probe_ended(&self, key: &Key, number: i64, reason: Reason, checks: Vec<serde_json::Value>) {
        let job = self.at(key).probe_job(number);
        let code = reason.exit_code();
        let checks: Vec<ProbeCheck> = checks.into_iter().map(|check| serde_json::from_value(check).unwrap()).collect();
        let result = AgentResult {
            version: TASK_VERSION,
            reason,
            message: "what it found".to_owned(),
            closed: false,
            copy: None,
            probe: serde_json::from_value(json!({"checks": checks})).unwrap(),
            restored: None,
            kept: None,
            copied: None,
        };
        let terminated = json!({"exitCode": code, "message": result.to_termination_message()});
        let pod = json!({
            "metadata": {"name": format!("{}-x", job.name), "namespace": job.namespace, "uid": format!("uid-{}", job.name),
                "creationTimestamp": "2026-03-01T00:00:00Z",
                "labels": {"batch.kubernetes.io/job-name": job.name, "holdfast.dev/store": key.name}},
            "spec": {"containers": [], "nodeName": "node1"},
            "status": {"phase": if code == 0 { "Succeeded" } else { "Failed" },
                "containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": terminated}}]},
        });
        self.context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
        Box::pin(StoreController::new(self.context.clone()).reconcile(key)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_younger_of_two_stores_of_one_place_is_left_alone_until_the_older_goes() {
    let stores = Stores::new();
    let queue = Queue::default();
    triggers(&stores.context.caches, &queue);
    let first = stores.give("shop", "offsite", 1, None);
    assert_eq!(queue.depth(), 1);
    let second = stores.give("mail", "another", 2, None);
    assert_eq!(queue.depth(), 2);
    assert_eq!(stores.made(&second).await, Vec::<String>::new());
    let (reason, message) = stores.ready(&second);
    assert_eq!(reason, "LocationTaken");
    assert!(
        message.contains("found s3://backups/eu, the place of the BackupStore shop/offsite"),
        "{message}"
    );
    let conditions = stores.at(&second).conditions().to_vec();
    assert!(
        conditions
            .iter()
            .any(|condition| condition.type_ == "Stalled" && condition.status == "True")
    );
    let reference = stores.at(&second).reference();
    let (reason, _) = stores::unusable(&stores.context.caches, "mail", &reference).unwrap();
    assert_eq!(reason, Reason::LocationTaken, "no run goes there");
    Box::pin(StoreController::new(stores.context.clone()).reconcile(&second))
        .await
        .unwrap();
    assert_eq!(stores.fake.calls(), Vec::<String>::new(), "said once");

    assert_eq!(stores.made(&first).await, ["POST jobs/offsite-p1"]);
    stores.probed(&first, 1, true).await;
    assert_eq!(stores.made(&first).await, ["POST jobs/offsite-k1"]);
    assert_eq!(stores.made(&second).await, Vec::<String>::new());

    let queue = Queue::default();
    triggers(&stores.context.caches, &queue);
    stores.delete(&first);
    assert_eq!(queue.depth(), 2, "the gone one, and the one that waits");
    assert_eq!(stores.made(&second).await, ["POST jobs/another-p1"]);
    let (reason, message) = stores.ready(&second);
    assert!(
        reason == "LocationTaken" && message.contains("no other store has the place any more"),
        "{message}"
    );
    stores.probed(&second, 1, true).await;
    assert_eq!(stores.ready(&second).0, "StoreReady");
    assert_eq!(stores.made(&second).await, ["POST jobs/another-k1"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_of_the_cluster_and_one_of_a_namespace_are_for_one_place_too() {
    for (namespaced, cluster) in [(1, 2), (2, 1)] {
        let stores = Stores::new();
        let own = stores.give("shop", "offsite", namespaced, None);
        let vault = stores.give("", "vault", cluster, None);
        let (older, younger, words) = if namespaced < cluster {
            (own, vault, "BackupStore shop/offsite already")
        } else {
            (vault, own, "ClusterBackupStore vault already")
        };
        assert_eq!(stores.made(&younger).await, Vec::<String>::new());
        assert!(stores.ready(&younger).1.contains(words), "{:?}", stores.ready(&younger));
        assert_eq!(stores.made(&older).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_same_age_the_first_name_has_it_unless_the_place_knows_its_owner() {
    let stores = Stores::new();
    let (one, other) = (stores.give("shop", "a", 1, None), stores.give("shop", "b", 1, None));
    assert_eq!(stores.made(&other).await, Vec::<String>::new());
    assert_eq!(stores.made(&one).await, ["POST jobs/a-p1"]);
    // Whoever is older: the place has an owner, and two stores that hold it in turn would keep it from working at all.
    let stores = Stores::new();
    let (one, other) = (stores.give("shop", "a", 1, None), stores.give("shop", "b", 2, Some(true)));
    assert_eq!(stores.made(&one).await, Vec::<String>::new());
    assert_eq!(stores.ready(&one).0, "LocationTaken");
    assert_eq!(stores.made(&other).await, ["POST jobs/b-k1"]);
    assert_eq!(stores.ready(&other).0, "StoreReady");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_made_anew_has_its_place_again() {
    let stores = Stores::new();
    let waits = stores.give("mail", "another", 2, None);
    // It went, so the other was tried: the place is not its own.
    stores.made(&waits).await;
    stores.probed(&waits, 1, false).await;
    assert_eq!(stores.ready(&waits).0, "StoreForeign");
    let queue = Queue::default();
    triggers(&stores.context.caches, &queue);
    let anew = stores.give("shop", "offsite", 9, None);
    assert_eq!(queue.depth(), 2);
    assert_eq!(stores.made(&anew).await, ["POST jobs/offsite-p1"]);
    stores.probed(&anew, 1, true).await;
    assert_eq!(stores.ready(&anew).0, "StoreReady");
    assert_eq!(stores.made(&waits).await, Vec::<String>::new());
    assert_eq!(stores.ready(&waits).0, "LocationTaken");
}

#[tokio::test(start_paused = true)]
async fn two_stores_of_another_clusters_place_do_not_take_it_in_turns() {
    let stores = Stores::new();
    let (one, other) = (stores.give("shop", "a", 1, Some(false)), stores.give("shop", "b", 2, None));
    assert_eq!(stores.made(&other).await, ["POST jobs/b-p1"], "it may be its own");
    stores.probed(&other, 1, false).await;
    for _ in 0..3 {
        assert_eq!(stores.made(&other).await, Vec::<String>::new());
        assert_eq!(stores.ready(&other).0, "LocationTaken");
        stores.made(&one).await;
        assert_ne!(stores.ready(&one).0, "LocationTaken", "it is read by one of them");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_at_work_ends_before_the_place_is_given_up() {
    let stores = Stores::new();
    let younger = stores.give("shop", "b", 2, None);
    assert_eq!(stores.made(&younger).await, ["POST jobs/b-p1"]);
    let older = stores.give("shop", "a", 1, None);
    stores.made(&younger).await;
    assert_eq!(stores.ready(&younger).0, "Pending");
    stores.probed(&younger, 1, true).await;
    assert_eq!(stores.ready(&younger).0, "StoreReady", "it is the owner now");
    assert_eq!(stores.made(&older).await, Vec::<String>::new());

    let stores = Stores::new();
    let younger = stores.give("shop", "b", 2, None);
    stores.made(&younger).await;
    stores.give("shop", "a", 1, None);
    stores.probed(&younger, 1, false).await;
    assert_eq!(stores.ready(&younger).0, "LocationTaken");
}

/// Whoever knows a bucket's name could else keep it from those whose it is.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_let_in_keeps_the_place_from_nobody() {
    let stores = Stores::new();
    let stranger = stores.give("mail", "stranger", 1, None);
    let own = stores.give("shop", "offsite", 2, None);
    assert_eq!(stores.made(&own).await, Vec::<String>::new());
    assert_eq!(stores.made(&stranger).await, ["POST jobs/stranger-p1"]);
    let queue = Queue::default();
    triggers(&stores.context.caches, &queue);
    stores.not_let_in(&stranger, 1).await;
    assert!(queue.depth() >= 1, "the one that waits is looked at");
    assert_eq!(stores.made(&own).await, ["POST jobs/offsite-p1"]);

    // Neither of two keeps it from the other; the first that gets there has it.
    stores.not_let_in(&own, 1).await;
    assert_eq!(stores.ready(&own).0, "StoreAccessDenied");
    stores.made(&stranger).await;
    assert_eq!(stores.ready(&stranger).0, "StoreAccessDenied");
    stores.context.clock.observe("2026-03-01T02:00:00Z".parse().unwrap());
    assert_eq!(stores.made(&own).await, ["POST jobs/offsite-p2"]);
    stores.probed(&own, 2, true).await;
    assert_eq!(stores.made(&stranger).await, Vec::<String>::new());
    assert_eq!(stores.ready(&stranger).0, "LocationTaken");
}
