//! Records: what happened to a copy after it was committed. Each is written once, beside the copy's register.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DocumentError, FORMAT, FormatVersion, Label, ObjectPath, RunPath, Sha256, canonical_bytes, decode, open_words, parse};
use crate::Retention;

/// One record of a run: `catalog/<namespace>/<source>/<run id>/<ulid>-<what>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: FormatVersion,
    /// The run, as the object's place also says.
    pub run_key: RunPath,
    /// As in the object's name: its first part tells the time, by the store's clock, and orders records.
    pub ulid: Ulid,
    /// UID of the pod that wrote it.
    pub by: Label,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// The manifest that it speaks of; absent where the run has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<Sha256>,
    pub fact: Fact,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Fact {
    /// The copy was looked at again.
    #[serde(rename_all = "camelCase")]
    Verified {
        level: VerifyLevel,
        /// What was wrong; absent where all was well.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// The copy is kept at least until then.
    #[serde(rename_all = "camelCase")]
    Retain {
        #[schemars(with = "String", extend("format" = "date-time"))]
        until: Timestamp,
        /// The rule that says so, such as `monthly` or `floor <policy>`.
        rule: String,
    },
    /// A hold names the copy. It stays held until the hold is released, whatever becomes of the labels by which it was found.
    #[serde(rename_all = "camelCase")]
    Held { hold: Label },
    /// Nothing keeps the copy any more.
    #[serde(rename_all = "camelCase")]
    Mark {
        /// Why, for people.
        reason: String,
        /// SHA-256 of all that the decision was made from.
        input: Sha256,
        /// It is not removed before.
        #[schemars(with = "String", extend("format" = "date-time"))]
        not_before: Timestamp,
    },
    /// A mark is withdrawn.
    #[serde(rename_all = "camelCase")]
    Unmark { mark: Ulid, reason: String },
    /// Somebody reads the copy, until then at the latest.
    #[serde(rename_all = "camelCase")]
    Reading {
        /// Such as the restore request, as `<namespace>/<name>`.
        who: String,
        #[schemars(with = "String", extend("format" = "date-time"))]
        until: Timestamp,
    },
    /// The store itself refuses to delete the copy's objects until then; it was read back.
    #[serde(rename_all = "camelCase")]
    Locked {
        #[schemars(with = "String", extend("format" = "date-time"))]
        until: Timestamp,
    },
    /// The store's legal hold on the copy's objects was set, or lifted; it was read back.
    #[serde(rename_all = "camelCase")]
    LegalHold { on: bool },
    /// The keeper vouches for the manifest.
    #[serde(rename_all = "camelCase")]
    Seal {
        /// The public key (Ed25519), in hexadecimal.
        key: String,
        /// Over the 32 bytes of the manifest's SHA-256, in hexadecimal.
        signature: String,
    },
    /// The keys of the copy were destroyed on purpose.
    #[serde(rename_all = "camelCase")]
    Shredded { disposal: String, basis: String },
    /// The copy is no copy any more: what it consists of is being deleted, or is gone.
    #[serde(rename_all = "camelCase")]
    Removed {
        reason: String,
        /// The mark that came before; absent where a disposal asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<Ulid>,
    },
}

impl Fact {
    /// The word in the object's name.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Verified { .. } => "verified",
            Self::Retain { .. } => "retain",
            Self::Held { .. } => "held",
            Self::Mark { .. } => "mark",
            Self::Unmark { .. } => "unmark",
            Self::Reading { .. } => "reading",
            Self::Locked { .. } => "locked",
            Self::LegalHold { .. } => "legal-hold",
            Self::Seal { .. } => "seal",
            Self::Shredded { .. } => "shredded",
            Self::Removed { .. } => "removed",
        }
    }
}

open_words! {
    /// How deep a copy was looked at
    VerifyLevel {
        /// Every object is there, with the size and the checksum that the store shows.
        Manifest = "manifest",
        /// Every object was read and its SHA-256 compared.
        Digest = "digest",
        /// Every object was decrypted and decompressed, and the engine's structure checked.
        Decode = "decode",
        /// It was restored into a scratch server.
        Scratch = "scratch",
    }
}

/// One record of a source: `catalog/<namespace>/<source>/<ulid>-<what>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceRecord {
    pub version: FormatVersion,
    pub namespace: Label,
    pub source: Label,
    pub ulid: Ulid,
    pub by: Label,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    pub fact: SourceFact,
}

/// What a record of a source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceFact {
    /// Under these rules copies of this schedule are kept in this store from now on, also when the schedule is gone.
    #[serde(rename_all = "camelCase")]
    Policy {
        schedule: ScheduleName,
        time_zone: String,
        retention: Retention,
        /// The longest time between two of its full copies, in seconds: without new ones nothing is removed, also when the schedule is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval_seconds: Option<u64>,
    },
    /// A person accepts that something is as it is.
    #[serde(rename_all = "camelCase")]
    Accepted { what: Acceptance, who: String, why: String },
    /// Protection of the source ended on purpose.
    #[serde(rename_all = "camelCase")]
    Retired { who: String, why: String },
    /// … and began again.
    #[serde(rename_all = "camelCase")]
    Unretired { who: String },
}

impl SourceFact {
    /// The word in the object's name.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Policy { .. } => "policy",
            Self::Accepted { .. } => "accepted",
            Self::Retired { .. } => "retired",
            Self::Unretired { .. } => "unretired",
        }
    }
}

/// A schedule, as copies name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleName {
    /// Absent for a cluster-wide schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
}

/// What a person accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Acceptance {
    /// Copies that were there are not there any more: SHA-256 over how many were there, when they were counted, and the (run, outcome digest)
    /// of those that are left of them.
    #[serde(rename_all = "camelCase")]
    Loss { set: Sha256 },
    /// The newest copy's size is unlike that of those before it.
    #[serde(rename_all = "camelCase")]
    Size { run: Label },
    /// Exactly these copies may go, although a pass would remove more than was forecast: SHA-256 over their (run, outcome digest).
    #[serde(rename_all = "camelCase")]
    Removal { set: Sha256 },
    /// What was one server is another one now: the copies of the former need no protection of their own.
    #[serde(rename_all = "camelCase")]
    Server { was: String, is: String },
}

/// A ULID: 48 bits of time in milliseconds, 80 of randomness, in Crockford's base 32.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ulid(String);

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Ulid {
    /// Of a moment and 80 random bits. Moments before 1970 count as 1970.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u128::try_from(at.as_millisecond().max(0)).unwrap_or(0) & ((1 << 48) - 1);
        let random = random.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        let bits = millis << 80 | random;
        let text = (0..26).rev().map(|digit| char::from(ALPHABET[(bits >> (digit * 5) & 31) as usize]));
        Self(text.collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Ulid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Ulid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = text.len() == 26 && text.bytes().all(|byte| ALPHABET.contains(&byte)) && text.as_bytes()[0] <= b'7';
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "found {:?}, expected a ULID: 26 of 0-9 and A-Z without I, L, O and U, the first at most 7",
                text.chars().take(40).collect::<String>()
            ))
        }
    }
}

impl TryFrom<String> for Ulid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ulid> for String {
    fn from(ulid: Ulid) -> Self {
        ulid.0
    }
}

impl JsonSchema for Ulid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ulid".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", "description": "A ULID."})
    }
}

/// That a document says what its place says.
pub(super) fn agrees(document: &'static str, bytes_say: &ObjectPath, place: &ObjectPath) -> Result<(), DocumentError> {
    if bytes_say == place {
        Ok(())
    } else {
        Err(DocumentError::Contradicts {
            document,
            field: "its place".to_owned(),
            found: bytes_say.to_string(),
            expected: place.to_string(),
        })
    }
}

impl Record {
    pub fn new(run: RunPath, ulid: Ulid, by: Label, at: Timestamp, manifest_sha256: Option<Sha256>, fact: Fact) -> Self {
        Self {
            version: FORMAT,
            run_key: run,
            ulid,
            by,
            at,
            manifest_sha256,
            fact,
        }
    }

    /// Its place in the store.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::Record {
            run: self.run_key.clone(),
            ulid: self.ulid.clone(),
            what: Label::known(self.fact.what()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_bytes(self)
    }

    /// Reads the record that lies at `place`.
    pub fn from_bytes(place: &ObjectPath, bytes: &[u8]) -> Result<Self, DocumentError> {
        let record: Self = decode("record", parse("record", bytes)?)?;
        agrees("record", &record.path(), place)?;
        Ok(record)
    }
}

impl SourceRecord {
    pub fn new(namespace: Label, source: Label, ulid: Ulid, by: Label, at: Timestamp, fact: SourceFact) -> Self {
        Self {
            version: FORMAT,
            namespace,
            source,
            ulid,
            by,
            at,
            fact,
        }
    }

    /// Its place in the store.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::SourceRecord {
            namespace: self.namespace.clone(),
            source: self.source.clone(),
            ulid: self.ulid.clone(),
            what: Label::known(self.fact.what()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_bytes(self)
    }

    /// Reads the record that lies at `place`.
    pub fn from_bytes(place: &ObjectPath, bytes: &[u8]) -> Result<Self, DocumentError> {
        let record: Self = decode("record of a source", parse("record of a source", bytes)?)?;
        agrees("record of a source", &record.path(), place)?;
        Ok(record)
    }
}
