//! Passes over a store in memory, with a clock of its own.

mod crashes;
mod disposals;
mod erasure;
mod forged;
mod locks;
mod passes;
mod previews;
mod seals;
mod servers;
mod time;
mod unread;
mod year;
mod zombies;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_crds::document::{
    Blake3, Checked, Committed, Contents, Decision, Durations, Encryption, Engine, FORMAT, Fact, IndexObject, Label, Manifest, Method,
    ObjectPath, Outcome, Part, RawDigest, Record, RunIdentity, RunPath, ScheduleIdentity, ScheduleName, Server, Sha256, SourceIdentity,
    Stream, StreamKind,
};
use holdfast_crds::{
    Action, AgentResult, FrozenStore, KEEP_LINE, KeepLine, KeepSchedule, KeepSource, KeepTask, Retention, SourceReport, StoreFinding,
    TASK_VERSION, Task,
};
use jiff::{SignedDuration, Timestamp};

use super::report::Report;
use super::run_with;
use crate::config::{Invocation, Places};
use crate::result::Failure;
use crate::store::memory::Memory;
use crate::store::{Backend, Created, Patience, Store};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn label(text: &str) -> Label {
    Label::new("test", text).unwrap()
}

/// What the operator knows of the source: that so many copies have to be there.
fn counted(copies: u64) -> KeepSource {
    KeepSource {
        namespace: label("shop"),
        source: label("orders"),
        copies: Some(copies),
        copies_as_of: None,
        retired: None,
        accepted: vec![],
    }
}

/// A store, and the cluster that looks after it.
pub struct Scene {
    pub memory: Memory,
    pub cluster: String,
    /// The store's specification.
    pub spec: serde_json::Value,
    /// Whether its copies have keys.
    pub encrypted: bool,
    root: tempfile::TempDir,
    pods: Mutex<u32>,
}

/// What a pass said.
pub struct Said {
    pub result: AgentResult,
    pub lines: Vec<KeepLine>,
}

impl Said {
    pub fn source(&self) -> &SourceReport {
        let mut sources = self.lines.iter().filter_map(|line| match line {
            KeepLine::Source(report) => Some(report),
            _ => None,
        });
        let found = sources.next().unwrap_or_else(|| panic!("no source in {:?}", self.lines));
        assert!(sources.next().is_none(), "one source: {:?}", self.lines);
        found
    }

    pub fn findings(&self) -> Vec<&StoreFinding> {
        let findings = self.lines.iter().filter_map(|line| match line {
            KeepLine::Finding(finding) => Some(finding),
            _ => None,
        });
        findings.collect()
    }
}

impl Scene {
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            cluster: "cluster-a".into(),
            spec: serde_json::json!({"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}}),
            encrypted: false,
            root: tempfile::tempdir().unwrap(),
            pods: Mutex::new(0),
        }
    }

    pub fn store(&self) -> Store {
        Store::new(self.memory.clone(), Patience::PROBE, 4)
    }

    pub fn now(&self) -> Timestamp {
        self.memory.now().unwrap()
    }

    pub fn places(&self) -> Places {
        Places::below(self.root.path())
    }

    pub fn invocation(&self, store: &str, task: &KeepTask) -> Invocation {
        let task = Task {
            version: TASK_VERSION,
            cluster: self.cluster.clone(),
            namespace: "shop".into(),
            store: FrozenStore {
                kind: holdfast_crds::StoreKind::BackupStore,
                name: store.into(),
                uid: "u".into(),
                spec: serde_json::from_value(self.spec.clone()).unwrap(),
            },
            action: Action::Keep(Box::new(task.clone())),
        };
        Invocation::new(task, self.places()).unwrap()
    }

    /// A pass in a store whose calls go through `backend`.
    pub async fn pass_through(&self, backend: impl Backend, task: &KeepTask) -> Result<Said, Failure> {
        self.pass_as("offsite", backend, task).await
    }

    /// A pass of the keeper of the store with this name.
    pub async fn pass_as(&self, store: &str, backend: impl Backend, task: &KeepTask) -> Result<Said, Failure> {
        self.pass_of(&self.invocation(store, task), backend, self.now(), task).await
    }

    /// The pass that is invoked so, while our clock shows `now`.
    pub async fn pass_of(&self, invocation: &Invocation, backend: impl Backend, now: Timestamp, task: &KeepTask) -> Result<Said, Failure> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let report = Report::new(Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned())));
        let store = Store::new(backend, Patience::PROBE, 4);
        let result = run_with(invocation, task, (&store, &store), move || now, report).await?;
        let texts = lines.lock().unwrap().clone();
        // What the operator does with the log.
        let summary = result.kept.clone().unwrap();
        let all = texts.iter().fold(String::new(), |all, line| format!("{all}{line}\n"));
        assert_eq!(
            (summary.lines, summary.sha256),
            (texts.len() as u64, Sha256::of(all.as_bytes()).to_string())
        );
        let parse = |line: &String| serde_json::from_str(line.strip_prefix(KEEP_LINE).unwrap()).unwrap();
        let lines = texts.iter().map(parse).collect();
        Ok(Said { result, lines })
    }

    pub async fn pass(&self, task: &KeepTask) -> Said {
        self.pass_through(self.memory.clone(), task).await.unwrap()
    }

    /// Commits a full copy of `shop/orders` as schedule `gold` does, at its tick.
    pub async fn copy(&self, tick: Timestamp) -> RunPath {
        self.copy_with(&name_of(tick), tick, |_| {}).await
    }

    pub async fn copy_with(&self, run: &str, tick: Timestamp, edit: impl FnOnce(&mut Manifest)) -> RunPath {
        self.copy_as("shop/offsite", run, tick, edit).await
    }

    /// Commits in the place of the store object with this name.
    pub async fn copy_as(&self, holder: &str, run: &str, tick: Timestamp, edit: impl FnOnce(&mut Manifest)) -> RunPath {
        self.copy_of("orders", holder, run, tick, edit).await
    }

    pub async fn copy_of(&self, source: &str, holder: &str, run: &str, tick: Timestamp, edit: impl FnOnce(&mut Manifest)) -> RunPath {
        let outcome = self.prepared(source, run, tick, edit).await;
        let store = self.store();
        let pinned = store.claim(&self.cluster, holder).await.unwrap();
        let decided = store.commit(&outcome, &pinned, Timestamp::MAX).await.unwrap();
        assert!(decided.ours);
        outcome.run
    }

    /// All of a copy but its commit: the pod's next step is that.
    pub async fn prepared(&self, source: &str, run: &str, tick: Timestamp, edit: impl FnOnce(&mut Manifest)) -> Outcome {
        let store = self.store();
        let path = RunPath::new("shop", source, run).unwrap();
        let number = {
            let mut pods = self.pods.lock().unwrap();
            *pods += 1;
            *pods
        };
        let pod = path.pod(label(&format!("pod-{number}")));
        let stream = pod.stream(label("database-1"), self.encrypted);
        let bytes = Bytes::from(format!("rows of {run}"));
        let mut stored = Vec::new();
        let key = self.encrypted.then(|| pod.key(1));
        for object in [stream.part(1), stream.index()].into_iter().chain(key.clone()) {
            let Created::Ours(held) = store.create(&(&object).into(), bytes.clone()).await.unwrap() else {
                panic!("{object} was there already")
            };
            stored.push(held.to_document());
        }
        let size = bytes.len() as u64;
        let raw = RawDigest {
            bytes: size,
            blake3: Blake3::of(&bytes),
        };
        let mut manifest = Manifest {
            version: FORMAT,
            cluster: self.cluster.clone(),
            source: SourceIdentity {
                namespace: path.namespace.clone(),
                name: path.source.clone(),
            },
            run: RunIdentity {
                name: path.run.clone(),
                tick: Some(tick),
                attempt: 1,
                pod: pod.pod.clone(),
                keep_for: None,
            },
            schedule: Some(ScheduleIdentity {
                name: "gold".into(),
                namespace: Some("shop".into()),
                trigger: Some("daily".into()),
                generation: 1,
                policy_digest: Sha256::of(b"policy"),
            }),
            engine: Engine::Postgresql,
            method: Method::Logical,
            copy_type: "Full".into(),
            parents: vec![],
            server: Server {
                host: "db:5432".into(),
                version: "15.13".into(),
                system_identifier: Some("7".into()),
                standby: false,
                tools: BTreeMap::new(),
            },
            recovery_point: tick,
            streams: vec![Stream {
                name: label("database-1"),
                kind: StreamKind::PostgresqlArchive,
                database: Some("orders".into()),
                checked: Checked::Structure,
                raw,
                parts: vec![Part {
                    object: stream.part(1).to_string(),
                    bytes: size,
                    sha256: Sha256::of(&bytes),
                    decrypted_bytes: size,
                    raw_bytes: size,
                    frames: 1,
                }],
                index: IndexObject {
                    object: stream.index().to_string(),
                    bytes: size,
                    sha256: Sha256::of(&bytes),
                    raw,
                },
            }],
            contents: Contents::default(),
            encryption: key.map_or(Encryption::None {}, |key| Encryption::Passphrase {
                public_recipient: "age1".into(),
                key: key.to_string(),
            }),
            durations: Durations {
                started: tick,
                finished: tick,
                phases: BTreeMap::new(),
            },
            not_after: tick + SignedDuration::from_hours(6),
            agent: "0.1.0".into(),
        };
        edit(&mut manifest);
        Outcome {
            run: path,
            nonce: run.to_owned(),
            by: pod.pod,
            at: self.now(),
            decision: Decision::Committed(Box::new(Committed::new(manifest, stored))),
        }
    }

    /// The runs of which any data is there, in any version.
    pub fn with_data(&self) -> BTreeSet<String> {
        let runs = self.memory.objects();
        runs.keys()
            .filter_map(|path| Some(path.strip_prefix("data/shop/orders/")?.split('/').next()?.to_owned()))
            .collect()
    }

    /// The records of a run, in the order in which they were written.
    pub fn facts(&self, run: &RunPath) -> Vec<Fact> {
        let objects = self.memory.objects();
        let records = objects.iter().filter_map(|(path, bytes)| match path.parse() {
            Ok(place @ ObjectPath::Record { .. }) => Record::from_bytes(&place, bytes).ok(),
            _ => None,
        });
        let mut records: Vec<_> = records.filter(|record| record.run_key == *run).collect();
        records.sort_by(|a, b| a.ulid.cmp(&b.ulid));
        records.into_iter().map(|record| record.fact).collect()
    }

    pub fn what(&self, run: &RunPath) -> Vec<&'static str> {
        self.facts(run).iter().map(Fact::what).collect()
    }
}

pub fn name_of(tick: Timestamp) -> String {
    format!("orders-{}", tick.strftime("%Y%m%dt%H%Mz"))
}

/// A task of one schedule.
pub fn task(edit: impl FnOnce(&mut Retention)) -> KeepTask {
    let mut retention = Retention::default();
    edit(&mut retention);
    KeepTask {
        schedules: vec![KeepSchedule {
            schedule: ScheduleName {
                namespace: Some("shop".into()),
                name: "gold".into(),
            },
            time_zone: "UTC".into(),
            retention,
            interval_seconds: 86_400,
        }],
        ..KeepTask::default()
    }
}

pub const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A copy a day at 02:00, for so many days; the clock then stands ten minutes after the last.
pub async fn days(scene: &Scene, first: &str, count: i64) -> Vec<RunPath> {
    let mut runs = Vec::new();
    for day in 0..count {
        let tick = at(first) + DAY * i32::try_from(day).unwrap();
        scene.memory.set_clock(tick + SignedDuration::from_mins(10));
        runs.push(scene.copy(tick).await);
    }
    runs
}
