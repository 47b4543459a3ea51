//! The documents that lie in a store: they outlive every cluster and every version of Holdfast that wrote them.
//!
//! Rules of the format, version 1:
//! - A document is JSON, written in its canonical form: keys sorted by their bytes, no white space, no floating-point numbers
//!   (`jq -cSj` prints the same bytes).
//! - Within a major version fields are only added; readers ignore fields that they do not know. A newer major is refused.
//! - What a reader cannot read, it never deletes.

mod digest;
mod hold;
mod index;
mod manifest;
mod outcome;
mod owner;
mod path;
mod record;
mod version;

pub use digest::{Blake3, InvalidDigest, Sha256};
pub use hold::{HoldFact, HoldRecord, HoldScope};
pub use index::{IndexEntry, IndexFrame, IndexHeader, IndexLine};
pub use manifest::{
    Checked, Contents, Database, Durations, Encryption, Engine, EntryKind, Extension, IndexObject, Manifest, Method, NotCopied, Parent,
    Part, RawDigest, RunIdentity, ScheduleIdentity, Server, SourceIdentity, Stream, StreamKind, Table,
};
pub use outcome::{Abandonment, ChecksumAlgorithm, Committed, Confirmed, Decision, Outcome, OutcomeWire, StoredObject};
pub use owner::Owner;
pub use path::{InvalidPath, Label, ObjectPath, PodPath, RunPath, StreamPath};
pub use record::{Acceptance, Fact, Record, ScheduleName, SourceFact, SourceRecord, Ulid, VerifyLevel};
pub use version::{FORMAT, FormatVersion};

use serde::Serialize;
use serde_json::Value;

/// The largest document that a reader accepts, in bytes: an outcome of some 200 000 parts or tables.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Why a document of a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The bytes are no JSON document, or a field is missing or malformed.
    #[error("read {document}: {problem}; the object was damaged or was not written by Holdfast")]
    Malformed { document: &'static str, problem: String },
    /// The document was written by a later Holdfast.
    #[error("read {document}: its format is version {found}, this Holdfast reads up to {FORMAT}; use a newer Holdfast")]
    NewerVersion { document: &'static str, found: FormatVersion },
    /// The document is well formed but contradicts itself or the place where it lies.
    #[error("read {document}: {field} is {found}, expected {expected}; the object was altered or lies in a wrong place")]
    Contradicts {
        document: &'static str,
        field: String,
        found: String,
        expected: String,
    },
}

/// The canonical bytes of a value: keys sorted, no white space.
///
/// # Panics
/// Never for the types of this module: their keys are strings and their numbers are integers.
pub fn canonical_bytes(value: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("a document has string keys and whole numbers, which JSON can say");
    let mut bytes = Vec::new();
    write_canonical(&value, &mut bytes);
    bytes
}

/// Independent of how `serde_json` orders its maps, which a feature of any crate in the build can change.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(&map[key], out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

/// Parses the JSON of a document and refuses a newer major version before anything else is looked at.
fn parse(document: &'static str, bytes: &[u8]) -> Result<Value, DocumentError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let problem = format!("it has {} bytes, expected at most {MAX_DOCUMENT_BYTES}", bytes.len());
        return Err(DocumentError::Malformed { document, problem });
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| DocumentError::Malformed {
        document,
        problem: error.to_string(),
    })?;
    check_version(document, &value)?;
    Ok(value)
}

fn check_version(document: &'static str, value: &Value) -> Result<(), DocumentError> {
    let malformed = |problem: String| DocumentError::Malformed { document, problem };
    let found = value
        .get("version")
        .and_then(Value::as_str)
        .ok_or_else(|| malformed("field version is missing".to_owned()))?;
    let found: FormatVersion = found.parse().map_err(malformed)?;
    if found.major > FORMAT.major {
        Err(DocumentError::NewerVersion { document, found })
    } else {
        Ok(())
    }
}

fn decode<T: serde::de::DeserializeOwned>(document: &'static str, value: Value) -> Result<T, DocumentError> {
    serde_json::from_value(value).map_err(|error| DocumentError::Malformed {
        document,
        problem: error.to_string(),
    })
}

/// A word of a vocabulary that grows: a value that this version does not know is kept as it is, so that the document stays readable.
macro_rules! open_words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $word_doc:literal])+ $word:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[doc = $word_doc])+ $word,)+
            /// A word of a later version.
            Other(String),
        }

        impl $name {
            /// The word as documents hold it.
            pub fn as_str(&self) -> &str {
                match self { $(Self::$word => $text,)+ Self::Other(text) => text }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() { $($text => Self::$word,)+ _ => Self::Other(text) }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let known = concat!($(" `", $text, "`",)+);
                schemars::json_schema!({"type": "string", "description": format!("{}; known:{known}. Readers accept others.", concat!($($doc),+).trim())})
            }
        }
    };
}
pub(crate) use open_words;

#[cfg(test)]
mod tests;
