//! Object Lock: how long the store itself refuses to delete a version.

use super::{
    Store,
    backend::{Lock, Retained, whole_seconds},
    error::StoreError,
    path::StorePath,
};
use jiff::Timestamp;

/// What came of a lock that was to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The store shows the lock that was asked for, or a longer one.
    Held(Lock),
    /// The object, or this version of it, is not there.
    NotFound,
}

impl Store {
    /// Whether the bucket has Object Lock. Asked once.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the account may not ask (`s3:GetBucketObjectLockConfiguration`).
    pub async fn supports_locks(&self) -> Result<bool, StoreError> {
        if let Some(known) = self.0.object_lock.get() {
            return Ok(*known);
        }
        let found = self.repeat("read Object Lock configuration", super::Backend::object_lock).await?;
        Ok(*self.0.object_lock.get_or_init(|| found))
    }

    /// What keeps a version from being deleted: nothing, where the place has no Object Lock.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such version; [`StoreError::Denied`] if the account may not ask.
    pub async fn lock_of(&self, path: &StorePath, version: Option<&str>) -> Result<Lock, StoreError> {
        if self.supports_locks().await? {
            self.read_lock(path, version).await
        } else {
            Ok(Lock::default())
        }
    }

    pub(super) async fn read_lock(&self, path: &StorePath, version: Option<&str>) -> Result<Lock, StoreError> {
        self.repeat("read lock", |backend| backend.lock_of(path.as_str(), version)).await
    }

    /// Locks a version until `until` or longer, in the mode that the store's specification names, and reads the lock back. A lock is never shortened, nor its
    /// mode changed while it holds.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where the store's specification has no `objectLock`; [`StoreError::Mismatch`] if the store shows a shorter lock than was
    /// set; [`StoreError::Denied`] if the account may not set locks.
    pub async fn extend_lock(&self, path: &StorePath, version: Option<&str>, until: Timestamp) -> Result<Locked, StoreError> {
        let Some(write_lock) = self.0.backend.write_lock() else {
            return Err(StoreError::Unsupported {
                call: "extend lock",
                problem: "the store's specification names no spec.objectLock".to_owned(),
            });
        };
        let until = whole_seconds(until);
        let Some(before) = found(self.read_lock(path, version).await)? else {
            return Ok(Locked::NotFound);
        };
        if before.until().is_some_and(|held| held >= until) {
            return Ok(Locked::Held(before));
        }
        let now = self.now().unwrap_or_else(Timestamp::now);
        let mode = before
            .retained
            .filter(|held| now <= held.until)
            .map_or(write_lock.mode, |held| held.mode);
        let set = self
            .repeat("extend lock", |backend| {
                backend.set_retained(path.as_str(), version, Retained { mode, until })
            })
            .await;
        match set {
            Ok(()) => {}
            Err(StoreError::NotFound { .. }) => return Ok(Locked::NotFound),
            // Somebody else may have set a longer one meanwhile.
            Err(error) => match found(self.read_lock(path, version).await)? {
                Some(after) if after.until().is_some_and(|held| held >= until) => return Ok(Locked::Held(after)),
                _ => return Err(error),
            },
        }
        let Some(after) = found(self.read_lock(path, version).await)? else {
            return Ok(Locked::NotFound);
        };
        if after.until().is_none_or(|held| held < until) {
            let shown = after.until().map_or("none".to_owned(), |held| held.to_string());
            return Err(StoreError::Mismatch {
                path: path.to_string(),
                problem: format!("a lock until {until} was set, it shows {shown}"),
            });
        }
        Ok(Locked::Held(after))
    }

    /// Sets or lifts the bucket's legal hold on a version, and reads it back.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where there is no Object Lock; [`StoreError::Mismatch`] if the store shows something else than was set;
    /// [`StoreError::Denied`] if the account may not set holds.
    pub async fn set_legal_hold(&self, path: &StorePath, version: Option<&str>, on: bool) -> Result<Locked, StoreError> {
        if !self.supports_locks().await? {
            return Err(StoreError::Unsupported {
                call: "set legal hold",
                problem: format!("{} has no Object Lock", self.describe()),
            });
        }
        let Some(before) = found(self.read_lock(path, version).await)? else {
            return Ok(Locked::NotFound);
        };
        if before.legal_hold == on {
            return Ok(Locked::Held(before));
        }
        let set = self
            .repeat("set legal hold", |backend| backend.set_legal_hold(path.as_str(), version, on))
            .await;
        let Some(()) = found(set)? else { return Ok(Locked::NotFound) };
        match found(self.read_lock(path, version).await)? {
            Some(after) if after.legal_hold == on => Ok(Locked::Held(after)),
            Some(_) => Err(StoreError::Mismatch {
                path: path.to_string(),
                problem: format!(
                    "its legal hold was {}, and it shows the contrary",
                    if on { "set" } else { "lifted" }
                ),
            }),
            None => Ok(Locked::NotFound),
        }
    }
}

fn found<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Err(StoreError::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    }
}
