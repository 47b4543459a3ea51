//! What goes wrong between the agent and a PostgreSQL server, and which [`Reason`] that is.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_crds::Reason;
use tokio_postgres::error::SqlState;

use super::words::{tells_values, without_values};

/// Why the database could not be worked with.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A file of the pod cannot be used.
    #[error("read {what} from {path}: {problem}")]
    ReadFile {
        /// Which file it is.
        what: &'static str,
        /// Where it is expected.
        path: PathBuf,
        /// What was found, or the system's error.
        problem: String,
    },
    /// The specification names something that cannot be used.
    #[error("use {field}: {problem}")]
    UseSetting {
        /// Path of the field.
        field: &'static str,
        /// What was found, what is expected, what to do.
        problem: String,
    },
    /// No host answered; the errors of all of them.
    #[error("connect to a database host: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// TLS cannot be made as demanded.
    #[error("secure the connection to {host}: {problem}")]
    Tls {
        /// `host:port`.
        host: String,
        /// The handshake's error.
        problem: String,
    },
    /// The server refused or failed a statement.
    #[error("{doing}: {message} (SQLSTATE {code})")]
    Server {
        /// What was being done.
        doing: String,
        /// The server's message, with its detail and hint, and without values of rows.
        message: String,
        /// The five characters.
        code: String,
    },
    /// The connection broke while it was in use.
    #[error("{doing}: the connection to the database was lost: {problem}")]
    ConnectionLost {
        /// What was being done.
        doing: String,
        /// The error below.
        problem: String,
    },
    /// The server did not answer a statement in time.
    #[error("{doing}: no answer within {} s", .limit.as_secs())]
    TimedOut {
        /// What was being done.
        doing: String,
        /// How long it had.
        limit: Duration,
    },
    /// A rule of this engine forbids to go on.
    #[error("{message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What was found, what is expected, what to do.
        message: String,
    },
    /// A tool of PostgreSQL could not be started.
    #[error("start {tool}: {source}")]
    StartTool {
        /// Its name.
        tool: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// A tool of PostgreSQL failed.
    #[error("{tool} {ended}{}", if .stderr.is_empty() { String::new() } else { format!(": {}", .stderr) })]
    ToolFailed {
        /// Its name.
        tool: &'static str,
        /// How it ended.
        ended: String,
        /// What it said, shortened.
        stderr: String,
        /// What that means.
        reason: Reason,
    },
}

impl DatabaseError {
    /// The reason for conditions, exit code and runbook.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ReadFile { .. } => Reason::SecretKeyMissing,
            Self::UseSetting { .. } => Reason::InvalidSpec,
            Self::Unreachable(_) => Reason::DatabaseUnreachable,
            Self::Tls { .. } => Reason::DatabaseTlsFailed,
            Self::Server { code, .. } => reason_of_sqlstate(&SqlState::from_code(code)),
            Self::ConnectionLost { .. } | Self::TimedOut { .. } => Reason::DatabaseConnectionLost,
            Self::Refused { reason, .. } | Self::ToolFailed { reason, .. } => *reason,
            Self::StartTool { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Reason::ToolMissing,
            Self::StartTool { .. } => Reason::DumpFailed,
        }
    }

    /// An error of the client library while `doing` something.
    pub(super) fn from_client(doing: &str, error: &tokio_postgres::Error) -> Self {
        let doing = doing.to_owned();
        if let Some(server) = error.as_db_error() {
            let values = tells_values(server.code());
            let mut message = if values {
                without_values(server.message())
            } else {
                server.message().to_owned()
            };
            for more in [server.detail().filter(|_| !values), server.hint()].into_iter().flatten() {
                message.push_str("; ");
                message.push_str(more);
            }
            return Self::Server {
                doing,
                message,
                code: server.code().code().to_owned(),
            };
        }
        Self::ConnectionLost {
            doing,
            problem: chain(error),
        }
    }

    /// Whether the login was refused.
    pub(super) fn is_login_failure(&self) -> bool {
        self.reason() == Reason::DatabaseLoginFailed
    }
}

/// An error with all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// What the server's code means for a run.
pub(super) fn reason_of_sqlstate(code: &SqlState) -> Reason {
    match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => Reason::DatabaseLoginFailed,
        SqlState::INSUFFICIENT_PRIVILEGE => Reason::DatabasePermissionDenied,
        SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED => Reason::LockTimeout,
        SqlState::INVALID_CATALOG_NAME => Reason::InvalidSpec,
        SqlState::CANNOT_CONNECT_NOW | SqlState::TOO_MANY_CONNECTIONS => Reason::DatabaseUnreachable,
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_SESSION_TIMEOUT => Reason::DatabaseConnectionLost,
        SqlState::FEATURE_NOT_SUPPORTED => Reason::VersionUnsupported,
        _ if code.code().starts_with("08") => Reason::DatabaseConnectionLost,
        _ => Reason::DumpFailed,
    }
}

/// What a tool's message means. The tools run with `LC_ALL=C`; a server may still speak another language, then it is `otherwise`.
pub(super) fn reason_of_stderr(stderr: &str, otherwise: Reason) -> Reason {
    const MEANINGS: [(&str, Reason); 27] = [
        ("password authentication failed", Reason::DatabaseLoginFailed),
        ("no password supplied", Reason::DatabaseLoginFailed),
        ("no pg_hba.conf entry", Reason::DatabaseLoginFailed),
        ("requires a valid client certificate", Reason::DatabaseLoginFailed),
        ("certificate authentication failed", Reason::DatabaseLoginFailed),
        ("FATAL:  role \"", Reason::DatabaseLoginFailed),
        ("due to lock timeout", Reason::LockTimeout),
        // pg_dump makes its lock time-out of this one; it sets no other.
        ("due to statement timeout", Reason::LockTimeout),
        ("deadlock detected", Reason::LockTimeout),
        ("aborting because of server version mismatch", Reason::VersionUnsupported),
        ("unsupported version", Reason::VersionUnsupported),
        ("would be affected by row-level security policy", Reason::DatabasePermissionDenied),
        ("permission denied", Reason::DatabasePermissionDenied),
        ("must be superuser", Reason::DatabasePermissionDenied),
        ("must be owner", Reason::DatabasePermissionDenied),
        ("certificate verify failed", Reason::DatabaseTlsFailed),
        ("server does not support SSL", Reason::DatabaseTlsFailed),
        ("could not read root certificate file", Reason::DatabaseTlsFailed),
        ("Connection refused", Reason::DatabaseUnreachable),
        ("could not translate host name", Reason::DatabaseUnreachable),
        ("the database system is", Reason::DatabaseUnreachable),
        ("too many clients", Reason::DatabaseUnreachable),
        ("server closed the connection unexpectedly", Reason::DatabaseConnectionLost),
        ("terminating connection", Reason::DatabaseConnectionLost),
        ("connection to server was lost", Reason::DatabaseConnectionLost),
        ("no connection to the server", Reason::DatabaseConnectionLost),
        ("could not receive data from server", Reason::DatabaseConnectionLost),
    ];
    MEANINGS
        .iter()
        .find(|(text, _)| stderr.contains(text))
        .map_or(otherwise, |(_, reason)| *reason)
}
