//! Faults around any store, one call at a time: for tests of everything that uses stores.

use super::{
    backend::{
        Backend, ByteStream, Content, Lock, ObjectMeta, ObjectVersion, OpenUpload, Page, Piece, PieceReceipt, Retained, Versioning,
        WriteLock,
    },
    digest::Sha256,
    error::StoreError,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::PutPayload;
use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    Create,
    StartUpload,
    PutPiece,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    Head,
    Get,
    List,
    Versioning,
    Delete,
    ListVersions,
    DeleteVersion,
    ObjectLock,
    LockOf,
    SetRetained,
    SetLegalHold,
}

/// One call to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which one it is in the life of the store, from 0.
    pub index: usize,
    /// Which call.
    pub kind: CallKind,
    /// On what.
    pub path: String,
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is carried out, and this is the answer.
    Before(StoreError),
    /// It is carried out, and this is the answer.
    After(StoreError),
    /// It is carried out after this time.
    Slow(Duration),
    /// What is read has one wrong bit.
    Flip,
    /// What is read ends after half of its bytes, without an error.
    Truncate,
    /// The connection breaks after half of what is read.
    Break,
    /// What is read are other bytes, of the same number.
    Other,
    /// The process dies before the call: it and all later calls are not carried out.
    CrashBefore,
    /// The process dies after the call: it is carried out, later ones are not.
    CrashAfter,
}

impl Fault {
    /// Nobody answers, and whether the call was carried out is unknown.
    pub fn reset() -> StoreError {
        StoreError::Unreachable {
            call: "test",
            problem: "connection reset".to_owned(),
            connected: true,
            tls: false,
        }
    }

    /// The store cannot serve now.
    pub fn slow_down() -> StoreError {
        StoreError::Busy {
            call: "test",
            status: 503,
            code: "SlowDown".to_owned(),
        }
    }
}

type Plan = dyn Fn(&Call) -> Option<Fault> + Send + Sync;

/// A store with faults. Clones are the same.
#[derive(Clone)]
pub struct Faulty {
    backend: Arc<dyn Backend>,
    plan: Arc<Plan>,
    calls: Arc<Mutex<Vec<Call>>>,
    crashed: Arc<AtomicBool>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Faulty {
    /// Faults as `plan` says, call by call.
    pub fn new(backend: impl Backend, plan: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self {
            backend: Arc::new(backend),
            plan: Arc::new(plan),
            calls: Arc::default(),
            crashed: Arc::default(),
        }
    }

    /// No faults, but a record of the calls.
    pub fn none(backend: impl Backend) -> Self {
        Self::new(backend, |_| None)
    }

    /// One fault, in the call with this index.
    pub fn at(backend: impl Backend, index: usize, fault: Fault) -> Self {
        Self::new(backend, move |call| (call.index == index).then(|| fault.clone()))
    }

    /// The same fault in the first `count` calls of one kind.
    pub fn first(backend: impl Backend, kind: CallKind, count: usize, fault: Fault) -> Self {
        let met = Mutex::new(0);
        Self::new(backend, move |call| {
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            *met += usize::from(call.kind == kind);
            (call.kind == kind && *met <= count).then(|| fault.clone())
        })
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a crash has happened.
    pub fn crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    fn enter(&self, kind: CallKind, path: &str) -> Result<Option<Fault>, StoreError> {
        if self.crashed() {
            return Err(StoreError::Cancelled);
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = Call {
            index: calls.len(),
            kind,
            path: path.to_owned(),
        };
        calls.push(call.clone());
        drop(calls);
        Ok((self.plan)(&call))
    }

    async fn around<T>(
        &self,
        kind: CallKind,
        path: &str,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<(T, Option<Fault>), StoreError> {
        let fault = self.enter(kind, path)?;
        match &fault {
            Some(Fault::Before(error)) => return Err(error.clone()),
            Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
            Some(Fault::CrashBefore) => {
                self.crashed.store(true, Ordering::SeqCst);
                return Err(StoreError::Cancelled);
            }
            _ => {}
        }
        let done = work.await;
        match fault {
            Some(Fault::After(error)) => Err(error),
            Some(Fault::CrashAfter) => {
                self.crashed.store(true, Ordering::SeqCst);
                Err(StoreError::Cancelled)
            }
            other => done.map(|done| (done, other)),
        }
    }

    async fn plain<T>(
        &self,
        kind: CallKind,
        path: &str,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.around(kind, path, work).await.map(|(done, _)| done)
    }
}

/// The stream of a read with a fault in it.
async fn damaged(body: ByteStream, fault: Option<Fault>) -> Result<ByteStream, StoreError> {
    let Some(fault @ (Fault::Flip | Fault::Truncate | Fault::Break | Fault::Other)) = fault else {
        return Ok(body);
    };
    let join = |mut all: Vec<u8>, chunk: Bytes| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    };
    let mut bytes = body.try_fold(Vec::new(), join).await?;
    let half = bytes.len() / 2;
    let mut end = None;
    match fault {
        Fault::Flip => bytes.get_mut(half).into_iter().for_each(|byte| *byte ^= 0x10),
        Fault::Other => bytes.iter_mut().for_each(|byte| *byte = !*byte),
        Fault::Truncate => bytes.truncate(half),
        _ => {
            bytes.truncate(half);
            end = Some(Err(Fault::reset()));
        }
    }
    Ok(stream::iter([Ok(Bytes::from(bytes))].into_iter().chain(end)).boxed())
}

#[async_trait]
impl Backend for Faulty {
    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn min_piece(&self) -> u64 {
        self.backend.min_piece()
    }

    fn now(&self) -> Option<Timestamp> {
        self.backend.now()
    }

    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        self.backend.renew_credentials().await
    }

    async fn create(&self, path: &str, content: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        self.plain(CallKind::Create, path, self.backend.create(path, content, body, sha256))
            .await
    }

    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        self.plain(CallKind::StartUpload, path, self.backend.start_upload(path)).await
    }

    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        self.plain(CallKind::PutPiece, path, self.backend.put_piece(path, upload, piece))
            .await
    }

    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        self.plain(CallKind::CompleteUpload, path, self.backend.complete_upload(path, upload, pieces))
            .await
    }

    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        self.plain(CallKind::AbortUpload, path, self.backend.abort_upload(path, upload))
            .await
    }

    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        self.plain(CallKind::ListUploads, prefix, self.backend.list_uploads(prefix, from))
            .await
    }

    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        self.plain(CallKind::Head, path, self.backend.head(path, version)).await
    }

    async fn get(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        let (found, fault) = self.around(CallKind::Get, path, self.backend.get(path, range, version)).await?;
        let Some((meta, body)) = found else { return Ok(None) };
        Ok(Some((meta, damaged(body, fault).await?)))
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        self.plain(CallKind::List, prefix, self.backend.list(prefix, from)).await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.plain(CallKind::Versioning, "", self.backend.versioning()).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.plain(CallKind::Delete, path, self.backend.delete(path)).await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectVersion>, StoreError> {
        self.plain(CallKind::ListVersions, prefix, self.backend.list_versions(prefix, from))
            .await
    }

    async fn delete_version(&self, path: &str, version: Option<&str>) -> Result<(), StoreError> {
        self.plain(CallKind::DeleteVersion, path, self.backend.delete_version(path, version))
            .await
    }

    async fn object_lock(&self) -> Result<bool, StoreError> {
        self.plain(CallKind::ObjectLock, "", self.backend.object_lock()).await
    }

    async fn lock_of(&self, path: &str, version: Option<&str>) -> Result<Lock, StoreError> {
        self.plain(CallKind::LockOf, path, self.backend.lock_of(path, version)).await
    }

    async fn set_retained(&self, path: &str, version: Option<&str>, retained: Retained) -> Result<(), StoreError> {
        self.plain(CallKind::SetRetained, path, self.backend.set_retained(path, version, retained))
            .await
    }

    async fn set_legal_hold(&self, path: &str, version: Option<&str>, on: bool) -> Result<(), StoreError> {
        self.plain(CallKind::SetLegalHold, path, self.backend.set_legal_hold(path, version, on))
            .await
    }

    fn write_lock(&self) -> Option<WriteLock> {
        self.backend.write_lock()
    }
}
