//! The main job: a copy is made, and what is restored from it is equal.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{Reason, RunPhase};
use holdfast_e2e::sandbox::{self, Sandbox};

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
    let request = sandbox.restore_ended("back", 300).await?;
    let status = request.status.context("status")?;
    ensure!(
        (status.phase, status.reason) == (RunPhase::Succeeded, Some(Reason::Succeeded)),
        "{status:?}"
    );
    let after = database.checksums("shop").await?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    ensure!(before.lines().count() > 15, "{before}");
    Ok(())
}

#[test]
fn backup_and_restore_are_equal_by_checksums() {
    sandbox::run("equal", |sandbox| async move { restored_is_equal(&sandbox, "{none: {}}").await });
}
