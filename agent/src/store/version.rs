//! Versions: what really lies in a store, and how it is deleted for good.

use super::{
    Store,
    backend::{Lock, ObjectVersion},
    create::Held,
    error::StoreError,
    path::StorePath,
};
use jiff::Timestamp;

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// This version is not there any more, since now or before.
    Gone,
    /// The store does not let go of it yet: a fact, not a failure.
    Refused(Lock),
}

/// How an object of the catalogue was altered: Holdfast writes each once and removes versions by their names, so that neither is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// A newer version lies over the one that was written first.
    Overwritten {
        /// Where.
        path: String,
        /// The one that was written first: what holds.
        first: Option<String>,
        /// When the newest came.
        since: Option<Timestamp>,
    },
    /// A delete marker hides it.
    Hidden {
        /// Where.
        path: String,
        /// The one that was written first; `None` where nothing but markers is there.
        first: Option<String>,
        /// When the newest marker came.
        since: Option<Timestamp>,
    },
    /// The version that was pinned is not there.
    Replaced {
        /// Where.
        path: String,
        /// The one that was expected.
        expected: String,
    },
}

impl std::fmt::Display for Alteration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |since: &Option<Timestamp>| since.map(|since| format!(" at {since}")).unwrap_or_default();
        match self {
            Self::Overwritten { path, first, since } => {
                write!(
                    f,
                    "{path} was overwritten{}; the version that was written first is {}",
                    at(since),
                    first.as_deref().unwrap_or("null")
                )
            }
            Self::Hidden {
                path,
                first: Some(first),
                since,
            } => write!(
                f,
                "{path} was hidden by a delete marker{}; the version that was written first is {first}",
                at(since)
            ),
            Self::Hidden { path, since, .. } => write!(f, "{path} was deleted, and a delete marker was left{}", at(since)),
            Self::Replaced { path, expected } => write!(f, "{path} has no version {expected} any more"),
        }
    }
}

/// What was altered among `versions` of any number of objects, which are whole listings of each: by path. `versions` may come in any order as long as those
/// of one path lie together, newest first, as stores list them.
pub fn alterations(versions: &[ObjectVersion]) -> Vec<Alteration> {
    versions.chunk_by(|a, b| a.path == b.path).filter_map(alteration).collect()
}

fn alteration(versions: &[ObjectVersion]) -> Option<Alteration> {
    let newest = versions.iter().find(|version| version.is_latest).or(versions.first())?;
    let mut written = versions.iter().filter(|version| !version.is_delete_marker);
    let first = written.clone().next_back();
    let (path, since) = (newest.path.clone(), newest.modified);
    let first_version = first.and_then(|first| first.version.clone());
    if versions.iter().any(|version| version.is_delete_marker) {
        return Some(Alteration::Hidden {
            path,
            first: first_version,
            since,
        });
    }
    (written.nth(1).is_some()).then_some(Alteration::Overwritten {
        path,
        first: first_version,
        since,
    })
}

impl Store {
    /// All versions of one object, newest first; a store without versions has at most one.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the account may not list versions (`s3:ListBucketVersions`).
    pub async fn versions_of(&self, path: &StorePath) -> Result<Vec<ObjectVersion>, StoreError> {
        let mut pages = self.version_pages_under(path.as_str());
        let mut found = Vec::new();
        while let Some(page) = pages.next().await? {
            let passed = page.last().is_some_and(|last| last.path.as_str() > path.as_str());
            found.extend(page.into_iter().filter(|version| version.path == path.as_str()));
            // Longer names that begin alike come after it.
            if passed {
                break;
            }
        }
        Ok(found)
    }

    /// Whether an object of the catalogue was altered since it was written: overwritten, hidden by a delete marker, or without the version that was pinned.
    /// `None`: it was not, or it is not there and nothing was expected, or the store has no versions.
    ///
    /// # Errors
    /// As [`Self::versions_of`].
    pub async fn tampered(&self, path: &StorePath, expected: Option<&str>) -> Result<Option<Alteration>, StoreError> {
        let versions = self.versions_of(path).await?;
        if let Some(found) = alteration(&versions) {
            return Ok(Some(found));
        }
        let there = |expected: &str| {
            versions
                .iter()
                .any(|version| version.version.as_deref().is_none_or(|version| version == expected))
        };
        Ok(expected.filter(|expected| !there(expected)).map(|expected| Alteration::Replaced {
            path: path.to_string(),
            expected: expected.to_owned(),
        }))
    }

    /// Reads a small object, of at most `limit` bytes, in exactly this version; `None` if that is not there.
    pub async fn read_version(&self, path: &StorePath, version: Option<&str>, limit: u64) -> Result<Option<Held>, StoreError> {
        let mut attempts = self.attempts("read");
        loop {
            match self.read_once_version(path, version, limit).await {
                Ok(found) => return Ok(self.accepted(found)),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Deletes exactly one version for good, after its lock and hold were read. `None` is the version without a name: the object, where the store has no
    /// versions. What is gone already is gone.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the account may not delete, or not read locks.
    pub async fn delete_version(&self, path: &StorePath, version: Option<&str>) -> Result<Deleted, StoreError> {
        let locks = self.supports_locks().await?;
        if locks {
            match self.read_lock(path, version).await {
                Ok(lock) if lock.forbids(self.now().unwrap_or_else(Timestamp::now)) => return Ok(Deleted::Refused(lock)),
                // A delete marker has no lock, and no answer to the question.
                Ok(_) | Err(StoreError::Unsupported { .. } | StoreError::Refused { .. }) => {}
                Err(StoreError::NotFound { .. }) => return Ok(Deleted::Gone),
                Err(error) => return Err(error),
            }
        }
        match self
            .repeat("delete", |backend| backend.delete_version(path.as_str(), version))
            .await
        {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(Deleted::Gone),
            // Servers answer a locked deletion with the same 403 as one without the right: the lock tells them apart.
            Err(error @ (StoreError::Denied { .. } | StoreError::Refused { .. })) if locks => match self.read_lock(path, version).await {
                Ok(lock) if lock.forbids(self.now().unwrap_or_else(Timestamp::now)) => Ok(Deleted::Refused(lock)),
                Err(StoreError::NotFound { .. }) => Ok(Deleted::Gone),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}
