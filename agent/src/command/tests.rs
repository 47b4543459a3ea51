//! Whole backups and restores: a real PostgreSQL on one side, a store in memory on the other.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use age::secrecy::ExposeSecret;
use holdfast_crds::document::{Abandonment, Label, RunPath};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_backed_up_and_lost_comes_back_whole_and_only_once() {
    let scene = Scene::new();
    let sql = format!(
        "{}
        DROP ROLE IF EXISTS circle_owner; CREATE ROLE circle_owner; DROP ROLE IF EXISTS circle_reader; CREATE ROLE circle_reader;
        ALTER TABLE types OWNER TO circle_owner; GRANT SELECT ON ALL TABLES IN SCHEMA public TO circle_reader;
        ALTER DATABASE \"circle Ä\" OWNER TO circle_owner; GRANT CONNECT ON DATABASE \"circle Ä\" TO circle_reader;
        ALTER DATABASE \"circle Ä\" SET work_mem = '7MB'; ALTER ROLE circle_reader IN DATABASE \"circle Ä\" SET work_mem = '8MB';
        ALTER DATABASE \"circle Ä\" CONNECTION LIMIT 17; COMMENT ON DATABASE \"circle Ä\" IS 'don''t lose it';",
        awkward()
    );
    scene.server.create("circle Ä", &sql);
    let before = scene.script("circle Ä");
    let task = scene.backup_task("run-1", &["circle *"], &nothing());
    let result = scene.backup("pod-1", &task).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::Succeeded, true));
    let copy = result.copy.unwrap();
    assert_eq!(
        (copy.databases, copy.structure_checked, &copy.database_names),
        (1, true, &vec!["circle Ä".to_owned()])
    );
    assert_eq!(copy.rows, Some(2 + 8 + 2000 + 17 + 300 + 3 + 30 + 100));
    assert!(copy.notes.iter().any(|note| note.starts_with("not included: ")), "{:?}", copy.notes);
    assert_eq!(scene.memory.open_uploads(), 0);

    scene.server.sql("postgres", "DROP DATABASE \"circle Ä\"");
    let request = scene.restore_task("again", "run-1", &nothing());
    let result = scene.restore("pod-2", &request).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::Succeeded, true), "{}", result.message);
    let restored = result.restored.unwrap();
    assert_eq!((restored.rows, restored.databases), (copy.rows.unwrap(), 1));
    assert!(restored.skipped.is_empty(), "{:?}", restored.skipped);
    let after = scene.script("circle Ä");
    assert!(before == after, "{}", difference(&before, &after));
    assert_eq!(scene.beside("pod-2"), "");

    // A request that is made again finds its receipt, and what was written since stays.
    scene.server.sql("circle Ä", "INSERT INTO parent VALUES (99, 1)");
    let result = scene.restore("pod-3", &request).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::AlreadyDone, true));
    assert_eq!(result.restored.unwrap(), restored);
    assert_eq!(scene.server.sql("circle Ä", "SELECT count(*) FROM parent"), "4");
    let settled = restore::settle(&scene.invocation("pod-4", Action::SettleRestore(request.clone())), &request)
        .await
        .unwrap();
    assert_eq!((settled.reason, settled.closed), (Reason::Succeeded, true));
    let unknown = scene.restore_task("never made", "run-1", &nothing());
    let settled = restore::settle(&scene.invocation("pod-4", Action::SettleRestore(unknown.clone())), &unknown)
        .await
        .unwrap();
    assert_eq!((settled.reason, settled.closed), (Reason::CopyNotFound, false));

    // So does a run: the database is not even asked.
    std::fs::remove_dir_all(scene.places().login).unwrap();
    let result = scene.backup("pod-5", &task).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::AlreadyDone, true));
    assert_eq!(result.copy.unwrap().manifest_digest, copy.manifest_digest);
    // Nobody's secret is in what the store holds in the clear.
    let clear = scene.memory.objects().into_iter().filter(|(path, _)| path.contains(".json"));
    assert!(
        clear
            .into_iter()
            .all(|(_, bytes)| !String::from_utf8_lossy(&bytes).contains("battery"))
    );
}

fn difference(before: &str, after: &str) -> String {
    let lines = before.lines().zip(after.lines()).filter(|(one, other)| one != other);
    let lines = lines.take(5).map(|(one, other)| format!("- {one}\n+ {other}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_data_is_never_replaced_and_an_empty_one_is() {
    let scene = Scene::new();
    scene.server.create("full", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["full"], &nothing()))
        .await
        .unwrap();
    let request = scene.restore_task("onto data", "run-1", &nothing());
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::TargetNotEmpty, true));
    assert!(
        message.contains("database full exists and holds objects of users (relation public.t)"),
        "{message}"
    );
    assert_eq!(scene.server.sql("full", "SELECT count(*) FROM t"), "1");
    assert_eq!(scene.beside("pod-2"), "");

    scene.server.create("other_empty", "SELECT 1");
    let oid = || {
        scene
            .server
            .sql("postgres", "SELECT oid FROM pg_database WHERE datname = 'other_empty'")
    };
    let old = oid();
    let rename = json!({"select": {"databases": ["full"], "rename": {"full": "other_empty"}}});
    let result = scene
        .restore("pod-3", &scene.restore_task("into empty", "run-1", &rename))
        .await
        .unwrap();
    assert_eq!(result.restored.unwrap().database_names, ["other_empty"]);
    assert_ne!(oid(), old);
    assert_eq!(scene.server.sql("other_empty", "SELECT count(*) FROM t"), "1");
    assert_eq!(
        scene.server.sql(
            "postgres",
            &format!("SELECT count(*) FROM holdfast.attempts WHERE pod = '{}'", scene.pod("pod-3"))
        ),
        "0"
    );
    assert_eq!(scene.beside("pod-3"), "");

    for (select, expected) in [
        (json!({"databases": ["none"]}), Reason::DatabaseNotInCopy),
        (json!({"rename": {"none": "x"}}), Reason::DatabaseNotInCopy),
        (json!({"rename": {"full": "postgres"}}), Reason::InvalidSpec),
        (json!({"rename": {"full": "holdfast-x"}}), Reason::InvalidSpec),
    ] {
        let (why, message, _) = reason(
            scene
                .restore("pod-4", &scene.restore_task("bad", "run-1", &json!({"select": select})))
                .await,
        );
        assert_eq!(why, expected, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_touched_with_a_wrong_key_or_a_damaged_part() {
    let scene = Scene::new();
    scene
        .server
        .create("precious", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["precious"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE precious");
    let request = scene.restore_task("r", "run-1", &nothing());
    let identity = scene.places().identity.join("identity");
    let right = std::fs::read_to_string(&identity).unwrap();
    let wrong = age::x25519::Identity::generate();
    std::fs::write(&identity, wrong.to_string().expose_secret()).unwrap();
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::WrongKey, true), "{message}");
    std::fs::remove_file(&identity).unwrap();
    assert_eq!(reason(scene.restore("pod-2", &request).await).0, Reason::KeyMissing);
    std::fs::write(&identity, right).unwrap();

    let (path, bytes) = scene
        .memory
        .objects()
        .into_iter()
        .find(|(path, _)| path.contains("db0001") && path.contains("00001"))
        .unwrap();
    let mut damaged = bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    scene.memory.plant(&path, damaged);
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::CopyCorrupt, true), "{message}");
    assert_eq!(scene.databases("precious"), "");
    assert_eq!(scene.beside("pod-2"), "");
    let pinned = json!({"manifestDigest": "0".repeat(64)});
    assert_eq!(
        reason(scene.restore("pod-2", &scene.restore_task("r", "run-1", &pinned)).await).0,
        Reason::Tampered
    );
    assert_eq!(
        reason(scene.restore("pod-2", &scene.restore_task("r", "run-2", &nothing())).await).0,
        Reason::CopyNotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_roles_fail_are_left_out_or_made() {
    let scene = Scene::new();
    scene.server.create(
        "roles",
        "DROP ROLE IF EXISTS gone_owner; CREATE ROLE gone_owner LOGIN PASSWORD 'x' CONNECTION LIMIT 3; CREATE TABLE t (); ALTER TABLE t OWNER TO gone_owner;
         GRANT SELECT ON t TO PUBLIC;",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["roles"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE roles; DROP ROLE gone_owner;");
    let with = |policy: &str| json!({"missingRoles": policy});
    let (why, message, _) = reason(scene.restore("pod-2", &scene.restore_task("fail", "run-1", &with("Fail"))).await);
    assert_eq!(why, Reason::RolesMissing);
    assert!(message.contains("gone_owner ("), "{message}");
    assert_eq!(scene.databases("roles"), "");

    let result = scene
        .restore("pod-3", &scene.restore_task("skip", "run-1", &with("Skip")))
        .await
        .unwrap();
    let skipped = result.restored.unwrap().skipped;
    assert!(skipped.iter().any(|note| note.contains("owner gone_owner of")), "{skipped:?}");
    let owner = "SELECT pg_get_userbyid(relowner) || ' ' || array_to_string(relacl, ',') LIKE '%=r/%' FROM pg_class WHERE relname = 't'";
    assert_eq!(
        scene
            .server
            .sql("roles", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'"),
        "postgres",
        "{owner}"
    );
    scene.server.sql("postgres", "DROP DATABASE roles");

    let result = scene
        .restore("pod-4", &scene.restore_task("create", "run-1", &with("Create")))
        .await
        .unwrap();
    assert!(
        result
            .restored
            .unwrap()
            .skipped
            .iter()
            .any(|note| note.contains("created roles gone_owner"))
    );
    assert_eq!(
        scene
            .server
            .sql("roles", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'"),
        "gone_owner"
    );
    let role = scene.server.sql(
        "postgres",
        "SELECT rolcanlogin, rolconnlimit, rolpassword LIKE 'SCRAM%' FROM pg_authid WHERE rolname = 'gone_owner'",
    );
    assert_eq!(role, "t|3|t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_ends_early_is_never_committed() {
    let scene = Scene::new();
    scene
        .server
        .create("early", "CREATE TABLE t AS SELECT generate_series(1, 20000) AS id");
    let version = "[ \"$1\" = --version ] && exec $REAL --version";
    for (run, script, expected, words) in [
        (
            "cut",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\" | head -c 60000\nexit 0\n"),
            Reason::DumpTruncated,
            "ends at byte 60000",
        ),
        (
            "killed",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\" | head -c 60000\nkill -KILL $$\n"),
            Reason::DumpFailed,
            "was killed by signal 9",
        ),
        (
            "failed",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\"\necho 'pg_dump: error: late' >&2\nexit 1\n"),
            Reason::DumpFailed,
            "pg_dump: error: late",
        ),
        (
            "nothing",
            format!("#!/bin/bash\n{version}\nexit 0\n"),
            Reason::DumpTruncated,
            "ends at byte 0",
        ),
    ] {
        let places = scene.tool("pg_dump", &script);
        let task = scene.backup_task(run, &["early"], &nothing());
        let invocation = Invocation {
            places,
            ..scene.invocation("pod-1", Action::Backup(task.clone()))
        };
        let (why, message, closed) = reason(backup::run_with(&invocation, &task, &scene.store()).await);
        assert_eq!((why, closed), (expected, false), "{run}: {message}");
        assert!(message.contains(words), "{run}: {message}");
        assert!(
            scene
                .store()
                .outcome(&RunPath::new("shop", "shop", run).unwrap())
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(scene.memory.open_uploads(), 0, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_failure_is_final_in_the_register_and_no_zombie_commits_after() {
    let scene = Scene::new();
    scene.server.create("zombie", "CREATE TABLE t AS SELECT 1 AS id");
    let right = std::fs::read_to_string(scene.places().login.join("password")).unwrap();
    write(&scene.places().login.join("password"), "wrong");
    let (why, _, closed) = reason(scene.backup("pod-1", &scene.backup_task("run-1", &["zombie"], &nothing())).await);
    assert_eq!((why, closed), (Reason::DatabaseLoginFailed, false));
    let last = scene.backup_task("run-1", &["zombie"], &json!({"attempt": 3, "final": true}));
    let (why, _, closed) = reason(scene.backup("pod-3", &last).await);
    assert_eq!((why, closed), (Reason::DatabaseLoginFailed, true));
    write(&scene.places().login.join("password"), &right);
    let (why, message, closed) = reason(scene.backup("pod-1", &scene.backup_task("run-1", &["zombie"], &nothing())).await);
    assert_eq!((why, closed), (Reason::Abandoned, true));
    assert!(message.contains("DatabaseLoginFailed"), "{message}");

    // Given up while it was reading.
    let invocation = scene.invocation("pod-4", Action::Backup(last.clone()));
    let task = scene.backup_task("run-2", &["zombie"], &nothing());
    let holder = hold_lock(&scene, "zombie").await;
    let store = scene.store();
    let work = backup::run_with(&invocation, &task, &store);
    let give_up = async {
        wait_for_lock(&scene, "pod-4").await;
        let pinned = store.claim("cluster", "shop/offsite").await.unwrap();
        let abandonment = Abandonment {
            reason: "Cancelled".to_owned(),
            message: String::new(),
        };
        store
            .abandon(
                &RunPath::new("shop", "shop", "run-2").unwrap(),
                &invocation.pod,
                abandonment,
                &pinned,
            )
            .await
            .unwrap();
        drop(holder);
    };
    let (result, ()) = tokio::join!(work, give_up);
    assert_eq!(reason(result).0, Reason::Abandoned);

    // Its time is over before it could begin.
    let late = scene.backup_task("run-3", &["zombie"], &json!({"notAfter": "2026-01-01T00:00:00Z"}));
    assert_eq!(reason(scene.backup("pod-5", &late).await).0, Reason::DeadlineExceeded);
    // Another cluster owns the place.
    let mut foreign = scene.invocation("pod-6", Action::Backup(task.clone()));
    foreign.task.cluster = "another".to_owned();
    assert_eq!(
        reason(backup::run_with(&foreign, &task, &scene.store()).await).0,
        Reason::StoreForeign
    );
}

async fn session(scene: &Scene, database: &str) -> crate::engine::postgresql::connect::Session {
    let RestoreTask {
        to: holdfast_crds::RestoreTo::Postgresql(server),
        ..
    } = scene.restore_task("x", "x", &nothing());
    let access = crate::engine::postgresql::connect::Access::new(&server, &scene.places().server_files(), "holdfast test").unwrap();
    access.connect_again(&access.hosts[0], database).await.unwrap()
}

async fn hold_lock(scene: &Scene, database: &str) -> crate::engine::postgresql::connect::Session {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_stop_ends_in_time_and_leaves_nothing() {
    let scene = Scene::new();
    scene.server.create("stopped", "CREATE TABLE t AS SELECT 1 AS id");
    let holder = hold_lock(&scene, "stopped").await;
    let task = scene.backup_task("run-1", &["stopped"], &json!({"final": true}));
    let invocation = scene.invocation("pod-stop", Action::Backup(task.clone()));
    let store = scene.store();
    let stop = async {
        wait_for_lock(&scene, "pod-stop").await;
        invocation.cancel.cancel();
    };
    let started = std::time::Instant::now();
    let (result, ()) = tokio::join!(backup::run_with(&invocation, &task, &store), stop);
    assert_eq!(reason(result).0, Reason::Interrupted);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let left = &format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast {}%'",
        scene.pod("pod-stop")
    );
    let watcher = session(&scene, "postgres").await;
    while watcher.row("look", left).await.unwrap().number(0) > 0 {
        tokio::task::yield_now().await;
    }
    drop(holder);
    assert_eq!(scene.memory.open_uploads(), 0);
    assert!(
        store
            .outcome(&RunPath::new("shop", "shop", "run-1").unwrap())
            .await
            .unwrap()
            .is_none(),
        "a settle Job decides"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_pod_left_beside_is_dropped_and_what_a_live_one_works_on_is_not() {
    let scene = Scene::new();
    scene.server.create("beside", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["beside"], &nothing()))
        .await
        .unwrap();
    let request = scene.restore_task("r", "run-1", &json!({"select": {"rename": {"beside": "beside_new"}}}));
    let identity = |pod: &str| Identity {
        digest: request.digest.clone(),
        namespace: "shop".to_owned(),
        request: "r".to_owned(),
        copy: request.path.clone(),
        pod: scene.pod(pod),
    };
    let live = session(&scene, "postgres").await;
    for (session, pod) in [(&session(&scene, "postgres").await, "pod-dead"), (&live, "pod-live")] {
        let identity = identity(pod);
        receipt::begin(session, &identity).await.unwrap();
        receipt::note(session, &identity, &format!("holdfast-{}-0", scene.pod(pod)), "beside_new")
            .await
            .unwrap();
        session
            .run("make", &format!("CREATE DATABASE \"holdfast-{}-0\"", scene.pod(pod)))
            .await
            .unwrap();
    }
    // The dead one had also closed the empty database that it was about to replace.
    scene.server.sql(
        "postgres",
        "DROP DATABASE IF EXISTS beside_new; CREATE DATABASE beside_new ALLOW_CONNECTIONS false",
    );
    let result = scene.restore("pod-new", &request).await.unwrap();
    assert_eq!(result.reason, Reason::Succeeded);
    assert_eq!(scene.beside("pod-"), format!("holdfast-{}-0", scene.pod("pod-live")));
    assert_eq!(scene.server.sql("beside_new", "SELECT count(*) FROM t"), "1");
    receipt::clean(&live, &receipt::leftovers(&live, &identity("pod-live")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(scene.beside("pod-live"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pods_of_one_request_one_restores() {
    let scene = Scene::new();
    scene.server.create("twice", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["twice"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE twice");
    let request = scene.restore_task("r", "run-1", &nothing());
    let results = tokio::join!(scene.restore("pod-twice-a", &request), scene.restore("pod-twice-b", &request));
    let reasons = [results.0, results.1].map(|result| result.map_or_else(|failure| failure.reason, |result| result.reason));
    assert!(reasons.contains(&Reason::Succeeded), "{reasons:?}");
    // The other finds the receipt at the end, or the database at the beginning.
    assert!(
        reasons.contains(&Reason::AlreadyDone) || reasons.contains(&Reason::TargetNotEmpty),
        "{reasons:?}"
    );
    assert_eq!(scene.beside("pod-twice"), "");
    assert_eq!(scene.server.sql("twice", "SELECT count(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_is_applied_by_the_init_container_and_nothing_is_said_of_no_encryption() {
    let mut scene = Scene::new();
    scene.server.create("phrase", "CREATE TABLE t AS SELECT 1 AS id");
    scene.encryption = json!({"passphrase": {"secretName": "p"}});
    let task = scene.backup_task("run-1", &["phrase"], &nothing());
    std::fs::remove_file(scene.places().identity.join("identity")).unwrap();
    std::fs::create_dir_all(scene.places().key).unwrap();
    assert_eq!(reason(scene.backup("pod-1", &task).await).0, Reason::SecretKeyMissing);
    write(&scene.places().identity.join("passphrase"), "correct horse\n");
    let sealed = key::run(Arc::new(scene.invocation("pod-1", Action::Backup(task.clone()))))
        .await
        .unwrap();
    assert_eq!(sealed.reason, Reason::Succeeded);
    // The main container never sees the passphrase.
    std::fs::remove_file(scene.places().identity.join("passphrase")).unwrap();
    scene.backup("pod-1", &task).await.unwrap();
    assert!(!scene.places().key.join("run-key").exists());
    write(&scene.places().identity.join("passphrase"), "wrong");
    let request = scene.restore_task("r", "run-1", &json!({"select": {"rename": {"phrase": "phrase_new"}}}));
    scene.server.sql("postgres", "DROP DATABASE IF EXISTS phrase_new");
    assert_eq!(reason(scene.restore("pod-2", &request).await).0, Reason::WrongKey);
    write(&scene.places().identity.join("passphrase"), "correct horse");
    scene.restore("pod-2", &request).await.unwrap();
    assert_eq!(scene.server.sql("phrase_new", "SELECT count(*) FROM t"), "1");

    scene.encryption = json!({"none": {}});
    let result = scene
        .backup("pod-3", &scene.backup_task("run-2", &["phrase"], &nothing()))
        .await
        .unwrap();
    assert!(
        result
            .copy
            .unwrap()
            .notes
            .iter()
            .any(|note| note.contains("the store is not encrypted"))
    );
    let globals = scene
        .memory
        .objects()
        .into_iter()
        .find(|(path, _)| path.ends_with("/globals/00001.zst"))
        .unwrap()
        .1;
    let globals = String::from_utf8(zstd::decode_all(&globals[..]).unwrap()).unwrap();
    assert!(globals.contains("CREATE ROLE postgres") && !globals.contains("SCRAM"), "{globals}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_asked_to_stop_drops_what_it_made() {
    let scene = Scene::new();
    scene.server.create("halted", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["halted"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE halted");
    // It loads nothing and waits.
    let places = scene.tool(
        "pg_restore",
        "#!/bin/bash\n[ \"$1\" = --version ] && exec $REAL --version\ncat > /dev/null\nexec sleep 1000\n",
    );
    let request = scene.restore_task("r", "run-1", &nothing());
    let invocation = Invocation {
        places,
        ..scene.invocation("pod-halt", Action::Restore(request.clone()))
    };
    let store = scene.store();
    let stop = async {
        while scene.beside("pod-halt").is_empty() {
            tokio::task::yield_now().await;
        }
        invocation.cancel.cancel();
    };
    let started = std::time::Instant::now();
    let (result, ()) = tokio::join!(restore::run_with(&invocation, &request, &store), stop);
    let (why, _, closed) = reason(result);
    assert_eq!((why, closed), (Reason::Interrupted, true));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(
        (scene.beside("pod-halt"), scene.databases("halted")),
        (String::new(), String::new())
    );
    scene.restore("pod-next", &request).await.unwrap();
    assert_eq!(scene.server.sql("halted", "SELECT count(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_no_superuser_restores_what_is_his() {
    let scene = Scene::new();
    let role = "limited";
    scene.server.sql(
        "postgres",
        "DROP DATABASE IF EXISTS managed WITH (FORCE); DROP DATABASE IF EXISTS managed_new WITH (FORCE);",
    );
    scene.server.sql(
        "postgres",
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'limited') THEN EXECUTE 'DROP OWNED BY limited CASCADE'; END IF; END $$; \
         DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN CREATEDB PASSWORD 'p';",
    );
    scene.server.sql("postgres", "CREATE DATABASE managed OWNER limited");
    let extension = if awkward().contains("pg_trgm") {
        "CREATE EXTENSION pg_trgm; COMMENT ON EXTENSION pg_trgm IS 'mine';"
    } else {
        ""
    };
    let sql = format!(
        "SET ROLE {role}; {extension} CREATE TABLE t AS SELECT 1 AS id; CREATE SCHEMA s; CREATE VIEW s.v AS SELECT * FROM t; COMMENT ON TABLE t IS 'x';"
    );
    scene.server.sql("managed", &sql);
    write(&scene.places().login.join("username"), role);
    write(&scene.places().login.join("password"), "p");
    let task = scene.backup_task("run-1", &["managed"], &nothing());
    let result = scene.backup("pod-1", &task).await.unwrap();
    assert!(
        result
            .copy
            .unwrap()
            .notes
            .iter()
            .any(|note| note.contains("may not read pg_authid"))
    );
    let request = scene.restore_task("r", "run-1", &json!({"select": {"rename": {"managed": "managed_new"}}}));
    let (why, message, _) = reason(scene.restore("pod-2", &request).await);
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("GRANT CREATE ON DATABASE \"postgres\" TO \"limited\""),
        "{message}"
    );
    scene.server.sql("postgres", "GRANT CREATE ON DATABASE postgres TO limited");
    // Tables of receipts that another user made are his alone: this one needs them too.
    scene.server.sql(
        "postgres",
        "CREATE SCHEMA IF NOT EXISTS holdfast; GRANT ALL ON SCHEMA holdfast TO limited; GRANT ALL ON ALL TABLES IN SCHEMA holdfast TO limited;",
    );
    let result = scene.restore("pod-2", &request).await.unwrap();
    assert_eq!(result.reason, Reason::Succeeded, "{}", result.message);
    let owners = "SELECT pg_get_userbyid(datdba), (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't') FROM pg_database WHERE datname = 'managed_new'";
    assert_eq!(scene.server.sql("managed_new", owners), "limited|limited");
    scene.server.sql(
        "postgres",
        "DROP DATABASE managed; DROP DATABASE managed_new; DROP OWNED BY limited;",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_comes_back_with_its_names_and_comments() {
    let scene = Scene::new();
    scene.server.sql("postgres", "DROP DATABASE IF EXISTS latin WITH (FORCE)");
    scene.server.sql(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    scene.server.sql(
        "latin",
        "SET client_encoding = 'UTF8'; CREATE TABLE \"größe\" (t text); INSERT INTO \"größe\" VALUES ('ä'), ('Ã©'); COMMENT ON DATABASE latin IS 'für später';",
    );
    let before = scene.server.sql(
        "latin",
        "SET client_encoding = 'UTF8'; SELECT md5(string_agg(t, ',')) FROM \"größe\"",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["latin"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE latin");
    let result = scene
        .restore("pod-2", &scene.restore_task("r", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!((result.tables, result.rows, &result.skipped), (1, 2, &vec![]));
    assert_eq!(
        scene.server.sql(
            "latin",
            "SET client_encoding = 'UTF8'; SELECT md5(string_agg(t, ',')) FROM \"größe\""
        ),
        before
    );
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'latin'";
    assert_eq!(scene.server.sql("postgres", comment), "für später");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_gone_or_left_out_since_the_last_copy_is_told() {
    let scene = Scene::new();
    for database in ["told_a", "told_b", "told_c"] {
        scene.server.create(database, "CREATE TABLE t ()");
    }
    let first = scene
        .backup("pod-1", &scene.backup_task("run-1", &["told_a", "told_b"], &nothing()))
        .await
        .unwrap();
    assert!(first.copy.unwrap().notes.iter().all(|note| !note.contains("since")));
    scene.server.sql("postgres", "DROP DATABASE told_b");
    let mut task = scene.backup_task("run-2", &["told_*"], &nothing());
    task.spec.postgresql.as_mut().unwrap().databases.exclude = vec!["told_a".to_owned()];
    let notes = scene.backup("pod-2", &task).await.unwrap().copy.unwrap().notes;
    assert!(notes.contains(&"new since run-1: told_c".to_owned()), "{notes:?}");
    assert!(notes.contains(&"gone since run-1: told_b".to_owned()), "{notes:?}");
    assert!(notes.contains(&"excluded: told_a".to_owned()), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maintenance_database_is_left_as_it_is_where_the_copy_of_it_holds_nothing() {
    let scene = Scene::new();
    scene.server.create("all_of_it", "CREATE TABLE t AS SELECT 1 AS id");
    // A restore has left its receipt there.
    scene.server.sql("postgres", "CREATE SCHEMA IF NOT EXISTS holdfast");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["postgres", "all_of_it"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE all_of_it");
    let restored = scene
        .restore("pod-2", &scene.restore_task("r", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!(restored.database_names, ["all_of_it"]);
    assert!(
        restored
            .skipped
            .iter()
            .any(|note| note.starts_with("database postgres holds nothing")),
        "{:?}",
        restored.skipped
    );
    let alone = json!({"select": {"databases": ["postgres"]}});
    assert_eq!(
        reason(scene.restore("pod-3", &scene.restore_task("alone", "run-1", &alone)).await).0,
        Reason::DatabaseNotInCopy
    );
}

/// F02, F30, F34: a run is tried once and its calls to the store are counted; then for each call it is tried again with each fault in it,
/// and after it once more by another pod with empty memory. The end is the same as without a fault: one outcome, and all that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_any_call_to_the_store_the_next_attempt_ends_with_one_whole_copy() {
    let mut scene = Scene::new();
    scene
        .server
        .create("every_call", "CREATE TABLE t AS SELECT generate_series(1, 100) AS id");
    let archive = scene.root.path().join("archive");
    std::fs::write(&archive, scene.server.dump("every_call", &[])).unwrap();
    let version = "[ \"$1\" = --version ] && exec $REAL --version";
    let places = scene.tool("pg_dump", &format!("#!/bin/sh\n{version}\nexec cat {}\n", archive.display()));
    let mut task = scene.backup_task("run-1", &["every_call"], &nothing());
    task.spec.postgresql.as_mut().unwrap().globals = holdfast_crds::Globals::Skip;
    let soon = Patience {
        total: Duration::from_millis(500),
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        rotation: Duration::ZERO,
    };
    let run = RunPath::new("shop", "shop", "run-1").unwrap();
    let attempt = async |scene: &Scene, pod: &str, store: &Store| {
        let invocation = Invocation {
            places: places.clone(),
            ..scene.invocation(pod, Action::Backup(task.clone()))
        };
        backup::run_with(&invocation, &task, store).await
    };
    let counting = Faulty::none(scene.memory.clone());
    attempt(&scene, "pod-0", &Store::new(counting.clone(), soon, 2)).await.unwrap();
    let calls = counting.calls();
    assert!(calls.len() > 10, "{calls:?}");
    for (index, call) in calls.iter().enumerate() {
        for fault in [
            Fault::CrashBefore,
            Fault::CrashAfter,
            Fault::Before(Fault::slow_down()),
            Fault::Before(Fault::reset()),
            Fault::After(Fault::reset()),
            Fault::Flip,
            Fault::Break,
        ] {
            let told = format!("{fault:?} at {call:?}");
            scene.memory = Memory::new();
            let first = attempt(
                &scene,
                "pod-1",
                &Store::new(Faulty::at(scene.memory.clone(), index, fault), soon, 2),
            )
            .await;
            let store = scene.store();
            let second = attempt(&scene, "pod-2", &store)
                .await
                .unwrap_or_else(|failure| panic!("{told}: {failure:?}"));
            assert!(second.closed, "{told}");
            if let Ok(first) = first {
                assert_eq!(second.reason, Reason::AlreadyDone, "{told}");
                assert_eq!(first.copy.unwrap().manifest_digest, second.copy.unwrap().manifest_digest, "{told}");
            }
            assert_eq!(scene.memory.versions_of(&run.outcome().to_string()), 1, "{told}");
            let decided = store.outcome(&run).await.unwrap().unwrap();
            let objects = scene.memory.objects();
            for stored in decided.outcome.committed().unwrap().stored() {
                assert_eq!(
                    holdfast_crds::document::Sha256::of(&objects[&stored.path]),
                    stored.sha256,
                    "{told}: {}",
                    stored.path
                );
            }
        }
    }
}
