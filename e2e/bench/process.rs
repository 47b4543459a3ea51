//! The operator as a process of its own, and what can be measured of it.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::api::ApiServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// The longest that one phase may take.
pub const LIMIT: Duration = Duration::from_secs(900);

pub fn number(name: &str, otherwise: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: found {text:?}, expected a number")),
        Err(_) => Ok(otherwise),
    }
}

pub fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?
        .parent()
        .and_then(Path::parent)
        .map(|folder| folder.join("holdfast-operator"));
    let binary = env::var_os("HOLDFAST_OPERATOR")
        .map(PathBuf::from)
        .or(beside)
        .context("no folder of this program")?;
    ensure!(
        binary.exists(),
        "{}: not found; build it with cargo build --release -p holdfast-operator, or set HOLDFAST_OPERATOR",
        binary.display()
    );
    Ok(binary)
}

/// A process that ends with this value.
pub struct Operator(pub Child);

impl Operator {
    /// Starts one that is asked at `address`, and waits until it is ready.
    pub async fn start(binary: &Path, server: &ApiServer, address: &str) -> Result<Self> {
        let began = Instant::now();
        let mut operator = Self(
            Command::new(binary)
                .args([
                    "--image=holdfast:bench",
                    "--pod-name=bench",
                    "--cluster-id=bench",
                    "--lease-namespace=default",
                ])
                .arg(format!("--admin-addr={address}"))
                .env("KUBECONFIG", server.kubeconfig())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?,
        );
        loop {
            ensure!(operator.0.try_wait()?.is_none(), "the operator ended");
            ensure!(began.elapsed() < LIMIT, "the operator does not get ready");
            if get(address, "/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(operator);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of a process.
pub fn processor(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
            .context("/proc/…/stat")
    };
    // utime and stime, in ticks of 10 ms on every Linux of ours.
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// A line of a process's status, in MiB.
pub fn memory(pid: u32, line: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = text
        .lines()
        .find_map(|held| held.strip_prefix(line)?.trim_start_matches(':').trim().strip_suffix(" kB"));
    Ok(found.context("no such line")?.trim().parse::<f64>()? / 1024.0)
}

pub async fn free_address() -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

pub async fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Calls to the API server by verb and resource.
pub fn calls(metrics: &str) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("holdfast_api_calls_total{")) {
        let Some((labels, count)) = line.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let value = labels.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            value.unwrap_or_default().to_owned()
        };
        *calls.entry(format!("{} {}", label("verb"), label("resource"))).or_insert(0) += count.parse().unwrap_or(0);
    }
    calls
}
