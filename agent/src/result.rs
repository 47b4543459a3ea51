//! How a command ends: one result, one message, one exit code.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_crds::document::{Committed, DocumentError};
use holdfast_crds::{AgentResult, CopySummary, Reason, TASK_VERSION};

use crate::engine::postgresql::error::{DatabaseError, chain};
use crate::pipeline::WriteError;
use crate::pipeline::key::KeyError;
use crate::store::StoreError;

/// The most names of databases that a summary holds.
const NAMES: usize = 10;
/// The most notes that a summary holds.
const NOTES: usize = 8;

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For conditions, exit code and runbook.
    pub reason: Reason,
    /// What was found, what is expected, what to do.
    pub message: String,
    /// Whether the run's register is closed: nothing of it can be committed any more.
    pub closed: bool,
}

impl Failure {
    /// A failure that leaves the register open.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            closed: false,
        }
    }

    /// The same, with what was being done before the message.
    #[must_use]
    pub fn while_doing(mut self, doing: &str) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Self::new(error.reason(), chain(&error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.reason(), chain(&error))
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let reason = match &error {
            error if error.is_wrong_key() => Reason::WrongKey,
            KeyError::Recipient { .. } | KeyError::NoRecipients => Reason::InvalidSpec,
            KeyError::Identity { .. } | KeyError::EmptyPassphrase => Reason::SecretKeyMissing,
            KeyError::Damaged { .. } => Reason::CopyCorrupt,
            _ => Reason::InternalError,
        };
        Self::new(reason, chain(&error))
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        let reason = match &error {
            DocumentError::NewerVersion { .. } => Reason::FormatUnknown,
            DocumentError::Malformed { .. } | DocumentError::Contradicts { .. } => Reason::CopyCorrupt,
        };
        Self::new(reason, chain(&error))
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let reason = match &error {
            WriteError::Check(_) => Reason::DumpTruncated,
            WriteError::Read(_) => Reason::DumpFailed,
            WriteError::Store { source, .. } => source.reason(),
            WriteError::Cancelled => Reason::Interrupted,
            WriteError::Compress(_) | WriteError::Seal(_) | WriteError::Fault(_) => Reason::InternalError,
        };
        Self::new(reason, chain(&error))
    }
}

/// A result without details.
pub fn plain(reason: Reason, message: impl Into<String>) -> AgentResult {
    AgentResult {
        version: TASK_VERSION,
        reason,
        message: message.into(),
        closed: false,
        copy: None,
        probe: None,
        restored: None,
        kept: None,
        copied: None,
    }
}

impl From<Failure> for AgentResult {
    fn from(failure: Failure) -> Self {
        Self {
            closed: failure.closed,
            ..plain(failure.reason, failure.message)
        }
    }
}

/// A number of things or bytes as the API holds it.
pub fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A committed copy in short. `notes` come before those that the manifest itself gives.
pub fn summarise(committed: &Committed, version_id: Option<String>, notes: &[String]) -> CopySummary {
    let manifest = committed.manifest();
    let contents = &manifest.contents;
    let tables = || contents.databases.iter().flat_map(|database| &database.tables);
    let counted = tables().map(|table| table.rows).sum::<Option<u64>>();
    let mut left_out = BTreeMap::<&str, Vec<&str>>::new();
    for left in contents.not_copied.iter().filter(|left| left.why != "template") {
        left_out.entry(&left.why).or_default().push(&left.name);
    }
    let left_out = left_out.into_iter().map(|(why, names)| format!("{why}: {}", names.join(", ")));
    let of_databases = contents.databases.iter().flat_map(|database| {
        database
            .not_copied
            .iter()
            .map(move |left| format!("{}: without {}: {}", database.name, left.name, left.why))
    });
    let mut told = notes.iter().cloned().chain(of_databases).chain(left_out).collect::<Vec<_>>();
    if told.len() > NOTES {
        let more = told.split_off(NOTES - 1).len();
        told.push(format!("and {more} more, in the manifest"));
    }
    let structure = manifest
        .streams
        .iter()
        .all(|stream| stream.checked == holdfast_crds::document::Checked::Structure);
    CopySummary {
        path: manifest.run_path().to_string(),
        recovery_point: manifest.recovery_point.to_string(),
        raw_bytes: count(manifest.streams.iter().map(|stream| stream.raw.bytes).sum()),
        stored_bytes: count(committed.stored().iter().map(|object| object.bytes).sum()),
        parts: count(manifest.streams.iter().map(|stream| stream.parts.len() as u64).sum()),
        databases: count(contents.databases.len() as u64),
        database_names: contents
            .databases
            .iter()
            .take(NAMES)
            .map(|database| database.name.clone())
            .collect(),
        tables: count(tables().count() as u64),
        rows: counted.filter(|_| structure).map(count),
        structure_checked: structure,
        manifest_digest: committed.manifest_sha256().to_string(),
        version_id,
        engine: Some(engine_line(manifest)),
        notes: told.iter().map(|note| shorten(note, 256)).collect(),
    }
}

fn engine_line(manifest: &holdfast_crds::document::Manifest) -> String {
    let server = ("PostgreSQL", manifest.server.version.as_str());
    let tools = manifest
        .server
        .tools
        .iter()
        .map(|(tool, version)| (tool.as_str(), version.as_str()));
    let parts = std::iter::once(server)
        .chain(tools)
        .map(|(name, version)| format!("{name} {version}"))
        .collect::<Vec<_>>();
    shorten(&parts.join(", "), 128)
}

/// The text, cut at a character's border to so many bytes.
pub fn shorten(text: &str, limit: usize) -> String {
    holdfast_crds::shortened(text, limit)
}

/// Leaves the result where the operator reads it; `-` is stdout's turn alone.
pub fn leave(result: &AgentResult, at: &Path) -> std::io::Result<()> {
    if at == Path::new("-") {
        Ok(())
    } else {
        std::fs::write(at, result.to_termination_message())
    }
}
