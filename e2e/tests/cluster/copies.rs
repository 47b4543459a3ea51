//! Copies in several stores.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupSource, ReplicaState, RunPhase};
use holdfast_e2e::{
    fixture::{IDENTITY, RECIPIENT, condition},
    sandbox::{self, Sandbox},
};

async fn store(sandbox: &Sandbox, name: &str, server: &str) -> Result<()> {
    sandbox
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupStore
metadata: {{name: {name}}}
spec:
  s3: {{bucket: backups, prefix: {name}, endpoint: 'http://{server}:7070'}}
  credentials: {{secretName: s3}}
  encryption: {{age: {{recipients: [{RECIPIENT}], identitySecretName: age-key}}}}
"
        ))
        .await
}

/// Waits until this store has the run's copy.
async fn copied(sandbox: &Sandbox, run: &str, store: &str) -> Result<BackupRun> {
    let there = |run: &BackupRun| {
        let mut places = run.status.iter().flat_map(|status| &status.stores);
        places.any(|place| place.name == store && place.state == ReplicaState::Present)
    };
    sandbox.until::<BackupRun>(run, 120, "copied", there).await
}

#[test]
fn a_copy_goes_to_each_store_and_is_restored_from_the_second_when_the_first_is_gone() {
    sandbox::run("copies", |sandbox| async move {
        let begun = Instant::now();
        let (database, servers) = tokio::join!(sandbox.postgres("shop"), async {
            sandbox.s3().await?;
            sandbox.s3_server("s3-vault").await
        });
        let database = database?;
        servers?;
        sandbox.secret_of("age-key", &format!("identity: {IDENTITY}")).await?;
        store(&sandbox, "offsite", "s3").await?;
        store(&sandbox, "vault", "s3-vault").await?;
        database.fill("shop", 2_000).await?;
        let before = database.checksums("shop").await?;
        sandbox.source("shop", "databases: {include: [shop]}").await?;
        sandbox.store_ready("offsite").await?;
        sandbox.store_ready("vault").await?;

        // A copy from the time of one store, made by a schedule.
        sandbox.yearly("gold", "{name: offsite}").await?;
        sandbox.start_run_of("gold", "old", "shop").await?;
        sandbox.run_succeeded("old", 120).await?;

        // The store that is added gets it.
        sandbox.yearly("gold", "{name: offsite}, {name: vault}").await?;
        copied(&sandbox, "old", "vault").await?;
        let bytes = |prefix: &str| {
            format!(
                "cd /data/backups/{prefix} && find data/{0}/shop/old catalog/{0}/shop/old -type f ! -name '*.json' -exec md5sum {{}} + | sort -k 2",
                sandbox.namespace
            )
        };
        let here = sandbox.exec("s3", &["sh", "-c", &bytes("offsite")], "").await?;
        let there = sandbox.exec("s3-vault", &["sh", "-c", &bytes("vault")], "").await?;
        ensure!(here == there && here.lines().count() >= 5, "{here}\nin the other store:\n{there}");

        // A new one goes to the primary, and from there to the other.
        sandbox.start_run_of("gold", "new", "shop").await?;
        sandbox.run_succeeded("new", 120).await?;
        let status = copied(&sandbox, "new", "vault").await?.status.context("status")?;
        ensure!(
            status.phase == RunPhase::Succeeded && status.stores_shown.as_deref() == Some("offsite,vault (2/2)"),
            "{status:?}"
        );
        ensure!(
            status.frozen.as_ref().is_some_and(|frozen| frozen.store.name == "offsite"),
            "the first is the primary: {status:?}"
        );
        ensure!(
            condition(&status.conditions, "Replicated") == Some("True"),
            "{:?}",
            status.conditions
        );
        sandbox
            .until::<BackupSource>("shop", 60, "Replicated", |source| {
                let status = source.status.as_ref();
                status.is_some_and(|status| condition(&status.conditions, "Replicated") == Some("True") && status.missing_copies == Some(0))
            })
            .await?;

        // The first store is lost with all that is in it; what the second has is whole.
        sandbox.kubectl(&["delete", "pod", "s3", "--force", "--grace-period=0"]).await?;
        sandbox
            .apply(
                r"
apiVersion: holdfast.dev/v1alpha1
kind: RestoreRequest
metadata: {name: back}
spec:
  from: {run: {name: new, store: {name: vault}}}
  to: {postgresql: {hosts: ['shop:5432'], version: 15, credentials: {secretName: shop}, tls: {mode: Disable}}}
  select: {rename: {shop: again}}
",
            )
            .await?;
        let restored = sandbox.restore_succeeded("back", 120).await?;
        ensure!(
            restored.frozen.as_ref().is_some_and(|frozen| frozen.store.name == "vault"),
            "{restored:?}"
        );
        ensure!(database.checksums("again").await? == before, "the restored database differs");
        eprintln!("took {:?}", begun.elapsed());
        Ok(())
    });
}
