//! Speed and memory of the pipeline, beside its peers on the same machine and in the same run: only ratios mean anything.
//!
//!     cargo bench -p holdfast-agent --bench pipeline              all that the machine has the tools for
//!     cargo bench -p holdfast-agent --bench pipeline -- pipe d3   some of: pipe d3 d8
//!
//! - `pipe`: bytes from memory through check, BLAKE3, zstd, age and SHA-256 into a store that keeps nothing, and back; beside `zstd -1`.
//! - `d3`: a whole PostgreSQL database: `pg_dump | zstd -1` into a file, and `pg_dump` through the pipeline into a volume store.
//! - `d8`: the same within 64 MiB of memory for `pg_dump` and the agent together (a control group where one can be made), and the peak of a long stream.
//!
//! Medians of interleaved rounds (A B A B …). `HOLDFAST_BENCH_ROUNDS` (5), `HOLDFAST_BENCH_SCALE` (20: some 500 MB of database) and
//! `HOLDFAST_BENCH_GIB` (8: length of the long stream) change them. The last line is the table as JSON.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run should stop where it is")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "pipeline/machine.rs"]
mod machine;
#[path = "pipeline/postgres.rs"]
mod postgres;
#[path = "pipeline/sink.rs"]
mod sink;
#[allow(clippy::panic, reason = "shared with the tests, which use all of it")]
#[path = "../src/engine/postgresql/test_server.rs"]
mod test_server;

use std::{collections::BTreeMap, env, sync::Arc, time::Instant};

use bytes::Bytes;
use holdfast_agent::{
    pipeline::{Pipeline, Sealing, check::Opaque, key::RunKey, pool::Pool},
    store::{Patience, Store},
};
use holdfast_crds::document::{Label, RunPath, StreamPath};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use machine::{Usage, peer};

/// What one round of one contender took.
#[derive(Clone, Copy)]
struct Round {
    seconds: f64,
    cpu_seconds: f64,
    gib: f64,
}

/// Rounds by contender, in the order in which contenders first ran.
#[derive(Default)]
pub struct Table {
    order: Vec<String>,
    rounds: BTreeMap<String, Vec<Round>>,
    figures: serde_json::Map<String, serde_json::Value>,
}

impl Table {
    /// Measures one round: processor time of this process and of children that have ended.
    pub fn round<T>(&mut self, name: &str, raw_bytes: u64, work: impl FnOnce() -> T) -> T {
        let (before, started) = (Usage::now(), Instant::now());
        let result = work();
        let seconds = started.elapsed().as_secs_f64();
        let round = Round {
            seconds,
            cpu_seconds: Usage::now().seconds - before.seconds,
            gib: raw_bytes as f64 / f64::from(1 << 30),
        };
        if !self.rounds.contains_key(name) {
            self.order.push(name.to_owned());
        }
        self.rounds.entry(name.to_owned()).or_default().push(round);
        result
    }

    /// A single figure beside the table.
    pub fn figure(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        let value = value.into();
        println!("{name}: {value}");
        self.figures.insert(name.to_owned(), value);
    }

    fn median(&self, name: &str, of: impl Fn(&Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds[name].iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Median of the ratios of each round to the same round of the peer.
    pub fn ratio(&mut self, name: &str, peer: &str) {
        let mut ratios: Vec<f64> = self.rounds[name]
            .iter()
            .zip(&self.rounds[peer])
            .map(|(one, other)| one.seconds / other.seconds)
            .collect();
        ratios.sort_by(f64::total_cmp);
        self.figure(&format!("time of {name} / {peer}"), rounded(ratios[ratios.len() / 2]));
    }

    fn print(self) {
        println!(
            "\n{:<44} {:>9} {:>9} {:>12} {:>7}",
            "median of each", "seconds", "MiB/s", "CPU-s/GiB", "rounds"
        );
        let mut rows = Vec::new();
        for name in &self.order {
            let (seconds, speed) = (
                self.median(name, |round| round.seconds),
                self.median(name, |round| round.gib * 1024.0 / round.seconds),
            );
            let (cpu, count) = (self.median(name, |round| round.cpu_seconds / round.gib), self.rounds[name].len());
            println!("{name:<44} {seconds:>9.2} {speed:>9.0} {cpu:>12.2} {count:>7}");
            rows.push(serde_json::json!({"name": name, "seconds": rounded(seconds), "mibPerSecond": rounded(speed), "cpuSecondsPerGib": rounded(cpu), "rounds": count}));
        }
        println!(
            "\n{}",
            serde_json::json!({"bench": "pipeline", "threads": machine::threads(), "rows": rows, "figures": self.figures})
        );
    }
}

pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

pub fn setting(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn place(name: &str, encrypted: bool) -> StreamPath {
    RunPath::new("bench", "bench", "bench")
        .unwrap()
        .pod(Label::new("pod", "pod").unwrap())
        .stream(Label::new("stream", name).unwrap(), encrypted)
}

pub fn pipeline(store: Store, pool: Pool, encrypted: bool) -> Pipeline {
    let sealing = if encrypted {
        Sealing::Age(RunKey::generate().recipient())
    } else {
        Sealing::Nothing
    };
    Pipeline::new(store, pool, sealing, CancellationToken::new(), Arc::default())
}

/// The threads of the agent's own runtime.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The rows of some `pgbench` and some web shop, as COPY writes them: what zstd makes a fifth of.
fn rows(bytes: usize) -> Bytes {
    let mut text = String::with_capacity(bytes + 200);
    let mut state = 42u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut id = 0;
    while text.len() < bytes {
        id += 1;
        let (amount, user, stamp) = (next() % 1_000_000, next() % 50_000, 1_700_000_000 + id / 7);
        let status = ["paid", "open", "shipped", "returned"][usize::try_from(next() % 4).unwrap()];
        text.push_str(&format!(
            "{id}\t{user}\t{amount}\t{status}\t{stamp}\t{:016x}\t{{\"tags\": [\"{}\", \"{}\"], \"n\": {}}}\n",
            next(),
            next() % 97,
            next() % 89,
            next() % 10
        ));
    }
    text.into()
}

fn chunks(data: &Bytes, times: usize) -> impl tokio::io::AsyncRead + Unpin + use<> {
    let data = data.clone();
    let step = 64 << 10;
    let of = move |_| {
        let data = data.clone();
        (0..data.len())
            .step_by(step)
            .map(move |at| Ok::<_, std::io::Error>(data.slice(at..data.len().min(at + step))))
    };
    StreamReader::new(futures::stream::iter((0..times).flat_map(of)))
}

fn pipe(table: &mut Table, rounds: usize) {
    let data = rows(256 << 20);
    let times = 2;
    let raw = data.len() as u64 * times as u64;
    let runtime = runtime();
    for round in 0..rounds {
        eprintln!("pipe: round {} of {rounds}", round + 1);
        for (name, encrypted) in [("pipe, age", true), ("pipe, not encrypted", false)] {
            let pipeline = pipeline(
                Store::new(sink::Sink::default(), Patience::PROBE, 4),
                Pool::for_memory_limit(Some(512 << 20), 1),
                encrypted,
            );
            let stored = table.round(name, raw, || {
                runtime
                    .block_on(pipeline.store_stream(&place("s", encrypted), chunks(&data, times), Box::new(Opaque)))
                    .unwrap()
            });
            if round == 0 {
                let bytes: u64 = stored.parts.iter().map(|part| part.bytes).sum();
                table.figure(&format!("{name}: raw / stored"), rounded(raw as f64 / bytes as f64));
            }
        }
        for (name, arguments) in [("zstd -1", ["-1", "-T1"]), ("zstd -1, two threads", ["-1", "-T2"])] {
            table.round(name, raw, || peer("zstd", &arguments, &data, times));
        }
    }
    for name in ["pipe, age", "pipe, not encrypted"] {
        for peer in ["zstd -1", "zstd -1, two threads"] {
            table.ratio(name, peer);
        }
    }
}

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(("d8-child", rest)) = wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return postgres::d8_child(rest);
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let rounds = setting("HOLDFAST_BENCH_ROUNDS", 5);
    let mut table = Table::default();
    if is_wanted("pipe") {
        pipe(&mut table, rounds);
    }
    if is_wanted("d3") || is_wanted("d8") {
        let server = postgres::server(setting("HOLDFAST_BENCH_SCALE", 20));
        if is_wanted("d3") {
            postgres::d3(&mut table, &server, rounds);
        }
        if is_wanted("d8") {
            postgres::d8(&mut table, &server);
        }
    }
    table.print();
}
