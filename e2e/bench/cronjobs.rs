//! The peer of bar C1: the controller of Kubernetes' own CronJobs, with as many CronJobs as we have schedules and as many ended Jobs as we have runs.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};

use super::{AT_ONCE, RUNS, name, namespace, quiet, shown};
use crate::{controller::Controller, process::memory};
use holdfast_e2e::api::{ApiServer, ask};

/// What one start of the controller showed.
pub struct Round {
    /// Seconds until it has looked at everything.
    pub rest: f64,
    /// Seconds of processor time by then.
    pub cpu: f64,
    /// The most memory that it had by then, in MiB.
    pub peak: f64,
}

/// Makes CronJobs of a yearly tick, each with its ended Jobs, as their controllers leave them. The namespaces are there.
pub async fn load(client: &Client, count: usize) -> Result<()> {
    let now = Timestamp::now();
    stream::iter(0..count)
        .map(|index| async move { cron_job(client, index, now).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn cron_job(client: &Client, index: usize, now: Timestamp) -> Result<()> {
    let (name, namespace) = (name(index), namespace(index));
    let template = json!({"spec": {"backoffLimit": 3, "template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "dump", "image": "dump:1", "args": [name], "envFrom": [{"secretRef": {"name": format!("{name}-superuser")}}]}]}}}});
    let path = format!("/apis/batch/v1/namespaces/{namespace}/cronjobs");
    let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "labels": {"tier": "gold"}},
        "spec": {"schedule": "0 3 1 1 *", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": RUNS, "jobTemplate": template}});
    let made = ask(client, Method::POST, &path, &object).await?.accepted()?;
    let newest = now - SignedDuration::from_hours(2);
    let status =
        json!({"status": {"lastScheduleTime": shown(newest), "lastSuccessfulTime": shown(newest + SignedDuration::from_mins(17))}});
    ask(client, Method::PATCH, &format!("{path}/{name}/status"), &status)
        .await?
        .accepted()?;
    for age in 0..RUNS {
        let begun = newest - SignedDuration::from_hours(24 * i64::try_from(age)?);
        job(client, &made, &template, begun).await.with_context(|| name.clone())?;
    }
    Ok(())
}

/// A Job of a CronJob that succeeded.
async fn job(client: &Client, cron_job: &Value, template: &Value, begun: Timestamp) -> Result<()> {
    let (owner, uid) = (&cron_job["metadata"]["name"], &cron_job["metadata"]["uid"]);
    let name = format!("{}-{}", owner.as_str().context("a name")?, begun.as_second() / 60);
    let namespace = cron_job["metadata"]["namespace"].as_str().context("a namespace")?;
    let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    let object = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"], "metadata": {"name": name, "ownerReferences": [
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": owner, "uid": uid, "controller": true, "blockOwnerDeletion": true}]}});
    ask(client, Method::POST, &path, &object).await?.accepted()?;
    let (begun, ended) = (shown(begun), shown(begun + SignedDuration::from_mins(17)));
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods",
        "lastProbeTime": ended, "lastTransitionTime": ended})
    };
    let status = json!({"status": {"startTime": begun, "completionTime": ended, "succeeded": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {},
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}});
    ask(client, Method::PATCH, &format!("{path}/{name}/status"), &status)
        .await?
        .accepted()?;
    Ok(())
}

/// Starts the controller alone on what is at rest, and waits until it has looked at everything.
pub async fn round(server: &ApiServer) -> Result<Round> {
    let began = Instant::now();
    let mut controller = Controller::start(server.kubeconfig(), &[])?;
    let pid = controller.0.id();
    let (rest, cpu) = quiet(pid, began).await?;
    ensure!(controller.0.try_wait()?.is_none(), "the controller of CronJobs ended");
    Ok(Round {
        rest,
        cpu,
        peak: memory(pid, "VmHWM")?,
    })
}
