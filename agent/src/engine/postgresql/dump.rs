//! Dumps: one process per database whose stdout is the stream.

use holdfast_crds::document::{Label, StreamKind};
use holdfast_crds::{Reason, Span};
use tokio::process::{ChildStdout, Command};

use super::check::{ArchiveCheck, GlobalsCheck, SharedContents};
use super::connect::Access;
use super::error::DatabaseError;
use super::host::Host;
use super::preflight::GlobalsPlan;
use super::session::{Session, literal};
use super::tool::{Running, Tools};
use crate::pipeline::Pipe;
use crate::pipeline::check::StreamCheck;

/// The name of the stream with the globals.
pub const GLOBALS_STREAM: &str = "globals";

/// A tool that writes a stream.
pub struct Dump {
    running: Running,
    stdout: Option<Pipe<ChildStdout>>,
    /// What the stream is.
    pub kind: StreamKind,
    check: Option<Box<dyn StreamCheck>>,
    /// What is found in it, once it has ended well.
    pub contents: Option<SharedContents>,
}

impl Dump {
    /// Starts `pg_dump` for one database.
    pub fn of_database(tools: &Tools, access: &Access, host: &Host, database: &str, lock_timeout: Span) -> Result<Self, DatabaseError> {
        let mut command = tools.connected("pg_dump", access, host, database)?;
        let milliseconds = lock_timeout.seconds().saturating_mul(1000).min(i32::MAX.unsigned_abs().into());
        command.args([
            "--format=custom",
            "--compress=0",
            "--no-password",
            &format!("--lock-wait-timeout={milliseconds}"),
        ]);
        let (check, contents) = ArchiveCheck::new();
        Self::start("pg_dump", command, StreamKind::PostgresqlArchive, Box::new(check), Some(contents))
    }

    /// Starts `pg_dumpall` for what belongs to the whole server.
    pub fn of_globals(tools: &Tools, access: &Access, host: &Host, plan: GlobalsPlan, lock_timeout: Span) -> Result<Self, DatabaseError> {
        let mut command = tools.connected("pg_dumpall", access, host, &access.maintenance_database)?;
        let milliseconds = lock_timeout.seconds().saturating_mul(1000).min(i32::MAX.unsigned_abs().into());
        command.args(["--globals-only", "--no-password", &format!("--lock-wait-timeout={milliseconds}")]);
        command.arg(format!("--database={}", access.maintenance_database));
        if plan == GlobalsPlan::WithoutPasswords {
            command.arg("--no-role-passwords");
        }
        Self::start(
            "pg_dumpall",
            command,
            StreamKind::PostgresqlGlobals,
            Box::new(GlobalsCheck::default()),
            None,
        )
    }

    fn start(
        tool: &'static str,
        mut command: Command,
        kind: StreamKind,
        check: Box<dyn StreamCheck>,
        contents: Option<SharedContents>,
    ) -> Result<Self, DatabaseError> {
        let mut running = Running::start(tool, command.stdout(std::process::Stdio::piped()))?;
        let stdout = running.take_stdout().map(Pipe::new);
        Ok(Self {
            running,
            stdout,
            kind,
            check: Some(check),
            contents,
        })
    }

    /// The stream and its check, once.
    pub fn take_stream(&mut self) -> Option<(Pipe<ChildStdout>, Box<dyn StreamCheck>)> {
        self.stdout.take().zip(self.check.take())
    }

    /// The process, for tests that kill it.
    #[cfg(test)]
    pub fn process(&self) -> Option<u32> {
        self.running.id()
    }

    /// Waits for the tool, behind the stream's end.
    pub async fn finish(self) -> Result<(), DatabaseError> {
        drop(self.stdout);
        self.running.finish(Reason::DumpFailed).await
    }

    /// Ends the tool in mid-stream.
    pub async fn kill(self) {
        self.running.kill().await;
    }
}

/// Ends the server's sessions of tools that were killed: one that waits for a lock would not notice for long that nobody listens.
pub async fn end_sessions(access: &Access, session: &Session) -> Result<u64, DatabaseError> {
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE application_name = {} AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()",
        literal(&access.tool_application())
    );
    Ok(session.rows("end the sessions of killed tools", &sql).await?.len() as u64)
}

/// The name of a database's stream: its place in the list and what of its name fits.
pub fn stream_name(number: usize, database: &str) -> Label {
    let plain = database
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40);
    let plain = plain.collect::<String>();
    let name = format!("db{number:04}-{}", plain.trim_matches('-'));
    Label::new("stream", name.trim_end_matches('-'))
        .expect("it has letters, digits and hyphens only, and begins and ends with none of the last")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_for_people_and_never_collide() {
        for (number, database, name) in [
            (1, "shop", "db0001-shop"),
            (2, "Ünicode db", "db0002-nicode-db"),
            (3, "***", "db0003"),
            (12345, "a-", "db12345-a"),
            (4, &"x".repeat(63), &format!("db0004-{}", "x".repeat(40))),
        ] {
            assert_eq!(stream_name(number, database).as_str(), name);
        }
    }
}
