//! Stores: where copies go.
//!
//! A [`Store`] offers the few calls that the product needs, with their promises: small objects are created and never overwritten, parts are
//! confirmed by size and checksum, reads go on after a reset, listings add up. Underneath lies a [`backend::Backend`], which makes single attempts: [`s3`],
//! [`volume`], [`memory`], and [`faulty`] around any of them.
//!
//! [`register`] decides which outcome a run has, [`Store::claim`] which cluster may write, [`probe`] what a store really does.

mod attempt;
pub mod backend;
mod clock;
mod connect;
mod create;
pub mod digest;
mod error;
pub mod faulty;
mod listing;
mod lock;
pub mod memory;
mod owner;
mod part;
mod path;
pub mod probe;
mod read;
pub mod register;
pub mod s3;
mod version;
pub mod volume;

pub use attempt::Patience;
pub use backend::{Backend, ByteStream, Checksum, Lock, ObjectMeta, ObjectVersion, Retained, Versioning, WriteLock};
pub use connect::{StoreFiles, Usage, connect};
pub use create::{Created, Held};
pub use error::{Class, StoreError};
pub use listing::{Pages, VersionPages};
pub use lock::Locked;
pub use owner::{OwnerError, Pinned};
pub use part::{Confirmed, PartWriter, Stored};
pub use path::{InvalidPath, StorePath};
pub use register::{Decided, RegisterError, Settled};
pub use version::{Alteration, Deleted, alterations};

use attempt::Attempts;
use futures::future::join_all;
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Semaphore;

/// How many pieces of all parts together are under way to a store at once, unless said otherwise.
pub const DEFAULT_PARALLEL: usize = 4;

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Box<dyn Backend>,
    patience: Patience,
    in_flight: Arc<Semaphore>,
    /// Uploads that have begun and not ended: name of the upload to path.
    open: Mutex<BTreeMap<String, String>>,
    /// Whether the credentials ever were good: then a refusal may be a rotation in progress, and is worth waiting for.
    accepted: AtomicBool,
    /// Whether the place has Object Lock, once that is known.
    object_lock: OnceLock<bool>,
    /// The time in the last name of a record.
    last_named: Mutex<Timestamp>,
}

impl Store {
    /// A store on `backend` with at most `parallel` pieces under way at once.
    pub fn new(backend: impl Backend, patience: Patience, parallel: usize) -> Self {
        Self::boxed(Box::new(backend), patience, parallel)
    }

    fn boxed(backend: Box<dyn Backend>, patience: Patience, parallel: usize) -> Self {
        Self(Arc::new(Inner {
            backend,
            patience,
            in_flight: Arc::new(Semaphore::new(parallel.max(1))),
            open: Mutex::default(),
            accepted: AtomicBool::new(false),
            object_lock: OnceLock::new(),
            last_named: Mutex::new(Timestamp::MIN),
        }))
    }

    /// What it is and where: for messages, never with a secret.
    pub fn describe(&self) -> String {
        self.0.backend.describe()
    }

    /// The store's clock now, going by its last answer; `None` if it never answered.
    pub fn now(&self) -> Option<Timestamp> {
        self.0.backend.now()
    }

    /// The least size of a piece that is not the last of its part, in bytes.
    pub fn min_piece(&self) -> u64 {
        self.0.backend.min_piece()
    }

    /// Single attempts, for the probe.
    pub fn backend(&self) -> &dyn Backend {
        self.0.backend.as_ref()
    }

    fn attempts(&self, call: &'static str) -> Attempts<'_> {
        Attempts::new(&self.0, call)
    }

    /// Begins a part. The path must be one that nobody else writes to.
    pub fn write_part(&self, path: StorePath) -> PartWriter {
        PartWriter::new(self.clone(), path)
    }

    /// Makes attempts until one succeeds or there is no sense in another.
    async fn repeat<'a, T, F: Future<Output = Result<T, StoreError>>>(
        &'a self,
        call: &'static str,
        mut attempt: impl FnMut(&'a dyn Backend) -> F,
    ) -> Result<T, StoreError> {
        let mut attempts = self.attempts(call);
        loop {
            match attempt(self.0.backend.as_ref()).await {
                Ok(value) => return Ok(self.accepted(value)),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// What the store holds at `path`; `None` if nothing.
    pub async fn head(&self, path: &StorePath) -> Result<Option<ObjectMeta>, StoreError> {
        self.head_version(path, None).await
    }

    /// What the store holds at `path` in this version, or the newest; `None` if nothing.
    pub async fn head_version(&self, path: &StorePath, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        self.repeat("head", |backend| backend.head(path.as_str(), version)).await
    }

    /// Aborts all uploads that this process has begun and not ended: what SIGTERM and a failed run call. Drop the writers first. Returns how many could
    /// not be aborted; they are left to [`Self::abort_leftovers`] or to the bucket's lifecycle rule.
    pub async fn abort_open(&self) -> usize {
        let open: Vec<_> = self.uploads().clone().into_iter().collect();
        let results = join_all(open.iter().map(|(id, path)| self.abort(path, id))).await;
        results.into_iter().filter(|aborted| !aborted).count()
    }

    async fn abort(&self, path: &str, id: &str) -> bool {
        let mut attempts = self.attempts("abort upload");
        loop {
            let error = match self.0.backend.abort_upload(path, id).await {
                Ok(()) | Err(StoreError::UploadLost { .. } | StoreError::NotFound { .. }) => break,
                Err(error) => error,
            };
            if let Err(error) = attempts.again(error).await {
                tracing::warn!(path, %error, "an upload could not be aborted");
                return false;
            }
        }
        self.uploads().remove(id);
        true
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted<T>(&self, value: T) -> T {
        self.0.accepted.store(true, Ordering::Relaxed);
        value
    }
}

/// 128 random bits in hexadecimal: for nonces and names.
fn random() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes)).map(|number| format!("{number:032x}"))
}

fn fill(bytes: &mut [u8]) -> Result<(), StoreError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| StoreError::Io {
        call: "random",
        path: "the system".to_owned(),
        problem: "no randomness".to_owned(),
    })
}

#[cfg(test)]
mod tests;
