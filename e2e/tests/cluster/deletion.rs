//! Deleting Kubernetes objects deletes no data, blocks nothing, and starts nothing twice.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupRunStatus, BackupSchedule, BackupSource, BackupStore, Reason, RunPhase};
use holdfast_e2e::sandbox::{self, Sandbox};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, api::ListParams, runtime::wait::await_condition};

#[test]
fn a_deleted_schedule_leaves_its_runs_and_copies() {
    sandbox::run("schedule-deleted", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.often().await?;
        let succeeded = |runs: &[BackupRun]| {
            runs.iter()
                .any(|run| run.status.as_ref().is_some_and(|status| status.phase == RunPhase::Succeeded))
        };
        let runs = sandbox.until_list::<BackupRun>("", 200, "succeeded", succeeded).await?;
        sandbox.kubectl(&["delete", "backupschedule", "often"]).await?;
        sandbox.until_gone::<BackupSchedule>("often", 30).await?;
        for run in &runs {
            ensure!(
                run.finalizers().is_empty() && run.owner_references().is_empty(),
                "{:?}",
                run.metadata
            );
            sandbox
                .api::<BackupRun>()
                .get(&run.name_any())
                .await
                .context("a run went with its schedule")?;
        }
        let outcome = sandbox
            .exec(
                "s3",
                &["sh", "-c", "cat /data/backups/e2e/catalog/*/shop/*/outcome.json | head -c 100000"],
                "",
            )
            .await?;
        ensure!(outcome.contains("\"manifest\":{"), "no copy is left: {outcome}");
        Ok(())
    });
}

#[test]
fn a_namespace_deleted_in_mid_run_is_gone_within_a_minute_and_the_data_stays() {
    sandbox::run("data", |store| async move {
        store.s3().await?;
        let secret = store
            .kubectl(&["get", "secret", "s3", "-o", "jsonpath={.data.secret_access_key}"])
            .await?;
        let sandbox = Sandbox::new("goes").await?;
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 100).await?;
        sandbox
            .apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s3}}\nstringData: {{access_key_id: tester}}\ndata: {{secret_access_key: {secret}}}\n"))
            .await?;
        let endpoint = format!("http://s3.{}:7070", store.namespace);
        sandbox
            .apply(&format!("apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {{name: offsite}}\nspec: {{s3: {{bucket: backups, prefix: e2e, endpoint: '{endpoint}'}}, credentials: {{secretName: s3}}, encryption: {{none: {{}}}}}}\n"))
            .await?;
        sandbox.source("shop", "databases: {include: [shop]}").await?;
        sandbox
            .until::<BackupStore>("offsite", 120, "Ready", |store| {
                store
                    .status
                    .as_ref()
                    .is_some_and(|status| holdfast_e2e::fixture::condition(&status.conditions, "Ready") == Some("True"))
            })
            .await?;
        sandbox.back_up("first", "shop").await?;
        let (_lock, _) = database.held_dump("second", "").await?;
        let namespaces: Api<Namespace> = Api::all(sandbox.client.clone());
        namespaces.delete(&sandbox.namespace, &kube::api::DeleteParams::default()).await?;
        let gone = await_condition(namespaces, &sandbox.namespace, |namespace: Option<&Namespace>| namespace.is_none());
        tokio::time::timeout(std::time::Duration::from_secs(60), gone)
            .await
            .context("the namespace is still there after a minute")??;
        let path = format!("/data/backups/e2e/catalog/{}/shop/first/outcome.json", sandbox.namespace);
        let outcome: serde_json::Value = serde_json::from_str(&store.exec("s3", &["cat", &path], "").await?)?;
        ensure!(outcome["manifest"].is_object(), "{outcome}");
        Ok(())
    });
}

/// What is in the store, but for what probes leave.
async fn in_store(sandbox: &Sandbox) -> Result<String> {
    let list = "cd /data/backups/e2e && find catalog data owner -type f | sort";
    sandbox.exec("s3", &["sh", "-c", list], "").await
}

#[test]
fn run_source_and_store_that_were_deleted_are_in_view_again_once_they_are_applied_again() {
    sandbox::run("all-deleted", |sandbox| async move {
        sandbox.prepared(100).await?;
        let first = sandbox.back_up("first", "shop").await?;
        let before = sandbox
            .catalogue("shop", "offsite", 120, "there", |entry| entry.copies == 1)
            .await?;
        let lying = in_store(&sandbox).await?;
        sandbox
            .kubectl(&[
                "delete",
                "backuprun/first",
                "backupsource/shop",
                "backupstore/offsite",
                "--wait=false",
            ])
            .await?;
        sandbox.until_gone::<BackupRun>("first", 60).await?;
        sandbox.until_gone::<BackupSource>("shop", 60).await?;
        sandbox.until_gone::<BackupStore>("offsite", 60).await?;
        ensure!(in_store(&sandbox).await? == lying, "data went with the objects");

        // The same objects, with other UIDs: the place is theirs still, and all of it is told again.
        sandbox.store("{none: {}}").await?;
        sandbox.source("shop", "databases: {include: [shop]}").await?;
        let after = sandbox
            .catalogue("shop", "offsite", 120, "there again", |entry| entry.copies == 1)
            .await?;
        ensure!(after.newest_copies == before.newest_copies, "{after:?}, was {before:?}");
        sandbox.start_run("first", "shop", "").await?;
        let again = sandbox.run_succeeded("first", 120).await?;
        let digest = |status: &BackupRunStatus| status.copy.as_ref().map(|copy| copy.manifest_digest.clone());
        ensure!(
            again.reason == Some(Reason::AlreadyDone) && digest(&again) == first.status.as_ref().and_then(digest),
            "{again:?}"
        );
        Ok(())
    });
}

#[test]
fn a_run_that_lost_its_status_starts_nothing_again() {
    sandbox::run("status-lost", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let first = sandbox.back_up("first", "shop").await?;
        let parts = "find /data/backups/e2e/data -type f | sort | md5sum";
        let before = sandbox.exec("s3", &["sh", "-c", parts], "").await?;
        sandbox.kubectl(&["delete", "backuprun", "first"]).await?;
        database.sql("postgres", "drop database shop").await?;
        sandbox.start_run("first", "shop", "").await?;
        let again = sandbox
            .until::<BackupRun>("first", 200, "ended anew", |run| {
                run.uid() != first.uid() && run.status.as_ref().is_some_and(|status| status.phase.ended())
            })
            .await?;
        let status = again.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Succeeded, Some(Reason::AlreadyDone)),
            "{status:?}"
        );
        let digest = |run: &Option<holdfast_crds::BackupRunStatus>| {
            run.as_ref().and_then(|status| status.copy.clone()).map(|copy| copy.manifest_digest)
        };
        ensure!(digest(&Some(status)) == digest(&first.status), "another copy was made");
        ensure!(sandbox.exec("s3", &["sh", "-c", parts], "").await? == before, "data was written");
        Ok(())
    });
}

#[test]
fn a_run_by_hand_with_a_taken_name_is_the_run_that_is_there() {
    sandbox::run("same-name", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        sandbox.start_run("first", "shop", "").await?;
        let runs = sandbox.api::<BackupRun>().list(&ListParams::default()).await?;
        ensure!(runs.items.len() == 1, "{}", runs.items.len());
        let changed = sandbox.start_run("first", "another", "").await;
        let refusal = format!("{:?}", changed.err().context("a run's source was changed")?);
        ensure!(refusal.contains("make a new run with another name"), "{refusal}");
        Ok(())
    });
}
