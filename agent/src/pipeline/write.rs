//! From the engine to the store: one stream, read once, in parts.

use std::{
    future::pending,
    io::{self, Write},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use holdfast_crds::Reason;
use holdfast_crds::document::{self, IndexObject, Label, ObjectPath, Part, RawDigest, StoredObject, StreamKind, StreamPath};
use tokio::{
    io::AsyncRead,
    sync::{Semaphore, mpsc},
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    check::{CheckFailed, Checked, StreamCheck},
    frame::Packers,
    index::Index,
    part::{Objects, PartDraft, SealError, Sealer, UploadTask},
    pool::{Pool, Share, available_threads},
    read::Reading,
    seal::Sealing,
    upload::{self, Written, stored_object},
};
use crate::store::{Store, StoreError, Stored};

/// Parts are this large, in stored bytes, as long as they are few.
const SMALL_PART: u64 = 256 << 20;
/// And this large once a stream has grown.
const LARGE_PART: u64 = 1 << 30;
/// From which part on.
const SMALL_PARTS: u32 = 32;
/// Parts of one stream that are under way or wait for the store's confirmation.
const OPEN_PARTS: usize = 2;
/// How long aborting uploads may take: within the five seconds that a cancelled pod has.
const ABORT_WITHIN: Duration = Duration::from_secs(4);
/// The index is small; level 3 makes it smaller still.
const INDEX_LEVEL: i32 = 3;

/// Why a stream could not be stored. Nothing is committed then; uploads under way were aborted.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("read the stream from the engine: {0}")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Check(#[from] CheckFailed),
    #[error("compress the stream: {0}")]
    Compress(#[source] io::Error),
    #[error("encrypt the stream: {0}")]
    Seal(#[source] io::Error),
    #[error("store {path}: {source}")]
    Store { path: String, source: StoreError },
    #[error("a thread of the pipeline ended by a fault in {0}; this is a defect of Holdfast")]
    Fault(&'static str),
    #[error("it was stopped before the stream had ended")]
    Cancelled,
}

impl WriteError {
    /// For conditions, exit code and runbook.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Read(_) => Reason::DumpFailed,
            Self::Check(_) => Reason::DumpTruncated,
            Self::Store { source, .. } => source.reason(),
            Self::Compress(_) | Self::Seal(_) | Self::Fault(_) => Reason::InternalError,
            Self::Cancelled => Reason::Interrupted,
        }
    }
}

/// Bytes that have passed, for progress.
#[derive(Debug, Default)]
pub struct Counters {
    /// Raw bytes read from the engine, or handed to it.
    pub raw: Arc<AtomicU64>,
    /// Bytes handed to the store, or read from it.
    pub stored: Arc<AtomicU64>,
}

/// What all streams of a run share.
#[derive(Clone)]
pub struct Pipeline {
    store: Store,
    pool: Pool,
    sealing: Sealing,
    cancel: CancellationToken,
    counters: Arc<Counters>,
    packers: Packers,
    /// Bounds the threads that compress, of all streams together.
    threads: Arc<Semaphore>,
    part_bytes: fn(u32) -> u64,
}

/// A stream that lies in the store, confirmed. It becomes part of a copy only when the run's outcome is committed.
#[derive(Clone, Debug)]
pub struct StoredStream {
    pub raw: RawDigest,
    pub parts: Vec<Part>,
    pub index: IndexObject,
    /// What the structure check found.
    pub checked: Checked,
    /// What the outcome says about parts and index.
    pub stored: Vec<StoredObject>,
}

impl StoredStream {
    /// As the manifest describes it.
    pub fn describe(&self, name: Label, kind: StreamKind, database: Option<String>) -> document::Stream {
        let checked = if self.checked.opaque {
            document::Checked::Opaque
        } else {
            document::Checked::Structure
        };
        document::Stream {
            name,
            kind,
            database,
            checked,
            raw: self.raw,
            parts: self.parts.clone(),
            index: self.index.clone(),
        }
    }
}

impl Pipeline {
    /// `cancel` ends all streams; what they were uploading is aborted then.
    pub fn new(store: Store, pool: Pool, sealing: Sealing, cancel: CancellationToken, counters: Arc<Counters>) -> Self {
        let part_bytes = |number| if number <= SMALL_PARTS { SMALL_PART } else { LARGE_PART };
        let threads = Arc::new(Semaphore::new(available_threads()));
        Self {
            store,
            pool,
            sealing,
            cancel,
            counters,
            packers: Packers::default(),
            threads,
            part_bytes,
        }
    }

    /// The same with other part sizes, in stored bytes by the part's number: for tests of many parts.
    #[must_use]
    pub fn with_part_bytes(self, part_bytes: fn(u32) -> u64) -> Self {
        Self { part_bytes, ..self }
    }

    /// Reads a stream to its end, and stores it at `place`. Its success says that the bytes lie in the store as they were read and that their structure
    /// is whole; whether the engine's tool succeeded is for the caller to find out before anything is committed.
    pub async fn store_stream(
        &self,
        place: &StreamPath,
        reader: impl AsyncRead + Unpin,
        check: Box<dyn StreamCheck>,
    ) -> Result<StoredStream, WriteError> {
        debug_assert_eq!(place.encrypted, self.sealing.is_encrypted());
        let share = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(WriteError::Cancelled),
            share = self.pool.admit() => share,
        };
        let cancel = self.cancel.child_token();
        let tracker = TaskTracker::new();
        let result = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(WriteError::Cancelled),
            result = self.run(place, reader, check, &share, &cancel, &tracker) => result,
        };
        // After a success there is nothing left to end.
        cancel.cancel();
        share.raw.close();
        share.stored.close();
        tracker.close();
        if timeout(ABORT_WITHIN, tracker.wait()).await.is_err() {
            tracing::warn!(stream = %place.stream, "uploads could not be aborted in time; they are left to the sweep");
        }
        result
    }

    async fn run(
        &self,
        place: &StreamPath,
        reader: impl AsyncRead + Unpin,
        check: Box<dyn StreamCheck>,
        share: &Share,
        cancel: &CancellationToken,
        tracker: &TaskTracker,
    ) -> Result<StoredStream, WriteError> {
        let (frames, packed) = mpsc::channel(64);
        let (begun, uploads) = mpsc::unbounded_channel();
        let stage = Sealer {
            objects: self.objects(share, cancel, tracker),
            place: place.clone(),
            part_bytes: self.part_bytes,
            open_parts: Arc::new(Semaphore::new(OPEN_PARTS)),
            begun,
            open: None,
            parts: Vec::new(),
            frames: Vec::new(),
        };
        let sealing = spawn_blocking(move || stage.run(packed));
        // A stage whose neighbour has ended waits for the neighbour's own error, which says more.
        let sealed = async {
            match sealing.await {
                Ok(Err(SealError::Ended)) => pending().await,
                Ok(Err(SealError::Failed(error))) => Err(error),
                Ok(Ok(sealed)) => Ok(sealed),
                Err(error) => Err(fault(&error, "encryption")),
            }
        };
        let read = Reading {
            budget: share.raw.clone(),
            frames,
            packers: self.packers.clone(),
            threads: Arc::clone(&self.threads),
            counters: &self.counters,
        };
        let ((raw, checked), (parts, frames), stored) = tokio::try_join!(read.run(reader, check), sealed, confirmed(uploads))?;

        let mut objects: Vec<_> = parts.iter().map(|draft| draft.path.clone()).collect();
        let parts: Vec<_> = parts.into_iter().map(PartDraft::into_part).collect();
        let index = Index::new(frames, checked.entries.clone());
        let (index, index_stored) = self.store_index(place, index, share, cancel, tracker).await?;
        objects.push(place.index());
        let written = parts.iter().map(|part| Written {
            bytes: part.bytes,
            sha256: part.sha256,
        });
        let written = written.chain([Written {
            bytes: index.bytes,
            sha256: index.sha256,
        }]);
        let stored = stored.iter().chain([&index_stored]);
        let stored = objects
            .iter()
            .zip(written)
            .zip(stored)
            .map(|((path, written), stored)| stored_object(path, written, stored))
            .collect();
        Ok(StoredStream {
            raw,
            parts,
            index,
            checked,
            stored,
        })
    }

    fn objects(&self, share: &Share, cancel: &CancellationToken, tracker: &TaskTracker) -> Objects {
        Objects {
            store: self.store.clone(),
            sealing: self.sealing.clone(),
            budget: share.stored.clone(),
            piece: share.piece.max(usize::try_from(self.store.min_piece()).unwrap_or(usize::MAX)),
            counter: Arc::clone(&self.counters.stored),
            cancel: cancel.clone(),
            tracker: tracker.clone(),
        }
    }

    async fn store_index(
        &self,
        place: &StreamPath,
        index: Index,
        share: &Share,
        cancel: &CancellationToken,
        tracker: &TaskTracker,
    ) -> Result<(IndexObject, Stored), WriteError> {
        let objects = self.objects(share, cancel, tracker);
        let path = place.index();
        let name = place.stream.clone();
        let (writer, upload) = objects.begin(&path)?;
        let object = path.to_string();
        let written = spawn_blocking(move || -> io::Result<(RawDigest, Written)> {
            let sealed = objects.sealing.begin(writer)?;
            let mut hashed = Hashed {
                inner: zstd::Encoder::new(sealed, INDEX_LEVEL)?,
                hasher: blake3::Hasher::new(),
                bytes: 0,
            };
            hashed.inner.include_checksum(true)?;
            index.write(&name, &mut hashed)?;
            let raw = RawDigest {
                bytes: hashed.bytes,
                blake3: hashed.hasher.finalize().into(),
            };
            Ok((raw, hashed.inner.finish()?.finish()?.finish()?))
        });
        let written = async {
            match written.await {
                Ok(Err(error)) if upload::is_ended(&error) => pending().await,
                Ok(result) => result.map_err(WriteError::Seal),
                Err(error) => Err(fault(&error, "the index")),
            }
        };
        let stored = async { uploaded(&path, upload.await) };
        let ((raw, Written { bytes, sha256 }), stored) = tokio::try_join!(written, stored)?;
        Ok((
            IndexObject {
                object,
                bytes,
                sha256,
                raw,
            },
            stored,
        ))
    }
}

/// Waits for the store's confirmation of all parts, in order; the first failure ends it.
async fn confirmed(mut uploads: mpsc::UnboundedReceiver<(ObjectPath, UploadTask)>) -> Result<Vec<Stored>, WriteError> {
    let mut stored = Vec::new();
    while let Some((path, task)) = uploads.recv().await {
        stored.push(uploaded(&path, task.await)?);
    }
    Ok(stored)
}

fn uploaded(path: &ObjectPath, joined: Result<Result<Stored, StoreError>, JoinError>) -> Result<Stored, WriteError> {
    match joined {
        Ok(Err(StoreError::Cancelled)) => Err(WriteError::Cancelled),
        Ok(result) => result.map_err(|source| store_failed(path, source)),
        Err(error) => Err(fault(&error, "an upload")),
    }
}

pub(super) fn store_failed(path: &ObjectPath, source: StoreError) -> WriteError {
    WriteError::Store {
        path: path.to_string(),
        source,
    }
}

pub(super) fn fault(error: &JoinError, stage: &'static str) -> WriteError {
    if error.is_panic() {
        WriteError::Fault(stage)
    } else {
        WriteError::Cancelled
    }
}

/// Counts and hashes what passes.
struct Hashed<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
