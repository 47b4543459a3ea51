//! A store in memory that refuses what a real one refuses: for tests of everything that uses stores.

use super::{
    backend::{
        Backend, ByteStream, Checksum, Content, Lock, ObjectMeta, ObjectVersion, OpenUpload, Page, Piece, PieceReceipt, Retained,
        Versioning, WriteLock,
    },
    digest::{self, Sha256},
    error::StoreError,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use holdfast_crds::LockMode;
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A store in memory. Clones are the same store, so that a test can look into what an agent writes.
///
/// It keeps versions, delete markers, locks and checksums, has a clock of its own (which follows tokio's paused time), pages of [`Memory::page`] objects, and
/// counts what lies in it.
#[derive(Clone, Debug)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
    min_piece: u64,
    page: usize,
    checksums: bool,
    versions: bool,
    object_lock: bool,
    write_lock: Option<WriteLock>,
}

#[derive(Clone, Debug)]
struct Inner {
    objects: BTreeMap<String, Vec<Object>>,
    uploads: BTreeMap<String, Upload>,
    counter: u64,
    epoch: (Timestamp, Instant),
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    checksum: Checksum,
    version: String,
    modified: Timestamp,
    marker: bool,
    lock: Lock,
}

#[derive(Clone, Debug)]
struct Upload {
    path: String,
    retained: Option<Retained>,
    pieces: BTreeMap<u32, (Bytes, Sha256)>,
    started: Timestamp,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store. Its clock begins at 2026-11-20T22:10:00Z.
    pub fn new() -> Self {
        let start = Timestamp::constant(1_795_212_600, 0);
        let inner = Inner {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            counter: 0,
            epoch: (start, Instant::now()),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            min_piece: 5 << 20,
            page: 1000,
            checksums: true,
            versions: true,
            object_lock: false,
            write_lock: None,
        }
    }

    /// Takes pieces of any size but the last's from `bytes` on (5 MiB otherwise).
    #[must_use]
    pub fn min_piece(self, bytes: u64) -> Self {
        Self { min_piece: bytes, ..self }
    }

    /// Lists so many objects per page.
    #[must_use]
    pub fn page(self, objects: usize) -> Self {
        Self {
            page: objects.max(1),
            ..self
        }
    }

    /// Keeps no checksums: what was written must be read back.
    #[must_use]
    pub fn without_checksums(self) -> Self {
        Self { checksums: false, ..self }
    }

    /// Keeps no versions.
    #[must_use]
    pub fn without_versions(self) -> Self {
        Self { versions: false, ..self }
    }

    /// Has Object Lock.
    #[must_use]
    pub fn with_object_lock(self) -> Self {
        Self { object_lock: true, ..self }
    }

    /// Has Object Lock, and locks everything for so long when it is written.
    #[must_use]
    pub fn with_write_lock(self, mode: LockMode, length: Duration) -> Self {
        Self {
            object_lock: true,
            write_lock: Some(WriteLock { mode, length }),
            ..self
        }
    }

    /// Has no Object Lock: what is to be locked when it is written is refused.
    #[must_use]
    pub fn without_object_lock(self) -> Self {
        Self {
            object_lock: false,
            ..self
        }
    }

    /// Sets the clock.
    pub fn set_clock(&self, now: Timestamp) {
        self.lock().epoch = (now, Instant::now());
    }

    /// Moves the clock on, by years if need be.
    pub fn advance(&self, time: SignedDuration) {
        let mut inner = self.lock();
        let now = inner.now();
        inner.epoch = (now.checked_add(time).unwrap_or(now), Instant::now());
    }

    /// What the store holds: path to bytes, newest versions only.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.lock()
            .objects
            .iter()
            .filter_map(|(path, versions)| Some((path.clone(), newest(versions)?.bytes.clone())))
            .collect()
    }

    /// Another store that holds the same: what happens in one is not seen in the other.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            inner: Arc::new(Mutex::new(self.lock().clone())),
            ..self.clone()
        }
    }

    /// Every version of everything, by path and name of the version: its bytes, or `None` for a delete marker, and its lock.
    pub fn versions(&self) -> BTreeMap<(String, String), (Option<Bytes>, Lock)> {
        let inner = self.lock();
        let all = inner.objects.iter().flat_map(|(path, versions)| {
            versions.iter().map(|object| {
                let bytes = (!object.marker).then(|| object.bytes.clone());
                ((path.clone(), object.version.clone()), (bytes, object.lock))
            })
        });
        all.collect()
    }

    /// The bytes of all versions together: what the store costs.
    pub fn stored_bytes(&self) -> u64 {
        self.lock().objects.values().flatten().map(|object| object.bytes.len() as u64).sum()
    }

    /// The lock of the newest version.
    pub fn locked(&self, path: &str) -> Lock {
        self.lock()
            .objects
            .get(path)
            .and_then(|versions| newest(versions))
            .map(|object| object.lock)
            .unwrap_or_default()
    }

    /// Gives every version of an object this lock, as no store should.
    pub fn force_lock(&self, path: &str, lock: Lock) {
        self.lock()
            .objects
            .get_mut(path)
            .into_iter()
            .flatten()
            .for_each(|object| object.lock = lock);
    }

    /// Hides an object behind a delete marker, as a plain DELETE does.
    pub fn hide(&self, path: &str) {
        self.lock().hide(path);
    }

    /// How many versions an object has, delete markers included: more than one means that something was overwritten or hidden.
    pub fn versions_of(&self, path: &str) -> usize {
        self.lock().objects.get(path).map_or(0, Vec::len)
    }

    /// How many uploads have begun and not ended.
    pub fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    /// Puts an object there behind everybody's back, as a new version.
    pub fn plant(&self, path: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let checksum = Checksum::Whole(digest::of(&bytes));
        self.lock().add(path, bytes, checksum, None);
    }

    /// Changes the bytes of every version of an object behind everybody's back; what the store tells of it stays.
    pub fn damage(&self, path: &str, damage: impl Fn(&mut Vec<u8>)) {
        for object in self.lock().objects.get_mut(path).into_iter().flatten() {
            let mut bytes = object.bytes.to_vec();
            damage(&mut bytes);
            object.bytes = bytes.into();
        }
    }

    /// Takes an object away behind everybody's back.
    pub fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// The lock that goes with a write, which S3 refuses where there is no Object Lock.
    fn lock_for(&self, call: &'static str, path: &str, now: Timestamp) -> Result<Option<Retained>, StoreError> {
        let retained = self.write_lock.and_then(|lock| lock.at(path, now));
        if retained.is_some() && !self.object_lock {
            return Err(refused(call, path, "InvalidRequest", MISSING));
        }
        Ok(retained)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta(&self, path: &str, object: &Object) -> ObjectMeta {
        ObjectMeta {
            path: path.to_owned(),
            size: object.bytes.len() as u64,
            checksum: self.checksums.then_some(object.checksum),
            version: self.versions.then(|| object.version.clone()),
            modified: Some(object.modified),
        }
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        let (epoch, then) = self.epoch;
        SignedDuration::try_from(then.elapsed())
            .ok()
            .and_then(|elapsed| epoch.checked_add(elapsed).ok())
            .unwrap_or(epoch)
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn hide(&mut self, path: &str) {
        self.add(path, Bytes::new(), Checksum::Whole(digest::of(b"")), None);
        if let Some(marker) = self.objects.get_mut(path).and_then(|versions| versions.last_mut()) {
            marker.marker = true;
        }
    }

    /// One version, `None` for the newest: as S3 finds it.
    fn find(&mut self, path: &str, version: Option<&str>) -> Result<&mut Object, StoreError> {
        let missing = || StoreError::NotFound { path: path.to_owned() };
        let versions = self.objects.get_mut(path).ok_or_else(missing)?;
        let found = match version {
            Some(version) => versions.iter_mut().find(|object| object.version == version),
            None => versions.last_mut(),
        };
        let found = found.ok_or_else(missing)?;
        if found.marker {
            return Err(StoreError::Unsupported {
                call: "lock",
                problem: "MethodNotAllowed: a delete marker has no lock".to_owned(),
            });
        }
        Ok(found)
    }

    fn add(&mut self, path: &str, bytes: Bytes, checksum: Checksum, retained: Option<Retained>) {
        let (version, modified) = (format!("v{}", self.next()), self.now());
        self.objects.entry(path.to_owned()).or_default().push(Object {
            bytes,
            checksum,
            version,
            modified,
            marker: false,
            lock: Lock {
                retained,
                legal_hold: false,
            },
        });
    }
}

/// What a read without a version finds.
fn newest(versions: &[Object]) -> Option<&Object> {
    versions.last().filter(|object| !object.marker)
}

/// What a read finds, of a version or the newest.
fn found<'a>(versions: &'a [Object], version: Option<&str>) -> Option<&'a Object> {
    match version {
        Some(version) => versions.iter().find(|object| object.version == version && !object.marker),
        None => newest(versions),
    }
}

const MISSING: &str = "Bucket is missing Object Lock Configuration";

fn denied(call: &'static str, path: &str) -> StoreError {
    StoreError::Denied {
        call,
        path: path.to_owned(),
        status: 403,
        code: "AccessDenied".to_owned(),
    }
}

fn refused(call: &'static str, path: &str, code: &str, message: &str) -> StoreError {
    StoreError::Refused {
        call,
        path: path.to_owned(),
        status: 400,
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

fn joined(payload: &PutPayload) -> Bytes {
    let mut bytes = BytesMut::with_capacity(payload.content_length());
    payload.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
    bytes.freeze()
}

fn check(path: &str, bytes: &[u8], sha256: &Sha256) -> Result<(), StoreError> {
    let found = digest::of(bytes);
    if found == *sha256 {
        Ok(())
    } else {
        Err(StoreError::Damaged {
            path: path.to_owned(),
            problem: format!("SHA-256 is {found}, expected {sha256}"),
        })
    }
}

#[async_trait]
impl Backend for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn min_piece(&self) -> u64 {
        self.min_piece
    }

    fn now(&self) -> Option<Timestamp> {
        Some(self.lock().now())
    }

    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn create(&self, path: &str, _: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        let bytes = joined(body);
        check(path, &bytes, sha256)?;
        let mut inner = self.lock();
        if inner.objects.get(path).is_some_and(|versions| newest(versions).is_some()) {
            return Err(StoreError::AlreadyExists { path: path.to_owned() });
        }
        let retained = self.lock_for("put", path, inner.now())?;
        inner.add(path, bytes, Checksum::Whole(*sha256), retained);
        Ok(())
    }

    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        let mut inner = self.lock();
        let (id, started) = (format!("u{}", inner.next()), inner.now());
        let retained = self.lock_for("start upload", path, started)?;
        inner.uploads.insert(
            id.clone(),
            Upload {
                path: path.to_owned(),
                retained,
                pieces: BTreeMap::new(),
                started,
            },
        );
        Ok(id)
    }

    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        let bytes = joined(&piece.body);
        check(path, &bytes, &piece.sha256)?;
        let size = bytes.len() as u64;
        let mut inner = self.lock();
        let upload = inner
            .uploads
            .get_mut(upload)
            .ok_or_else(|| StoreError::UploadLost { path: path.to_owned() })?;
        upload.pieces.insert(piece.number, (bytes, piece.sha256));
        Ok(PieceReceipt {
            number: piece.number,
            size,
            sha256: piece.sha256,
            tag: piece.sha256.to_string(),
        })
    }

    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        let refuse = |code: &str, message: String| refused("complete upload", path, code, &message);
        let mut inner = self.lock();
        let Upload {
            pieces: held, retained, ..
        } = inner
            .uploads
            .get(upload)
            .ok_or_else(|| StoreError::UploadLost { path: path.to_owned() })?;
        let retained = *retained;
        let mut bytes = BytesMut::new();
        for (number, receipt) in (1..).zip(pieces) {
            let (piece, sha256) = held
                .get(&number)
                .ok_or_else(|| refuse("InvalidPart", format!("piece {number} was not sent")))?;
            if receipt.number != number || receipt.tag != sha256.to_string() {
                return Err(refuse("InvalidPart", format!("piece {number} is another")));
            }
            if (piece.len() as u64) < self.min_piece && number as usize != pieces.len() {
                return Err(refuse("EntityTooSmall", format!("piece {number} has {} bytes", piece.len())));
            }
            bytes.extend_from_slice(piece);
        }
        let digest = digest::of_pieces(pieces.iter().map(|piece| piece.sha256));
        let checksum = Checksum::OfPieces {
            digest,
            pieces: u32::try_from(pieces.len()).unwrap_or(u32::MAX),
        };
        inner.uploads.remove(upload);
        inner.add(path, bytes.freeze(), checksum, retained);
        Ok(())
    }

    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        self.lock()
            .uploads
            .remove(upload)
            .map(drop)
            .ok_or_else(|| StoreError::UploadLost { path: path.to_owned() })
    }

    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        let inner = self.lock();
        let after = |(id, _): &(&String, &Upload)| from.is_none_or(|from| id.as_str() > from);
        let mut found = inner
            .uploads
            .iter()
            .filter(after)
            .filter(|(_, upload)| upload.path.starts_with(prefix));
        let item = |(id, upload): (&String, &Upload)| OpenUpload {
            path: upload.path.clone(),
            id: id.clone(),
            started: Some(upload.started),
        };
        let items: Vec<_> = found.by_ref().take(self.page).map(item).collect();
        let next = found.next().and_then(|_| items.last()).map(|last| last.id.clone());
        Ok(Page { items, next })
    }

    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        let inner = self.lock();
        let versions = inner.objects.get(path).map(Vec::as_slice).unwrap_or_default();
        Ok(found(versions, version).map(|object| self.meta(path, object)))
    }

    async fn get(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        let inner = self.lock();
        let versions = inner.objects.get(path).map(Vec::as_slice).unwrap_or_default();
        let Some(object) = found(versions, version) else { return Ok(None) };
        let bytes = match range {
            Some(range) => {
                let index = |at: u64| usize::try_from(at).ok().filter(|at| *at <= object.bytes.len());
                let (Some(start), Some(end)) = (index(range.start), index(range.end)) else {
                    return Err(StoreError::Mismatch {
                        path: path.to_owned(),
                        problem: "it is shorter than what was asked for".to_owned(),
                    });
                };
                object.bytes.slice(start..end)
            }
            None => object.bytes.clone(),
        };
        let chunks: Vec<_> = (0..bytes.len())
            .step_by(64 << 10)
            .map(|at| Ok(bytes.slice(at..bytes.len().min(at + (64 << 10)))))
            .collect();
        Ok(Some((self.meta(path, object), stream::iter(chunks).boxed())))
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        let inner = self.lock();
        let after = |(path, _): &(&String, &Vec<Object>)| from.is_none_or(|from| path.as_str() > from);
        let there = |(path, versions): (&'_ String, &'_ Vec<Object>)| {
            newest(versions).map(|object| ObjectMeta {
                checksum: None,
                version: None,
                ..self.meta(path, object)
            })
        };
        let mut found = inner
            .objects
            .iter()
            .filter(after)
            .filter(|(path, _)| path.starts_with(prefix))
            .filter_map(there);
        let items: Vec<_> = found.by_ref().take(self.page).collect();
        let next = found.next().and_then(|_| items.last()).map(|last| last.path.clone());
        Ok(Page { items, next })
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        Ok(if self.versions { Versioning::Enabled } else { Versioning::Disabled })
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if self.versions {
            inner.hide(path);
        } else {
            inner.objects.remove(path);
        }
        Ok(())
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectVersion>, StoreError> {
        let inner = self.lock();
        // The token is the last item of the page before: where it is, or where it was.
        let from = from.map(|from| from.split_once('\n').unwrap_or((from, "")));
        let start = from.map_or(prefix, |(path, _)| path);
        let number = |version: &str| version.trim_start_matches('v').parse::<u64>().unwrap_or(0);
        let after = |path: &str, version: &str| match from {
            Some((last, old)) => path > last || path == last && self.versions && number(version) < number(old),
            None => true,
        };
        let range = inner
            .objects
            .range(start.to_owned()..)
            .take_while(|(path, _)| path.starts_with(prefix));
        let entries = range.flat_map(|(path, versions)| {
            let shown = if self.versions { versions.len() } else { 1 };
            versions
                .iter()
                .rev()
                .enumerate()
                .take(shown)
                .map(move |(index, object)| (path, index, object))
        });
        let mut found = entries.filter(|(path, _, object)| after(path, &object.version));
        let items: Vec<_> = found
            .by_ref()
            .take(self.page)
            .map(|(path, index, object)| ObjectVersion {
                path: path.clone(),
                version: self.versions.then(|| object.version.clone()),
                is_latest: index == 0,
                is_delete_marker: object.marker,
                size: object.bytes.len() as u64,
                modified: Some(object.modified),
            })
            .collect();
        let last = items
            .last()
            .map(|last| format!("{}\n{}", last.path, last.version.as_deref().unwrap_or_default()));
        let next = found.next().and(last);
        Ok(Page { items, next })
    }

    async fn delete_version(&self, path: &str, version: Option<&str>) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let now = inner.now();
        let Some(versions) = inner.objects.get_mut(path) else {
            return Ok(());
        };
        if self.versions {
            // Only a version with this name; S3 does not mind if there is none.
            let Some(index) = versions.iter().position(|object| version == Some(object.version.as_str())) else {
                return Ok(());
            };
            let Lock { retained, legal_hold } = versions[index].lock;
            if legal_hold || retained.is_some_and(|retained| now < retained.until) {
                return Err(denied("delete version", path));
            }
            versions.remove(index);
        } else if version.is_none() {
            versions.clear();
        }
        if versions.is_empty() {
            inner.objects.remove(path);
        }
        Ok(())
    }

    async fn object_lock(&self) -> Result<bool, StoreError> {
        Ok(self.object_lock)
    }

    async fn lock_of(&self, path: &str, version: Option<&str>) -> Result<Lock, StoreError> {
        self.lock().find(path, version).map(|object| object.lock)
    }

    async fn set_retained(&self, path: &str, version: Option<&str>, retained: Retained) -> Result<(), StoreError> {
        const CALL: &str = "set retention";
        if !self.object_lock {
            return Err(refused(CALL, path, "InvalidRequest", MISSING));
        }
        let mut inner = self.lock();
        let now = inner.now();
        let object = inner.find(path, version)?;
        if retained.until <= now {
            return Err(refused(
                CALL,
                path,
                "InvalidArgument",
                "The retain until date must be in the future!",
            ));
        }
        match object.lock.retained {
            Some(held) if now < held.until && (retained.until < held.until || retained.mode != held.mode) => Err(denied(CALL, path)),
            _ => {
                object.lock.retained = Some(retained);
                Ok(())
            }
        }
    }

    async fn set_legal_hold(&self, path: &str, version: Option<&str>, on: bool) -> Result<(), StoreError> {
        if !self.object_lock {
            return Err(refused("set legal hold", path, "InvalidRequest", MISSING));
        }
        self.lock().find(path, version)?.lock.legal_hold = on;
        Ok(())
    }

    fn write_lock(&self) -> Option<WriteLock> {
        self.write_lock
    }
}
