//! `outcome.json`: the register of a run, decided once and for ever.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    DocumentError, FORMAT, FormatVersion, Label, Manifest, RunPath, Sha256, canonical_bytes, check_version, decode, open_words, parse,
};

const DOCUMENT: &str = "outcome";

/// What became of a run: a copy, or an abandonment. Whoever creates it first decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The run, as the object's place also says: bytes of another object are noticed.
    pub run: RunPath,
    /// Random, so that the writer recognises its own object when it reads it back.
    pub nonce: String,
    /// UID of the pod that wrote it.
    pub by: Label,
    pub at: Timestamp,
    pub decision: Decision,
}

/// The two things that can become of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Committed(Box<Committed>),
    Abandoned(Abandonment),
}

/// A copy: its manifest, and the objects that this store has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    manifest: Manifest,
    manifest_sha256: Sha256,
    /// The manifest as it was read, where it has fields of a later version that the type does not know.
    verbatim: Option<Box<serde_json::Value>>,
    stored: Vec<StoredObject>,
}

impl Committed {
    pub fn new(manifest: Manifest, stored: Vec<StoredObject>) -> Self {
        let manifest_sha256 = manifest.digest();
        Self {
            manifest,
            manifest_sha256,
            verbatim: None,
            stored,
        }
    }

    /// The same copy as another store has it: the manifest to the last byte, fields of later versions included.
    #[must_use]
    pub fn in_store(&self, stored: Vec<StoredObject>) -> Self {
        Self { stored, ..self.clone() }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's canonical bytes as they were written, fields of later versions included.
    pub fn manifest_sha256(&self) -> Sha256 {
        self.manifest_sha256
    }

    /// What this store holds of the copy: parts, indices and the key.
    pub fn stored(&self) -> &[StoredObject] {
        &self.stored
    }

    /// Checks the manifest (see [`Manifest::check`]), and that every object of it and its key were stored as it says.
    pub fn check(&self, run: &RunPath) -> Result<(), DocumentError> {
        self.manifest.check(run)?;
        let contradicts = |field: String, found: String, expected: String| DocumentError::Contradicts {
            document: DOCUMENT,
            field,
            found,
            expected,
        };
        let by_path: std::collections::HashMap<_, _> = self.stored.iter().map(|object| (object.path.as_str(), object)).collect();
        let missing = |path: &str| contradicts("stored".to_owned(), "without it".to_owned(), format!("an entry for {path}"));
        for (path, bytes, sha256) in self.manifest.objects() {
            let object = by_path.get(path).ok_or_else(|| missing(path))?;
            if (object.bytes, object.sha256) != (bytes, sha256) {
                let found = format!("{} bytes, SHA-256 {}", object.bytes, object.sha256);
                return Err(contradicts(
                    format!("stored {path}"),
                    found,
                    format!("{bytes} bytes, SHA-256 {sha256}"),
                ));
            }
        }
        match self.manifest.encryption.key() {
            Some(key) if !by_path.contains_key(key) => Err(missing(key)),
            _ => Ok(()),
        }
    }
}

/// The run was given up: nothing of it will ever be a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Abandonment {
    /// A word of the list of reasons in the documentation.
    pub reason: String,
    pub message: String,
}

open_words! {
    /// An algorithm with which a store confirms what it holds
    ChecksumAlgorithm {
        /// Over the whole object.
        Sha256 = "sha256",
        /// Of a multipart object: SHA-256 over the SHA-256 of the pieces, `-` and their number behind it.
        Sha256Composite = "sha256-composite",
        /// Over the whole object.
        Crc64Nvme = "crc64nvme",
    }
}

/// One object in this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoredObject {
    /// Its name, relative to the store's prefix.
    pub path: String,
    pub bytes: u64,
    /// Computed by the writer.
    pub sha256: Sha256,
    pub confirmed: Confirmed,
    /// Where the store has versions: the one that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// How the store proved that it holds the writer's bytes. Its size was compared in either case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Confirmed {
    /// The store told a checksum of its own, equal to the writer's.
    #[serde(rename_all = "camelCase")]
    Checksum { algorithm: ChecksumAlgorithm, value: String },
    /// The store tells none: the object was read back whole and its SHA-256 compared.
    ReadBack {},
}

/// The outcome as it is written: exactly one of `manifest` (then with `stored`) and `abandonment`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Outcome")]
pub struct OutcomeWire {
    pub version: FormatVersion,
    pub run_key: RunPath,
    pub nonce: String,
    pub by: Label,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Vec<StoredObject>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandonment: Option<Abandonment>,
}

impl Outcome {
    /// The bytes that are put into the register. Frozen before the first put: a second call gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (manifest, stored, abandonment) = match &self.decision {
            Decision::Committed(copy) => (Some(copy.manifest.clone()), Some(copy.stored.clone()), None),
            Decision::Abandoned(abandonment) => (None, None, Some(abandonment.clone())),
        };
        let wire = OutcomeWire {
            version: FORMAT,
            run_key: self.run.clone(),
            nonce: self.nonce.clone(),
            by: self.by.clone(),
            at: self.at,
            manifest,
            stored,
            abandonment,
        };
        match self.committed().and_then(|copy| copy.verbatim.as_deref()) {
            Some(verbatim) => {
                let mut value = serde_json::to_value(&wire).unwrap_or_default();
                value["manifest"] = verbatim.clone();
                canonical_bytes(&value)
            }
            None => canonical_bytes(&wire),
        }
    }

    /// Reads the register of `run` and checks that it is about that run and whole.
    pub fn from_bytes(run: &RunPath, bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse(DOCUMENT, bytes)?;
        let manifest_sha256 = match value.get("manifest") {
            Some(manifest) => {
                check_version("manifest", manifest)?;
                Some(Sha256::of(&canonical_bytes(manifest)))
            }
            None => None,
        };
        let wire: OutcomeWire = decode(DOCUMENT, value)?;
        if wire.run_key != *run {
            let field = "runKey".to_owned();
            return Err(DocumentError::Contradicts {
                document: DOCUMENT,
                field,
                found: wire.run_key.to_string(),
                expected: run.to_string(),
            });
        }
        let decision = match (wire.manifest, manifest_sha256, wire.stored, wire.abandonment) {
            (Some(manifest), Some(manifest_sha256), Some(stored), None) => {
                let verbatim = if manifest.digest() == manifest_sha256 {
                    None
                } else {
                    parse(DOCUMENT, bytes)?
                        .get_mut("manifest")
                        .map(|manifest| Box::new(manifest.take()))
                };
                let copy = Committed {
                    manifest,
                    manifest_sha256,
                    verbatim,
                    stored,
                };
                copy.check(run)?;
                Decision::Committed(Box::new(copy))
            }
            (None, None, None, Some(abandonment)) => Decision::Abandoned(abandonment),
            (manifest, _, stored, abandonment) => {
                let named = [
                    ("manifest", manifest.is_some()),
                    ("stored", stored.is_some()),
                    ("abandonment", abandonment.is_some()),
                ];
                let found: Vec<_> = named.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
                let problem = format!("found {found:?}, expected manifest with stored, or abandonment alone");
                return Err(DocumentError::Malformed {
                    document: DOCUMENT,
                    problem,
                });
            }
        };
        Ok(Self {
            run: wire.run_key,
            nonce: wire.nonce,
            by: wire.by,
            at: wire.at,
            decision,
        })
    }

    /// The copy, where the run was not abandoned.
    pub fn committed(&self) -> Option<&Committed> {
        match &self.decision {
            Decision::Committed(copy) => Some(copy),
            Decision::Abandoned(_) => None,
        }
    }
}
