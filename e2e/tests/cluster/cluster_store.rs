//! A store of the cluster: tenants that share one place, its keeper in the maintenance namespace, and a namespace that may not use it.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, ClusterBackupStore, Reason, ReplicaState, StoreKind};
use holdfast_e2e::{
    fixture::condition,
    preview::Foreseen,
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Secret};
use kube::{ResourceExt, api::ListParams};

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
    main.until_in_cluster(vault, 120, "Ready", |store| says(store, "Ready").as_deref() == Some("True"))
        .await?;
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
    let store = main
        .until_in_cluster(vault, 120, "kept", |store| says(store, "Kept").as_deref() == Some("True"))
        .await?;
    let pass = store
        .status
        .and_then(|status| status.keeper)
        .and_then(|keeper| keeper.last_pass)
        .context("a pass")?;
    ensure!(pass.summary.copies == 2, "it looks after the copies of both: {pass:?}");
    previews(main, shop).await?;

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

/// What retention would do is told in the maintenance namespace alone, of all tenants or of one.
async fn previews(main: &Sandbox, shop: &Sandbox) -> Result<()> {
    let vault = main.namespace.as_str();
    let store = format!("store: {{name: {vault}, kind: ClusterBackupStore}}");
    let refused = shop.previewed("theirs", &store).await.err().map(|error| format!("{error:?}"));
    ensure!(
        refused
            .as_ref()
            .is_some_and(|refused| refused.contains(&format!("maintenance namespace '{vault}'"))),
        "{refused:?}"
    );
    let all = main.previewed("all", &store).await?;
    ensure!((all.copies, all.sources, all.listed.len()) == (2, 2, 2), "{all:?}");
    let one = main
        .previewed("one", &format!("{store}, sourceNamespace: {}, source: shop", shop.namespace))
        .await?;
    ensure!(
        (one.copies, one.listed.len()) == (1, 1) && one.listed[0].run == format!("{}/shop/first", shop.namespace),
        "{one:?}"
    );
    let jobs = shop.api::<Job>().list(&ListParams::default()).await?.items;
    ensure!(
        jobs.iter().all(|job| !job.labels().contains_key("holdfast.dev/preview")),
        "{jobs:?}"
    );

    // By hand, with the keys of maintenance, now and when the copies' time is over.
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 60);
    let then = main.previewed("then", &format!("{store}, at: \"{later}\"")).await?;
    for (status, at) in [(all, String::new()), (then, format!("--at {later}"))] {
        let job = status.job.clone().context("no Job")?;
        let by_hand = main.previewed_by_hand(&job, &format!("clusterbackupstore/{vault}"), &at).await?;
        let in_cluster = Foreseen::from(&status);
        ensure!(in_cluster == by_hand, "{in_cluster:#?}\nby hand: {by_hand:#?}");
    }
    Ok(())
}

/// What lies of a run below a prefix, byte for byte, and its manifest.
async fn lying(sandbox: &Sandbox, prefix: &str, run: &str) -> Result<(String, serde_json::Value)> {
    lying_at(sandbox, prefix, &format!("{}/shop/{run}", sandbox.namespace)).await
}

/// … of a run of any namespace.
async fn lying_at(sandbox: &Sandbox, prefix: &str, place: &str) -> Result<(String, serde_json::Value)> {
    let outcome = format!("/data/backups/{prefix}/catalog/{place}/outcome.json");
    let outcome: serde_json::Value = serde_json::from_str(&sandbox.exec("s3", &["cat", &outcome], "").await?)?;
    // Of an attempt that failed something may lie beside it.
    let pod = outcome["manifest"]["run"]["pod"].as_str().context("the pod of the copy")?;
    let digests = format!("cd /data/backups/{prefix} && find data/{place}/{pod} -type f -exec md5sum {{}} + | sort -k 2");
    let digests = sandbox.exec("s3", &["sh", "-c", &digests], "").await?;
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

/// A schedule of one namespace, whose copies go from a store of the cluster into one of the namespace, and into another of the cluster. Its
/// keys are the tenant's, whose namespace is not that of maintenance.
#[test]
fn copies_go_out_of_a_store_of_the_cluster_into_stores_of_both_kinds() {
    sandbox::run("cluster-out", |main| async move {
        let tenant = Sandbox::new("cluster-tenant").await?;
        let outcome = out_of(&main, &tenant).await;
        for name in ["vault", "depot"] {
            let name = format!("{}-{name}", main.namespace);
            main.kubectl(&["delete", "clusterbackupstore", &name, "--ignore-not-found"]).await?;
        }
        if outcome.is_err() {
            eprintln!("{}", tenant.describe().await);
        }
        tenant.delete().await;
        outcome
    });
}

async fn out_of(main: &Sandbox, shop: &Sandbox) -> Result<()> {
    let (database, served) = tokio::join!(main.postgres("shop"), main.s3());
    served?;
    let database = database?;
    database.fill("shop", 100).await?;
    let place = main.namespace.as_str();
    let (vault, depot) = (format!("{place}-vault"), format!("{place}-depot"));
    for (name, prefix) in [(&vault, "vault"), (&depot, "depot")] {
        main.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: ClusterBackupStore
metadata: {{name: {name}}}
spec:
  s3: {{bucket: backups, prefix: {prefix}, endpoint: 'http://s3.{place}.svc:7070'}}
  allowedNamespaces: {{names: [{}]}}
  credentials: {{writer: {{secretName: {prefix}-writer}}, reader: {{secretName: {prefix}-reader}}}}
  maintenance: {{namespace: {place}, credentials: {{secretName: s3}}}}
  encryption: {{none: {{}}}}
",
            shop.namespace
        ))
        .await?;
    }
    let secret = main.api::<Secret>().get("s3").await?;
    for name in ["vault-writer", "vault-reader", "depot-writer", "depot-reader", "s3"] {
        let data = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": secret.data});
        shop.apply_value(data).await?;
    }
    let login = main.api::<Secret>().get("shop").await?;
    shop.apply_value(serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"}, "data": login.data}))
        .await?;
    shop.apply(&format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupStore
metadata: {{name: near}}
spec:
  s3: {{bucket: backups, prefix: near, endpoint: 'http://s3.{place}.svc:7070'}}
  credentials: {{secretName: s3}}
  encryption: {{none: {{}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupSource
metadata: {{name: shop}}
spec:
  postgresql: {{hosts: ['shop.{place}.svc:5432'], version: 15, credentials: {{secretName: shop}}, tls: {{mode: Disable}}, databases: {{include: [shop]}}}}
"
    ))
    .await?;
    for name in [&vault, &depot] {
        main.until_in_cluster(name, 120, "Ready", |store| says(store, "Ready").as_deref() == Some("True"))
            .await?;
    }
    shop.store_ready("near").await?;

    // One copy from the time of the store of the cluster alone, one of when all three are there.
    let first = format!("{{name: {vault}, kind: ClusterBackupStore}}");
    shop.yearly("gold", &first).await?;
    shop.start_run_of("gold", "old", "shop").await?;
    shop.run_succeeded("old", 120).await?;
    shop.yearly(
        "gold",
        &format!("{first}, {{name: near}}, {{name: {depot}, kind: ClusterBackupStore}}"),
    )
    .await?;
    let everywhere = |run: &BackupRun| {
        let stores = run.status.as_ref().map(|status| status.stores.as_slice()).unwrap_or_default();
        let there = |name: &str, kind: StoreKind| {
            stores
                .iter()
                .any(|store| (store.name.as_str(), store.kind, store.state) == (name, kind, ReplicaState::Present))
        };
        there("near", StoreKind::BackupStore) && there(&depot, StoreKind::ClusterBackupStore)
    };
    shop.until::<BackupRun>("old", 180, "in all stores", everywhere).await?;
    shop.start_run_of("gold", "new", "shop").await?;
    shop.until::<BackupRun>("new", 180, "in all stores", everywhere).await?;
    for run in ["old", "new"] {
        let path = format!("{}/shop/{run}", shop.namespace);
        let first = lying_at(main, "vault", &path).await?;
        for other in ["near", "depot"] {
            let there = lying_at(main, other, &path).await?;
            ensure!(first == there, "{run}: {first:?}, in {other}: {there:?}");
        }
    }

    // The Jobs ran in the tenant's namespace, with its reader's keys and none of maintenance.
    let copies = ListParams::default().labels("holdfast.dev/purpose=copy");
    let elsewhere = main.api::<Job>().list(&copies).await?.items;
    ensure!(elsewhere.is_empty(), "{elsewhere:?}");

    shop.apply(&format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: RestoreRequest
metadata: {{name: back}}
spec:
  from: {{run: {{name: old, store: {{name: near}}}}}}
  to: {{postgresql: {{hosts: ['shop.{place}.svc:5432'], version: 15, credentials: {{secretName: shop}}, tls: {{mode: Disable}}}}}}
  select: {{databases: [shop], rename: {{shop: shop_again}}}}
"
    ))
    .await?;
    shop.restore_succeeded("back", 120).await?;
    ensure!(
        database.checksums("shop").await? == database.checksums("shop_again").await?,
        "the tables differ"
    );
    Ok(())
}
