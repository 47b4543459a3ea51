//! The peer of bar C3: as many CronJobs, all due in one minute as well, and their controller.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use serde_json::json;
use tokio::time::timeout;

use super::{AT_ONCE, PER_NAMESPACE, due_minute};
use crate::{controller::Controller, process::LIMIT};
use holdfast_e2e::api::{ApiServer, ask};

/// Label of the Jobs of these CronJobs.
const LABEL: &str = "bench.holdfast.dev/peer";

/// Seconds from the tick to the Job of each CronJob. The namespaces are there. The controller makes at most `calls` calls a second; 0 for what is its
/// own default.
pub async fn waits(client: &Client, server: &ApiServer, count: usize, calls: u64) -> Result<Vec<f64>> {
    let limits = [format!("--kube-api-qps={calls}"), format!("--kube-api-burst={calls}")];
    let limits: Vec<&str> = limits.iter().map(String::as_str).filter(|_| calls > 0).collect();
    let _controller = Controller::start(server.kubeconfig(), &limits)?;
    let tick = due_minute(count)?;
    let cron = tick.strftime("%M %H * * *").to_string();
    stream::iter(0..count)
        .map(|index| {
            let (namespace, name) = (format!("team-{}", index / PER_NAMESPACE), format!("database-{index:05}"));
            let pod = json!({"restartPolicy": "Never", "containers": [{"name": "dump", "image": "dump:1", "args": [name]}]});
            let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
                "spec": {"schedule": cron, "timeZone": "Etc/UTC", "concurrencyPolicy": "Forbid",
                    "jobTemplate": {"metadata": {"labels": {LABEL: "true"}}, "spec": {"template": {"spec": pod}}}}});
            let path = format!("/apis/batch/v1/namespaces/{namespace}/cronjobs");
            async move { ask(client, Method::POST, &path, &object).await?.accepted() }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    ensure!(Timestamp::now() < tick, "the CronJobs were not made before their tick");
    println!("{count} CronJobs made; all are due at {tick}");
    let began = Instant::now();
    let mut seen: BTreeMap<String, f64> = BTreeMap::new();
    let mut events = pin!(watcher(Api::<Job>::all(client.clone()), watcher::Config::default().labels(LABEL)));
    while seen.len() < count {
        ensure!(began.elapsed() < LIMIT, "only {} of {count} CronJobs have a Job", seen.len());
        let Ok(event) = timeout(Duration::from_secs(1), events.next()).await else {
            continue;
        };
        let (watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event.context("the watch of Jobs ended")?? else {
            continue;
        };
        let id = format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any());
        seen.entry(id)
            .or_insert_with(|| Timestamp::now().duration_since(tick).as_secs_f64());
    }
    Ok(seen.into_values().collect())
}
