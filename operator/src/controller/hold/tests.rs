use holdfast_crds::{BackupSource, BackupStore};
use serde_json::{Value, json};

use super::{build::keep_holds, *};
use crate::fake::Fake;

const HOLD: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/complianceholds/case";
const CLUSTER_HOLD: &str = "/apis/holdfast.dev/v1alpha1/clustercomplianceholds/case";

struct World {
    fake: Fake,
    context: Arc<Context>,
}

/// It is noon.
fn world() -> World {
    let (fake, context) = Fake::start("2026-03-01T12:00:00Z");
    World { fake, context }
}

impl World {
    fn hold(&self, spec: &Value) {
        let mut merged = json!({"select": {"sources": ["a"]}, "reason": "case 26", "placedBy": "alice"});
        for (field, value) in spec.as_object().unwrap() {
            merged[field] = value.clone();
        }
        let status = self.fake.get(HOLD).map(|hold| hold["status"].clone()).unwrap_or_default();
        let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ComplianceHold", "spec": merged, "status": status,
            "metadata": {"name": "case", "namespace": "shop", "uid": "u", "generation": 1, "creationTimestamp": "2026-03-01T11:55:00Z"}});
        self.context.caches.holds.watched(self.fake.put::<ComplianceHold>(HOLD, hold));
    }

    /// A store whose keeper's pass began then, with this report of the hold `id`.
    fn store(&self, namespace: &str, name: &str, pass: Option<(&str, Value)>) {
        let mut store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}")},
            "spec": {"volume": {"claimName": "disk"}, "encryption": {"none": {}}}});
        if let Some((started, report)) = pass {
            let reports = if report.is_null() { json!([]) } else { json!([report]) };
            store["status"] = json!({"holds": {"startedAt": started, "reports": reports}});
        }
        self.context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
    }

    fn source(&self, namespace: &str, name: &str, tier: &str) {
        let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"), "labels": {"tier": tier}},
            "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}}});
        self.context
            .caches
            .sources
            .watched(serde_json::from_value::<BackupSource>(source).unwrap());
    }

    async fn reconcile(&self) -> (Next, String, String, String) {
        let next = HoldController::new(self.context.clone())
            .reconcile(&Key::new("shop", "case"))
            .await
            .unwrap();
        let (status, reason, message) = self.condition(HOLD, "Effective");
        (next, status, reason, message)
    }

    fn condition(&self, path: &str, kind: &str) -> (String, String, String) {
        let conditions = self.fake.get(path).unwrap()["status"]["conditions"].as_array().unwrap().clone();
        let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap().clone();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

/// What a pass over a store of `shop` reports that was told of the hold as it is now.
fn report(world: &World, namespace: Option<&str>, recorded: bool, copies: i64, legal: i64) -> Value {
    let told = keep_holds(&world.context.caches, &["shop"], Some("shop"))[0].digest();
    let mut report = json!({"id": hold_id(namespace, "case"), "namespace": namespace, "name": "case", "told": told, "recorded": recorded,
        "copies": copies, "legalHolds": legal});
    if recorded {
        report["recordedAt"] = json!("2026-03-01T11:40:00Z");
    }
    report
}

fn recorded_at(at: &str, report: Value) -> Value {
    let mut report = report;
    report["recordedAt"] = json!(at);
    report
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_effective_when_its_records_are_read_back_and_no_older_keeper_can_delete() {
    let world = world();
    world.hold(&json!({}));
    let (next, status, reason, message) = world.reconcile().await;
    assert_eq!((next, status.as_str(), reason.as_str()), (Next::Change, "False", "HoldPending"));
    assert!(
        message.contains("not yet effective: there is no store for copies of shop"),
        "{message}"
    );

    world.store("shop", "offsite", None);
    world.store("other", "offsite", None);
    let (_, status, _, message) = world.reconcile().await;
    assert_eq!(status, "False");
    assert!(
        message.contains("not yet effective: shop/offsite: its keeper has not reported yet"),
        "{message}"
    );

    world.store("shop", "offsite", Some(("2026-03-01T11:50:00Z", Value::Null)));
    let (_, _, reason, message) = world.reconcile().await;
    assert_eq!(reason, "HoldPending");
    assert!(message.contains("did not know the hold yet"), "{message}");

    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:58:00Z", report(&world, Some("shop"), false, 0, 0))),
    );
    let (_, _, _, message) = world.reconcile().await;
    assert!(message.contains("could not be read back"), "{message}");

    // Recorded at 11:58 in a pass that began before: a keeper that is older than the record may delete until 12:08.
    let recorded = recorded_at("2026-03-01T11:58:00Z", report(&world, Some("shop"), true, 7, 0));
    world.store("shop", "offsite", Some(("2026-03-01T11:57:00Z", recorded.clone())));
    let (next, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HoldPending"));
    assert!(
        message.contains("an older keeper may still delete until 2026-03-01T12:08:00Z"),
        "{message}"
    );
    let Next::After(wait) = next else { panic!("{next:?}") };
    assert!((480..=485).contains(&wait.as_secs()), "{wait:?}");

    world.context.clock.observe("2026-03-01T12:08:01Z".parse().unwrap());
    let (next, status, reason, message) = world.reconcile().await;
    assert_eq!((next, status.as_str(), reason.as_str()), (Next::Change, "True", "HoldPlaced"));
    assert!(message.contains("by Holdfast alone"), "{message}");
    assert_eq!(world.fake.get(HOLD).unwrap()["status"]["copies"], json!(7));

    // The next pass changes nothing about it.
    world.store("shop", "offsite", Some(("2026-03-01T12:08:00Z", recorded)));
    let (_, status, reason, _) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "HoldPlaced"));

    // With the bucket's legal holds on each copy.
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:58:00Z", report(&world, Some("shop"), true, 7, 7))),
    );
    let (_, _, _, message) = world.reconcile().await;
    assert_eq!(message, "held by Holdfast and by the buckets");

    // A second store of the namespace has not seen it.
    world.store("shop", "vault", None);
    let (_, status, _, message) = world.reconcile().await;
    assert_eq!(status, "False");
    assert!(
        message.contains("shop/vault: its keeper has not reported yet") && !message.contains("offsite"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_counts_from_when_it_was_seen_and_after_its_cool_off() {
    let world = world();
    world.hold(&json!({}));
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:40:00Z", report(&world, Some("shop"), true, 7, 0))),
    );
    world.reconcile().await;
    let held = keep_holds(&world.context.caches, &["shop"], Some("shop"));
    assert_eq!((held.len(), held[0].release.clone()), (1, None));

    world.hold(&json!({"release": {"releasedBy": "bob", "reason": "settled"}}));
    assert_eq!(
        keep_holds(&world.context.caches, &["shop"], Some("shop"))[0].release,
        None,
        "not before its time is known"
    );
    let (next, status, _, message) = world.reconcile().await;
    assert_eq!(status, "True");
    assert!(message.contains("released by bob, effective at 2026-03-02T12:00:00Z"), "{message}");
    assert_eq!(world.fake.get(HOLD).unwrap()["status"]["releasedAt"], json!("2026-03-01T12:00:00Z"));
    let Next::After(wait) = next else { panic!("{next:?}") };
    assert!((86_400..=86_405).contains(&wait.as_secs()), "{wait:?}");
    let release = keep_holds(&world.context.caches, &["shop"], Some("shop"))[0]
        .release
        .clone()
        .unwrap();
    assert_eq!(
        (release.released_by.as_str(), release.effective_at.to_string().as_str()),
        ("bob", "2026-03-02T12:00:00Z")
    );

    // Seen again an hour later, it counts from the first time.
    world.context.clock.observe("2026-03-01T13:00:00Z".parse().unwrap());
    world.reconcile().await;
    assert_eq!(world.fake.get(HOLD).unwrap()["status"]["releasedAt"], json!("2026-03-01T12:00:00Z"));

    world.context.clock.observe("2026-03-02T12:00:01Z".parse().unwrap());
    let (next, status, reason, message) = world.reconcile().await;
    assert_eq!((next, status.as_str(), reason.as_str()), (Next::Change, "False", "HoldReleased"));
    assert!(message.contains("released by bob"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_a_store_refuses_or_lets_cool_off_for_longer_has_not_ended_the_hold() {
    let world = world();
    world.hold(&json!({"release": {"releasedBy": "alice", "reason": "mine"}, "releaseBy": "Anyone", "coolOff": "1s"}));
    let mut refused = report(&world, Some("shop"), true, 7, 0);
    refused["refused"] = json!("the release by alice is none: bob placed it");
    world.store("shop", "offsite", Some(("2026-03-01T11:50:00Z", refused)));
    world.reconcile().await;
    world.context.clock.observe("2026-03-01T12:30:00Z".parse().unwrap());
    let (_, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "HoldPlaced"));
    assert!(message.contains("the release by alice is none"), "{message}");
    let mut later = report(&world, Some("shop"), true, 7, 0);
    later["releasedAt"] = json!("2026-03-02T12:10:00Z");
    world.store("shop", "offsite", Some(("2026-03-01T12:10:00Z", later)));
    let (_, status, _, message) = world.reconcile().await;
    assert!(
        status == "True" && message.contains("effective at 2026-03-02T12:10:00Z"),
        "{message}"
    );
    world.context.clock.observe("2026-03-02T12:10:01Z".parse().unwrap());
    assert_eq!(world.reconcile().await.2, "HoldReleased");
}

#[tokio::test(start_paused = true)]
async fn a_hold_with_an_end_ends_by_itself() {
    let world = world();
    world.hold(&json!({"until": "2026-03-01T14:00:00+01:00"}));
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:40:00Z", report(&world, Some("shop"), true, 7, 0))),
    );
    let (next, status, _, _) = world.reconcile().await;
    assert_eq!(status, "True");
    assert!(
        matches!(next, Next::After(wait) if (3_600..=3_605).contains(&wait.as_secs())),
        "{next:?}"
    );
    world.context.clock.observe("2026-03-01T13:00:01Z".parse().unwrap());
    let (_, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HoldReleased"));
    assert!(message.contains("it ended by itself at 2026-03-01T13:00:00Z"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_report_of_another_hold_of_the_same_name_makes_none_effective() {
    let world = world();
    world.source("shop", "a", "gold");
    world.hold(&json!({"select": {"matchLabels": {"tier": "gold"}}}));
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:40:00Z", report(&world, Some("shop"), true, 7, 0))),
    );
    assert_eq!(world.reconcile().await.1, "True");
    // A source that has the label from now on is not held before a pass knows it.
    world.source("shop", "b", "gold");
    let (_, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HoldPending"));
    assert!(message.contains("knew the hold as it was before"), "{message}");
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:45:00Z", report(&world, Some("shop"), true, 9, 0))),
    );
    assert_eq!(world.reconcile().await.1, "True");
    // Deleted, and another placed under the same name.
    world.hold(&json!({"select": {"sources": ["c"]}}));
    let (_, status, _, message) = world.reconcile().await;
    assert_eq!(status, "False");
    assert!(message.contains("knew the hold as it was before"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_names_no_copy_says_so() {
    let world = world();
    world.hold(&json!({"select": {"sources": ["ordrs"]}}));
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:40:00Z", report(&world, Some("shop"), true, 0, 0))),
    );
    let (_, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "HoldPlaced"));
    assert!(message.contains("no copy is named yet"), "{message}");
    world.hold(&json!({"select": {"runs": ["shop/a/mistyped"]}}));
    world.store(
        "shop",
        "offsite",
        Some(("2026-03-01T11:40:00Z", report(&world, Some("shop"), true, 0, 0))),
    );
    let (_, status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "HoldPending"));
    assert!(message.contains("shop/a/mistyped"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_is_told_what_a_hold_names() {
    let world = world();
    world.source("shop", "a", "gold");
    world.source("shop", "b", "gold");
    world.source("shop", "c", "silver");
    world.source("other", "d", "gold");
    for (select, sources, runs, range) in [
        (
            json!({"sources": ["a", "gone"]}),
            Some(vec!["shop/a", "shop/gone"]),
            None,
            (None, None),
        ),
        (
            json!({"matchLabels": {"tier": "gold"}}),
            Some(vec!["shop/a", "shop/b"]),
            None,
            (None, None),
        ),
        (
            json!({"matchLabels": {"tier": "gold"}, "sources": ["b", "c"]}),
            Some(vec!["shop/b"]),
            None,
            (None, None),
        ),
        (json!({"matchLabels": {"tier": "lead"}}), Some(vec![]), None, (None, None)),
        (
            json!({"runs": ["shop/a/one", "other/d/two"]}),
            None,
            Some(vec!["shop/a/one"]),
            (None, None),
        ),
        (
            json!({"recoveryPoints": {"from": "2026-01-01T00:00:00Z", "until": "2026-02-01T01:00:00+01:00"}}),
            None,
            None,
            (Some("2026-01-01T00:00:00Z"), Some("2026-02-01T00:00:00Z")),
        ),
    ] {
        world.hold(&json!({"select": select}));
        let holds = keep_holds(&world.context.caches, &["shop"], Some("shop"));
        let [held] = &holds[..] else { panic!("{holds:?}") };
        let texts = |list: Option<Vec<&str>>| list.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(held.scope.sources, texts(sources), "{select}");
        assert_eq!(held.scope.runs, texts(runs), "{select}");
        assert_eq!(held.scope.namespaces, texts(Some(vec!["shop"])));
        let times = (held.scope.from.map(|at| at.to_string()), held.scope.to.map(|at| at.to_string()));
        assert_eq!((times.0.as_deref(), times.1.as_deref()), range, "{select}");
        assert_eq!(held.id, hold_id(Some("shop"), "case"));
    }
    assert!(keep_holds(&world.context.caches, &["other"], Some("other")).is_empty());
    // A run of another namespace is not silently left out.
    world.hold(&json!({"select": {"runs": ["other/d/two"]}}));
    world.reconcile().await;
    let (status, reason, message) = world.condition(HOLD, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidSpec"));
    assert!(message.contains("other/d/two"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_of_the_cluster_reaches_each_of_its_namespaces() {
    let world = world();
    world.source("shop", "a", "gold");
    world.source("other", "d", "gold");
    let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterComplianceHold",
        "metadata": {"name": "case", "uid": "u", "generation": 1, "creationTimestamp": "2026-03-01T11:55:00Z"},
        "spec": {"namespaces": ["shop", "other"], "select": {"matchLabels": {"tier": "gold"}}, "reason": "case 26", "placedBy": "alice"}});
    let caches = &world.context.caches;
    caches
        .cluster_holds
        .watched(world.fake.put::<ClusterComplianceHold>(CLUSTER_HOLD, hold));
    let told = keep_holds(caches, &["other"], Some("other"));
    assert_eq!(
        told[0].scope.sources.as_deref().unwrap(),
        ["other/d"],
        "what concerns this namespace"
    );
    let all = keep_holds(caches, &["other"], None);
    assert_eq!(all[0].scope.sources.as_deref().unwrap(), ["shop/a", "other/d"]);
    assert_eq!((told[0].namespace.as_deref(), told[0].id.clone()), (None, hold_id(None, "case")));
    assert!(keep_holds(caches, &["third"], Some("third")).is_empty());

    let queue = crate::queue::Queue::default();
    cluster_triggers(caches, &queue);
    world.store("shop", "offsite", Some(("2026-03-01T11:40:00Z", report(&world, None, true, 1, 1))));
    assert_eq!(queue.waiting(), 1);
    let controller = ClusterHoldController::new(world.context.clone());
    controller.reconcile(&Key::new("", "case")).await.unwrap();
    assert_eq!(world.condition(CLUSTER_HOLD, "Effective").0, "True");
    world.store("other", "offsite", None);
    controller.reconcile(&Key::new("", "case")).await.unwrap();
    assert_eq!(world.condition(CLUSTER_HOLD, "Effective").0, "False");
    assert_eq!(world.fake.events(), ["Accepted", "HoldPending", "HoldPlaced"]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_of_the_cluster_reaches_what_a_vanished_namespace_left_in_each_store_of_the_cluster() {
    let world = world();
    let caches = &world.context.caches;
    let namespace = |name: &str| -> k8s_openapi::api::core::v1::Namespace {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name}})).unwrap()
    };
    for name in ["shop", "mail", "stores"] {
        caches.namespaces.watched(namespace(name));
    }
    // It allows by labels: those of a namespace that is gone cannot be known. No keeper has told of what the namespace left.
    let vault = |reports: &Value| {
        let vault = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore", "metadata": {"name": "vault", "uid": "v"},
            "spec": {"s3": {"bucket": "backups"}, "allowedNamespaces": {"matchLabels": {"backups": "vault"}}, "encryption": {"none": {}},
                "credentials": {"writer": {"secretName": "tenant"}},
                "maintenance": {"namespace": "stores", "credentials": {"secretName": "s3"}}},
            "status": {"holds": {"startedAt": "2026-03-01T11:40:00Z", "reports": reports}}});
        caches.cluster_stores.watched(serde_json::from_value(vault).unwrap());
        caches.store_at(&Key::new("", "vault")).unwrap()
    };
    let store = vault(&json!([]));
    for (name, namespaces) in [("case", ["shop"]), ("other", ["mail"])] {
        let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterComplianceHold",
            "metadata": {"name": name, "uid": name, "generation": 1, "creationTimestamp": "2026-03-01T11:00:00Z"},
            "spec": {"namespaces": namespaces, "select": {"sources": ["db"]}, "reason": "case 26", "placedBy": "alice"}});
        let path = format!("/apis/holdfast.dev/v1alpha1/clustercomplianceholds/{name}");
        caches.cluster_holds.watched(world.fake.put::<ClusterComplianceHold>(&path, hold));
    }
    let told = || crate::controller::keep::task::task(caches, &store, world.context.clock.now()).holds;
    assert!(told().is_empty(), "it has nothing of these namespaces");

    let queue = crate::queue::Queue::default();
    cluster_triggers(caches, &queue);
    caches.namespaces.deleted(&Key::new("", "shop"), Some("shop"));
    assert_eq!(queue.waiting(), 1, "the hold that names it");
    let holds = told();
    let [held] = &holds[..] else { panic!("{holds:?}") };
    assert_eq!(
        (held.name.as_str(), held.scope.sources.as_deref().unwrap()),
        ("case", &["shop/db".to_owned()][..])
    );

    let controller = ClusterHoldController::new(world.context.clone());
    controller.reconcile(&Key::new("", "case")).await.unwrap();
    let (status, _, message) = world.condition(CLUSTER_HOLD, "Effective");
    assert_eq!(status, "False");
    assert!(message.contains("ClusterBackupStore/vault: its keeper's pass of"), "{message}");
    let queue = crate::queue::Queue::default();
    cluster_triggers(caches, &queue);
    vault(
        &json!([{"id": hold_id(None, "case"), "name": "case", "told": held.digest(), "recorded": true,
        "recordedAt": "2026-03-01T11:40:00Z", "copies": 3, "legalHolds": 3}]),
    );
    assert_eq!(queue.waiting(), 1, "the hold that may be there");
    controller.reconcile(&Key::new("", "case")).await.unwrap();
    let (status, _, message) = world.condition(CLUSTER_HOLD, "Effective");
    assert_eq!((status.as_str(), message.as_str()), ("True", "held by Holdfast and by the buckets"));
}
