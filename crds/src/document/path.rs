//! Names of objects in a store, relative to its prefix.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Ulid;

/// Why a text is no name or path of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// A part of a path is no label.
    #[error("{what} is {found:?}, expected at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
    Label { what: &'static str, found: String },
    /// The path is none that this version writes.
    #[error("object {found:?} has no place in a store's layout that this version knows")]
    Unknown { found: String },
}

/// A DNS label: what namespaces, sources, runs, pods (by UID) and streams are called in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// `what` names the text in the error.
    pub fn new(what: &'static str, text: impl Into<String>) -> Result<Self, InvalidPath> {
        let text = text.into();
        let bytes = text.as_bytes();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
            && plain(bytes[0])
            && plain(bytes[bytes.len() - 1]);
        if good {
            Ok(Self(text))
        } else {
            Err(InvalidPath::Label {
                what,
                found: text.chars().take(80).collect(),
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A word of ours, which is a label.
    pub(super) fn known(word: &'static str) -> Self {
        Self(word.to_owned())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Label {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        Self::new("name", text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl JsonSchema for Label {
    fn schema_name() -> Cow<'static, str> {
        "Label".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "description": "A DNS label."})
    }
}

/// A run's place in every store: `<namespace>/<source>/<run id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunPath {
    pub namespace: Label,
    pub source: Label,
    pub run: Label,
}

impl RunPath {
    pub fn new(namespace: &str, source: &str, run: &str) -> Result<Self, InvalidPath> {
        Ok(Self {
            namespace: Label::new("namespace", namespace)?,
            source: Label::new("source", source)?,
            run: Label::new("run", run)?,
        })
    }

    /// `catalog/<namespace>/<source>/<run>/`: register, records and keys.
    pub fn catalog(&self) -> String {
        format!("catalog/{self}/")
    }

    /// `data/<namespace>/<source>/<run>/`: what all pods of the run stored.
    pub fn data(&self) -> String {
        format!("data/{self}/")
    }

    /// The register: a manifest or an abandonment, decided once.
    pub fn outcome(&self) -> ObjectPath {
        ObjectPath::Outcome { run: self.clone() }
    }

    pub fn pod(&self, pod: Label) -> PodPath {
        PodPath { run: self.clone(), pod }
    }
}

impl fmt::Display for RunPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.source, self.run)
    }
}

impl FromStr for RunPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [namespace, source, run] => Self::new(namespace, source, run),
            _ => Err(InvalidPath::Unknown {
                found: text.chars().take(300).collect(),
            }),
        }
    }
}

impl TryFrom<String> for RunPath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        text.parse()
    }
}

impl From<RunPath> for String {
    fn from(path: RunPath) -> Self {
        path.to_string()
    }
}

impl JsonSchema for RunPath {
    fn schema_name() -> Cow<'static, str> {
        "RunPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "A run's place in every store: <namespace>/<source>/<run id>."})
    }
}

/// What one pod of a run writes: two pods of one run never share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPath {
    pub run: RunPath,
    pub pod: Label,
}

impl PodPath {
    /// The pod's key number `number`, sealed to the store's recipients; the first is 1, `rekey` adds others.
    pub fn key(&self, number: u32) -> ObjectPath {
        ObjectPath::Key { pod: self.clone(), number }
    }

    pub fn stream(&self, stream: Label, encrypted: bool) -> StreamPath {
        StreamPath {
            pod: self.clone(),
            stream,
            encrypted,
        }
    }

    /// `data/<namespace>/<source>/<run>/<pod uid>/`.
    pub fn data(&self) -> String {
        format!("{}{}/", self.run.data(), self.pod)
    }
}

/// Where the parts and the index of one stream lie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPath {
    pub pod: PodPath,
    pub stream: Label,
    /// Whether the objects are age files: their names end in `.age`.
    pub encrypted: bool,
}

impl StreamPath {
    /// Part `number`, counted from 1. Five digits, so that a shell's `[0-9]*` lists them in order.
    pub fn part(&self, number: u32) -> ObjectPath {
        ObjectPath::Part {
            stream: self.clone(),
            number,
        }
    }

    pub fn index(&self) -> ObjectPath {
        ObjectPath::Index { stream: self.clone() }
    }
}

/// An object's name in a store, relative to its prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPath {
    /// `owner/<epoch>.json`
    Owner { epoch: u64 },
    /// `probe/<store uid>/<name>`
    Probe { store: Label, name: Label },
    /// `catalog/<namespace>/<source>/<run>/outcome.json`
    Outcome { run: RunPath },
    /// `catalog/<namespace>/<source>/<run>/<ulid>-<what>.json`
    Record { run: RunPath, ulid: Ulid, what: Label },
    /// `catalog/<namespace>/<source>/<ulid>-<what>.json`
    SourceRecord {
        namespace: Label,
        source: Label,
        ulid: Ulid,
        what: Label,
    },
    /// `holds/<hold id>/<ulid>-<what>.json`
    Hold { hold: Label, ulid: Ulid, what: Label },
    /// `catalog/<namespace>/<source>/<run>/key-<pod uid>-<n>.age`
    Key { pod: PodPath, number: u32 },
    /// `data/<namespace>/<source>/<run>/<pod uid>/<stream>/<part>.zst.age`, without `.age` where nothing is encrypted
    Part { stream: StreamPath, number: u32 },
    /// `data/<namespace>/<source>/<run>/<pod uid>/<stream>/index.zst.age`
    Index { stream: StreamPath },
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |stream: &StreamPath| if stream.encrypted { "zst.age" } else { "zst" };
        match self {
            Self::Owner { epoch } => write!(f, "owner/{epoch}.json"),
            Self::Probe { store, name } => write!(f, "probe/{store}/{name}"),
            Self::Outcome { run } => write!(f, "catalog/{run}/outcome.json"),
            Self::Record { run, ulid, what } => write!(f, "catalog/{run}/{ulid}-{what}.json"),
            Self::SourceRecord {
                namespace,
                source,
                ulid,
                what,
            } => write!(f, "catalog/{namespace}/{source}/{ulid}-{what}.json"),
            Self::Hold { hold, ulid, what } => write!(f, "holds/{hold}/{ulid}-{what}.json"),
            Self::Key { pod, number } => write!(f, "catalog/{}/key-{}-{number}.age", pod.run, pod.pod),
            Self::Part { stream, number } => write!(f, "{}{}/{number:05}.{}", stream.pod.data(), stream.stream, suffix(stream)),
            Self::Index { stream } => write!(f, "{}{}/index.{}", stream.pod.data(), stream.stream, suffix(stream)),
        }
    }
}

impl FromStr for ObjectPath {
    type Err = InvalidPath;

    /// Accepts exactly what `Display` prints.
    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let unknown = || InvalidPath::Unknown {
            found: text.chars().take(300).collect(),
        };
        let path = match text.split('/').collect::<Vec<_>>()[..] {
            ["owner", file] => {
                let epoch = file
                    .strip_suffix(".json")
                    .and_then(|epoch| epoch.parse().ok())
                    .ok_or_else(unknown)?;
                Self::Owner { epoch }
            }
            ["probe", store, name] => Self::Probe {
                store: Label::new("store uid", store)?,
                name: Label::new("name", name)?,
            },
            ["catalog", namespace, source, run, file] => {
                let run = RunPath::new(namespace, source, run)?;
                if file == "outcome.json" {
                    Self::Outcome { run }
                } else if let Some(key) = file.strip_prefix("key-").and_then(|rest| rest.strip_suffix(".age")) {
                    let (pod, number) = key.rsplit_once('-').ok_or_else(unknown)?;
                    Self::Key {
                        pod: run.pod(Label::new("pod uid", pod)?),
                        number: number.parse().map_err(|_| unknown())?,
                    }
                } else {
                    let (ulid, what) = record_name(file).ok_or_else(unknown)?;
                    Self::Record { run, ulid, what }
                }
            }
            ["catalog", namespace, source, file] => {
                let (ulid, what) = record_name(file).ok_or_else(unknown)?;
                Self::SourceRecord {
                    namespace: Label::new("namespace", namespace)?,
                    source: Label::new("source", source)?,
                    ulid,
                    what,
                }
            }
            ["holds", hold, file] => {
                let (ulid, what) = record_name(file).ok_or_else(unknown)?;
                Self::Hold {
                    hold: Label::new("hold", hold)?,
                    ulid,
                    what,
                }
            }
            ["data", namespace, source, run, pod, stream, file] => {
                let pod = RunPath::new(namespace, source, run)?.pod(Label::new("pod uid", pod)?);
                let (plain, encrypted) = file.strip_suffix(".age").map_or((file, false), |plain| (plain, true));
                let stream = pod.stream(Label::new("stream", stream)?, encrypted);
                match plain.strip_suffix(".zst").ok_or_else(unknown)? {
                    "index" => Self::Index { stream },
                    number => Self::Part {
                        stream,
                        number: number.parse().map_err(|_| unknown())?,
                    },
                }
            }
            _ => return Err(unknown()),
        };
        if path.to_string() == text { Ok(path) } else { Err(unknown()) }
    }
}

/// `<ulid>-<what>.json`.
fn record_name(file: &str) -> Option<(Ulid, Label)> {
    let (ulid, what) = file.strip_suffix(".json")?.split_once('-')?;
    Some((ulid.parse().ok()?, Label::new("record", what).ok()?))
}
