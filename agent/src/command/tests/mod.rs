//! Whole backups and restores: a real PostgreSQL on one side, a store in memory on the other.

mod backups;
mod chain;
mod copies;
mod incomplete;
mod objects;
mod progress;
mod restores;
mod rights;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use age::secrecy::ExposeSecret;
use holdfast_crds::document::{Abandonment, Fact, Label, Record, RunPath, Ulid};
use holdfast_crds::{Action, AgentResult, BackupTask, Reason, RestoreTask, TASK_VERSION, Task};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{backup, key, restore};
use crate::config::{Invocation, Places};
use crate::engine::postgresql::restore::receipt::{self, Identity};
use crate::engine::postgresql::test_server::{PASSWORD, TestServer, awkward, major, tools};
use crate::progress::Progress;
use crate::result::Failure;
use crate::store::faulty::{Fault, Faulty};
use crate::store::memory::Memory;
use crate::store::{Patience, Store};

/// A pod's files, a store, and a server.
struct Scene {
    root: tempfile::TempDir,
    server: &'static TestServer,
    memory: Memory,
    encryption: Value,
    /// Tests run side by side on one server: no pod's name is used twice.
    number: usize,
}

static SCENES: AtomicUsize = AtomicUsize::new(0);

impl Scene {
    /// Puts the record of a removal of this run's copy into the store, which keeps all its objects.
    fn plant_removal(&self, run: &str) {
        let at: jiff::Timestamp = "2026-04-20T08:00:00Z".parse().unwrap();
        let run = RunPath::new("shop", "shop", run).unwrap();
        let fact = Fact::Removed {
            reason: "retention".to_owned(),
            mark: None,
        };
        let record = Record::new(run, Ulid::new(at, [0; 10]), Label::new("pod", "keeper").unwrap(), at, None, fact);
        self.memory.plant(&record.path().to_string(), record.to_bytes());
    }

    /// With a store that is encrypted to a fresh identity, which lies where restores look for it.
    fn new() -> Self {
        let identity = age::x25519::Identity::generate();
        let scene = Self {
            root: tempfile::tempdir().unwrap(),
            server: TestServer::shared(),
            memory: Memory::new(),
            number: SCENES.fetch_add(1, Ordering::Relaxed),
            encryption: json!({"age": {"recipients": [identity.to_public().to_string()]}}),
        };
        write(&scene.places().login.join("username"), "postgres");
        write(&scene.places().login.join("password"), PASSWORD);
        write(&scene.places().identity.join("identity"), identity.to_string().expose_secret());
        scene
    }

    fn places(&self) -> Places {
        Places {
            tools: Some(tools().into()),
            ..Places::below(self.root.path())
        }
    }

    fn store(&self) -> Store {
        Store::new(self.memory.clone(), Patience::PROBE, 2)
    }

    /// The pod's name as the server sees it.
    fn pod(&self, pod: &str) -> String {
        format!("{pod}-s{}", self.number)
    }

    fn invocation(&self, pod: &str, action: Action) -> Invocation {
        let store = json!({"name": "offsite", "uid": "u", "spec": {
            "s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": self.encryption}});
        let task = Task {
            version: TASK_VERSION,
            cluster: "cluster".to_owned(),
            namespace: "shop".to_owned(),
            store: serde_json::from_value(store).unwrap(),
            action,
        };
        Invocation {
            task,
            places: self.places(),
            pod: Label::new("pod", self.pod(pod)).unwrap(),
            memory_limit: None,
            cancel: CancellationToken::new(),
            progress: Progress::default(),
        }
    }

    fn server_spec(&self) -> Value {
        json!({"hosts": [self.server.address()], "version": major(), "credentials": {"secretName": "db"}, "tls": {"mode": "Disable"}})
    }

    fn backup_task(&self, run: &str, databases: &[&str], more: &Value) -> BackupTask {
        let mut postgresql = self.server_spec();
        postgresql["databases"] = json!({"include": databases});
        postgresql["lockTimeout"] = json!("30s");
        let mut task = json!({"run": run, "source": "shop", "sourceUid": "s", "spec": {"postgresql": postgresql}, "type": "Full", "attempt": 1,
            "final": false, "notAfter": "2126-01-01T00:00:00Z"});
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(task).unwrap()
    }

    async fn backup(&self, pod: &str, task: &BackupTask) -> Result<AgentResult, Failure> {
        let invocation = self.invocation(pod, Action::Backup(task.clone()));
        backup::run_with(&invocation, task, &self.store()).await
    }

    fn restore_task(&self, request: &str, run: &str, more: &Value) -> RestoreTask {
        let mut task = json!({"request": request, "digest": format!("digest of {request} in {}", self.root.path().display()), "path": format!("shop/shop/{run}"),
            "to": {"postgresql": self.server_spec()}, "missingRoles": "Fail", "attempt": 1, "notAfter": "2126-01-01T00:00:00Z"});
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(task).unwrap()
    }

    async fn restore(&self, pod: &str, task: &RestoreTask) -> Result<AgentResult, Failure> {
        let invocation = self.invocation(pod, Action::Restore(task.clone()));
        restore::run_with(&invocation, task, &self.store()).await
    }

    /// The database as a script, without what differs from dump to dump.
    fn script(&self, database: &str) -> String {
        let output = self.server.tool("pg_dump").args(["--create", database]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn databases(&self, pattern: &str) -> String {
        self.server.sql(
            "postgres",
            &format!("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE '{pattern}'"),
        )
    }

    /// Databases beside of a pod, or of all whose name begins so.
    fn beside(&self, pod: &str) -> String {
        self.databases(&format!("holdfast-{pod}%-s{}-%", self.number))
    }

    /// Puts a program of the same name before the real one.
    fn tool(&self, name: &str, script: &str) -> Places {
        let directory = self.root.path().join("fake");
        std::fs::create_dir_all(&directory).unwrap();
        for real in std::fs::read_dir(tools()).unwrap() {
            let real = real.unwrap();
            let link = directory.join(real.file_name());
            if real.file_name() != name && !link.exists() {
                std::os::unix::fs::symlink(real.path(), link).unwrap();
            }
        }
        let program = directory.join(name);
        std::fs::write(&program, script.replace("$REAL", &format!("{}/{name}", tools()))).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Places {
            tools: Some(directory),
            ..self.places()
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn reason<T>(result: Result<T, Failure>) -> (Reason, String, bool) {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(failure) => (failure.reason, failure.message, failure.closed),
    }
}

fn nothing() -> Value {
    json!({})
}

fn difference(before: &str, after: &str) -> String {
    let lines = before.lines().zip(after.lines()).filter(|(one, other)| one != other);
    let lines = lines.take(5).map(|(one, other)| format!("- {one}\n+ {other}"));
    lines.collect::<Vec<_>>().join("\n")
}

async fn session(scene: &Scene, database: &str) -> crate::engine::postgresql::session::Session {
    let RestoreTask {
        to: holdfast_crds::RestoreTo::Postgresql(server),
        ..
    } = scene.restore_task("x", "x", &nothing());
    let access = crate::engine::postgresql::connect::Access::new(&server, &scene.places().server_files(), "holdfast test").unwrap();
    access.connect_again(&access.hosts[0], database).await.unwrap()
}

async fn hold_lock(scene: &Scene, database: &str) -> crate::engine::postgresql::session::Session {
    let holder = session(scene, database).await;
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    holder
}

async fn wait_for_lock(scene: &Scene, pod: &str) {
    let watcher = session(scene, "postgres").await;
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast {}%' AND wait_event_type = 'Lock'",
        scene.pod(pod)
    );
    while watcher.row("look", &sql).await.unwrap().number(0) == 0 {
        tokio::task::yield_now().await;
    }
}
