//! A store of the cluster: tenants that share one place, its keeper in the maintenance namespace, and a namespace that may not use it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, ClusterBackupStore, Reason, ReplicaState, StoreKind};
use holdfast_e2e::{
    fixture::condition,
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};

/// Waits until the store of the cluster is as `wanted` says.
async fn until(sandbox: &Sandbox, name: &str, what: &str, wanted: impl Fn(&ClusterBackupStore) -> bool) -> Result<ClusterBackupStore> {
    let api: Api<ClusterBackupStore> = Api::all(sandbox.client.clone());
    let watched = async {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(api.clone(), only).default_backoff().applied_objects().boxed();
        while let Some(store) = events.try_next().await? {
            if wanted(&store) {
                return Ok(store);
            }
        }
        anyhow::bail!("the watch ended")
    };
    match tokio::time::timeout(Duration::from_secs(120), watched).await {
        Ok(store) => store,
        Err(_) => anyhow::bail!("ClusterBackupStore {name} was not {what}: {:?}", api.get(name).await?.status),
    }
}

fn says(store: &ClusterBackupStore, kind: &str) -> Option<String> {
    condition(&store.status.as_ref()?.conditions, kind).map(str::to_owned)
}

/// A tenant: the writer's Secret, and a source in the server of `main`.
async fn tenant(main: &Sandbox, tenant: &Sandbox) -> Result<()> {
    for (from, to) in [("s3", "vault-writer"), ("shop", "shop")] {
        let secret = main.api::<Secret>().get(from).await?;
        let data = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": to}, "data": secret.data});
        tenant.apply_value(data).await?;
    }
    tenant
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupSource
metadata: {{name: shop}}
spec:
  postgresql: {{hosts: ['shop.{}.svc:5432'], version: 15, credentials: {{secretName: shop}}, tls: {{mode: Disable}}, databases: {{include: [shop]}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupRun
metadata: {{name: first}}
spec: {{source: shop, stores: [{{name: {}, kind: ClusterBackupStore}}]}}
",
            main.namespace, main.namespace
        ))
        .await
}

async fn restore(main: &Sandbox, tenant: &Sandbox, name: &str, path: &str) -> Result<()> {
    tenant
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: RestoreRequest
metadata: {{name: {name}}}
spec:
  from: {{store: {{name: {}, kind: ClusterBackupStore, path: {path}}}}}
  to: {{postgresql: {{hosts: ['shop.{}.svc:5432'], version: 15, credentials: {{secretName: shop}}, tls: {{mode: Disable}}}}}}
  select: {{databases: [shop], rename: {{shop: shop_again}}}}
",
            main.namespace, main.namespace
        ))
        .await
}

#[test]
fn tenants_share_a_place_and_reach_only_what_is_theirs() {
    sandbox::run("cluster-store", |main| async move {
        let (shop, news, stranger) = tokio::try_join!(
            Sandbox::new("cluster-shop"),
            Sandbox::new("cluster-news"),
            Sandbox::new("cluster-not")
        )?;
        let outcome = shared(&main, &shop, &news, &stranger).await;
        main.kubectl(&["delete", "clusterbackupstore", &main.namespace, "--ignore-not-found"])
            .await?;
        for tenant in [&shop, &news, &stranger] {
            tenant.delete().await;
        }
        outcome
    });
}

async fn shared(main: &Sandbox, shop: &Sandbox, news: &Sandbox, stranger: &Sandbox) -> Result<()> {
    let (database, served) = tokio::join!(main.postgres("shop"), main.s3());
    served?;
    let database = database?;
    database.fill("shop", 100).await?;
    let vault = main.namespace.as_str();
    main.apply(&format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: ClusterBackupStore
metadata: {{name: {vault}}}
spec:
  s3: {{bucket: backups, prefix: vault, endpoint: 'http://s3.{vault}.svc:7070'}}
  allowedNamespaces: {{names: [{}, {}]}}
  credentials: {{writer: {{secretName: vault-writer}}}}
  maintenance: {{namespace: {vault}, credentials: {{secretName: s3}}}}
  encryption: {{none: {{}}}}
",
        shop.namespace, news.namespace
    ))
    .await?;
    // The runs wait for the probe.
    tokio::try_join!(tenant(main, shop), tenant(main, news), tenant(main, stranger))?;
    until(main, vault, "Ready", |store| says(store, "Ready").as_deref() == Some("True")).await?;
    tokio::try_join!(shop.run_succeeded("first", 120), news.run_succeeded("first", 120))?;

    // Who is not allowed waits, and is told why.
    let waits = |run: &BackupRun| {
        run.status
            .as_ref()
            .is_some_and(|status| status.reason == Some(Reason::StoreNotAllowed))
    };
    stranger
        .until::<BackupRun>("first", 30, "told that it is not allowed", waits)
        .await?;
    let jobs = stranger.api::<Job>().list(&ListParams::default()).await?.items;
    ensure!(jobs.is_empty(), "{jobs:?}");

    // The keeper works in the maintenance namespace, and nothing of it in a tenant's. It is told of a new schedule at once.
    shop.apply(&format!(
        r#"
apiVersion: holdfast.dev/v1alpha1
kind: BackupSchedule
metadata: {{name: yearly}}
spec: {{sources: {{names: [shop]}}, stores: [{{name: {vault}, kind: ClusterBackupStore, retention: {{keepWithin: 3d}}}}], triggers: [{{name: yearly, cron: "0 0 1 1 *"}}]}}
"#
    ))
    .await?;
    shop.until::<BackupSchedule>("yearly", 30, "Ready", |schedule| {
        let status = schedule.status.as_ref();
        status.is_some_and(|status| condition(&status.conditions, "Ready") == Some("True"))
    })
    .await?;
    let kept = shop
        .until::<BackupSource>("shop", 120, "looked after", |source| {
            let stores = source.status.iter().flat_map(|status| &status.stores);
            stores.into_iter().any(|entry| entry.copies == 1)
        })
        .await?;
    let entry = &kept.status.context("status")?.stores[0];
    ensure!(
        (entry.store.as_str(), entry.store_kind) == (vault, StoreKind::ClusterBackupStore),
        "{entry:?}"
    );
    for tenant in [shop, news] {
        let jobs = tenant.api::<Job>().list(&ListParams::default()).await?.items;
        ensure!(jobs.iter().all(|job| job.labels()["holdfast.dev/purpose"] != "keep"), "{jobs:?}");
    }
    let store = until(main, vault, "kept", |store| says(store, "Kept").as_deref() == Some("True")).await?;
    let pass = store
        .status
        .and_then(|status| status.keeper)
        .and_then(|keeper| keeper.last_pass)
        .context("a pass")?;
    ensure!(pass.summary.copies == 2, "it looks after the copies of both: {pass:?}");

    // A tenant restores its own copy, and not another's.
    let (own, theirs) = (format!("{}/shop/first", shop.namespace), format!("{}/shop/first", news.namespace));
    restore(main, shop, "own", &own).await?;
    restore(main, shop, "theirs", &theirs).await?;
    shop.restore_failed("theirs", 30, Reason::InvalidSpec).await?;
    shop.restore_succeeded("own", 120).await?;
    ensure!(
        database.checksums("shop").await? == database.checksums("shop_again").await?,
        "the tables differ"
    );
    Ok(())
}

/// What lies of a run below a prefix, byte for byte, and its manifest.
async fn lying(sandbox: &Sandbox, prefix: &str, run: &str) -> Result<(String, serde_json::Value)> {
    let place = format!("{}/shop/{run}", sandbox.namespace);
    let digests = format!("cd /data/backups/{prefix} && find data/{place} -type f -exec md5sum {{}} + | sort -k 2");
    let digests = sandbox.exec("s3", &["sh", "-c", &digests], "").await?;
    let outcome = format!("/data/backups/{prefix}/catalog/{place}/outcome.json");
    let outcome: serde_json::Value = serde_json::from_str(&sandbox.exec("s3", &["cat", &outcome], "").await?)?;
    ensure!(
        digests.lines().count() >= 4 && outcome["manifest"].is_object(),
        "{digests}{outcome}"
    );
    Ok((digests, outcome["manifest"].clone()))
}

#[test]
fn a_store_of_the_cluster_that_is_added_to_a_schedule_gets_old_copies_and_new_ones() {
    sandbox::run("cluster-copies", |sandbox| async move {
        let outcome = added(&sandbox).await;
        sandbox
            .kubectl(&["delete", "clusterbackupstore", &sandbox.namespace, "--ignore-not-found"])
            .await?;
        outcome
    });
}

async fn added(sandbox: &Sandbox) -> Result<()> {
    let database = sandbox.prepared(100).await?;
    let vault = sandbox.namespace.as_str();
    sandbox.yearly("gold", "{name: offsite}").await?;
    sandbox.start_run_of("gold", "old", "shop").await?;
    sandbox.run_succeeded("old", 120).await?;

    sandbox
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: ClusterBackupStore
metadata: {{name: {vault}}}
spec:
  s3: {{bucket: backups, prefix: vault, endpoint: 'http://s3.{vault}.svc:7070'}}
  allowedNamespaces: {{names: [{vault}]}}
  credentials: {{writer: {{secretName: s3}}}}
  maintenance: {{namespace: {vault}, credentials: {{secretName: s3}}}}
  encryption: {{none: {{}}}}
"
        ))
        .await?;
    sandbox
        .yearly("gold", &format!("{{name: offsite}}, {{name: {vault}, kind: ClusterBackupStore}}"))
        .await?;
    let copied = |run: &BackupRun| {
        let mut places = run.status.iter().flat_map(|status| &status.stores);
        places.any(|place| (place.name.as_str(), place.kind, place.state) == (vault, StoreKind::ClusterBackupStore, ReplicaState::Present))
    };
    sandbox.until::<BackupRun>("old", 120, "copied", copied).await?;
    sandbox.start_run_of("gold", "new", "shop").await?;
    sandbox.until::<BackupRun>("new", 120, "copied", copied).await?;
    for run in ["old", "new"] {
        let (here, there) = (lying(sandbox, "e2e", run).await?, lying(sandbox, "vault", run).await?);
        ensure!(here == there, "{here:?}, in the store of the cluster: {there:?}");
    }

    restore(sandbox, sandbox, "old", &format!("{vault}/shop/old")).await?;
    sandbox.restore_succeeded("old", 120).await?;
    ensure!(
        database.checksums("shop").await? == database.checksums("shop_again").await?,
        "the tables differ"
    );
    Ok(())
}
