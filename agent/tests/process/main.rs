//! The agent as a process: what a pod or a person sees of it. A real PostgreSQL on one side, a volume store on the other.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

mod copies;
mod help;
mod keep;
mod stock;
#[path = "../../src/engine/postgresql/test_server.rs"]
mod test_server;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast_crds::{AgentResult, Reason};
use serde_json::{Value, json};
use test_server::{PASSWORD, TestServer, major, tools};

/// The directory of one test, which any user may enter.
struct Pod(tempfile::TempDir);

impl Pod {
    fn new() -> Self {
        let pod = Self(tempfile::tempdir().unwrap());
        for directory in ["login", "volume", "scratch", "identity", "store"] {
            std::fs::create_dir(pod.path(directory)).unwrap();
            std::fs::set_permissions(pod.path(directory), std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        std::fs::set_permissions(pod.0.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        pod.write("login/username", "postgres");
        pod.write("login/password", PASSWORD);
        pod.write("pod-uid", "0d8f7e9a-0000-4000-8000-000000000001");
        pod
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The agent with every place in this directory.
    fn agent(&self, command: &str) -> Command {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
        self.arguments(agent.arg(command));
        agent
    }

    fn arguments(&self, agent: &mut Command) {
        let places = [
            ("login", "login"),
            ("store-volume", "volume"),
            ("scratch", "scratch"),
            ("identity", "identity"),
            ("result", "result"),
            ("pod-uid", "pod-uid"),
            ("store-secret", "store"),
        ];
        for (flag, name) in places {
            agent.arg(format!("--{flag}")).arg(self.path(name));
        }
        agent.arg("--tools").arg(tools()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// What a pod's termination message says.
    fn result(&self) -> AgentResult {
        let text = std::fs::read_to_string(self.path("result")).unwrap();
        assert!(text.len() <= holdfast_crds::RESULT_LIMIT);
        serde_json::from_str(&text).unwrap()
    }

    fn store(&self) -> PathBuf {
        let spec = json!({"volume": {"claimName": "backups"}, "encryption": {"none": {}}});
        let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "disk", "namespace": "shop"}, "spec": spec});
        self.write("store.yaml", &store.to_string())
    }

    fn source(&self, server: &TestServer, databases: &[&str]) -> PathBuf {
        let spec = json!({"postgresql": {"hosts": [server.address()], "version": major(), "credentials": {"secretName": "db"},
            "tls": {"mode": "Disable"}, "databases": {"include": databases}}});
        let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": {"name": "shop", "namespace": "shop"}, "spec": spec});
        self.write("source.yaml", &source.to_string())
    }

    /// A RestoreRequest of `shop/shop/run-1` that no server has a receipt of.
    fn request(&self, server: &TestServer, name: &str) -> PathBuf {
        let spec = json!({"from": {"store": {"name": "disk", "path": "shop/shop/run-1"}},
            "to": {"postgresql": {"hosts": [server.address()], "version": major(), "credentials": {"secretName": "db"}, "tls": {"mode": "Disable"}}}});
        let name = format!("{name}-{}", server.port());
        let request = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "RestoreRequest", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        self.write("restore.yaml", &request.to_string())
    }

    fn backup(&self, server: &TestServer, run: &str, databases: &[&str]) -> Command {
        let mut agent = self.agent("backup");
        agent
            .arg("--store")
            .arg(self.store())
            .arg("--source")
            .arg(self.source(server, databases))
            .args(["--run", run]);
        agent
    }
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.stderr.is_empty(),
        "all of the log goes to stdout: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn lines(output: &[u8]) -> Vec<Value> {
    String::from_utf8(output.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

#[test]
fn by_hand_with_the_manifests_that_kubectl_applies() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("by_hand", "CREATE TABLE t AS SELECT generate_series(1, 100) AS id");
    let output = done(&mut pod.backup(server, "run-1", &["by_hand"]));
    let log = lines(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log:?}");
    let result = pod.result();
    assert_eq!((result.reason, result.copy.unwrap().rows), (Reason::Succeeded, Some(100)));
    assert!(
        log.iter()
            .any(|line| line["message"] == "phase" && line["phase"] == "copy" && line["subject"] == "by_hand"),
        "{log:?}"
    );
    assert!(log.iter().all(|line| line["level"] == "INFO"), "{log:?}");
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("battery"),
        "a secret is in the log"
    );
    assert!(
        std::fs::read_dir(pod.path("scratch")).unwrap().next().is_none(),
        "something is left in the scratch directory"
    );

    server.sql("postgres", "DROP DATABASE by_hand");
    let request = pod.request(server, "by-hand");
    for expected in [Reason::Succeeded, Reason::AlreadyDone] {
        let output = done(pod.agent("restore").arg("--store").arg(pod.store()).arg("--request").arg(&request));
        assert_eq!(
            (output.status.code(), pod.result().reason),
            (Some(0), expected),
            "{:?}",
            lines(&output.stdout)
        );
    }
    assert_eq!(server.sql("by_hand", "SELECT count(*) FROM t"), "100");
}

#[test]
fn exit_code_and_message_name_the_reason() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    pod.write("login/password", "wrong");
    let output = done(&mut pod.backup(server, "run-1", &["postgres"]));
    assert_eq!(output.status.code(), Some(Reason::DatabaseLoginFailed.exit_code().into()));
    let result = pod.result();
    assert_eq!((result.reason, result.closed), (Reason::DatabaseLoginFailed, false));
    assert!(result.message.contains("password authentication failed"), "{}", result.message);
    let last = lines(&output.stdout).pop().unwrap();
    assert_eq!(
        (last["message"].as_str(), last["reason"].as_str()),
        (Some("failed"), Some("DatabaseLoginFailed"))
    );
    assert!(
        last["why"]
            .as_str()
            .is_some_and(|why| why.contains("password authentication failed")),
        "{last}"
    );

    for (task, expected) in [
        ("{}", "version is none, expected 1"),
        ("{\"version\": 2}", "version is 2, expected 1"),
        (
            "version: 1\ncluster: 7",
            "field cluster: invalid type: integer `7`, expected a string",
        ),
        (": no: yaml:", "read the task from"),
    ] {
        let task = pod.write("task.json", task);
        let output = done(pod.agent("backup").arg("--task").arg(task));
        assert_eq!(output.status.code(), Some(Reason::InvalidSpec.exit_code().into()));
        assert!(pod.result().message.contains(expected), "{}", pod.result().message);
    }
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let more = threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .collect::<String>();
    format!("{tasks} {more}")
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Starts a backup of a locked table and waits until the server says that its dump waits.
fn waiting_backup(server: &TestServer, pod: &Pod, database: &str) -> (Child, Child) {
    server.create(database, "CREATE TABLE t AS SELECT 1 AS id");
    let mut holder = server
        .tool("psql")
        .args(["-X", "-q", "-d", database])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(
        holder.stdin.as_mut().unwrap(),
        b"BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n",
    )
    .unwrap();
    let mut reader = BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("locked") {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut agent = pod.backup(server, "run-1", &[database]).spawn().unwrap();
    let waits = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'");
    while server.sql("postgres", &waits) == "0" {
        let ended = agent.try_wait().unwrap();
        assert!(ended.is_none(), "it did not wait: {ended:?}: {}", pod.result().message);
    }
    (agent, holder)
}

#[test]
fn sigterm_ends_it_within_five_seconds_and_leaves_no_session() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let (mut agent, mut holder) = waiting_backup(server, &pod, "sigterm");
    let started = Instant::now();
    assert!(
        Command::new("kill")
            .args(["-TERM", &agent.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let status = agent.wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(Reason::Interrupted.exit_code().into()));
    assert_eq!((pod.result().reason, pod.result().closed), (Reason::Interrupted, false));
    while server.sql(
        "postgres",
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'sigterm' AND application_name LIKE 'holdfast%'",
    ) != "0"
    {
        std::thread::yield_now();
    }
    assert!(!pod.path("volume/catalog/shop/shop/run-1/outcome.json").exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn no_secret_is_in_arguments_or_environment_and_a_killed_tool_is_a_failure() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let (mut agent, mut holder) = waiting_backup(server, &pod, "killed_tool");
    let tools = children(agent.id());
    assert_eq!(tools.len(), 1, "one pg_dump");
    for process in [agent.id(), tools[0]] {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{process}/{file}")).unwrap();
            assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{file}");
        }
    }
    assert!(
        Command::new("kill")
            .args(["-KILL", &tools[0].to_string()])
            .status()
            .unwrap()
            .success()
    );
    let mut log = String::new();
    agent.stdout.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(Reason::DumpFailed.exit_code().into()), "{log}");
    assert!(
        pod.result().message.contains("pg_dump was killed by signal 9"),
        "{}",
        pod.result().message
    );
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

/// Reads the log until a phase begins.
fn wait_for_phase(agent: &mut Child, phase: &str) {
    let mut log = BufReader::new(agent.stdout.take().unwrap());
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        let told: Value = serde_json::from_str(&line).unwrap();
        if told["message"] == "phase" && told["phase"] == phase {
            return;
        }
        line.clear();
    }
    panic!("phase {phase} never began");
}

#[test]
fn a_restore_that_is_killed_at_any_moment_is_done_once_by_the_next_pod() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("killed_restore", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    assert!(done(&mut pod.backup(server, "run-1", &["killed_restore"])).status.success());
    for (number, phase) in ["receipt", "preflight", "digests", "prepare", "load", "check", "swap"]
        .into_iter()
        .enumerate()
    {
        // An empty database of that name is there: it is closed and renamed away in the swap.
        server.sql("postgres", "DROP DATABASE IF EXISTS killed_restore WITH (FORCE)");
        server.sql("postgres", "CREATE DATABASE killed_restore");
        let request = pod.request(server, &format!("killed-{number}"));
        let restore = |uid: &str| {
            pod.write("pod-uid", uid);
            let mut agent = pod.agent("restore");
            agent.arg("--store").arg(pod.store()).arg("--request").arg(&request);
            agent
        };
        let mut agent = restore(&format!("killed-{number}")).spawn().unwrap();
        wait_for_phase(&mut agent, phase);
        agent.kill().unwrap();
        agent.wait().unwrap();
        // The server notices at its own pace that the pod's session is gone; a pod that comes too early leaves the remains to the next.
        let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast killed-{number}%'");
        while server.sql("postgres", &alive) != "0" {
            std::thread::yield_now();
        }
        let output = done(&mut restore(&format!("next-{number}")));
        let (reason, log) = (pod.result().reason, String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(
            matches!(reason, Reason::Succeeded | Reason::AlreadyDone),
            "killed in {phase}: {log}"
        );
        assert_eq!(
            server.sql("killed_restore", "SELECT count(*), sum(id) FROM t"),
            "1000|500500",
            "killed in {phase}"
        );
        let left = "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname ~ '^holdfast-(killed|next)-'";
        assert_eq!(server.sql("postgres", left), "", "killed in {phase}: {log}");
        let noted = "SELECT count(*) FROM holdfast.attempts WHERE pod ~ '^(killed|next)-'";
        assert_eq!(server.sql("postgres", noted), "0", "killed in {phase}");
    }
}

#[test]
fn what_decrypt_writes_to_may_be_full_or_there_already() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("to_decrypt", "CREATE TABLE t AS SELECT 1 AS id");
    assert!(done(&mut pod.backup(server, "run-1", &["to_decrypt"])).status.success());
    let decrypt = || {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
        agent.args(["decrypt", "shop/shop/run-1", "--database", "to_decrypt", "--store"]);
        agent.arg(pod.store()).arg("--store-volume").arg(pod.path("volume"));
        agent
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let there = pod.write("there", "precious");
    for (mut agent, expected, words) in [
        (
            {
                let mut agent = decrypt();
                agent.stdout(full);
                agent
            },
            Reason::ScratchFull,
            "write the stream to standard output: No space left on device",
        ),
        (
            {
                let mut agent = decrypt();
                agent.arg("--output").arg(&there);
                agent
            },
            Reason::InvalidSpec,
            "there: File exists",
        ),
    ] {
        let output = agent.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected.exit_code().into()), "{log}");
        assert!(log.contains(words), "{log}");
    }
    assert_eq!(std::fs::read_to_string(there).unwrap(), "precious");
}

#[test]
fn a_scratch_directory_without_room_is_told_before_anything_is_done() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let mut agent = Command::new("unshare");
    let script = "mount -t tmpfs -o nr_inodes=1 none \"$0\" && exec \"$@\"";
    agent
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(pod.path("scratch"));
    pod.arguments(agent.arg(env!("CARGO_BIN_EXE_holdfast-agent")).arg("backup"));
    agent.arg("--store").arg(pod.store()).args(["--run", "run-1", "--source"]);
    let output = done(agent.arg(pod.source(server, &["postgres"])));
    let result = pod.result();
    assert_eq!(result.reason, Reason::ScratchFull, "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(Reason::ScratchFull.exit_code().into()));
    assert!(result.message.contains("scratch: No space left on device"), "{}", result.message);
    assert!(!pod.path("volume/data").exists() && !pod.path("volume/catalog").exists());
}

/// Pods run as a uid that no image knows. Nothing but what `install` brings may be needed.
#[test]
fn an_unknown_uid_can_back_up_and_restore() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("unknown_uid", "CREATE TABLE t AS SELECT 1 AS id");
    let binary = pod.path("holdfast-agent");
    std::fs::copy(env!("CARGO_BIN_EXE_holdfast-agent"), &binary).unwrap();
    let run = |command: &str, what: &[&std::ffi::OsStr]| {
        let mut agent = Command::new("setpriv");
        agent.args(["--reuid=54321", "--regid=54321", "--clear-groups", "env", "-u", "HOME"]);
        pod.arguments(agent.arg(&binary).arg(command));
        let output = done(agent.arg("--store").arg(pod.store()).args(what));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
        // The next container has a message of its own.
        std::fs::remove_file(pod.path("result")).unwrap();
    };
    let source = pod.source(server, &["unknown_uid"]);
    run(
        "backup",
        &["--source".as_ref(), source.as_ref(), "--run".as_ref(), "run-1".as_ref()],
    );
    server.sql("postgres", "DROP DATABASE unknown_uid");
    let request = pod.request(server, "unknown-uid");
    run("restore", &["--request".as_ref(), request.as_ref()]);
    assert_eq!(server.sql("unknown_uid", "SELECT id FROM t"), "1");
}

#[test]
fn what_is_installed_runs_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.pem");
    std::fs::write(&bundle, "certificates").unwrap();
    let install = |to: &Path| {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
        agent
            .arg("install")
            .arg(to)
            .arg("--uid")
            .arg("1234")
            .arg("--bundle")
            .arg(&bundle)
            .output()
            .unwrap()
    };
    assert!(install(directory.path()).status.success());
    let installed = Command::new(directory.path().join("holdfast-agent"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(installed.status.success());
    assert_eq!(
        install(Path::new("/nonexistent")).status.code(),
        Some(Reason::ContainerStartFailed.exit_code().into())
    );
}
