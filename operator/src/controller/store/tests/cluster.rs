//! A store of the cluster: who may use it, with whose rights, and what its keeper is told.

use holdfast_crds::{BackupSchedule, BackupSource, ClusterBackupStore, KeepLine, KeepSummary, SourceReport, StoreKind, StoreReference};
use k8s_openapi::api::core::v1::Namespace;

use super::*;
use crate::{
    config::Namespaces,
    controller::{
        carry_out::tests::world::{Kind, World, server},
        keep::{catalogue, task},
        schedule,
    },
};

const VAULT: &str = "/apis/holdfast.dev/v1alpha1/clusterbackupstores/vault";

fn vault(allowed: &Value, probed: bool) -> Value {
    let mut vault = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore",
        "metadata": {"name": "vault", "uid": "uid-vault", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"s3": {"bucket": "backups"}, "allowedNamespaces": allowed, "encryption": {"none": {}}, "maxConcurrentRuns": 1,
            "credentials": {"writer": {"secretName": "tenant"}},
            "maintenance": {"namespace": "stores", "credentials": {"roles": {"writer": {"secretName": "prober"}, "pruner": {"secretName": "pruner"}}}}},
    });
    if probed {
        vault["status"] = json!({"probe": {"number": 1, "generation": 1, "finishedAt": "2026-03-01T00:00:00Z",
            "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}}});
    }
    vault
}

fn give(fake: &Fake, context: &Context, vault: Value) {
    context.caches.cluster_stores.watched(fake.put::<ClusterBackupStore>(VAULT, vault));
}

fn namespace(context: &Context, name: &str, labels: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name, "labels": labels}});
    context
        .caches
        .namespaces
        .watched(serde_json::from_value::<Namespace>(object).unwrap());
}

fn source(context: &Context, namespace: &str, name: &str) {
    let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "spec": {"postgresql": server()},
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}")}});
    context
        .caches
        .sources
        .watched(serde_json::from_value::<BackupSource>(source).unwrap());
}

fn gold(context: &Context, namespace: &str) {
    let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "gold", "namespace": namespace, "uid": format!("{namespace}-gold"), "generation": 1},
        "spec": {"sources": {"names": ["shop"]}, "triggers": [{"name": "nightly", "cron": "0 2 * * *"}],
            "stores": [{"name": "vault", "kind": "ClusterBackupStore", "retention": {"keepLast": 3}}]}});
    context
        .caches
        .schedules
        .watched(serde_json::from_value::<BackupSchedule>(schedule).unwrap());
}

fn reference() -> StoreReference {
    StoreReference {
        name: "vault".to_owned(),
        kind: StoreKind::ClusterBackupStore,
    }
}

fn now_run(allowed: &Value) -> World {
    let spec = json!({"source": "shop", "stores": [{"name": "vault", "kind": "ClusterBackupStore"}], "attempts": 1});
    let world = World::new(Kind::Run, true, &spec);
    give(&world.fake, &world.context, vault(allowed, true));
    world
}

#[tokio::test(start_paused = true)]
async fn its_probe_is_tried_in_the_maintenance_namespace_with_the_rights_of_maintenance() {
    let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
    give(&fake, &context, vault(&json!({"names": ["shop"]}), false));
    // A store of that namespace has the same name, and Jobs of its own.
    let controller = StoreController::new(context.clone());
    controller.reconcile(&Key::new("", "vault")).await.unwrap();
    assert_eq!(fake.calls(), ["PATCH clusterbackupstores/vault/status", "POST jobs/vault-cp1"]);
    let job = fake.get("/apis/batch/v1/namespaces/stores/jobs/vault-cp1").unwrap();
    assert_eq!(job["metadata"]["labels"]["holdfast.dev/cluster-store"], "vault");
    assert_eq!(
        job["metadata"]["labels"].get("holdfast.dev/store"),
        None,
        "it is no Job of a BackupStore"
    );
    let owner = &job["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("ClusterBackupStore"), &json!("uid-vault")));
    let volumes = job["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(
        volumes.contains("\"prober\"") && volumes.contains("\"pruner\"") && !volumes.contains("\"tenant\""),
        "{volumes}"
    );
    let task = job["spec"]["template"]["metadata"]["annotations"][holdfast_crds::layout::TASK_ANNOTATION]
        .as_str()
        .unwrap();
    let task: holdfast_crds::Task = serde_json::from_str(task).unwrap();
    assert_eq!(task.store.holder(&task.namespace), "ClusterBackupStore/vault");
    // Its Job wakes the store, by its label.
    let queue = Queue::default();
    triggers(&context.caches, &queue);
    let pod = json!({"metadata": {"name": "vault-cp1-x", "namespace": "stores", "labels": job["metadata"]["labels"]}});
    context.caches.pods.watched(serde_json::from_value::<Pod>(pod).unwrap());
    assert_eq!(queue.depth(), 1);
    assert_eq!(
        context.caches.store_at(&Key::new("", "vault")).unwrap().full_name(),
        "ClusterBackupStore/vault"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_uses_it_with_the_tenants_writer_in_the_tenants_namespace() {
    let world = now_run(&json!({"names": ["shop"]}));
    world.look_at("now").await;
    assert_eq!(world.jobs(), ["now-b1"]);
    let job = world.fake.get("/apis/batch/v1/namespaces/shop/jobs/now-b1").unwrap().to_string();
    assert!(
        job.contains("\"tenant\"") && !job.contains("prober") && !job.contains("pruner"),
        "{job}"
    );
    assert_eq!(world.status()["frozen"]["store"]["kind"], "ClusterBackupStore");
    world.word("now-b1", Reason::Succeeded, true);
    world.look_at("now").await;
    assert_eq!(world.told().0, "Succeeded");
    let store = world.context.caches.named_store("shop", &reference()).unwrap();
    assert_eq!(
        store.runs(&world.context.caches).count(),
        1,
        "an ended run still counts for its store"
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_not_allowed_waits_until_it_is() {
    let world = now_run(&json!({"matchLabels": {"tier": "gold"}}));
    namespace(&world.context, "shop", &json!({"tier": "bronze"}));
    let queue = Queue::default();
    crate::controller::run::triggers(&world.context, &world.turns, &queue);
    world.look_at("now").await;
    assert_eq!(world.told(), ("Pending".to_owned(), "StoreNotAllowed".to_owned()));
    let message = world.status()["message"].as_str().unwrap().to_owned();
    for part in [
        "spec.stores",
        "ClusterBackupStore vault",
        "namespace shop",
        "spec.allowedNamespaces",
    ] {
        assert!(message.contains(part), "{message}");
    }
    gold(&world.context, "shop");
    let path = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupschedules/gold";
    let schedule = world.context.caches.schedules.get(&Key::new("shop", "gold")).unwrap();
    let schedule = world.fake.put::<BackupSchedule>(path, serde_json::to_value(&*schedule).unwrap());
    world.context.caches.schedules.watched(schedule);
    let schedules = schedule::ScheduleController::new(world.context.clone());
    schedules.reconcile(&Key::new("shop", "gold")).await.unwrap();
    let ready = world.fake.get(path).unwrap()["status"]["conditions"][0].clone();
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["reason"]),
        (&json!("Ready"), &json!("False"), &json!("StoreNotAllowed"))
    );
    let before = queue.depth();
    namespace(&world.context, "shop", &json!({"tier": "gold"}));
    assert!(queue.depth() >= before.max(1), "the label is noticed");
    world.look_at("now").await;
    assert_eq!(world.jobs(), ["now-b1"]);
    // What is at work goes on although the namespace is no longer allowed.
    namespace(&world.context, "shop", &json!({}));
    world.word("now-b1", Reason::Succeeded, true);
    world.look_at("now").await;
    assert_eq!(world.told().0, "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn nobody_restores_what_another_namespace_has_in_it() {
    for (path, ended) in [("shop/shop/then", false), ("other/shop/then", true)] {
        let spec =
            json!({"from": {"store": {"name": "vault", "kind": "ClusterBackupStore", "path": path}}, "to": {"postgresql": server()}});
        let world = World::new(Kind::Restore, true, &spec);
        give(&world.fake, &world.context, vault(&json!({"names": ["shop", "other"]}), true));
        world.reconcile().await.unwrap();
        let (phase, reason) = world.told();
        assert_eq!(
            (phase == "Failed", reason == "InvalidSpec"),
            (ended, ended),
            "{path}: {phase} {reason}"
        );
        assert_eq!(world.jobs().is_empty(), ended);
        if !ended {
            let job = world.fake.get("/apis/batch/v1/namespaces/shop/jobs/now-r1").unwrap().to_string();
            assert!(job.contains("\"tenant\"") && !job.contains("prober"), "{job}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn its_limit_is_over_all_namespaces() {
    let world = now_run(&json!({"names": ["shop", "other"]}));
    let other = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": "theirs", "namespace": "other", "uid": "uid-theirs", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
        "spec": {"source": "shop", "stores": [{"name": "vault", "kind": "ClusterBackupStore"}]},
        "status": {"phase": "Running", "attempts": [{"number": 1, "job": "theirs-b1", "startedAt": "2026-03-01T00:00:00Z", "notAfter": "2026-03-01T06:00:00Z"}]}});
    let path = "/apis/holdfast.dev/v1alpha1/namespaces/other/backupruns/theirs";
    world.fake.put::<Value>(path, other);
    let queue = Queue::default();
    crate::controller::run::triggers(&world.context, &world.turns, &queue);
    world.look_at("now").await;
    assert_eq!(world.told(), ("Pending".to_owned(), "Queued".to_owned()));
    assert_eq!(world.jobs(), [""; 0]);
    world.set(
        path,
        "status",
        json!({"phase": "Failed", "reason": "DumpFailed", "observedGeneration": 1}),
    );
    world.look_at("now").await;
    assert_eq!(world.jobs(), ["now-b1"]);
}

#[tokio::test(start_paused = true)]
async fn its_keeper_is_told_of_those_that_are_allowed_and_counts_what_vanished_namespaces_left() {
    let (fake, context) = Fake::start("2026-03-01T00:00:00Z");
    give(&fake, &context, vault(&json!({"names": ["shop", "mail", "gone"]}), true));
    for name in ["shop", "mail", "other"] {
        namespace(&context, name, &json!({}));
        source(&context, name, "shop");
        gold(&context, name);
    }
    let store = context.caches.named_store("shop", &reference()).unwrap();
    let told = task::task(&context.caches, &store, context.clock.now());
    let of: Vec<_> = told
        .schedules
        .iter()
        .filter_map(|schedule| schedule.schedule.namespace.clone())
        .collect();
    assert_eq!(
        of,
        ["mail", "shop"],
        "other is not allowed: its copies go on under the rules that are recorded"
    );
    let concerned = |namespace: &str| !context.caches.stores_of(namespace).is_empty();
    for name in ["shop", "mail", "other", "gone", "nobody"] {
        assert_eq!(
            concerned(name),
            store.namespaces(&context.caches).contains(name) || name == "gone",
            "{name}"
        );
    }
    assert!(!concerned("nobody"));
    let job = task::job(&context, &store, "vault-ck1", told).unwrap();
    assert_eq!(job.metadata.namespace.as_deref(), Some("stores"));

    let line = |namespace: &str, source: &str, copies: i64| {
        KeepLine::Source(SourceReport {
            namespace: namespace.to_owned(),
            source: source.to_owned(),
            copies,
            bytes: 10,
            newest: Some(format!("2026-02-0{copies}T00:00:00Z")),
            ..SourceReport::default()
        })
    };
    let path = |namespace: &str| format!("/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/backupsources/shop");
    for name in ["shop", "mail", "other"] {
        let held = context.caches.sources.get(&Key::new(name, "shop")).unwrap();
        context
            .caches
            .sources
            .watched(fake.put::<BackupSource>(&path(name), serde_json::to_value(&*held).unwrap()));
    }
    let report = [
        line("gone", "a", 2),
        line("gone", "b", 3),
        line("other", "shop", 4),
        line("shop", "old", 1),
        line("shop", "shop", 5),
    ];
    let summary = KeepSummary::default();
    let strays = catalogue::write(&context, &store, &summary, &report).await.unwrap();
    assert_eq!((strays.sources, strays.namespaces), (4, 1));
    let gone = &strays.vanished[0];
    assert_eq!((gone.namespace.as_str(), gone.sources, gone.copies, gone.bytes), ("gone", 2, 5, 20));
    assert_eq!(gone.newest.as_deref(), Some("2026-02-03T00:00:00Z"));
    let unknown: Vec<_> = strays
        .unknown
        .iter()
        .map(|source| format!("{}/{}", source.namespace, source.source))
        .collect();
    assert_eq!(unknown, ["other/shop", "shop/old"], "who may not use it is told nothing of it");
    assert_eq!(fake.calls(), ["PATCH backupsources/shop/status"]);
    let entry = fake.get(&path("shop")).unwrap()["status"]["stores"][0].clone();
    assert_eq!(
        (&entry["store"], &entry["storeKind"], &entry["copies"]),
        (&json!("vault"), &json!("ClusterBackupStore"), &json!(5))
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_of_some_namespaces_says_that_it_serves_no_store_of_the_cluster() {
    let caches = Caches::new(&Namespaces::only(["shop".to_owned()]));
    let unusable = caches.store("shop", &reference()).unwrap_err();
    assert_eq!(unusable.reason, Reason::StoreNotFound);
    assert!(unusable.message.contains("serves some namespaces only"), "{}", unusable.message);
    let all = Caches::new(&Namespaces::default());
    let unusable = all.store("shop", &reference()).unwrap_err();
    assert!(
        unusable.message.contains("there is no ClusterBackupStore vault;"),
        "{}",
        unusable.message
    );
}
