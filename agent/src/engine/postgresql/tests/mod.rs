//! Connections and dumps against a real server.

mod faults;
mod servers;
mod tls;
mod values;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_crds::{DatabaseSelection, Globals, PostgresqlServer, Reason, Span};
use tokio::io::AsyncReadExt;

use super::check::ArchiveContents;
use super::connect::{Access, ServerFiles, Wanted};
use super::dump::{Dump, end_sessions};
use super::error::DatabaseError;
use super::preflight::{GlobalsPlan, Preflight, describe, preflight};
use super::session::Session;
use super::test_server::{PASSWORD, TestServer, awkward, major, tools};
use super::tool::Tools;

/// Files and tools of one test, gone with it.
struct Pod {
    directory: tempfile::TempDir,
}

impl Pod {
    fn new() -> Self {
        let pod = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(pod.path("login")).unwrap();
        pod.login("postgres", PASSWORD);
        pod
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn login(&self, user: &str, password: &str) {
        std::fs::write(self.path("login/username"), user).unwrap();
        std::fs::write(self.path("login/password"), format!("{password}\n")).unwrap();
    }

    fn tools(&self) -> Tools {
        Tools {
            directory: Some(tools().into()),
            scratch: self.directory.path().to_owned(),
        }
    }

    fn files(&self) -> ServerFiles {
        let path = |name: &str| self.path(name);
        ServerFiles {
            login: path("login"),
            ca: path("ca.crt"),
            public_roots: path("public.crt"),
            client: path("client"),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "tests make it in place")]
    fn access(&self, hosts: &[&str], tls: serde_json::Value) -> Access {
        let spec = serde_json::json!({"hosts": hosts, "version": major(), "credentials": {"secretName": "login"}, "tls": tls});
        let spec: PostgresqlServer = serde_json::from_value(spec).unwrap();
        Access::new(
            &spec,
            &self.files(),
            &format!("holdfast test {}", self.directory.path().file_name().unwrap().display()),
        )
        .unwrap()
    }

    fn plain(&self, server: &TestServer) -> Access {
        self.access(&[&server.address()], serde_json::json!({"mode": "Disable"}))
    }
}

fn databases(include: &[&str], exclude: &[&str]) -> DatabaseSelection {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DatabaseSelection {
        include: owned(include),
        exclude: owned(exclude),
    }
}

async fn look(pod: &Pod, access: &Access, selection: &DatabaseSelection) -> Result<(Session, Preflight), DatabaseError> {
    preflight(access, &pod.tools(), selection, Globals::Include, true).await
}

fn failed<T>(result: Result<T, DatabaseError>) -> (Reason, String) {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => (error.reason(), error.to_string()),
    }
}

async fn dump(pod: &Pod, server: &TestServer, database: &str, lock: Span) -> Result<ArchiveContents, DatabaseError> {
    let access = pod.plain(server);
    let mut dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], database, lock)?;
    let (mut stdout, mut check) = dump.take_stream().unwrap();
    let contents = dump.contents.clone().unwrap();
    let (mut buffer, mut borders) = (vec![0; 65_536], Vec::new());
    loop {
        let n = stdout.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        check.feed(&buffer[..n], &mut borders).unwrap();
    }
    dump.finish().await?;
    check.finish().unwrap();
    let contents = contents.lock().unwrap().clone();
    Ok(contents)
}

#[tokio::test]
async fn a_database_is_found_described_and_dumped() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("dump_awkward", &awkward());
    let access = pod.plain(server);
    let (session, found) = look(&pod, &access, &databases(&["dump_awk*", "not there"], &[])).await.unwrap();
    assert_eq!(found.databases, ["dump_awkward"]);
    assert!(
        found
            .not_copied
            .iter()
            .any(|left| left.name == "template0" && left.why == "template")
    );
    assert!(
        found
            .not_copied
            .iter()
            .any(|left| left.name == "postgres" && left.why == "not included")
    );
    assert!(
        found
            .not_copied
            .iter()
            .any(|left| left.name == "not there" && left.why == "included by name, but not there")
    );
    assert_eq!(
        (found.server.major, found.tool.major, found.server.standby),
        (major(), major(), false)
    );
    assert_eq!(found.globals, GlobalsPlan::WithPasswords);
    assert!(found.server.system_identifier.is_some_and(|id| id.parse::<u64>().is_ok()));
    let age = jiff::Timestamp::now().duration_since(found.server.recovery_point).as_secs();
    assert!((0..60).contains(&age), "{age}");
    let session = access.connect_again(&session.host, "dump_awkward").await.unwrap();
    let facts = describe(&session).await.unwrap();
    assert_eq!((facts.owner.as_str(), facts.encoding.as_str()), ("postgres", "UTF8"));
    assert_eq!(facts.settings["collate"], "C.UTF-8");
    let trigrams = facts.extensions.iter().any(|extension| extension.name == "pg_trgm");
    assert_eq!(trigrams, awkward().contains("pg_trgm"));
    let contents = dump(&pod, server, "dump_awkward", Span::from_seconds(5)).await.unwrap();
    assert_eq!(contents.large_objects, Some(3));
    assert!(
        contents
            .tables
            .iter()
            .any(|table| table.name == b"secrets" && table.rows == Some(100)),
        "row security hid rows"
    );
}

#[tokio::test]
async fn f53_a_wrong_password_is_said_and_a_corrected_one_is_read_again() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    pod.login("postgres", "wrong");
    let (reason, message) = failed(pod.plain(server).connect(Wanted::Any).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed);
    assert!(
        message.contains("password authentication failed for user \"postgres\""),
        "{message}"
    );
    let (reason, message) = failed(dump(&pod, server, "postgres", Span::from_seconds(5)).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed, "{message}");
    let (access, host) = (pod.plain(server), pod.plain(server).hosts[0].clone());
    let waiting = tokio::spawn(async move { access.connect_again(&host, "postgres").await.map(|_| ()) });
    tokio::task::yield_now().await;
    pod.login("postgres", PASSWORD);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_first_host_that_answers_is_used_and_silent_ones_are_told() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let none = serde_json::json!({"mode": "Disable"});
    let session = pod
        .access(&[&closed, &server.address()], none.clone())
        .connect(Wanted::Primary)
        .await
        .unwrap();
    assert_eq!(session.host.to_string(), server.address());
    let (reason, message) = failed(pod.access(&[&closed, "no-such-host.invalid"], none).connect(Wanted::Any).await);
    assert_eq!(reason, Reason::DatabaseUnreachable);
    assert!(
        message.contains(&closed) && message.contains("no-such-host.invalid:5432"),
        "{message}"
    );
}

#[tokio::test]
async fn f54_a_table_that_stays_locked_is_a_lock_time_out() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("dump_locked", "CREATE TABLE t ()");
    let holder = pod
        .plain(server)
        .connect_again(&pod.plain(server).hosts[0], "dump_locked")
        .await
        .unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let (reason, message) = failed(dump(&pod, server, "dump_locked", Span::from_seconds(1)).await);
    assert_eq!(reason, Reason::LockTimeout, "{message}");
}

#[tokio::test]
async fn a_user_without_rights_learns_which() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create(
        "dump_rights",
        "CREATE TABLE t (id int); CREATE TABLE r (id int); ALTER TABLE r ENABLE ROW LEVEL SECURITY; DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN PASSWORD 'p';",
    );
    pod.login("poor", "p");
    let access = pod.plain(server);
    let (_, found) = look(&pod, &access, &databases(&["dump_rights"], &[])).await.unwrap();
    assert_eq!(found.globals, GlobalsPlan::WithoutPasswords);
    assert!(
        found.not_copied.iter().any(|left| left.why.contains("may not read pg_authid")),
        "{:?}",
        found.not_copied
    );
    let (reason, message) = failed(dump(&pod, server, "dump_rights", Span::from_seconds(5)).await);
    assert_eq!(reason, Reason::DatabasePermissionDenied, "{message}");
    server.sql("dump_rights", "GRANT SELECT ON t, r TO poor");
    let (reason, message) = failed(dump(&pod, server, "dump_rights", Span::from_seconds(5)).await);
    assert_eq!(reason, Reason::DatabasePermissionDenied, "{message}");
    assert!(message.contains("row-level security"), "{message}");
    server.sql("postgres", "REVOKE CONNECT ON DATABASE dump_rights FROM PUBLIC");
    let (reason, message) = failed(look(&pod, &access, &databases(&["dump_rights"], &[])).await);
    assert_eq!(reason, Reason::DatabasePermissionDenied);
    assert!(message.contains("user poor may not connect to dump_rights"), "{message}");
    server.sql("postgres", "GRANT CONNECT ON DATABASE dump_rights TO PUBLIC");
    let (reason, message) = failed(look(&pod, &access, &databases(&["none*"], &[])).await);
    assert_eq!(reason, Reason::NoDatabases);
    assert!(message.contains("dump_rights"), "{message}");
}

#[tokio::test]
async fn f52_tools_older_than_the_server_are_refused() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let tool = pod.path("pg_dump");
    std::fs::write(&tool, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9'\n").unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tools = Tools {
        directory: Some(pod.path("")),
        scratch: pod.path(""),
    };
    let result = preflight(&pod.plain(server), &tools, &databases(&["*"], &[]), Globals::Skip, true).await;
    let (reason, message) = failed(result);
    assert_eq!(reason, Reason::VersionUnsupported);
    assert!(
        message.contains(&format!("pg_dump is 14.9; tools of major version {} or newer", major())),
        "{message}"
    );
}

#[tokio::test]
async fn a_killed_dump_fails_and_leaves_no_session() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("dump_killed", "CREATE TABLE t ()");
    let access = pod.plain(server);
    let holder = access.connect_again(&access.hosts[0], "dump_killed").await.unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "dump_killed", Span::from_minutes(5)).unwrap();
    let watcher = access.connect(Wanted::Any).await.unwrap();
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'",
        access.tool_application()
    );
    let waits = format!("{sessions} AND wait_event_type = 'Lock'");
    while watcher.row("look", &waits).await.unwrap().number(0) == 0 {
        tokio::task::yield_now().await;
    }
    let process = dump.process().unwrap();
    assert!(
        Command::new("kill")
            .args(["-KILL", &process.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let (reason, message) = failed(dump.finish().await);
    assert_eq!(reason, Reason::DumpFailed);
    assert!(message.contains("was killed by signal 9"), "{message}");
    assert_eq!(
        watcher.row("look", &sessions).await.unwrap().number(0),
        1,
        "the server's session waits on"
    );
    assert_eq!(end_sessions(&access, &watcher).await.unwrap(), 1);
    while watcher.row("look", &sessions).await.unwrap().number(0) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn passwords_are_in_no_argument_and_no_variable_of_a_tool() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("dump_secret", "CREATE TABLE t ()");
    let access = pod.plain(server);
    let holder = access.connect_again(&access.hosts[0], "dump_secret").await.unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "dump_secret", Span::from_minutes(5)).unwrap();
    let process = dump.process().unwrap();
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{process}/{file}")).unwrap();
        assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{file}");
    }
    let mode = std::fs::metadata(pod.path("passwords")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    dump.kill().await;
}

#[tokio::test]
async fn the_globals_hold_passwords_only_where_they_may() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let access = pod.plain(server);
    for (plan, expected) in [(GlobalsPlan::WithPasswords, true), (GlobalsPlan::WithoutPasswords, false)] {
        let mut dump = Dump::of_globals(&pod.tools(), &access, &access.hosts[0], plan, Span::from_seconds(5)).unwrap();
        let (mut stdout, mut check) = dump.take_stream().unwrap();
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).await.unwrap();
        dump.finish().await.unwrap();
        check.feed(&bytes, &mut Vec::new()).unwrap();
        check.finish().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap().contains("SCRAM-SHA-256"), expected);
    }
}
