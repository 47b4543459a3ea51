//! Connections and dumps against a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_crds::{DatabaseSelection, Globals, PostgresqlServer, Reason, Span};
use tokio::io::AsyncReadExt;

use super::check::ArchiveContents;
use super::connect::{Access, ServerFiles, Session, Wanted};
use super::dump::{Dump, end_sessions};
use super::error::DatabaseError;
use super::preflight::{GlobalsPlan, Preflight, describe, preflight};
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
async fn a_wrong_password_is_said_and_a_corrected_one_is_read_again() {
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
async fn a_table_that_stays_locked_is_a_lock_time_out() {
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
        found.notes.iter().any(|note| note.contains("may not read pg_authid")),
        "{:?}",
        found.notes
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
async fn tools_older_than_the_server_are_refused() {
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

/// A CA, a certificate for `localhost` and one for a client, by openssl.
fn certificates(directory: &Path) {
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
        cp ca.crt public.crt
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out other.crt
        mkdir -p client
        for name in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$([ $name = client ] && echo certified || echo localhost)" -keyout $name.key -out $name.csr
            [ $name = server ] && echo subjectAltName=DNS:localhost > $name.ext || echo basicConstraints=CA:FALSE > $name.ext
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext -out $name.crt
        done
        mv client.key client/tls.key; mv client.crt client/tls.crt
        chmod 644 *.crt *.key client/*
    "#;
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn every_tls_mode_demands_what_it_says() {
    if std::env::var_os("HOLDFAST_POSTGRESQL").is_some()
        && TestServer::shared()
            .sql(
                "postgres",
                "SELECT setting FROM pg_config WHERE name = 'CONFIGURE' AND setting ~ 'ssl|openssl'",
            )
            .is_empty()
    {
        eprintln!("the build that HOLDFAST_POSTGRESQL names has no TLS: nothing was tried");
        return;
    }
    let pod = Pod::new();
    certificates(pod.directory.path());
    std::fs::set_permissions(pod.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = TestServer::start(&[]);
    // The server wants a key that only it can read.
    let data = server.directory().join("data");
    for file in ["server.crt", "server.key", "ca.crt"] {
        let copy = data.join(file);
        std::fs::copy(pod.path(file), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&data).unwrap());
        std::os::unix::fs::chown(&copy, Some(owner), None).unwrap();
    }
    server.sql(
        "postgres",
        "CREATE ROLE certified LOGIN PASSWORD 'p'; ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_ca_file = 'ca.crt'; SELECT pg_reload_conf();",
    );
    let hba = data.join("pg_hba.conf");
    let rules = "hostssl all certified all scram-sha-256 clientcert=verify-full\nhostnossl all certified all reject\nhost all all all scram-sha-256\n";
    std::fs::write(&hba, rules).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()");
    let address = |host: &str| format!("{host}:{}", server.port());
    let (by_name, by_address) = (address("localhost"), address("127.0.0.1"));
    let secured = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let try_it = |host: String, tls: serde_json::Value| {
        let access = pod.access(&[&host], tls);
        async move {
            let session = access.connect(Wanted::Any).await?;
            session.row("look", secured).await.map(|row| row.flag(0))
        }
    };
    // The server may need a moment to take its new settings.
    while try_it(by_name.clone(), serde_json::json!({"mode": "Require"})).await.is_err() {
        tokio::task::yield_now().await;
    }
    let with_ca = |mode: &str| serde_json::json!({"mode": mode, "caSecretName": "ca"});
    assert!(!try_it(by_name.clone(), serde_json::json!({"mode": "Disable"})).await.unwrap());
    assert!(try_it(by_address.clone(), serde_json::json!({"mode": "Require"})).await.unwrap());
    assert!(try_it(by_address.clone(), with_ca("VerifyCa")).await.unwrap());
    assert!(try_it(by_name.clone(), with_ca("VerifyFull")).await.unwrap());
    assert!(
        try_it(by_name.clone(), serde_json::json!({})).await.unwrap(),
        "public roots are the default"
    );
    let (reason, message) = failed(try_it(by_address.clone(), with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseTlsFailed, "{message}");
    std::fs::copy(pod.path("other.crt"), pod.path("ca.crt")).unwrap();
    for mode in ["VerifyCa", "VerifyFull"] {
        let (reason, message) = failed(try_it(by_name.clone(), with_ca(mode)).await);
        assert_eq!(reason, Reason::DatabaseTlsFailed, "{message}");
    }
    assert!(try_it(by_name.clone(), with_ca("Require")).await.unwrap());
    std::fs::copy(pod.path("public.crt"), pod.path("ca.crt")).unwrap();
    std::fs::remove_file(pod.path("public.crt")).unwrap();
    let (reason, message) = failed(try_it(by_name.clone(), serde_json::json!({})).await);
    assert_eq!(reason, Reason::SecretKeyMissing, "{message}");

    pod.login("certified", "p");
    let with_client = serde_json::json!({"mode": "VerifyFull", "caSecretName": "ca", "clientCertificateSecretName": "client"});
    assert!(try_it(by_name.clone(), with_client.clone()).await.unwrap());
    let (reason, _) = failed(try_it(by_name.clone(), with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed);
    // And the tools through libpq.
    let tool = |tls: serde_json::Value| {
        let access = pod.access(&[&by_name], tls);
        let mut dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "template1", Span::from_seconds(5)).unwrap();
        async move {
            let (mut stdout, _) = dump.take_stream().unwrap();
            tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await.unwrap();
            dump.finish().await
        }
    };
    tool(with_client).await.unwrap();
    let (reason, message) = failed(tool(with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed, "{message}");
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

#[tokio::test]
async fn a_standby_is_copied_and_its_lag_is_in_the_recovery_point() {
    let pod = Pod::new();
    let primary = TestServer::start(&[]);
    primary.create("followed", "CREATE TABLE t AS SELECT generate_series(1, 10) AS id");
    let standby = TestServer::standby_of(&primary, &[]);
    let none = serde_json::json!({"mode": "Disable"});
    let access = pod.access(&[&standby.address(), &primary.address()], none);
    let (session, found) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    assert_eq!(session.host.to_string(), standby.address());
    assert!(found.server.standby);
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("is a standby; what it has replayed is about")),
        "{:?}",
        found.notes
    );
    let contents = dump(&pod, &standby, "followed", Span::from_seconds(5)).await.unwrap();
    assert_eq!(contents.tables[0].rows, Some(10));
    // A target must take writes.
    assert_eq!(access.connect(Wanted::Primary).await.unwrap().host.to_string(), primary.address());

    // Replay stops; what the primary commits from now on is not in a copy, and its recovery point says so.
    standby.sql("postgres", "SELECT pg_wal_replay_pause()");
    while standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()") != "paused" {
        tokio::task::yield_now().await;
    }
    let committed = primary.sql("followed", "INSERT INTO t VALUES (11); SELECT pg_current_wal_flush_lsn()");
    while standby.sql(
        "postgres",
        &format!("SELECT latest_end_lsn >= '{committed}' FROM pg_stat_wal_receiver"),
    ) != "t"
    {
        tokio::task::yield_now().await;
    }
    let (_, first) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    let (_, again) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    assert_eq!(
        first.server.recovery_point, again.server.recovery_point,
        "it stands still while nothing is replayed"
    );
    let contents = dump(&pod, &standby, "followed", Span::from_seconds(5)).await.unwrap();
    assert_eq!(contents.tables[0].rows, Some(10));
}

#[tokio::test]
async fn f50_a_server_that_crashes_during_the_dump_is_a_lost_connection() {
    let pod = Pod::new();
    let server = TestServer::start(&[]);
    server.create("crashing", "CREATE TABLE t ()");
    let access = pod.plain(&server);
    let holder = access.connect_again(&access.hosts[0], "crashing").await.unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "crashing", Span::from_minutes(5)).unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'crashing' AND wait_event_type = 'Lock'";
    while server.sql("postgres", waits) == "0" {
        tokio::task::yield_now().await;
    }
    server.crash();
    let (reason, message) = failed(dump.finish().await);
    assert_eq!(reason, Reason::DatabaseConnectionLost, "{message}");
    assert_eq!(failed(holder.run("look", "SELECT 1").await).0, Reason::DatabaseConnectionLost);
    assert_eq!(failed(access.connect(Wanted::Any).await).0, Reason::DatabaseUnreachable);
}

#[tokio::test]
async fn a_database_that_vanishes_is_told_and_the_others_are_copied() {
    use crate::engine::streaming::{Finished, Streaming};
    let (server, pod) = (TestServer::shared(), Pod::new());
    for database in ["vanish_1", "vanish_2", "vanish_3"] {
        server.create(database, "CREATE TABLE t AS SELECT 1 AS id");
    }
    let spec = serde_json::json!({"hosts": [server.address()], "version": major(), "credentials": {"secretName": "login"}, "tls": {"mode": "Disable"},
        "databases": {"include": ["vanish_*"]}, "globals": "Skip"});
    let mut source =
        super::source::Source::new(&serde_json::from_value(spec).unwrap(), &pod.files(), pod.tools(), "holdfast vanish").unwrap();
    let found = source.preflight(true).await.unwrap();
    assert_eq!(found.streams.len(), 3);
    // Before it is opened.
    server.sql("postgres", "DROP DATABASE vanish_1");
    assert!(source.open(&found.streams[0]).await.unwrap().is_none());
    // Between the look at it and the tool's connection, or later.
    let mut opened = source.open(&found.streams[1]).await.unwrap().unwrap();
    server.sql("postgres", "DROP DATABASE vanish_2 WITH (FORCE)");
    tokio::io::copy(&mut opened.reader, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(source.finish(&found.streams[1], opened.handle).await.unwrap(), Finished::Vanished);
    let mut opened = source.open(&found.streams[2]).await.unwrap().unwrap();
    tokio::io::copy(&mut opened.reader, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(source.finish(&found.streams[2], opened.handle).await.unwrap(), Finished::Whole);
    let contents = source.contents();
    assert_eq!(
        contents.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>(),
        ["vanish_3"]
    );
    let vanished = contents
        .not_copied
        .iter()
        .filter(|left| left.why.starts_with("vanished"))
        .map(|left| left.name.as_str());
    assert_eq!(vanished.collect::<Vec<_>>(), ["vanish_1", "vanish_2"]);
}
