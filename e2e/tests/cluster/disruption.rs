//! Whatever is killed, whenever: the run is continued, settled or failed with a reason; never stuck, never doubled.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, Reason, RunPhase, Settle};
use holdfast_e2e::{
    fixture::{Database, HeldLock, running},
    operator::script,
    sandbox::{self, Sandbox, unique},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::{Mutex, MutexGuard};

/// How many registers of the run exist in the store, and what the one says.
async fn register(sandbox: &Sandbox, run: &str) -> Result<String> {
    let path = format!("/data/backups/e2e/catalog/{}/shop/{run}/outcome.json", sandbox.namespace);
    sandbox.exec("s3", &["cat", &path], "").await
}

/// How many attempts the run has had so far.
async fn attempts(sandbox: &Sandbox, run: &str) -> Result<usize> {
    let run = sandbox.api::<BackupRun>().get(run).await?;
    Ok(run.status.map_or(0, |status| status.attempts.len()))
}

#[test]
fn the_s3_server_is_killed_in_mid_upload_and_comes_back() {
    sandbox::run("s3-killed", |sandbox| async move {
        let database = sandbox.prepared(1_000_000).await?;
        let before = database.checksums("shop").await?;
        sandbox.start_run("first", "shop", "").await?;
        let kill = "until find /data/backups/.sgwtmp -type f -size +1M 2>/dev/null | grep -q .; do :; done; kill -9 -1 2>/dev/null; kill 1";
        // The command dies with the container, so its exit code says nothing.
        let _ = sandbox.exec("s3", &["sh", "-c", kill], "").await;
        sandbox
            .until::<Pod>("s3", 60, "restarted", |pod| {
                let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
                containers.is_some_and(|containers| containers.iter().any(|container| container.restart_count > 0 && container.ready))
            })
            .await?;
        sandbox.run_succeeded("first", 500).await?;
        database.sql("postgres", "drop database shop").await?;
        sandbox.request_restore("back", "first", "shop", "").await?;
        sandbox.restore_succeeded("back", 300).await?;
        ensure!(database.checksums("shop").await? == before, "what was restored differs");
        Ok(())
    });
}

#[test]
fn the_agents_pod_is_deleted_in_mid_run() {
    sandbox::run("pod-deleted", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "").await?;
        sandbox.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?;
        let run = sandbox
            .until::<BackupRun>("first", 120, "failed once", |run| {
                run.status
                    .as_ref()
                    .is_some_and(|status| status.attempts.first().is_some_and(|attempt| attempt.reason.is_some()))
            })
            .await?;
        let reason = run.status.and_then(|status| status.attempts[0].reason);
        ensure!(matches!(reason, Some(Reason::PodDeleted | Reason::Interrupted)), "{reason:?}");
        lock.release().await?;
        let status = sandbox.run_succeeded("first", 300).await?;
        ensure!(status.attempts.len() == 2, "{:?}", status.attempts);
        let sessions = database
            .sql(
                "postgres",
                "select count(*) from pg_stat_activity where datname = 'shop' and pid <> pg_backend_pid()",
            )
            .await?;
        ensure!(sessions == "0", "{sessions} sessions were left behind");
        Ok(())
    });
}

/// The same pod once more under another name, as Kubernetes may start it, or as a node that was thought dead goes on with it.
async fn doubled(sandbox: &Sandbox, pod: &str) -> Result<()> {
    let mut twin = sandbox.api::<Pod>().get(pod).await?;
    twin.metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: Some("twin".to_owned()),
        annotations: twin.metadata.annotations.clone(),
        ..Default::default()
    };
    twin.status = None;
    if let Some(spec) = &mut twin.spec {
        spec.node_name = None;
    }
    sandbox.api::<Pod>().create(&PostParams::default(), &twin).await?;
    sandbox.until::<Pod>("twin", 60, "running", running).await?;
    Ok(())
}

fn ended(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")))
}

fn message(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses
        .iter()
        .find_map(|status| status.state.as_ref()?.terminated.as_ref()?.message.clone())
}

#[test]
fn two_pods_of_one_job_give_one_outcome() {
    sandbox::run("two-pods", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "").await?;
        doubled(&sandbox, &pod).await?;
        lock.release().await?;
        let twin = sandbox.until::<Pod>("twin", 120, "ended", ended).await?;
        let status = sandbox.run_succeeded("first", 200).await?;
        let register: serde_json::Value = serde_json::from_str(&register(&sandbox, "first").await?)?;
        let winner = register["by"].as_str().context("by")?;
        let said = message(&twin).context("the twin left no result")?;
        let result: serde_json::Value = serde_json::from_str(&said)?;
        ensure!(matches!(result["reason"].as_str(), Some("Succeeded" | "AlreadyDone")), "{said}");
        ensure!(
            (result["reason"] == "Succeeded") == (Some(winner) == twin.metadata.uid.as_deref()),
            "{said} but {winner} won"
        );
        ensure!(
            result["copy"]["manifestDigest"].as_str() == status.copy.as_ref().map(|copy| copy.manifest_digest.as_str()),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn a_zombie_cannot_commit_after_its_run_was_given_up() {
    sandbox::run("zombie", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "").await?;
        doubled(&sandbox, &pod).await?;
        sandbox
            .kubectl(&["patch", "backuprun", "first", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#])
            .await?;
        let status = sandbox.run_ended("first", 120).await?.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Cancelled, Some(Reason::Cancelled)),
            "{status:?}"
        );
        lock.release().await?;
        let twin = sandbox.until::<Pod>("twin", 120, "ended", ended).await?;
        let said = message(&twin).context("the zombie left no result")?;
        ensure!(said.contains("\"Abandoned\""), "{said}");
        let register: serde_json::Value = serde_json::from_str(&register(&sandbox, "first").await?)?;
        ensure!(
            register.get("manifest").is_none() && register["abandonment"].is_object(),
            "{register}"
        );
        Ok(())
    });
}

/// The node that tests may take down (`e2e/cluster`): only pods that tolerate it run there.
const SPARE: &str = "node2";
/// The label by which agents find their node.
const AGENTS: &str = "holdfast-e2e/agents";

/// One test at a time has the spare node.
async fn spare_node() -> MutexGuard<'static, ()> {
    static SPARE_NODE: Mutex<()> = Mutex::const_new(());
    SPARE_NODE.lock().await
}

/// Lets the agents of the source `shop` run on a node, or no longer.
async fn agents_on(sandbox: &Sandbox, node: &str, run: bool) -> Result<()> {
    let label = serde_json::json!({"metadata": {"labels": {AGENTS: run.then_some(&sandbox.namespace)}}});
    let nodes: Api<Node> = Api::all(sandbox.client.clone());
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&label)).await?;
    Ok(())
}

/// A run `first` that waits in its dump on the spare node, with database and store on another.
async fn dumping_on_the_spare_node<'a>(sandbox: &'a Sandbox, database: &'a Database<'a>) -> Result<HeldLock<'a>> {
    let job = serde_json::json!({"spec": {"job": {"nodeSelector": {AGENTS: sandbox.namespace},
        "tolerations": [{"key": "holdfast-e2e/spare", "operator": "Exists"}]}}});
    sandbox
        .kubectl(&["patch", "backupsource", "shop", "--type=merge", "-p", &job.to_string()])
        .await?;
    agents_on(sandbox, SPARE, true).await?;
    let (lock, pod) = database.held_dump("first", "").await?;
    let node = sandbox.api::<Pod>().get(&pod).await?.spec.and_then(|spec| spec.node_name);
    ensure!(node.as_deref() == Some(SPARE), "{node:?}");
    Ok(lock)
}

#[test]
fn a_kubelet_that_restarts_in_mid_run_changes_nothing() {
    sandbox::run("kubelet", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let _spare = spare_node().await;
        let lock = dumping_on_the_spare_node(&sandbox, &database).await?;
        // The attempt that is at work: a busy machine may have cost one before it, while the database's Service was new.
        let at_work = attempts(&sandbox, "first").await?;
        script("e2e/cluster/node.sh", &["restart-kubelet", SPARE], &[]).await?;
        lock.release().await?;
        let status = sandbox.run_succeeded("first", 300).await?;
        ensure!(status.attempts.len() == at_work, "{at_work} before: {:?}", status.attempts);
        agents_on(&sandbox, SPARE, false).await
    });
}

#[test]
fn a_node_that_is_lost_in_mid_run_does_not_stop_the_run() {
    sandbox::run("node-lost", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let _spare = spare_node().await;
        let lock = dumping_on_the_spare_node(&sandbox, &database).await?;
        script("e2e/cluster/node.sh", &["stop", SPARE], &[]).await?;
        let outcome = node_is_lost(&sandbox, lock).await;
        script("e2e/cluster/node.sh", &["start", SPARE], &[]).await?;
        agents_on(&sandbox, SPARE, false).await?;
        agents_on(&sandbox, "node1", false).await?;
        outcome
    });
}

async fn node_is_lost(sandbox: &Sandbox, lock: HeldLock<'_>) -> Result<()> {
    let run = sandbox
        .until::<BackupRun>("first", 300, "failed once", |run| {
            run.status
                .as_ref()
                .is_some_and(|status| status.attempts.first().is_some_and(|attempt| attempt.reason.is_some()))
        })
        .await?;
    let reason = run.status.and_then(|status| status.attempts[0].reason);
    ensure!(reason == Some(Reason::NodeLost), "{reason:?}");
    lock.release().await?;
    agents_on(sandbox, "node1", true).await?;
    let status = sandbox.run_succeeded("first", 400).await?;
    ensure!(status.attempts.len() == 2, "{:?}", status.attempts);
    Ok(())
}

#[test]
fn a_deleted_job_is_noticed_and_the_run_goes_on() {
    sandbox::run("job-deleted", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "").await?;
        let job = sandbox
            .api::<Pod>()
            .get(&pod)
            .await?
            .labels()
            .get("batch.kubernetes.io/job-name")
            .cloned()
            .context("job")?;
        sandbox.kubectl(&["delete", "job", &job, "--wait=false"]).await?;
        lock.release().await?;
        let status = sandbox.run_succeeded("first", 300).await?;
        ensure!(status.attempts.len() <= 2, "{:?}", status.attempts);
        Ok(())
    });
}

/// The agent's pod and the store are gone at once, so nobody can say whether the copy was committed. Meanwhile a pod of the same Job, which
/// nobody sees any more, commits it.
#[test]
fn an_outcome_that_nobody_can_tell_is_unknown_until_the_store_is_back() {
    sandbox::run("unknown", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "attempts: 1").await?;
        doubled(&sandbox, &pod).await?;
        store_answers(&sandbox, false).await?;
        sandbox.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"]).await?;
        sandbox
            .until::<BackupRun>("first", 120, "settling", |run| {
                run.status.as_ref().is_some_and(|status| status.phase == RunPhase::Settling)
            })
            .await?;
        // A quarter of an hour passes in which no settle Job has an answer.
        in_settle(&sandbox, "first", |settle| {
            settle.failures = 3;
            settle.started_at = Some(ago(15));
        })
        .await?;
        let unknown = sandbox.run_ended("first", 60).await?.status.context("status")?;
        ensure!(
            (unknown.phase, unknown.reason) == (RunPhase::Failed, Some(Reason::OutcomeUnknown)),
            "{unknown:?}"
        );
        ensure!(unknown.copy.is_none(), "{unknown:?}");
        // While a pod of a settle Job is still there it could close the register.
        sandbox
            .until_list::<Pod>("holdfast.dev/run=first", 60, "empty", <[Pod]>::is_empty)
            .await?;

        store_answers(&sandbox, true).await?;
        lock.release().await?;
        let twin = sandbox.until::<Pod>("twin", 120, "ended", ended).await?;
        let said = message(&twin).context("the twin left no result")?;
        ensure!(said.contains("\"Succeeded\""), "{said}");
        // An hour passes.
        in_settle(&sandbox, "first", |settle| settle.finished_at = Some(ago(61))).await?;
        let known = sandbox
            .until::<BackupRun>("first", 120, "known", |run| {
                run.status.as_ref().is_some_and(|status| status.phase == RunPhase::Succeeded)
            })
            .await?;
        let status = known.status.context("status")?;
        let register: serde_json::Value = serde_json::from_str(&register(&sandbox, "first").await?)?;
        ensure!(register["by"].as_str() == twin.metadata.uid.as_deref(), "{register}");
        ensure!(status.copy.is_some() && status.attempts.len() == 1, "{status:?}");
        Ok(())
    });
}

/// Takes the S3 server's name from its pod, or gives it back: its data stays.
async fn store_answers(sandbox: &Sandbox, answers: bool) -> Result<()> {
    let selector = if answers { "s3" } else { "nobody" };
    let patch = serde_json::json!({"spec": {"selector": {"app": selector}}}).to_string();
    sandbox.kubectl(&["patch", "service", "s3", "-p", &patch]).await.map(drop)
}

fn ago(minutes: i64) -> String {
    (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes))
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Sets the hands of the run's clock, as its operator would have written it.
async fn in_settle(sandbox: &Sandbox, run: &str, set: impl FnOnce(&mut Settle)) -> Result<()> {
    let mut found = sandbox.api::<BackupRun>().get(run).await?;
    let status = found.status.as_mut().context("status")?;
    set(status.settle.as_mut().context("no settle Job was made")?);
    let object =
        serde_json::json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": run}, "status": status});
    let parameters = PatchParams::apply("holdfast-operator").force();
    // Nobody else may.
    let operator = sandbox.as_user("system:serviceaccount:holdfast-system:holdfast", &[]).await?;
    operator
        .api::<BackupRun>()
        .patch_status(run, &parameters, &Patch::Apply(&object))
        .await?;
    let runs = sandbox.api::<BackupRun>();
    // The operator does not look at a run for its status, which nobody else writes; for a label it does.
    let label = serde_json::json!({"metadata": {"labels": {"looked-at": unique()}}});
    runs.patch(run, &PatchParams::default(), &Patch::Merge(&label)).await?;
    Ok(())
}
