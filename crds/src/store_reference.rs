//! How specifications name a store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StoreKind {
    /// Of the same namespace.
    #[default]
    BackupStore,
    /// Of the cluster.
    ClusterBackupStore,
}

impl StoreKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupStore => "BackupStore",
            Self::ClusterBackupStore => "ClusterBackupStore",
        }
    }

    /// Whether it is a store of the namespace.
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::BackupStore)
    }
}

/// A store of the same namespace, or of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreReference {
    /// Name of the store.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Whether it is a store of this namespace or one of the cluster.
    #[serde(default)]
    pub kind: StoreKind,
}

impl StoreReference {
    /// A store of the namespace itself.
    pub fn own(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: StoreKind::BackupStore,
        }
    }
}

/// As in `BackupStore offsite`.
impl std::fmt::Display for StoreReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}
