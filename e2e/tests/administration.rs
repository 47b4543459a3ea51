//! What an administrator does with the chart while runs are at work. These tests come first: they make the operator's rights anew, and those after
//! them use all of them.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupSource, BackupStore, RunPhase};
use holdfast_e2e::{
    helm::{helm, run, say},
    operator::{Operator, script},
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::batch::v1::Job;
use kube::{ResourceExt, api::ListParams};

const RELEASE: &str = "--namespace=holdfast-system";

/// Installs the chart as all tests expect it.
async fn install(arguments: &[&str]) -> Result<()> {
    script("e2e/tools/install.sh", arguments, &[]).await.map(drop)
}

fn uninstall() -> Result<()> {
    run(&mut helm(None, ["uninstall", "holdfast", RELEASE, "--wait"])).map(drop)
}

#[test]
fn a_run_in_flight_outlives_uninstalling_and_installing_again() {
    sandbox::run_alone("reinstall", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        let database = sandbox.prepared(100).await?;
        let first = sandbox.back_up("first", "shop").await?;
        let (lock, _) = database.held_dump("second", "").await?;
        let before = sandbox.api::<BackupRun>().get("second").await?;

        uninstall()?;
        let outcome = without_an_operator(&sandbox, lock).await;
        install(&[]).await?;
        operator.until_ready(2).await?;
        outcome?;

        let second = sandbox.run_ended("second", 200).await?;
        ensure!(second.uid() == before.uid(), "another object of this name");
        let status = second.status.context("status")?;
        ensure!(status.phase == RunPhase::Succeeded && status.attempts.len() == 1, "{status:?}");
        let registers = "cd /data/backups/e2e/catalog && find . -name outcome.json | sort && find . -name 'key-*' | wc -l";
        let found = sandbox.exec("s3", &["sh", "-c", registers], "").await?;
        let place = format!("./{}/shop", sandbox.namespace);
        ensure!(
            found == format!("{place}/first/outcome.json\n{place}/second/outcome.json\n0\n"),
            "{found}"
        );

        // Nothing is lost from sight: the older run, and the newest copy of the source, are as they were.
        let kept = sandbox.api::<BackupRun>().get("first").await?;
        ensure!((kept.uid(), &kept.status) == (first.uid(), &first.status), "{:?}", kept.status);
        sandbox
            .until::<BackupSource>("shop", 60, "the newest copy", |source| {
                let newest = source.status.as_ref().and_then(|status| status.newest_copy.as_ref());
                newest.is_some_and(|newest| newest.run == "second")
            })
            .await?;
        database.sql("postgres", "drop database shop").await?;
        sandbox.request_restore("back", "second", "shop", "").await?;
        sandbox.restore_succeeded("back", 200).await?;
        Ok(())
    });
}

/// The Job goes on and commits; nobody reads its result.
async fn without_an_operator(sandbox: &Sandbox, lock: holdfast_e2e::fixture::HeldLock<'_>) -> Result<()> {
    lock.release().await?;
    sandbox
        .until_list::<Job>("holdfast.dev/run=second", 120, "succeeded", |jobs| {
            jobs.iter()
                .any(|job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1)))
        })
        .await?;
    let run = sandbox.api::<BackupRun>().get("second").await?;
    ensure!(
        run.status.is_some_and(|status| !status.phase.ended()),
        "who wrote that it has ended?"
    );
    Ok(())
}

#[test]
fn definitions_that_were_deleted_take_no_data_with_them_and_all_is_in_view_again_after_applying() {
    sandbox::run_alone("definitions", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        // So that a keeper looks at once.
        sandbox.yearly("yearly", "{name: offsite}").await?;
        let before = sandbox
            .catalogue("shop", "offsite", 120, "there", |entry| entry.copies == 1)
            .await?;
        let list = "cd /data/backups/e2e && find catalog data owner -type f | sort";
        let lying = sandbox.exec("s3", &["sh", "-c", list], "").await?;

        let all = sandbox.kubectl(&["get", "customresourcedefinitions", "-o", "name"]).await?;
        let ours: Vec<_> = all.lines().filter(|name| name.ends_with(".holdfast.dev")).collect();
        ensure!(ours.len() > 8, "{ours:?}");
        for name in &ours {
            let plural = name.rsplit('/').next().and_then(|name| name.split('.').next()).context("plural")?;
            sandbox
                .kubectl(&["annotate", "--overwrite", name, &format!("holdfast.dev/delete={plural}")])
                .await?;
        }
        let deleted = sandbox.kubectl(&[&["delete", "--timeout=60s"], ours.as_slice()].concat()).await;
        install(&[]).await?;
        operator.until_ready(2).await?;
        deleted.context("definitions do not go within a minute")?;

        ensure!(
            sandbox.exec("s3", &["sh", "-c", list], "").await? == lying,
            "data went with the definitions"
        );
        ensure!(
            sandbox.api::<BackupRun>().list(&ListParams::default()).await?.items.is_empty(),
            "runs are there still"
        );
        sandbox.store("{none: {}}").await?;
        sandbox.source("shop", "databases: {include: [shop]}").await?;
        let after = sandbox
            .catalogue("shop", "offsite", 120, "there again", |entry| entry.copies == 1)
            .await?;
        ensure!(after.newest_copies == before.newest_copies, "{after:?}, was {before:?}");
        sandbox.back_up("second", "shop").await?;
        Ok(())
    });
}

/// With Roles in one namespace and no ClusterRole, the operator makes a copy and restores it there, and leaves other namespaces alone.
#[test]
fn a_release_for_one_namespace_backs_up_and_restores_there_and_nowhere_else() {
    sandbox::run_alone("namespaced", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        let elsewhere = Sandbox::new("elsewhere").await?;
        let namespaces = format!("namespaces={{{}}}", sandbox.namespace);
        let refused =
            say(helm(None, ["upgrade", "holdfast", RELEASE, "--dry-run=client", "--set", &namespaces]).arg(holdfast_e2e::helm::chart()))?;
        ensure!(
            !refused.succeeded && refused.err.contains("clusterId"),
            "{}{}",
            refused.out,
            refused.err
        );
        let outcome = async {
            install(&["--set", &namespaces, "--set", "clusterId=e2e-namespaced"]).await?;
            operator.until_ready(2).await?;
            served(&sandbox, &elsewhere).await
        }
        .await;
        // As it was: helm forgets what is not said.
        install(&[]).await?;
        operator.until_ready(2).await?;
        outcome?;
        elsewhere.store_ready("offsite").await?;
        elsewhere.delete().await;
        Ok(())
    });
}

async fn served(sandbox: &Sandbox, elsewhere: &Sandbox) -> Result<()> {
    elsewhere.s3().await?;
    elsewhere
        .apply("apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: offsite}\nspec: {s3: {bucket: backups, endpoint: 'http://s3:7070'}, credentials: {secretName: s3}, encryption: {none: {}}}\n")
        .await?;
    let database = sandbox.prepared(100).await?;
    let before = database.checksums("shop").await?;
    sandbox.back_up("first", "shop").await?;
    database.sql("postgres", "drop database shop").await?;
    sandbox.request_restore("back", "first", "shop", "").await?;
    sandbox.restore_succeeded("back", 200).await?;
    ensure!(database.checksums("shop").await? == before, "what was restored differs");
    let store = sandbox.api::<BackupStore>().get("offsite").await?;
    let owner = store.status.and_then(|status| status.probe?.report?.owner).context("an owner")?;
    ensure!(owner.contains("e2e-namespaced"), "{owner}");

    let alone = elsewhere.api::<BackupStore>().get("offsite").await?;
    ensure!(alone.status.is_none(), "another namespace's store was touched: {:?}", alone.status);
    ensure!(
        elsewhere.api::<Job>().list(&ListParams::default()).await?.items.is_empty(),
        "a Job was made there"
    );
    Ok(())
}
