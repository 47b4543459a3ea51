//! Two stores of one name, one of the namespace and one of the cluster, beside each other: in each list whose entries are told apart by name
//! and kind, on a real API server.

use std::collections::BTreeSet;

use holdfast_crds::{BackupRun, BackupRunStatus, BackupSource, BackupSourceStatus, CatalogueInStore, Replication, RunInStore, StoreKind};
use holdfast_e2e::{
    api::{ask, holdfast_path, make_namespace},
    helm::repository,
};
use http::Method;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{PLAIN, admission::accepted};

const NAMESPACE: &str = "same-names";
const BOTH: [StoreKind; 2] = [StoreKind::BackupStore, StoreKind::ClusterBackupStore];

/// The lists of a schema whose keys tell the kind of a store, as paths.
fn keyed(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array()
        && keys.iter().any(|key| key == "kind" || key == "storeKind")
    {
        found.insert(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        keyed(property, &format!("{path}.{name}"), found);
    }
    for inner in [&schema["items"], &schema["additionalProperties"]] {
        if inner.is_object() {
            keyed(inner, &format!("{path}[]"), found);
        }
    }
}

/// As the operator writes it, and what is stored then.
async fn applied<K>(api: &Api<K>, name: &str, kind: &str, status: &Value) -> Value
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "status": status});
    // Twice: it is merged with itself.
    let parameters = PatchParams::apply("holdfast").force();
    api.patch_status(name, &parameters, &Patch::Apply(&object)).await.unwrap();
    let written = api.patch_status(name, &parameters, &Patch::Apply(&object)).await.unwrap();
    serde_json::to_value(written).unwrap()["status"].clone()
}

#[tokio::test]
async fn two_stores_of_one_name_fit_into_each_list_that_is_keyed_by_kind() {
    let folder = repository().join("charts/holdfast-crds/templates");
    let mut lists = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let definition: Value = serde_yaml::from_str(&text).unwrap();
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
        keyed(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], plural, &mut lists);
    }
    let mut tried = BTreeSet::new();

    let admin = PLAIN.client().await.unwrap();
    make_namespace(&admin, NAMESPACE).await.unwrap();
    let kinds = |entries: &Value, key: &str| {
        let kinds = entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry[key].as_str().unwrap().to_owned());
        kinds.collect::<Vec<_>>()
    };
    let both = BOTH.map(|kind| kind.as_str().to_owned());

    let stores = BOTH.map(|kind| json!({"name": "main", "kind": kind}));
    let schedule = json!({"sources": {"names": ["shop"]}, "stores": stores, "triggers": [{"name": "nightly", "cron": "H 2 * * *"}]});
    let run = json!({"source": "shop", "stores": stores});
    let cluster = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "schedule": schedule});
    for (plural, kind, path, spec, list) in [
        (
            "backupschedules",
            "BackupSchedule",
            holdfast_path(NAMESPACE, "backupschedules"),
            schedule,
            "/spec/stores",
        ),
        (
            "backupruns",
            "BackupRun",
            holdfast_path(NAMESPACE, "backupruns"),
            run,
            "/spec/stores",
        ),
        (
            "clusterbackupschedules",
            "ClusterBackupSchedule",
            "/apis/holdfast.dev/v1alpha1/clusterbackupschedules".to_owned(),
            cluster,
            "/spec/schedule/stores",
        ),
    ] {
        let object = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": "now"}, "spec": spec});
        let made = accepted(&admin, Method::POST, &path, &object).await.unwrap();
        assert_eq!(kinds(made.pointer(list).unwrap(), "kind"), both, "{plural}");
        tried.insert(format!("{plural}{}", list.replace('/', ".")));
        // Twice the same is a mistake.
        let mut twice = object.clone();
        *twice.pointer_mut(&format!("{list}/1/kind")).unwrap() = json!(BOTH[0]);
        twice["metadata"]["name"] = json!("twice");
        let said = ask(&admin, Method::POST, &path, &twice).await.unwrap().refused().unwrap();
        assert!(said.contains("Duplicate value"), "{said}");
    }

    let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": {"name": "shop"},
        "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}}});
    accepted(&admin, Method::POST, &holdfast_path(NAMESPACE, "backupsources"), &source)
        .await
        .unwrap();
    let status = BackupSourceStatus {
        stores: BOTH
            .map(|store_kind| CatalogueInStore {
                store: "main".to_owned(),
                store_kind,
                as_of: "2026-03-01T00:00:00Z".to_owned(),
                ..CatalogueInStore::default()
            })
            .to_vec(),
        replication: BOTH
            .map(|kind| Replication {
                name: "main".to_owned(),
                kind,
                ..Replication::default()
            })
            .to_vec(),
        ..BackupSourceStatus::default()
    };
    let sources: Api<BackupSource> = Api::namespaced(admin.clone(), NAMESPACE);
    let written = applied(&sources, "shop", "BackupSource", &serde_json::to_value(&status).unwrap()).await;
    for (list, key) in [("stores", "storeKind"), ("replication", "kind")] {
        assert_eq!(kinds(&written[list], key), both, "{list}");
        tried.insert(format!("backupsources.status.{list}"));
    }

    let places = BOTH.map(|kind| {
        let place = json!({"name": "main", "kind": kind, "role": if kind.is_own() { "Primary" } else { "Copy" }, "state": "Present"});
        serde_json::from_value::<RunInStore>(place).unwrap()
    });
    let status = BackupRunStatus {
        stores: places.to_vec(),
        ..BackupRunStatus::default()
    };
    let runs: Api<BackupRun> = Api::namespaced(admin, NAMESPACE);
    let written = applied(&runs, "now", "BackupRun", &serde_json::to_value(&status).unwrap()).await;
    assert_eq!(kinds(&written["stores"], "kind"), both);
    tried.insert("backupruns.status.stores".to_owned());
    assert_eq!(lists, tried, "each list that is keyed so is tried");
}
