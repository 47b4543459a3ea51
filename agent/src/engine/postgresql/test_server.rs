//! A real PostgreSQL for tests: its own directory, a loopback port, gone with the test process.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The tools of the version that tests run with: Debian's 15, or those in the directory that `HOLDFAST_POSTGRESQL` names.
pub fn tools() -> &'static str {
    static TOOLS: OnceLock<String> = OnceLock::new();
    TOOLS.get_or_init(|| std::env::var("HOLDFAST_POSTGRESQL").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned()))
}

/// The major version of the tools.
pub fn major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let output = Command::new(Path::new(tools()).join("pg_dump")).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.split_whitespace().nth(2).unwrap();
        version.split('.').next().unwrap().parse().unwrap()
    })
}

/// The password of the superuser `postgres`.
pub const PASSWORD: &str = "correct horse: battery\\staple";

/// The data that everything must survive. Builds without contributed extensions do without the lines about them.
pub fn awkward() -> String {
    let all = include_str!("awkward.sql");
    if TestServer::shared().sql("postgres", "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'") == "1" {
        return all.to_owned();
    }
    let lines = all.lines().filter(|line| !line.contains("trgm"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A server and its directory.
pub struct TestServer {
    child: Child,
    port: u16,
    directory: PathBuf,
}

/// As root, the server must be started as somebody else.
fn as_postgres(command: &str) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if is_root {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", command]);
        setpriv
    } else {
        Command::new(command)
    }
}

impl TestServer {
    /// The server that tests share; each makes databases of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts a server with more lines of configuration. A shell keeps it, and ends it when our end of its stdin closes, however we end.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_as("", settings)
    }

    /// Starts a standby that follows another server.
    pub fn standby_of(primary: &Self, settings: &[&str]) -> Self {
        Self::start_as(&primary.port.to_string(), settings)
    }

    /// Ends the server at once, as a crash does.
    pub fn crash(&self) {
        let data = self.directory.join("data");
        let stopped = as_postgres(&format!("{}/pg_ctl", tools()))
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "stop"])
            .output()
            .unwrap();
        assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    }

    fn start_as(primary: &str, settings: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = r#"
            set -eu
            directory=$(mktemp -d /tmp/holdfast-postgres.XXXXXX)
            trap 'rm -rf "$directory"' EXIT
            printf '%s' "$PASSWORD" > "$directory/password"
            if [ -n "$PRIMARY" ]; then
                PGPASSWORD=$PASSWORD "$TOOLS/pg_basebackup" -h 127.0.0.1 -p "$PRIMARY" -U postgres -D "$directory/data" -R -X stream -c fast
            else
                "$TOOLS/initdb" -D "$directory/data" -U postgres -A scram-sha-256 --pwfile "$directory/password" -E UTF8 --locale=C.UTF-8 -N -k > "$directory/initdb.log" 2>&1
            fi
            cat >> "$directory/data/postgresql.conf" <<< "$SETTINGS"
            "$TOOLS/pg_ctl" -D "$directory/data" -w -t 60 -l "$directory/server.log" start > "$directory/start.log" 2>&1 || { cat "$directory/server.log" >&2; exit 1; }
            echo "$directory"
            cat > /dev/null
            "$TOOLS/pg_ctl" -D "$directory/data" -m immediate stop > /dev/null 2>&1 || true
        "#;
        let mut lines = vec![
            format!("port = {port}"),
            "listen_addresses = '127.0.0.1'".to_owned(),
            "unix_socket_directories = ''".to_owned(),
            "fsync = off".to_owned(),
            "shared_buffers = 16MB".to_owned(),
            "log_line_prefix = '%m [%p] %a '".to_owned(),
        ];
        lines.extend(settings.iter().map(ToString::to_string));
        let mut child = as_postgres("bash")
            .args(["-c", script])
            .env("TOOLS", tools())
            .env("PASSWORD", PASSWORD)
            .env("PRIMARY", primary)
            .env("SETTINGS", lines.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut directory = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut directory).unwrap();
        assert!(directory.starts_with('/'), "the server did not start");
        Self {
            child,
            port,
            directory: PathBuf::from(directory.trim_end()),
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The directory with `data/` and `server.log`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A tool of this version that connects here as the superuser.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(tools()).join(name));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", PASSWORD)
            .env("PGSSLMODE", "disable");
        command
    }

    /// Runs SQL and returns the rows as psql prints them, unaligned.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self
            .tool("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = psql.wait_with_output().unwrap();
        assert!(output.status.success(), "psql failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Makes a database, empty of what an earlier test left under that name, and loads SQL into it.
    pub fn create(&self, database: &str, sql: &str) {
        self.sql(
            "postgres",
            &format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE);\nCREATE DATABASE \"{database}\";"),
        );
        self.sql(database, sql);
    }

    /// An archive as `pg_dump` writes it to a pipe.
    pub fn dump(&self, database: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self
            .tool("pg_dump")
            .args(["-Fc", "-Z0"])
            .args(arguments)
            .arg(database)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert!(
            output.status.success(),
            "pg_dump failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
