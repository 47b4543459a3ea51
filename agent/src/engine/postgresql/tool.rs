//! PostgreSQL's own tools: started without a secret in arguments or environment, heard, and waited for.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use holdfast_crds::Reason;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::connect::{Access, passfile, write_private};
use super::error::{DatabaseError, reason_of_stderr};
use super::host::Host;
use super::words::Words;

/// The most that is kept of what a tool says, in bytes, half of its beginning and half of its end.
const STDERR_KEPT: usize = 4096;
/// The longest line that is looked at, in bytes.
const LINE_KEPT: usize = 1024;
/// After so many lines a tool's messages are only counted.
const LINES_LOGGED: u64 = 100;

/// Where the tools are and where their files may lie.
#[derive(Debug, Clone)]
pub struct Tools {
    /// A directory to look in before `PATH`.
    pub directory: Option<PathBuf>,
    /// A directory of our own for password file and key.
    pub scratch: PathBuf,
}

/// The version of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolVersion {
    /// 15 for `15.18`.
    pub major: u32,
    /// As the tool says it, without its package's words.
    pub text: String,
}

impl Tools {
    fn path(&self, tool: &str) -> PathBuf {
        let here = self.directory.as_ref().map(|directory| directory.join(tool));
        here.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(tool))
    }

    /// A tool with no connection and none of libpq's variables that somebody else set.
    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.path(tool));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("HOME", &self.scratch)
            .current_dir("/")
            .kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// A tool that connects to `database` at `host`. Password and client key go through files that only we can read.
    pub(super) fn connected(&self, tool: &'static str, access: &Access, host: &Host, database: &str) -> Result<Command, DatabaseError> {
        let login = access.login()?;
        let passwords = self.scratch.join("passwords");
        write_private(&passwords, passfile(&login.password).expose().as_bytes())?;
        let key = self.private_key(access)?;
        let mut command = self.command(tool);
        command
            .env("PGHOST", &host.name)
            .env("PGPORT", host.port.to_string())
            .env("PGUSER", &login.user)
            .env("PGDATABASE", database)
            .env("PGPASSFILE", &passwords)
            .env("PGAPPNAME", access.tool_application())
            .env("PGCONNECT_TIMEOUT", "15")
            .env("PGSERVICEFILE", "/nonexistent/service");
        command.envs(access.tls.variables(key.as_deref()));
        Ok(command)
    }

    fn private_key(&self, access: &Access) -> Result<Option<PathBuf>, DatabaseError> {
        let Some((_, key)) = &access.tls.client else { return Ok(None) };
        let bytes = std::fs::read(key)
            .map(zeroize::Zeroizing::new)
            .map_err(|error| DatabaseError::ReadFile {
                what: "the client certificate's key",
                path: key.clone(),
                problem: error.to_string(),
            })?;
        let copy = self.scratch.join("client.key");
        write_private(&copy, &bytes)?;
        Ok(Some(copy))
    }

    /// Asks a tool for its version.
    pub async fn version(&self, tool: &'static str) -> Result<ToolVersion, DatabaseError> {
        let output = self.command(tool).arg("--version").stdout(Stdio::piped()).output().await;
        let output = output.map_err(|source| DatabaseError::StartTool { tool, source })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        parse_version(&text)
            .filter(|_| output.status.success())
            .ok_or_else(|| DatabaseError::Refused {
                reason: Reason::ToolMissing,
                message: format!(
                    "{tool} --version says {:?}, expected a version such as 15.18; is this the tool of PostgreSQL?",
                    text.trim()
                ),
            })
    }
}

fn parse_version(text: &str) -> Option<ToolVersion> {
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(ToolVersion {
        major: digits.parse().ok()?,
        text: version.to_owned(),
    })
}

/// A tool at work. Dropped, it is killed.
pub struct Running {
    tool: &'static str,
    child: Child,
    heard: JoinHandle<Heard>,
}

/// What a tool said, bounded and without values of rows.
#[derive(Debug, Default)]
struct Heard {
    head: String,
    tail: String,
    lines: u64,
    words: Words,
}

impl Heard {
    fn take(&mut self, line: &str) {
        self.lines += 1;
        let kept = if self.head.len() + line.len() < STDERR_KEPT / 2 {
            &mut self.head
        } else {
            &mut self.tail
        };
        if !kept.is_empty() {
            kept.push('\n');
        }
        kept.push_str(line);
        if self.tail.len() > STDERR_KEPT / 2 {
            let cut = self.tail.len() - STDERR_KEPT / 2;
            let cut = (cut..=self.tail.len()).find(|at| self.tail.is_char_boundary(*at)).unwrap_or(0);
            self.tail.drain(..cut);
        }
    }

    fn text(&self) -> String {
        if self.tail.is_empty() {
            self.head.clone()
        } else {
            format!("{}\n…\n{}", self.head, self.tail)
        }
    }
}

/// Reads a tool's stderr to its end and logs each line, without values of rows, as a quoted field: only the agent writes to its own stdout.
async fn listen(tool: &'static str, stderr: impl AsyncRead + Unpin) -> Heard {
    let (mut heard, mut reader, mut line) = (Heard::default(), BufReader::new(stderr), Vec::new());
    while let Ok(available) = reader.fill_buf().await
        && !available.is_empty()
    {
        let end = available.iter().position(|byte| *byte == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        line.extend_from_slice(&piece[..piece.len().min(LINE_KEPT.saturating_sub(line.len()))]);
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            heard.finish_line(tool, &mut line);
        }
    }
    heard.finish_line(tool, &mut line);
    heard
}

impl Heard {
    fn finish_line(&mut self, tool: &'static str, line: &mut Vec<u8>) {
        if line.is_empty() {
            return;
        }
        if let Some(text) = self.words.line(tool, &String::from_utf8_lossy(line)) {
            self.take(&text);
            if self.lines <= LINES_LOGGED {
                tracing::info!(tool, said = %text, "the tool says");
            }
        }
        line.clear();
    }
}

impl Running {
    /// Starts a tool whose stdin and stdout were set.
    pub(super) fn start(tool: &'static str, command: &mut Command) -> Result<Self, DatabaseError> {
        let mut child = command.spawn().map_err(|source| DatabaseError::StartTool { tool, source })?;
        let stderr = child.stderr.take().expect("Tools::command pipes stderr");
        Ok(Self {
            tool,
            child,
            heard: tokio::spawn(listen(tool, stderr)),
        })
    }

    /// The reading end of what the tool writes, once.
    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The writing end of what the tool reads, once.
    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The process, for tests that kill it.
    #[cfg(test)]
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end, which must be exit code 0. `otherwise` is the reason where its words say nothing better.
    pub(super) async fn finish(mut self, otherwise: Reason) -> Result<(), DatabaseError> {
        let status = self
            .child
            .wait()
            .await
            .map_err(|source| DatabaseError::StartTool { tool: self.tool, source })?;
        let heard = self.heard.await.unwrap_or_default();
        if heard.lines > LINES_LOGGED {
            tracing::info!(tool = self.tool, lines = heard.lines, "the tool said more than was logged");
        }
        if status.success() {
            return Ok(());
        }
        let stderr = heard.text();
        let reason = reason_of_stderr(&stderr, otherwise);
        Err(DatabaseError::ToolFailed {
            tool: self.tool,
            ended: ended(status),
            stderr,
            reason,
        })
    }

    /// Kills it and waits until it is gone.
    pub(super) async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(tool = self.tool, %error, "the tool had ended before it was killed");
        }
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed by signal 9 (by somebody, or for the container's memory limit)".to_owned(),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
    }
}

/// A scratch directory of our own under `parent`, which must be writable.
pub fn scratch_directory(parent: &Path, pod: &str) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let path = parent.join(format!("holdfast-{pod}-{}", std::process::id()));
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_tools_say() {
        for (text, major, version) in [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", 15, "15.18"),
            ("pg_dump (PostgreSQL) 18beta1", 18, "18beta1"),
            ("pg_restore (PostgreSQL) 17.10\n", 17, "17.10"),
        ] {
            assert_eq!(
                parse_version(text),
                Some(ToolVersion {
                    major,
                    text: version.to_owned()
                })
            );
        }
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn what_a_tool_says_is_kept_from_both_ends_and_bounded() {
        let mut heard = Heard::default();
        for n in 0..10_000 {
            heard.take(&format!("zeile {n} mit ä"));
        }
        let text = heard.text();
        assert!(
            text.len() <= STDERR_KEPT + 16 && text.starts_with("zeile 0 ") && text.ends_with("zeile 9999 mit ä"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_missing_tool_is_named() {
        let tools = Tools {
            directory: None,
            scratch: std::env::temp_dir(),
        };
        let error = tools.version("pg_dump_of_another_world").await.unwrap_err();
        assert_eq!(error.reason(), Reason::ToolMissing);
        assert!(error.to_string().starts_with("start pg_dump_of_another_world: "), "{error}");
    }
}
