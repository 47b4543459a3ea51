//! The main job: a copy is made, and what is restored from it is equal.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupSource, Reason};
use holdfast_e2e::{
    fixture::{IDENTITY, RECIPIENT, condition},
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};

/// Fills a database, copies it, drops it, restores it, and compares.
async fn restored_is_equal(sandbox: &Sandbox, encryption: &str) -> Result<()> {
    let database = sandbox.postgres("shop").await?;
    database.fill("shop", 20_000).await?;
    let before = database.checksums("shop").await?;
    sandbox.s3().await?;
    sandbox.store(encryption).await?;
    sandbox.source("shop", "databases: {include: [shop]}").await?;

    let run = sandbox.back_up("first", "shop").await?;
    let copy = run.status.as_ref().and_then(|status| status.copy.clone()).context("a copy")?;
    ensure!(
        copy.structure_checked && copy.databases == 1 && copy.database_names == ["shop"],
        "{copy:?}"
    );
    ensure!(
        copy.rows.is_some_and(|rows| rows > 25_000) && copy.raw_bytes > 1_000_000 && copy.stored_bytes > 0,
        "{copy:?}"
    );

    database.sql("postgres", "drop database shop").await?;
    sandbox.request_restore("back", "first", "shop", "").await?;
    let status = sandbox.restore_succeeded("back", 300).await?;
    ensure!(status.reason == Some(Reason::Succeeded), "{status:?}");
    let after = database.checksums("shop").await?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    ensure!(before.lines().count() > 15, "{before}");
    Ok(())
}

#[test]
fn backup_and_restore_are_equal_by_checksums() {
    sandbox::run("equal", |sandbox| async move { restored_is_equal(&sandbox, "{none: {}}").await });
}

#[test]
fn an_encrypted_copy_is_restored_with_the_stores_identity() {
    sandbox::run("equal-age", |sandbox| async move {
        sandbox.secret_of("age-key", &format!("identity: {IDENTITY}")).await?;
        restored_is_equal(
            &sandbox,
            &format!("{{age: {{recipients: [{RECIPIENT}], identitySecretName: age-key}}}}"),
        )
        .await
    });
}

#[test]
fn a_copy_under_a_passphrase_is_restored() {
    sandbox::run("equal-passphrase", |sandbox| async move {
        sandbox.secret("words", "passphrase: VALUE").await?;
        restored_is_equal(&sandbox, "{passphrase: {secretName: words}}").await
    });
}

#[test]
fn the_agent_needs_64_mib_for_a_table_of_200_mb() {
    sandbox::run("memory", |sandbox| async move {
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 1_000_000).await?;
        sandbox.s3().await?;
        sandbox.store(&format!("{{age: {{recipients: [{RECIPIENT}]}}}}")).await?;
        sandbox
            .source_with(
                "shop",
                "databases: {include: [shop]}",
                "job: {resources: {requests: {memory: 64Mi}, limits: {memory: 64Mi}}}",
            )
            .await?;
        let run = sandbox.back_up("small", "shop").await?;
        let copy = run.status.and_then(|status| status.copy).context("a copy")?;
        ensure!(copy.raw_bytes > 150_000_000, "{copy:?}");
        Ok(())
    });
}

#[test]
fn the_source_is_protected_after_its_first_run_and_the_jobs_are_removed() {
    sandbox::run("protected", |sandbox| async move {
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 10).await?;
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;
        sandbox.source("shop", "").await?;
        sandbox.often().await?;
        let source = sandbox
            .until::<BackupSource>("shop", 200, "Protected", |source| {
                source
                    .status
                    .as_ref()
                    .is_some_and(|status| condition(&status.conditions, "Protected") == Some("True"))
            })
            .await?;
        let status = source.status.context("status")?;
        let newest = status.newest_copy.context("a newest copy")?;
        ensure!(newest.run.starts_with("shop-minute-"), "{newest:?}");
        ensure!(
            status
                .next_ticks
                .first()
                .is_some_and(|next| next.schedule == "often" && next.at.len() == 5),
            "{:?}",
            status.next_ticks
        );
        sandbox
            .until_list::<Job>(&format!("holdfast.dev/run={}", newest.run), 60, "empty", <[Job]>::is_empty)
            .await?;
        sandbox
            .until_list::<Pod>(&format!("holdfast.dev/run={}", newest.run), 60, "empty", <[Pod]>::is_empty)
            .await?;
        Ok(())
    });
}
