//! What a kind of store must be able to do: one attempt of one call each. Repeating, confirming and settling are done once, above, in
//! [`super::Store`].

use super::{digest::Sha256, error::StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use holdfast_crds::LockMode;
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use std::{fmt::Debug, ops::Range, time::Duration};

/// What a store says it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Path below the store's prefix.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// The checksum that the store kept, if any. Listings have none.
    pub checksum: Option<Checksum>,
    /// The version, where the store has versions. Listings have none.
    pub version: Option<String>,
    /// When the store says it was written.
    pub modified: Option<Timestamp>,
}

/// The checksum that a store kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the bytes.
    Whole(Sha256),
    /// SHA-256 of the pieces' SHA-256.
    OfPieces {
        /// The digest of digests.
        digest: Sha256,
        /// How many pieces.
        pieces: u32,
    },
}

/// What is written: decides where the storage class applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A small document: register, record, key, owner. Always in the bucket's default class.
    Document,
    /// Data: in the configured storage class.
    Part,
}

/// One piece of an upload.
#[derive(Clone, Debug)]
pub struct Piece {
    /// From 1, without gaps.
    pub number: u32,
    /// Where it begins in the part, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub body: PutPayload,
    /// The digest of its bytes.
    pub sha256: Sha256,
}

/// A piece that the store has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceReceipt {
    /// From 1, without gaps.
    pub number: u32,
    /// Size in bytes.
    pub size: u64,
    /// The digest of its bytes.
    pub sha256: Sha256,
    /// The store's name for it.
    pub tag: String,
}

/// An upload that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// Path below the store's prefix.
    pub path: String,
    /// The store's name for the upload.
    pub id: String,
    /// When it began, where the store says so.
    pub started: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What it lists.
    pub items: Vec<T>,
    /// Where to go on, if there is more.
    pub next: Option<String>,
}

/// One version of an object, or a delete marker before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Path below the store's prefix.
    pub path: String,
    /// The store's name for it; `None` where the store has no versions, and for what was written before it had.
    pub version: Option<String>,
    /// Whether this is what a read without a version finds.
    pub is_latest: bool,
    /// Whether it only hides the versions before it.
    pub is_delete_marker: bool,
    /// Size in bytes; 0 for a delete marker.
    pub size: u64,
    /// When the store says it was written.
    pub modified: Option<Timestamp>,
}

/// What keeps one version from being deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Locked for a time.
    pub retained: Option<Retained>,
    /// Locked until somebody takes the hold away.
    pub legal_hold: bool,
}

/// A lock for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Who may end it before its time.
    pub mode: LockMode,
    /// It holds before this.
    pub until: Timestamp,
}

impl Lock {
    /// The end of the lock for a time, past or not.
    pub fn until(&self) -> Option<Timestamp> {
        self.retained.map(|retained| retained.until)
    }

    /// Whether it forbids a deletion at `now`. At the very moment of its end it still does.
    pub fn forbids(&self, now: Timestamp) -> bool {
        self.legal_hold || self.until().is_some_and(|until| now <= until)
    }
}

/// The short lock that everything gets when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteLock {
    /// Who may end it before its time.
    pub mode: LockMode,
    /// For how long.
    pub length: Duration,
}

impl WriteLock {
    /// The lock of what is written at `now`, whole seconds and not shorter than said. What a probe leaves is not locked, so that it can be cleared away, but for
    /// its canary, which is for a minute.
    pub(super) fn at(self, path: &str, now: Timestamp) -> Option<Retained> {
        let length = match path.strip_prefix("probe/") {
            Some(name) if name.ends_with(CANARY) => CANARY_LENGTH,
            Some(_) => return None,
            None => SignedDuration::try_from(self.length).ok()?,
        };
        let until = whole_seconds(now.checked_add(length).ok()?);
        Some(Retained { mode: self.mode, until })
    }
}

/// What the name of a probe's canary ends with.
pub(super) const CANARY: &str = "-locked";
/// For how long it is locked.
const CANARY_LENGTH: SignedDuration = SignedDuration::from_mins(1);

/// Rounded up: stores keep seconds.
pub(super) fn whole_seconds(at: Timestamp) -> Timestamp {
    let up = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second() + up).unwrap_or(at)
}

/// Whether a store keeps versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Versioning {
    /// Every object has versions.
    Enabled,
    /// It had, once.
    Suspended,
    /// It never had, or cannot.
    Disabled,
    /// The account may not ask.
    Unknown,
}

/// The bytes of an object, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A kind of store. Each method is one attempt, and answers with an error that says whether to try again. Paths are below the store's prefix and
/// were validated. Dropping a future abandons the call.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// What it is and where, for messages: never with a secret.
    fn describe(&self) -> String;

    /// The least size of a piece that is not the last, in bytes.
    fn min_piece(&self) -> u64;

    /// The store's clock now, going by its last answer; `None` before the first.
    fn now(&self) -> Option<Timestamp>;

    /// Whether the account could use new credentials: reads them again, and says whether they differ from those used last.
    async fn renew_credentials(&self) -> Result<bool, StoreError>;

    /// Creates an object if nothing has its name. `sha256` is sent along, to be checked by the store.
    async fn create(&self, path: &str, content: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError>;

    /// Begins the upload of a part in pieces, and returns the store's name for it.
    async fn start_upload(&self, path: &str) -> Result<String, StoreError>;

    /// Sends a piece; sending it again replaces it.
    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError>;

    /// Makes the object out of all pieces.
    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError>;

    /// Forgets an upload and its pieces.
    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError>;

    /// Uploads under `prefix` that have begun and not ended.
    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<OpenUpload>, StoreError>;

    /// What the store holds at `path`, of a version or the newest; `None` if nothing.
    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError>;

    /// Reads an object, or a range of it in bytes, of a version or the newest; `None` if it is not there. An empty range is not asked for.
    async fn get(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError>;

    /// Lists what lies under `prefix`, in the order of the names as bytes.
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectMeta>, StoreError>;

    /// Whether there are versions.
    async fn versioning(&self) -> Result<Versioning, StoreError>;

    /// Deletes what an attempt left under `probe/`.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;

    // What follows is, unless a kind of store says otherwise, what one without versions and locks does.

    /// Lists all versions and delete markers under `prefix`, in the order of the names as bytes, newest versions first.
    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectVersion>, StoreError> {
        let Page { items, next } = self.list(prefix, from).await?;
        let only = |meta: ObjectMeta| ObjectVersion {
            path: meta.path,
            version: None,
            is_latest: true,
            is_delete_marker: false,
            size: meta.size,
            modified: meta.modified,
        };
        Ok(Page {
            items: items.into_iter().map(only).collect(),
            next,
        })
    }

    /// Deletes one version for good: nothing else, and no marker is left. `None` is the version without a name.
    async fn delete_version(&self, path: &str, version: Option<&str>) -> Result<(), StoreError> {
        match version {
            Some(_) => Err(StoreError::NotFound { path: path.to_owned() }),
            None => self.delete(path).await,
        }
    }

    /// Whether the place has Object Lock.
    async fn object_lock(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// The lock of one version.
    async fn lock_of(&self, _path: &str, _version: Option<&str>) -> Result<Lock, StoreError> {
        Ok(Lock::default())
    }

    /// Locks one version for a time. A store refuses a shorter lock than there is.
    async fn set_retained(&self, _path: &str, _version: Option<&str>, _retained: Retained) -> Result<(), StoreError> {
        Err(no_locks("set retention"))
    }

    /// Sets or lifts the legal hold of one version.
    async fn set_legal_hold(&self, _path: &str, _version: Option<&str>, _on: bool) -> Result<(), StoreError> {
        Err(no_locks("set legal hold"))
    }

    /// The lock that everything gets when it is written, if the store's specification says so.
    fn write_lock(&self) -> Option<WriteLock> {
        None
    }
}

fn no_locks(call: &'static str) -> StoreError {
    StoreError::Unsupported {
        call,
        problem: "it has no Object Lock".to_owned(),
    }
}
