//! Other places for copies than a bucket with static keys.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupStore, Reason};
use holdfast_e2e::{
    fixture::RECIPIENT,
    sandbox::{self, Sandbox},
};

/// The kind of file system of a folder.
fn file_system(folder: &Path) -> Result<String> {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A folder of this machine, which is also that of the nodes of the test cluster, on a disk.
fn disk() -> Result<PathBuf> {
    let candidates = ["/var/tmp".into(), std::env::temp_dir(), std::env::current_dir()?];
    for folder in &candidates {
        if !matches!(file_system(folder)?.as_str(), "tmpfs" | "ramfs" | "overlayfs") {
            return Ok(folder.clone());
        }
    }
    anyhow::bail!("none of {candidates:?} lies on a disk")
}

/// A claim of this name to a folder of the node `node1`, which is made. With `CLUSTER=current` it is a claim of the default storage class, and there is no folder.
async fn claim(sandbox: &Sandbox, name: &str, within: &Path) -> Result<Option<PathBuf>> {
    let current = std::env::var("CLUSTER").is_ok_and(|cluster| cluster == "current");
    let unique = format!("{}-{name}", sandbox.namespace);
    let class = if current {
        String::new()
    } else {
        format!("storageClassName: {unique}, ")
    };
    sandbox
        .apply(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{{class}accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n"
        ))
        .await?;
    if current {
        return Ok(None);
    }
    let folder = within.join(&unique);
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o770))?;
    sandbox
        .apply(&format!(
            r"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {unique}}}
spec:
  storageClassName: {unique}
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {{path: {}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node1]}}]}}]}}}}
",
            folder.display()
        ))
        .await?;
    Ok(Some(folder))
}

async fn store(sandbox: &Sandbox, name: &str, claim: &str) -> Result<()> {
    sandbox
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {{name: {name}}}\nspec: {{volume: {{claimName: {claim}, path: prod}}, encryption: {{age: {{recipients: [{RECIPIENT}], identitySecretName: age-key}}}}}}\n"
        ))
        .await
}

/// The message of the condition `Ready` once it has this reason.
async fn refused(sandbox: &Sandbox, name: &str, reason: Reason) -> Result<String> {
    let store = sandbox
        .until::<BackupStore>(name, 120, reason.as_str(), |store| {
            let conditions = store.status.as_ref().map(|status| &status.conditions);
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|one| one.type_ == "Ready" && one.status == "False" && one.reason == reason.as_str())
            })
        })
        .await?;
    let conditions = store.status.context("status")?.conditions;
    Ok(conditions.into_iter().find(|one| one.type_ == "Ready").context("Ready")?.message)
}

#[test]
fn a_volume_keeps_copies_and_one_that_forgets_or_belongs_to_another_is_refused() {
    sandbox::run("volume", |sandbox| async move {
        let mut folders = Vec::new();
        let outcome = volume(&sandbox, &mut folders).await;
        for folder in folders {
            sandbox
                .kubectl(&[
                    "delete",
                    "pv",
                    &folder.file_name().context("name")?.to_string_lossy(),
                    "--wait=false",
                ])
                .await?;
            std::fs::remove_dir_all(folder)?;
        }
        outcome
    });
}

async fn volume(sandbox: &Sandbox, folders: &mut Vec<PathBuf>) -> Result<()> {
    sandbox
        .secret_of("age-key", &format!("identity: {}", holdfast_e2e::fixture::IDENTITY))
        .await?;
    let place = claim(sandbox, "disk", &disk()?).await?;
    folders.extend(place.clone());
    store(sandbox, "disk", "disk").await?;
    let memory = claim(sandbox, "memory", Path::new("/dev/shm")).await?;
    folders.extend(memory.clone());
    if memory.is_some() {
        store(sandbox, "memory", "memory").await?;
    }
    store(sandbox, "missing", "not-there").await?;

    let database = sandbox.postgres("shop").await?;
    database.fill("shop", 20_000).await?;
    let before = database.checksums("shop").await?;
    sandbox.source("shop", "databases: {include: [shop]}").await?;
    sandbox.store_ready("disk").await?;
    store(sandbox, "second", "disk").await?;
    sandbox.start_run_to("disk", "first", "shop", "").await?;
    sandbox.run_succeeded("first", 200).await?;
    if let Some(place) = &place {
        let outcome = place.join(format!("prod/catalog/{}/shop/first/outcome.json", sandbox.namespace));
        let outcome: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(outcome)?)?;
        ensure!(outcome["manifest"].is_object(), "{outcome}");
    }
    database.sql("postgres", "drop database shop").await?;
    sandbox.request_restore("back", "first", "shop", "").await?;
    sandbox.restore_succeeded("back", 200).await?;
    ensure!(database.checksums("shop").await? == before, "what was restored differs");

    if memory.is_some() {
        let message = refused(sandbox, "memory", Reason::InvalidSpec).await?;
        ensure!(message.contains("tmpfs"), "{message}");
    }
    let message = refused(sandbox, "second", Reason::LocationTaken).await?;
    ensure!(message.contains(&format!("{}/disk", sandbox.namespace)), "{message}");
    let message = refused(sandbox, "missing", Reason::VolumeMountFailed).await?;
    ensure!(message.contains("not-there"), "{message}");
    // To a store that was refused no copy is written.
    sandbox.start_run_to("second", "refused", "shop", "").await?;
    let status = sandbox
        .until::<holdfast_crds::BackupRun>("refused", 60, "waiting", |run| {
            run.status
                .as_ref()
                .is_some_and(|status| status.reason == Some(Reason::LocationTaken))
        })
        .await?
        .status
        .context("status")?;
    ensure!(status.attempts.is_empty(), "{status:?}");
    Ok(())
}
