//! The manifest: what a copy is, the same in every store that has it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Blake3, DocumentError, FormatVersion, Label, ObjectPath, PodPath, RunPath, Sha256, canonical_bytes, open_words};
use crate::Span;

/// What a copy is. Its canonical bytes have the SHA-256 by which parents, approvals and comparisons name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub version: FormatVersion,
    /// The cluster that made the copy: the UID of its namespace kube-system, or the chart's `clusterId`.
    pub cluster: String,
    pub source: SourceIdentity,
    pub run: RunIdentity,
    /// The schedule by whose retention the copy is kept; absent where the run was made by hand and names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleIdentity>,
    pub engine: Engine,
    pub method: Method,
    /// `Full` or a later kind of copy.
    #[serde(rename = "type")]
    pub copy_type: String,
    /// The copies that this one needs; none for a full copy.
    #[serde(default)]
    pub parents: Vec<Parent>,
    pub server: Server,
    /// The state of the database that a restore of this copy brings back.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub recovery_point: Timestamp,
    pub streams: Vec<Stream>,
    pub contents: Contents,
    pub encryption: Encryption,
    pub durations: Durations,
    /// After this instant, judged by the store's clock, no pod of the attempt commits any more.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub not_after: Timestamp,
    /// Version of the Holdfast that wrote it.
    pub agent: String,
}

/// Which database: its identity in every store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceIdentity {
    pub namespace: Label,
    pub name: Label,
}

/// Which execution, and which pod of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunIdentity {
    /// The run's name, which is its id.
    pub name: Label,
    /// The minute for which a trigger fired; absent for a run by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub tick: Option<Timestamp>,
    /// How long the copy is kept at least, from its recovery point; absent where a schedule says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<Span>,
    /// Counted from 1.
    pub attempt: u32,
    /// UID of the pod that stored the data.
    pub pod: Label,
}

/// By which schedule, and under which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleIdentity {
    pub name: String,
    /// Absent for a cluster-wide schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Absent where the run was made by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// `metadata.generation` of the schedule when the run was made.
    pub generation: i64,
    /// SHA-256 of the canonical bytes of the schedule's policy when the run was made: `{"stores": [{"name", "retention", …}], "timeZone"}`, as
    /// in its specification. Of `{}` where the run was made by a version that did not name it.
    pub policy_digest: Sha256,
}

open_words! {
    /// The engine of a database
    Engine {
        /// PostgreSQL.
        Postgresql = "postgresql",
    }
}

open_words! {
    /// How the engine was copied
    Method {
        /// Statements and rows, restored into any server of the same or a newer version.
        Logical = "logical",
    }
}

open_words! {
    /// What a stream holds
    StreamKind {
        /// One database, in the custom format of `pg_dump` without its own compression.
        PostgresqlArchive = "postgresql-archive",
        /// Roles, tablespaces and settings of the whole server, as SQL of `pg_dumpall --globals-only`.
        PostgresqlGlobals = "postgresql-globals",
    }
}

open_words! {
    /// What an entry of an archive holds
    EntryKind {
        /// What comes before the data: header and table of contents.
        Preamble = "preamble",
        /// The rows of one table.
        TableData = "tableData",
        /// Large objects.
        LargeObjects = "largeObjects",
    }
}

open_words! {
    /// Whether the engine's structure was proven complete while it streamed
    Checked {
        /// Every entry was seen from its beginning to its end.
        Structure = "structure",
        /// The format was not known: only the exit codes of the tools vouch for it.
        Opaque = "opaque",
    }
}

/// A copy that this one needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    pub run: RunPath,
    pub manifest_sha256: Sha256,
}

/// The server that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The host and port that answered.
    pub host: String,
    /// As the server says it, such as `15.13`.
    pub version: String,
    /// What tells this server from all others: the system identifier of a PostgreSQL cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Whether it was a standby. Its lag is in the recovery point.
    pub standby: bool,
    /// The tools that read it, with their versions.
    pub tools: BTreeMap<String, String>,
}

/// One stream of bytes that the engine handed out, and the objects that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    pub name: Label,
    pub kind: StreamKind,
    /// The database that it holds; absent for what belongs to the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    pub checked: Checked,
    pub raw: RawDigest,
    /// In order, without a gap. Decrypted and concatenated they are one plain zstd stream.
    pub parts: Vec<Part>,
    pub index: IndexObject,
}

impl Stream {
    /// The bytes that its parts and its index take in a store.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum::<u64>() + self.index.bytes
    }
}

/// The stream as the engine handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RawDigest {
    pub bytes: u64,
    pub blake3: Blake3,
}

/// One object of a stream: an age file of whole zstd frames (without encryption, the frames alone).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The object's name, relative to the store's prefix.
    pub object: String,
    /// The object's size.
    pub bytes: u64,
    /// Of the object's bytes.
    pub sha256: Sha256,
    /// Size of the frames once decrypted.
    pub decrypted_bytes: u64,
    /// The part's share of the raw stream.
    pub raw_bytes: u64,
    pub frames: u64,
}

/// The object that holds the stream's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexObject {
    /// The object's name, relative to the store's prefix.
    pub object: String,
    /// The object's size.
    pub bytes: u64,
    /// Of the object's bytes.
    pub sha256: Sha256,
    /// Of the index's JSON lines.
    pub raw: RawDigest,
}

/// What the copy holds, in the engine's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    pub databases: Vec<Database>,
    /// What the server has and this copy has not: databases, and what belongs to the whole server.
    #[serde(default)]
    pub not_copied: Vec<NotCopied>,
    /// Roles of the server.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Tablespaces of the server, without its own two.
    #[serde(default)]
    pub tablespaces: Vec<String>,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    pub name: String,
    /// The stream that holds it.
    pub stream: Label,
    /// Its size on the server.
    pub bytes: u64,
    pub owner: String,
    pub encoding: String,
    /// Whatever else describes it, such as collation and locale provider.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    pub extensions: Vec<Extension>,
    /// Every table whose rows are in the copy.
    pub tables: Vec<Table>,
    /// The number of large objects, where the format shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<u64>,
    /// What the database has and this copy has not, and what was not proven of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_copied: Vec<NotCopied>,
}

/// An extension that the database needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    pub name: String,
    pub version: String,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// Exact, counted in the stream; absent where the format does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// Something that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotCopied {
    /// A database, or what it is and its names, such as `subscriptions a, b`.
    pub name: String,
    /// Such as `excluded`, `template`, or `vanished` while the run was at work.
    pub why: String,
}

/// How the copy's objects are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Encryption {
    /// To a fresh key of this run's, which is sealed to the store's recipients.
    #[serde(rename_all = "camelCase")]
    Age {
        /// SHA-256 of each recipient's text (`printf %s age1… | sha256sum`).
        recipients: Vec<Sha256>,
        /// The run's own public recipient, to which the parts are encrypted.
        public_recipient: String,
        /// The object that holds the run's secret key, relative to the store's prefix.
        key: String,
    },
    /// To a fresh key of this run's, which is sealed with the store's passphrase.
    #[serde(rename_all = "camelCase")]
    Passphrase { public_recipient: String, key: String },
    /// Not at all.
    None {},
}

impl Encryption {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None {})
    }

    /// The object that holds the sealed key.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Age { key, .. } | Self::Passphrase { key, .. } => Some(key),
            Self::None {} => None,
        }
    }

    /// The recipient to which the parts are encrypted.
    pub fn public_recipient(&self) -> Option<&str> {
        match self {
            Self::Age { public_recipient, .. } | Self::Passphrase { public_recipient, .. } => Some(public_recipient),
            Self::None {} => None,
        }
    }
}

/// How long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Durations {
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started: Timestamp,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub finished: Timestamp,
    /// Milliseconds of each phase.
    #[serde(default)]
    pub phases: BTreeMap<String, u64>,
}

impl Manifest {
    /// The bytes whose SHA-256 names the copy.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        canonical_bytes(self)
    }

    /// SHA-256 of the canonical bytes of what this process built. What was read from a store has its digest in [`super::Committed`].
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.canonical_bytes())
    }

    /// Where the run lies in every store.
    pub fn run_path(&self) -> RunPath {
        RunPath {
            namespace: self.source.namespace.clone(),
            source: self.source.name.clone(),
            run: self.run.name.clone(),
        }
    }

    /// Where its pod's objects lie.
    pub fn pod_path(&self) -> PodPath {
        self.run_path().pod(self.run.pod.clone())
    }

    /// Every object of the copy with its size and digest: parts and indices. The key is apart, since it can be replaced.
    pub fn objects(&self) -> impl Iterator<Item = (&str, u64, Sha256)> {
        self.streams.iter().flat_map(|stream| {
            let index = (stream.index.object.as_str(), stream.index.bytes, stream.index.sha256);
            stream
                .parts
                .iter()
                .map(|part| (part.object.as_str(), part.bytes, part.sha256))
                .chain([index])
        })
    }

    /// Whether it contradicts itself or lies in another run's place: names of objects are never taken on trust.
    pub fn check(&self, run: &RunPath) -> Result<(), DocumentError> {
        let contradicts = |field: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| DocumentError::Contradicts {
            document: "manifest",
            field: field.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        };
        let expect = |field: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
            if found.to_string() == expected.to_string() {
                Ok(())
            } else {
                Err(contradicts(field, found, expected))
            }
        };
        expect("source and run", &self.run_path(), run)?;
        let pod = self.pod_path();
        if let Some(key) = self.encryption.key() {
            match key.parse() {
                Ok(ObjectPath::Key { pod: at, .. }) if at == pod => {}
                _ => return Err(contradicts("encryption key", &key, &pod.key(1))),
            }
        }
        for (position, stream) in self.streams.iter().enumerate() {
            let field = |name: &str| format!("streams[{position}].{name}");
            let place = pod.stream(stream.name.clone(), !self.encryption.is_none());
            if self.streams[..position].iter().any(|other| other.name == stream.name) {
                return Err(contradicts(&field("name"), &stream.name, &"a name that no other stream has"));
            }
            expect(&field("index.object"), &stream.index.object, &place.index())?;
            let mut raw = 0u64;
            for (part, number) in stream.parts.iter().zip(1..) {
                expect(&field(&format!("parts[{}].object", number - 1)), &part.object, &place.part(number))?;
                raw = raw.saturating_add(part.raw_bytes);
            }
            expect(&field("raw.bytes"), &stream.raw.bytes, &raw)?;
        }
        for (position, database) in self.contents.databases.iter().enumerate() {
            if !self.streams.iter().any(|stream| stream.name == database.stream) {
                return Err(contradicts(
                    &format!("contents.databases[{position}].stream"),
                    &database.stream,
                    &"the name of a stream",
                ));
            }
        }
        Ok(())
    }
}
