//! Passes from one store in memory into another.

mod chains;
mod faults;
mod order;
mod passes;
mod refused;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast_crds::document::{Committed, Fact, Manifest, ObjectPath, Outcome, Record, RunPath, Sha256};
use holdfast_crds::{Action, AgentResult, COPY_LINE, CopyLine, CopyPass, CopyTask, FrozenStore, Reason, ReplicaState, TASK_VERSION, Task};
use jiff::Timestamp;

use super::run_with;
use crate::command::keep::tests::{self as keep, at};
use crate::command::lines::Lines;
use crate::config::{Invocation, Places};
use crate::store::memory::Memory;
use crate::store::{Backend, Patience, Store};

const FIRST: &str = "2026-11-01T02:00:00Z";

/// A store with copies of `shop/orders`, and one that is filled.
struct Scene {
    from: keep::Scene,
    to: Memory,
    encryption: serde_json::Value,
    root: tempfile::TempDir,
}

/// What a pass said.
#[derive(Debug)]
struct Said {
    result: AgentResult,
    lines: Vec<CopyLine>,
}

impl Said {
    fn pass(&self) -> &CopyPass {
        self.result.copied.as_ref().unwrap()
    }

    /// Run and state of each line, in order.
    fn states(&self) -> Vec<(&str, ReplicaState)> {
        self.lines.iter().map(|line| (line.run.as_str(), line.state)).collect()
    }

    fn only(&self) -> &CopyLine {
        assert_eq!(self.lines.len(), 1, "{:?}", self.lines);
        &self.lines[0]
    }
}

impl Scene {
    fn new(from: Memory, to: Memory) -> Self {
        Self {
            from: keep::Scene::new(from),
            to,
            encryption: serde_json::json!({"none": {}}),
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// With a copy a day from [`FIRST`] on.
    async fn days(count: i64) -> Self {
        let scene = Self::new(Memory::new(), Memory::new());
        keep::days(&scene.from, FIRST, count).await;
        scene.to.set_clock(scene.from.now());
        scene
    }

    fn store(&self, name: &str) -> FrozenStore {
        let spec = serde_json::json!({"name": name, "uid": "u", "spec": {"s3": {"bucket": name}, "credentials": {"secretName": "s3"}, "encryption": self.encryption}});
        serde_json::from_value(spec).unwrap()
    }

    fn task(&self) -> CopyTask {
        let task = serde_json::json!({"namespace": "shop", "source": "orders", "from": self.store("near"), "now": "2026-11-20T22:10:00Z",
            "notAfter": "2126-01-01T00:00:00Z"});
        serde_json::from_value(task).unwrap()
    }

    fn invocation(&self, task: &CopyTask) -> Invocation {
        let task = Task {
            version: TASK_VERSION,
            cluster: "cluster-a".into(),
            namespace: "shop".into(),
            store: self.store("far"),
            action: Action::Copy(Box::new(task.clone())),
        };
        let mut invocation = Invocation::new(task, Places::below(self.root.path())).unwrap();
        invocation.memory_limit = Some(64 << 20);
        invocation
    }

    async fn pass_through(&self, from: impl Backend, to: impl Backend, task: &CopyTask) -> Said {
        self.pass_of(&self.invocation(task), from, to, task).await
    }

    async fn pass_of(&self, invocation: &Invocation, from: impl Backend, to: impl Backend, task: &CopyTask) -> Said {
        let texts = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&texts);
        let lines = Lines::new(COPY_LINE, Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned())));
        let (from, to) = (Store::new(from, Patience::PROBE, 4), Store::new(to, Patience::PROBE, 4));
        let result = run_with(invocation, task, (&from, &to), lines).await.unwrap();
        let texts = texts.lock().unwrap().clone();
        // What the operator does with the log.
        let all = texts.iter().fold(String::new(), |all, line| format!("{all}{line}\n"));
        let pass = result.copied.as_ref().unwrap();
        assert_eq!(
            (pass.lines, pass.sha256.as_str()),
            (texts.len() as u64, Sha256::of(all.as_bytes()).to_string().as_str())
        );
        let parse = |line: &String| serde_json::from_str(line.strip_prefix(COPY_LINE).unwrap()).unwrap();
        let lines: Vec<CopyLine> = texts.iter().map(parse).collect();
        let counted = lines.iter().fold(BTreeMap::new(), |mut counts, line| {
            *counts.entry(line.state).or_insert(0) += 1;
            counts
        });
        assert_eq!(counted, pass.counts);
        Said { result, lines }
    }

    async fn pass(&self) -> Said {
        self.pass_through(self.from.memory.clone(), self.to.clone(), &self.task()).await
    }

    async fn pass_with(&self, edit: impl FnOnce(&mut CopyTask)) -> Said {
        let mut task = self.task();
        edit(&mut task);
        self.pass_through(self.from.memory.clone(), self.to.clone(), &task).await
    }

    /// Writes a record of a run as that store's keeper does.
    async fn record(&self, memory: &Memory, run: &RunPath, fact: Fact) {
        let store = Store::new(memory.clone(), Patience::PROBE, 1);
        let by = run.run.clone();
        let record = Record::new(run.clone(), store.ulid().unwrap(), by, store.now().unwrap(), None, fact);
        store.create_record(&record.path(), record.to_bytes()).await.unwrap();
    }
}

/// The copies of a store with the bytes of all their objects: what two stores must have alike.
fn copies(memory: &Memory) -> BTreeMap<String, (Sha256, BTreeMap<String, Bytes>)> {
    let objects = memory.objects();
    let outcomes = objects.iter().filter_map(|(path, bytes)| match path.parse() {
        Ok(ObjectPath::Outcome { run }) => Some(Outcome::from_bytes(&run, bytes).unwrap()),
        _ => None,
    });
    let committed = outcomes.filter_map(|outcome| Some((outcome.run.to_string(), outcome.committed()?.clone())));
    let bytes = |copy: &Committed| -> BTreeMap<String, Bytes> {
        let stored = copy.stored().iter();
        stored.map(|object| (object.path.clone(), objects[&object.path].clone())).collect()
    };
    committed.map(|(run, copy)| (run, (copy.manifest_sha256(), bytes(&copy)))).collect()
}

fn run(name: &str) -> RunPath {
    RunPath::new("shop", "orders", name).unwrap()
}

/// The run of the day, as [`Scene::days`] makes it.
fn day(day: u32) -> String {
    format!("orders-202611{day:02}t0200z")
}

fn tick(day: u32) -> Timestamp {
    at(&format!("2026-11-{day:02}T02:00:00Z"))
}

fn removed() -> Fact {
    Fact::Removed {
        reason: "nothing keeps it".into(),
        mark: None,
    }
}

fn needs(parents: Vec<(RunPath, Sha256)>, kind: &'static str) -> impl FnOnce(&mut Manifest) {
    move |manifest| {
        manifest.copy_type = kind.to_owned();
        manifest.parents = parents
            .into_iter()
            .map(|(run, manifest_sha256)| holdfast_crds::document::Parent { run, manifest_sha256 })
            .collect();
    }
}
