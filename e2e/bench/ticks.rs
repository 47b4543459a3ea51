//! What a burst of ticks costs (bar C3), and whether each gives one run while the operator is killed again and again (bar C5): schedules
//! that are all due in one minute, on a real API server, the release build. This program plays the nodes.
//!
//!     cargo build --release -p holdfast-operator && cargo bench -p holdfast-e2e --bench ticks
//!
//! By the environment: `HOLDFAST_OPERATOR` (the binary), `BENCH_SCHEDULES` (3000), `BENCH_KILL` (kills it every so many seconds; 0, the default,
//! never: then C3 is measured, and after it the controller of CronJobs with as many CronJobs),
//! `BENCH_PEER_CALLS` (how many calls a second that controller may make; 0, the default, for its own default), `BENCH_JSON` (where the numbers go).

mod controller;
mod due;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_crds::TASK_VERSION;
use holdfast_e2e::{
    api::{ApiServer, ask, holdfast_path, make_namespace},
    helm::{kubectl, repository, run},
};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, interval_at, sleep};

use process::{LIMIT, Operator, binary, calls, free_address, get, memory, number, processor};

/// Schedules of one namespace: as many runs as one store takes at once.
const PER_NAMESPACE: usize = 1_000;
/// Calls at once while objects are made, and pods that are played at once.
const AT_ONCE: usize = 48;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> Result<()> {
    let schedules = usize::try_from(number("BENCH_SCHEDULES", 3_000)?)?;
    let kill = number("BENCH_KILL", 0)?;
    let binary = binary()?;
    let server = ApiServer::start()?;
    let client = server.client().await?;
    let folder = repository().join("charts/holdfast-crds/templates");
    run(kubectl(Some(server.kubeconfig()), ["create", "--filename"]).arg(folder))?;
    server.established()?;
    // The chart's Lease, which whoever comes first gets at once.
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "holdfast-operator"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    ask(&client, Method::POST, leases, &lease).await?.accepted()?;
    for index in 0..schedules.div_ceil(PER_NAMESPACE) {
        place(&client, &format!("team-{index}")).await?;
    }
    let address = free_address().await?;
    let mut operator = Operator::start(&binary, &server, &address).await?;
    let tick = fleet(&client, schedules).await?;
    let jobs = Jobs::default();
    let nodes = tokio::spawn(play(client.clone(), jobs.clone()));
    let until = u64::try_from(tick.duration_since(Timestamp::now()).as_secs()).context("the fleet was not made before its tick")?;
    println!("{schedules} schedules made; all are due at {tick}");
    sleep(Duration::from_secs(until)).await;
    let before = (calls(&get(&address, "/metrics").await?), processor(operator.0.id())?);

    let began = Instant::now();
    let mut kills = interval_at(began + Duration::from_secs(kill.max(1)), Duration::from_secs(kill.max(1)));
    let mut look = interval_at(began, Duration::from_secs(2));
    let mut killed = 0;
    loop {
        tokio::select! {
            _ = kills.tick(), if kill > 0 => {
                drop(operator);
                operator = Operator::start(&binary, &server, &address).await?;
                killed += 1;
            }
            _ = look.tick() => {
                ensure!(!nodes.is_finished(), "the nodes ended");
                ensure!(began.elapsed() < LIMIT, "only {} of {schedules} runs have ended", ended(&client, schedules).await?);
                // Counting them is work for the API server: only once the last could have ended.
                if jobs.runs() >= schedules && ended(&client, schedules).await? == schedules { break; }
            }
        }
    }
    let took = began.elapsed();
    nodes.abort();
    let after = (calls(&get(&address, "/metrics").await?), processor(operator.0.id())?);
    let doubled = jobs.doubled();
    let mut waits = jobs.waits(tick);
    let (median, p99) = (quantile(&mut waits, 50), quantile(&mut waits, 99));
    println!("all {schedules} runs ended {took:.0?} after their tick; the operator was killed {killed} times");
    println!("C5: runs with more than one Job: {} (bar 0)", doubled.len());
    let mut values = json!({"schedules": schedules, "killed": killed, "seconds": took.as_secs(), "doubled": doubled,
        "median_seconds": median, "p99_seconds": p99});
    println!("C3: from the tick to the Job: median {median:.1} s, p99 {p99:.1} s");
    if kill == 0 {
        let runs = u32::try_from(schedules)?;
        let per_run = f64::from(u32::try_from(writes(&after.0) - writes(&before.0))?) / f64::from(runs);
        let cpu = after.1.saturating_sub(before.1).as_secs_f64() * 1_000.0 / f64::from(runs);
        let peak = memory(operator.0.id(), "VmHWM")?;
        println!("C3: writes per run {per_run:.2} (bar 6), processor time per run {cpu:.2} ms (bar 5), peak memory {peak:.0} MiB");
        values["writes_per_run"] = json!(per_run);
        for (call, count) in by_call(&before.0, &after.0) {
            println!("    {call}: {:.2} per run", f64::from(u32::try_from(count)?) / f64::from(runs));
        }
        values["cpu_ms_per_run"] = json!(cpu);
        values["peak_mib"] = json!(peak);
        drop(operator);
        let mut waits = due::waits(&client, &server, schedules, number("BENCH_PEER_CALLS", 0)?).await?;
        let (median, peer) = (quantile(&mut waits, 50), quantile(&mut waits, 99));
        println!(
            "C3: the controller of CronJobs: median {median:.1} s, p99 {peer:.1} s; ratio of p99 {:.2} (bar 0.5)",
            p99 / peer
        );
        (values["peer_median_seconds"], values["peer_p99_seconds"]) = (json!(median), json!(peer));
    }
    let path = env::var_os("BENCH_JSON").map_or_else(|| env::temp_dir().join("holdfast-bench-ticks.json"), PathBuf::from);
    fs::write(&path, serde_json::to_string_pretty(&values)?)?;
    println!("also in {}", path.display());
    ensure!(doubled.is_empty(), "runs were doubled: {doubled:?}");
    Ok(())
}

/// Whether a call, as [`calls`] names it, is a write of ours: all but those of the Lease and Events.
fn is_write(call: &str) -> bool {
    let verbs = ["create", "update", "patch", "delete"];
    !call.contains("leases") && !call.contains("events") && verbs.iter().any(|verb| call.starts_with(verb))
}

/// How many of these calls are writes.
fn writes(calls: &BTreeMap<String, u64>) -> u64 {
    calls.iter().filter(|(call, _)| is_write(call)).map(|(_, count)| count).sum()
}

/// The writes between two looks, by what they were.
fn by_call(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let added = |(call, count): (&String, &u64)| (call.clone(), count - before.get(call).copied().unwrap_or(0));
    let writes = after.iter().filter(|(call, _)| is_write(call)).map(added);
    writes.filter(|(_, count)| *count > 0).collect()
}

/// A namespace with what pods need, and a store that was probed.
async fn place(client: &Client, namespace: &str) -> Result<()> {
    make_namespace(client, namespace).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    ask(
        client,
        Method::POST,
        &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        &account,
    )
    .await?
    .accepted()?;
    let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "offsite"},
        "spec": {"s3": {"bucket": "backups", "prefix": namespace, "endpoint": "https://s3.example.com"}, "credentials": {"secretName": "s3"},
            "encryption": {"none": {}}, "maxConcurrentRuns": PER_NAMESPACE}});
    let stores = holdfast_path(namespace, "backupstores");
    ask(client, Method::POST, &stores, &store).await?.accepted()?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = json!({"status": {"probe": {"number": 1, "generation": 1, "startedAt": now, "finishedAt": now,
        "report": {"checks": [{"name": "CreateIfAbsent", "passed": true}]}}}});
    ask(client, Method::PATCH, &format!("{stores}/offsite/status"), &status)
        .await?
        .accepted()?;
    Ok(())
}

/// A full minute, late enough to make so many schedules before.
fn due_minute(schedules: usize) -> Result<Timestamp> {
    let enough = SignedDuration::from_secs(30 + i64::try_from(schedules)? / 20);
    let minute = (Timestamp::now() + enough).as_second() / 60 + 1;
    Ok(Timestamp::from_second(minute * 60)?)
}

/// The numbers below which so many hundredths of all are.
fn quantile(numbers: &mut [f64], share: usize) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let place = (numbers.len() * share / 100).min(numbers.len().saturating_sub(1));
    numbers.get(place).copied().unwrap_or_default()
}

/// Makes sources and their schedules; gives the minute in which all are due.
async fn fleet(client: &Client, schedules: usize) -> Result<Timestamp> {
    let tick = due_minute(schedules)?;
    let cron = tick.strftime("%M %H * * *").to_string();
    stream::iter(0..schedules)
        .map(|index| {
            let (namespace, name) = (format!("team-{}", index / PER_NAMESPACE), format!("database-{index:05}"));
            let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": {"name": name},
                "spec": {"postgresql": {"hosts": [name], "version": 17, "credentials": {"secretName": "app"}}}});
            let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": name},
                "spec": {"sources": {"names": [name]}, "stores": [{"name": "offsite"}], "triggers": [{"name": "due", "cron": cron}]}});
            async move {
                for (plural, object) in [("backupsources", source), ("backupschedules", schedule)] {
                    ask(client, Method::POST, &holdfast_path(&namespace, plural), &object)
                        .await?
                        .accepted()?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(tick)
}

/// How many runs have succeeded; any other end is an error, and so is a run that no tick of these schedules asked for.
async fn ended(client: &Client, schedules: usize) -> Result<usize> {
    let path = "/apis/holdfast.dev/v1alpha1/backupruns?resourceVersion=0";
    let list = ask(client, Method::GET, path, &Value::Null).await?.accepted()?;
    let runs = list["items"].as_array().context("no list")?;
    ensure!(runs.len() <= schedules, "{} runs of {schedules} ticks", runs.len());
    let phase = |run: &Value| run["status"]["phase"].as_str().unwrap_or_default().to_owned();
    for run in runs {
        ensure!(!["Failed", "Cancelled"].contains(&phase(run).as_str()), "{run}");
        let attempts = run["status"]["attempts"].as_array().map_or(0, Vec::len);
        ensure!(attempts <= 1, "a second attempt: {run}");
    }
    Ok(runs.iter().filter(|run| phase(run) == "Succeeded").count())
}

/// When the first Job of a run was there, and the UIDs of all.
type Seen = (Timestamp, BTreeSet<String>);

/// The Jobs that were seen, by run.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<BTreeMap<String, Seen>>>);

impl Jobs {
    /// Whether this Job was not seen before.
    fn saw(&self, job: &Job) -> bool {
        let run = format!("{}/{}", job.namespace().unwrap_or_default(), job.labels()["holdfast.dev/run"]);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, jobs) = seen.entry(run).or_insert_with(|| (Timestamp::now(), BTreeSet::new()));
        jobs.insert(job.uid().unwrap_or_default())
    }

    fn runs(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn doubled(&self) -> Vec<String> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let doubled = seen.iter().filter(|(_, (_, jobs))| jobs.len() > 1);
        doubled.map(|(run, _)| run.clone()).collect()
    }

    /// Seconds from the tick to the Job of each run.
    fn waits(&self, tick: Timestamp) -> Vec<f64> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().map(|(first, _)| first.duration_since(tick).as_secs_f64()).collect()
    }
}

/// What scheduler, kubelets and the Job controller do with the Jobs of runs.
async fn play(client: Client, seen: Jobs) -> Result<()> {
    let config = watcher::Config::default().labels("holdfast.dev/run");
    let events = watcher(Api::<Job>::all(client.clone()), config).filter_map(async |event| match event {
        Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) => Some(Ok(job)),
        Ok(_) => None,
        Err(error) => Some(Err(anyhow::Error::from(error))),
    });
    let fresh = events.try_filter(|job| std::future::ready(seen.saw(job)));
    let mut played = pin!(fresh.map(async |job| carry_out(&client, &job?).await).buffer_unordered(AT_ONCE));
    while let Some(done) = played.next().await {
        done?;
    }
    Ok(())
}

/// The pod of a Job begins, and ends with the word of success; then the Job is counted.
async fn carry_out(client: &Client, job: &Job) -> Result<()> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let template = job.spec.clone().unwrap_or_default().template;
    let mut labels = template.metadata.and_then(|meta| meta.labels).unwrap_or_default();
    labels.insert("batch.kubernetes.io/job-name".to_owned(), name.clone());
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-x"), "labels": labels, "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.uid(), "controller": true}]},
        "spec": {"nodeName": "node1", "restartPolicy": "Never", "containers": [{"name": "agent", "image": "agent"}]}});
    ask(client, Method::POST, &pods, &pod).await?.accepted()?;
    let run = job.labels()["holdfast.dev/run"].clone();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let word = json!({"version": TASK_VERSION, "reason": "Succeeded", "message": "copied", "closed": true, "copy": {
        "path": format!("{namespace}/{run}"), "recoveryPoint": now, "rawBytes": 5_000, "storedBytes": 2_048, "parts": 1, "databases": 1, "tables": 1,
        "structureChecked": true, "manifestDigest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}});
    let state = |phase: &str, state: Value| {
        json!({"status": {"phase": phase, "containerStatuses": [
            {"name": "agent", "image": "agent", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}})
    };
    let end =
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": word.to_string()}});
    for status in [state("Running", json!({"running": {"startedAt": now}})), state("Succeeded", end)] {
        ask(client, Method::PATCH, &format!("{pods}/{name}-x/status"), &status)
            .await?
            .accepted()?;
        sleep(Duration::from_millis(500)).await;
    }
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now});
    let counted = json!({"status": {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}});
    let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}/status");
    // The operator may have removed it, once its pod had ended.
    if let Err(error) = ask(client, Method::PATCH, &path, &counted).await?.accepted() {
        ensure!(error.to_string().contains("not found"), "{error}");
    }
    Ok(())
}
