//! What a fleet costs the operator at its start and at rest (bars C1 and C2), beside what as many CronJobs cost their controller: generated
//! objects on a real API server, the release build.
//!
//!     cargo build --release -p holdfast-operator && cargo bench -p holdfast-e2e --bench operator
//!
//! The operator settles one source with its schedule and runs; the others are made as it left that one. Each round starts it anew on
//! objects at rest, of which it is to write none; after it, the controller of CronJobs starts on its own. By the environment: `HOLDFAST_OPERATOR` (the binary), `BENCH_SOURCES` (10000; each with a schedule and 5 ended runs), `BENCH_ROUNDS` (3),
//! `BENCH_IDLE` (seconds of the last round's rest, 120), `BENCH_JSON` (where the numbers go).

mod controller;
mod cronjobs;
mod process;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_e2e::{
    api::{ApiServer, ask, holdfast_path, make_namespace},
    helm::repository,
};
use http::{Method, Request};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use process::{LIMIT, Operator, binary, calls, free_address, get, memory, number, processor};

/// Sources of one namespace.
const PER_NAMESPACE: usize = 1_000;
/// Ended runs of each source, as many as a schedule keeps.
const RUNS: usize = 5;
/// Calls at once while objects are made.
const AT_ONCE: usize = 48;
/// The operator is at rest once it has used less than this much of a processor's time in [`WINDOW`].
const QUIET: Duration = Duration::from_millis(150);
const WINDOW: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> Result<()> {
    let sources = usize::try_from(number("BENCH_SOURCES", 10_000)?)?;
    let (rounds, idle) = (number("BENCH_ROUNDS", 3)?, Duration::from_secs(number("BENCH_IDLE", 120)?));
    let binary = binary()?;
    let server = ApiServer::start()?;
    let client = server.client().await?;
    let began = Instant::now();
    let settling = load(&client, sources, &binary, &server).await?;
    println!(
        "{sources} sources, {sources} schedules and {} ended runs made in {:.0?}; the first source took {} writes",
        sources * RUNS,
        began.elapsed(),
        settling.writes
    );
    let began = Instant::now();
    cronjobs::load(&client, sources).await?;
    println!(
        "{sources} CronJobs and {} ended Jobs made in {:.0?}",
        sources * RUNS,
        began.elapsed()
    );
    let (mut measured, mut peers) = (Vec::new(), Vec::new());
    for index in 1..=rounds {
        let rest = if index == rounds { idle } else { Duration::ZERO };
        measured.push(round(&binary, &server, rest).await?);
        peers.push(cronjobs::round(&server).await?);
    }
    report(sources, &settling, &measured, &peers)
}

/// What one start of the operator showed.
struct Round {
    /// Seconds until it is ready, and until it has looked at everything.
    ready: f64,
    rest: f64,
    /// Seconds of processor time by then.
    cpu: f64,
    /// The most memory that it had by then, and once its metrics were read, in MiB.
    peak: f64,
    peak_with_metrics: f64,
    /// What it has at the end, in MiB.
    memory: f64,
    /// Writes, but for its Lease.
    writes: u64,
    /// Calls while it was at rest, but for the Lease and watches, by verb and resource.
    idle: BTreeMap<String, u64>,
    idle_watches: u64,
    idle_cpu: f64,
}

async fn round(binary: &Path, server: &ApiServer, idle: Duration) -> Result<Round> {
    let address = free_address().await?;
    let began = Instant::now();
    let mut operator = Operator::start(binary, server, &address).await?;
    let pid = operator.0.id();
    let ready = began.elapsed().as_secs_f64();
    let (rest, cpu) = quiet(pid, began).await?;
    let peak = memory(pid, "VmHWM")?;
    let before = calls(&get(&address, "/metrics").await?);
    let peak_with_metrics = memory(pid, "VmHWM")?;
    let writes = before
        .iter()
        .filter(|(call, _)| !call.contains("leases") && ["create", "update", "patch", "delete"].iter().any(|verb| call.starts_with(verb)))
        .inspect(|(call, count)| println!("    {count} × {call}"))
        .map(|(_, count)| count)
        .sum();
    let started = processor(pid)?;
    sleep(idle).await;
    let after = calls(&get(&address, "/metrics").await?);
    let mut during: BTreeMap<String, u64> = after
        .into_iter()
        .filter(|(call, _)| !call.contains("leases"))
        .map(|(call, count)| (call.clone(), count - before.get(&call).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let watches: Vec<String> = during.keys().filter(|call| call.starts_with("watch ")).cloned().collect();
    let idle_watches = watches.iter().filter_map(|call| during.remove(call)).sum();
    let round = Round {
        ready,
        rest,
        cpu,
        peak,
        peak_with_metrics,
        memory: memory(pid, "VmRSS")?,
        writes,
        idle: during,
        idle_watches,
        idle_cpu: processor(pid)?.saturating_sub(started).as_secs_f64(),
    };
    // Asked to stop, it hands the Lease over, so that the next need not wait for it.
    ensure!(
        Command::new("kill").arg(pid.to_string()).status()?.success(),
        "the operator cannot be stopped"
    );
    let asked = Instant::now();
    while operator.0.try_wait()?.is_none() {
        ensure!(asked.elapsed() < LIMIT, "the operator does not stop");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(round)
}

/// Waits until the process does nothing any more. Gives when that began, in seconds, and its processor time.
async fn quiet(pid: u32, began: Instant) -> Result<(f64, f64)> {
    let mut samples = vec![(Instant::now(), processor(pid)?)];
    loop {
        ensure!(began.elapsed() < LIMIT, "the operator does not come to rest");
        sleep(Duration::from_millis(250)).await;
        let now = (Instant::now(), processor(pid)?);
        samples.push(now);
        let start = samples.iter().rposition(|sample| now.0 - sample.0 >= WINDOW);
        if let Some((at, used)) = start.map(|start| samples[start])
            && now.1.saturating_sub(used) < QUIET
        {
            return Ok(((at - began).as_secs_f64(), now.1.as_secs_f64()));
        }
    }
}

/// The definitions as they are, or so that objects are taken with their status in one call and unchecked: a fleet is made in minutes.
async fn definitions(client: &Client, unchecked: bool) -> Result<()> {
    for file in fs::read_dir(repository().join("charts/holdfast-crds/templates"))? {
        let path = file?.path();
        let mut definition: Value = serde_yaml::from_str(&fs::read_to_string(&path)?)?;
        if unchecked {
            for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
                version.as_object_mut().context("a version")?.remove("subresources");
                version["schema"]["openAPIV3Schema"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
                version.as_object_mut().context("a version")?.remove("selectableFields");
            }
        }
        let name = definition["metadata"]["name"].as_str().context("a name")?;
        let uri = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=bench&force=true");
        let request = Request::patch(uri)
            .header("Content-Type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(&definition)?)?;
        client.request::<Value>(request).await?;
    }
    // Served a moment later.
    let began = Instant::now();
    loop {
        let mut served = true;
        for plural in ["backupsources", "backupstores", "backupschedules", "backupruns", "restorerequests"] {
            let path = format!("/apis/holdfast.dev/v1alpha1/{plural}?limit=1");
            served &= client.request::<Value>(Request::get(path).body(Vec::new())?).await.is_ok();
        }
        if served {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "the definitions are not served");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Makes the fleet. Gives what the operator did with the first of its sources, as which all others are made.
async fn load(client: &Client, sources: usize, binary: &Path, server: &ApiServer) -> Result<Round> {
    let now = Timestamp::now();
    definitions(client, true).await?;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "holdfast-operator"},
        "spec": {"holderIdentity": ""}});
    ask(
        client,
        Method::POST,
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        &lease,
    )
    .await?
    .accepted()?;
    for index in 0..sources.div_ceil(PER_NAMESPACE) {
        let namespace = namespace(index * PER_NAMESPACE);
        make_namespace(client, &namespace).await?;
        make(client, &holdfast_path(&namespace, "backupstores"), &store(now)).await?;
    }
    for (path, object) in objects(0, now, [source(0), schedule(0)]) {
        make(client, &path, &object).await?;
    }
    definitions(client, false).await?;
    // That they are as a user would make them is tried too.
    let samples = [
        ("backupstores", store(now)),
        ("backupsources", source(1)),
        ("backupschedules", schedule(1)),
        ("backupruns", run(1, 0, now)),
    ];
    for (plural, object) in samples {
        let path = format!("{}?dryRun=All", holdfast_path("default", plural));
        ask(client, Method::POST, &path, &object)
            .await?
            .accepted()
            .with_context(|| plural.to_owned())?;
    }
    let settling = round(binary, server, Duration::ZERO).await?;
    let mut settled = Vec::new();
    for plural in ["backupsources", "backupschedules"] {
        let path = format!("{}/{}", holdfast_path(&namespace(0), plural), name(0));
        let object: Value = client.request(Request::get(path).body(Vec::new())?).await?;
        ensure!(object["status"]["conditions"].is_array(), "not settled: {object}");
        settled.push(object["status"].to_string());
    }
    definitions(client, true).await?;
    let of_first = format!("\"{}/", namespace(0));
    let fleet = (1..sources).flat_map(|index| {
        let (of_this, first) = (format!("\"{}/", namespace(index)), name(0));
        let mut pair = [source(index), schedule(index)];
        for (object, status) in pair.iter_mut().zip(&settled) {
            let status = status.replace(&of_first, &of_this).replace(&first, &name(index));
            object["status"] = serde_json::from_str(&status).unwrap_or_default();
        }
        objects(index, now, pair)
    });
    stream::iter(fleet)
        .map(|(path, object)| async move { make(client, &path, &object).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    definitions(client, false).await?;
    Ok(settling)
}

async fn make(client: &Client, path: &str, object: &Value) -> Result<()> {
    ask(client, Method::POST, path, object).await?.accepted()?;
    Ok(())
}

/// A source, its schedule and its runs, each with the path under which it is made.
fn objects(index: usize, now: Timestamp, [source, schedule]: [Value; 2]) -> impl Iterator<Item = (String, Value)> {
    let runs = (0..RUNS).map(move |age| ("backupruns", run(index, age, now)));
    let all = [("backupsources", source), ("backupschedules", schedule)].into_iter().chain(runs);
    all.map(move |(plural, object)| (holdfast_path(&namespace(index), plural), object))
}

fn namespace(index: usize) -> String {
    format!("team-{}", index / PER_NAMESPACE)
}

fn name(index: usize) -> String {
    format!("database-{index:05}")
}

fn store_spec() -> Value {
    json!({"s3": {"bucket": "backups", "prefix": "prod-eu", "endpoint": "https://s3.example.com"}, "credentials": {"secretName": "s3"},
        "encryption": {"age": {"recipients": [format!("age1{}", "q".repeat(58))], "identitySecretName": "age-key"}}})
}

fn store(now: Timestamp) -> Value {
    let checks = ["Reach", "Put", "Read", "List", "CreateIfAbsent", "Checksums", "Clock"].map(|name| json!({"name": name, "passed": true}));
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "offsite"}, "spec": store_spec(),
        "status": {"observedGeneration": 1, "conditions": [
            {"type": "Ready", "status": "True", "reason": "StoreReady", "message": "the store passed", "lastTransitionTime": shown(now)},
            {"type": "Stalled", "status": "False", "reason": "StoreReady", "message": "", "lastTransitionTime": shown(now)}],
            "probe": {"number": 1, "generation": 1, "startedAt": shown(now), "finishedAt": shown(now), "report": {"checks": checks}}}})
}

fn source_spec(index: usize) -> Value {
    let host = name(index);
    json!({"postgresql": {"hosts": [format!("{host}-ro.databases.svc:5432"), format!("{host}-rw.databases.svc:5432")], "version": 17,
        "credentials": {"secretName": format!("{host}-superuser")}, "tls": {"caSecretName": format!("{host}-ca")}}})
}

fn source(index: usize) -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "spec": source_spec(index),
        "metadata": {"name": name(index), "labels": {"tier": "gold", "app.kubernetes.io/name": name(index), "app.kubernetes.io/part-of": "shop"}}})
}

fn schedule(index: usize) -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": name(index), "labels": {"tier": "gold"}},
        "spec": {"sources": {"names": [name(index)]}, "stores": [{"name": "offsite"}], "objectives": {"rpo": "30d"},
            "triggers": [{"name": "yearly", "cron": "0 3 1 1 *"}]}})
}

/// A run that succeeded so many days ago, as the operator leaves it.
fn run(index: usize, age: usize, now: Timestamp) -> Value {
    let days = i64::try_from(age).unwrap_or(0);
    let tick = now - SignedDuration::from_hours(24 * days + 2);
    let (begun, ended) = (shown(tick), shown(tick + SignedDuration::from_mins(17)));
    let source = name(index);
    let name = format!("{source}-nightly-{}", tick.strftime("%Y%m%dt%H%Mz"));
    let said = format!("{} databases, 4.2 GiB read and 1.3 GiB stored in 17 minutes", 3);
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Succeeded", "message": said, "observedGeneration": 1, "lastTransitionTime": ended});
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/schedule": source, "holdfast.dev/source": source}},
        "spec": {"source": source, "stores": [{"name": "offsite"}], "attempts": 3, "timeout": "6h",
            "tick": {"schedule": source, "trigger": "yearly", "time": begun, "generation": 1}},
        "status": {"observedGeneration": 1, "phase": "Succeeded", "reason": "Succeeded", "message": said, "size": "1.3 GiB", "duration": "17m0s",
            "startTime": begun, "completionTime": ended, "conditions": [condition("Ready", "True"), condition("Stalled", "False")],
            "frozen": {"sourceUid": "0f8fad5b-d9cb-469f-a165-70867728950e", "source": source_spec(index),
                "store": {"name": "offsite", "uid": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "spec": store_spec()}},
            "attempts": [{"number": 1, "job": format!("{name}-b1"), "startedAt": begun, "notAfter": ended, "finishedAt": ended, "reason": "Succeeded",
                "jobUid": "16fd2706-8baf-433b-82eb-8c7fada847da", "message": said, "ran": true}],
            "copy": {"path": format!("{}/{source}/{name}", namespace(index)), "recoveryPoint": begun, "rawBytes": 4_509_715_660_i64,
                "storedBytes": 1_395_864_371_i64, "parts": 5, "databases": 3, "databaseNames": ["orders", "customers", "reporting"], "tables": 214,
                "rows": 48_113_204, "structureChecked": true, "manifestDigest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "engine": "PostgreSQL 17.6, pg_dump 17.6"}}})
}

fn shown(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The middle of several numbers.
fn median<R>(rounds: &[R], of: impl Fn(&R) -> f64) -> Result<f64> {
    let mut numbers: Vec<f64> = rounds.iter().map(of).collect();
    numbers.sort_by(f64::total_cmp);
    numbers
        .get(numbers.len() / 2)
        .copied()
        .context("no round was measured: BENCH_ROUNDS must be 1 or more")
}

fn report(sources: usize, settling: &Round, rounds: &[Round], peers: &[cronjobs::Round]) -> Result<()> {
    let (rest, peer) = (median(rounds, |round| round.rest)?, median(peers, |peer| peer.rest)?);
    let rows = [
        (
            "ready_seconds",
            "every object known (s)",
            median(rounds, |round| round.ready)?,
            None,
        ),
        ("rest_seconds", "every object looked at (s)", rest, None),
        ("peer_rest_seconds", "    … by the controller of CronJobs (s)", peer, None),
        ("rest_ratio", "C1: the two as a ratio", rest / peer, Some(0.5)),
        (
            "cpu_seconds",
            "processor time by then (s)",
            median(rounds, |round| round.cpu)?,
            None,
        ),
        (
            "peer_cpu_seconds",
            "    … of the controller of CronJobs (s)",
            median(peers, |peer| peer.cpu)?,
            None,
        ),
        (
            "peak_mib",
            "C1: peak memory (MiB)",
            median(rounds, |round| round.peak)?,
            Some(150.0),
        ),
        (
            "peak_with_metrics_mib",
            "    … once its metrics were read (MiB)",
            median(rounds, |round| round.peak_with_metrics)?,
            Some(150.0),
        ),
        (
            "peer_peak_mib",
            "    … of the controller of CronJobs (MiB)",
            median(peers, |peer| peer.peak)?,
            None,
        ),
        ("memory_mib", "    … at the end (MiB)", median(rounds, |round| round.memory)?, None),
        ("writes", "C1: writes", median(rounds, |round| precise(round.writes))?, Some(0.0)),
    ];
    println!("\n{:<44} {:>10} {:>8}", "median of the rounds", "found", "bar");
    let mut values = serde_json::Map::new();
    for (key, title, found, bar) in rows {
        let bar = bar.map_or_else(String::new, |bar: f64| format!("{bar}"));
        println!("{title:<44} {found:>10.2} {bar:>8}");
        values.insert(key.to_owned(), json!(found));
    }
    let last = rounds.last().context("no round")?;
    let idle: u64 = last.idle.values().sum();
    println!("{:<44} {idle:>10} {:>8}", "C2: calls at rest but for Lease and watches", 0);
    println!("{:<44} {:>10}", "    renewals of watches", last.idle_watches);
    println!("{:<44} {:>10.2}", "    processor time at rest (s)", last.idle_cpu);
    for (call, count) in &last.idle {
        println!("    {count} × {call}");
    }
    let all = json!({"sources": sources, "schedules": sources, "runs": sources * RUNS, "rounds": rounds.len(), "medians": values,
        "writes_for_one_source": settling.writes,
        "idle": {"calls": idle, "watches": last.idle_watches, "cpu_seconds": last.idle_cpu}});
    let path = env::var_os("BENCH_JSON").map_or_else(|| env::temp_dir().join("holdfast-bench-operator.json"), PathBuf::from);
    fs::write(&path, serde_json::to_string_pretty(&all)?)?;
    println!("\nalso in {}", path.display());
    Ok(())
}

/// Counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn precise(count: u64) -> f64 {
    count as f64
}
