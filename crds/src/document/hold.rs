//! `holds/<hold id>/<ulid>-{place,release}.json`: who keeps copies from being removed, and who let them go.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ReleaseBy, Span, compliance_hold::default_cool_off};

use super::{DocumentError, FORMAT, FormatVersion, Label, ObjectPath, Ulid, canonical_bytes, decode, parse, record::agrees};

/// One word about a hold. Written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldRecord {
    pub version: FormatVersion,
    /// As in the object's name. The same object has the same id in every cluster, see [`crate::hold_id`].
    pub hold: Label,
    pub ulid: Ulid,
    /// UID of the pod that wrote it.
    pub by: Label,
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    pub fact: HoldFact,
}

/// What a record of a hold says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HoldFact {
    /// The hold is in force. What it names can only grow: a later `place` of the same hold adds to the earlier ones.
    #[serde(rename_all = "camelCase")]
    Place {
        /// Namespace of the hold object; absent for one of the whole cluster.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Name of the hold object.
        name: String,
        /// The user who placed it.
        placed_by: String,
        /// Who may release it. A record without it is of a hold that another person must release.
        #[serde(default)]
        release_by: ReleaseBy,
        /// How long after a release it still holds. A record without it is of a hold with 24 h.
        #[serde(default = "default_cool_off")]
        cool_off: Span,
        /// Why, for people.
        reason: String,
        scope: HoldScope,
        /// It ends by itself then; absent: only a release ends it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        until: Option<Timestamp>,
    },
    /// The hold ends, once the cool-off of each of its placings is over. A release by who placed it is none, unless each placing says `Anyone`.
    #[serde(rename_all = "camelCase")]
    Release {
        released_by: String,
        reason: String,
        /// Copies stay held until then at least.
        #[schemars(with = "String", extend("format" = "date-time"))]
        effective_at: Timestamp,
    },
}

impl HoldFact {
    /// The word in the object's name.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Place { .. } => "place",
            Self::Release { .. } => "release",
        }
    }
}

/// Which copies a hold names: those that match every field that is there. Labels of sources were resolved to names by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldScope {
    /// `<namespace>/<source>` of the sources; absent: every source of the hold's namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// Namespaces; absent: every namespace of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// `<namespace>/<source>/<run id>` of the runs; absent: every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<String>>,
    /// Copies whose recovery point is not before; absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub from: Option<Timestamp>,
    /// … and not after; absent: also every copy to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub to: Option<Timestamp>,
}

impl HoldRecord {
    pub fn new(hold: Label, ulid: Ulid, by: Label, at: Timestamp, fact: HoldFact) -> Self {
        Self {
            version: FORMAT,
            hold,
            ulid,
            by,
            at,
            fact,
        }
    }

    /// Its place in the store.
    pub fn path(&self) -> ObjectPath {
        ObjectPath::Hold {
            hold: self.hold.clone(),
            ulid: self.ulid.clone(),
            what: Label::known(self.fact.what()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_bytes(self)
    }

    /// Reads the record that lies at `place`.
    pub fn from_bytes(place: &ObjectPath, bytes: &[u8]) -> Result<Self, DocumentError> {
        let record: Self = decode("record of a hold", parse("record of a hold", bytes)?)?;
        agrees("record of a hold", &record.path(), place)?;
        Ok(record)
    }
}
