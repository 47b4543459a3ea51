//! `owner/<epoch>.json`: which cluster writes to a store.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DocumentError, FORMAT, FormatVersion, canonical_bytes, decode, parse};

/// Which cluster writes to a store, from this epoch on. Written once; a take-over is the next epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    pub version: FormatVersion,
    /// Counts from 1; equals the number in the object's name. The highest epoch is the owner.
    pub epoch: u64,
    /// The cluster's identity: the UID of its namespace kube-system, or the chart's `clusterId`.
    pub cluster: String,
    /// Namespace and name of the store object through which it writes.
    pub store: String,
    /// When the epoch began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
    /// Random, so that the writer recognises its own object when it reads it back.
    pub nonce: String,
    /// The cluster of the epoch before, where this is a take-over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_over: Option<String>,
}

impl Owner {
    /// The first epoch of a store.
    pub fn first(cluster: impl Into<String>, store: impl Into<String>, since: Timestamp, nonce: impl Into<String>) -> Self {
        Self {
            version: FORMAT,
            epoch: 1,
            cluster: cluster.into(),
            store: store.into(),
            since,
            nonce: nonce.into(),
            takes_over: None,
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        decode("owner", parse("owner", bytes)?)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_bytes(self)
    }
}
