//! From the engine to the store: one stream, read once, in parts.

use std::{
    future::pending,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_crds::Reason;
use holdfast_crds::document::{self, IndexFrame, IndexObject, Label, ObjectPath, Part, RawDigest, StoredObject, StreamKind, StreamPath};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    check::{CheckFailed, Checked, StreamCheck},
    frame::{BORDER_FRAME, FRAME, PackedFrame, Packers, RawFrame, SLACK_SLABS},
    index::Index,
    pool::{Budget, Pool, SLAB, Share, Slab, available_threads},
    seal::{SealWriter, Sealing},
    upload::{self, ObjectWriter, Written, stored_object},
};
use crate::store::{Store, StoreError, StorePath, Stored};

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
    #[error("the run was cancelled")]
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

/// What is needed to begin an object.
struct Objects {
    store: Store,
    sealing: Sealing,
    budget: Budget,
    piece: usize,
    counter: Arc<AtomicU64>,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

type UploadTask = JoinHandle<Result<Stored, StoreError>>;

impl Objects {
    fn begin(&self, path: &ObjectPath) -> Result<(ObjectWriter, UploadTask), WriteError> {
        let at: StorePath = path
            .to_string()
            .parse()
            .map_err(|source: crate::store::InvalidPath| store_failed(path, source.into()))?;
        let part = self.store.write_part(at);
        let (writer, upload) = upload::begin(
            part,
            self.budget.clone(),
            self.piece,
            Arc::clone(&self.counter),
            self.cancel.clone(),
        );
        let task = self.tracker.spawn(upload.run());
        Ok((writer, task))
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

fn store_failed(path: &ObjectPath, source: StoreError) -> WriteError {
    WriteError::Store {
        path: path.to_string(),
        source,
    }
}

fn fault(error: &JoinError, stage: &'static str) -> WriteError {
    if error.is_panic() {
        WriteError::Fault(stage)
    } else {
        WriteError::Cancelled
    }
}

type PackTask = JoinHandle<io::Result<PackedFrame>>;

/// Reads, checks, hashes and cuts.
struct Reading<'a> {
    budget: Budget,
    frames: mpsc::Sender<PackTask>,
    packers: Packers,
    threads: Arc<Semaphore>,
    counters: &'a Counters,
}

impl Reading<'_> {
    async fn run(self, mut reader: impl AsyncRead + Unpin, mut check: Box<dyn StreamCheck>) -> Result<(RawDigest, Checked), WriteError> {
        let mut hasher = blake3::Hasher::new();
        let mut total = 0u64;
        let mut borders = Vec::new();
        // What followed a border in the buffer in which it was found.
        let mut rest = Vec::with_capacity(SLAB);
        let mut frame = self.new_frame().await?;
        let mut filling = self.take().await?;
        loop {
            let spare = filling.spare();
            let count = reader.read(spare).await.map_err(WriteError::Read)?;
            if count == 0 {
                break;
            }
            borders.clear();
            check.feed(&spare[..count], &mut borders)?;
            hasher.update(&spare[..count]);
            filling.advance(count);
            total += count as u64;
            self.counters.raw.fetch_add(count as u64, Ordering::Relaxed);
            let held = frame.raw + filling.as_ref().len();
            if let Some(after) = cut(&borders, total, count, held) {
                let keep = filling.as_ref().len() - after;
                rest.clear();
                rest.extend_from_slice(&filling.as_ref()[keep..]);
                filling.truncate(keep);
                push(&mut frame, filling);
                self.pack(frame).await?;
                frame = self.new_frame().await?;
                filling = self.take().await?;
                filling.fill(&rest);
            } else if held == FRAME {
                push(&mut frame, filling);
                self.pack(frame).await?;
                frame = self.new_frame().await?;
                filling = self.take().await?;
            } else if filling.is_full() {
                push(&mut frame, filling);
                filling = self.take().await?;
            }
        }
        push(&mut frame, filling);
        // An empty stream is one empty frame: what is stored is never nothing.
        if frame.raw > 0 || total == 0 {
            self.pack(frame).await?;
        }
        let checked = check.finish()?;
        Ok((
            RawDigest {
                bytes: total,
                blake3: hasher.finalize().into(),
            },
            checked,
        ))
    }

    async fn take(&self) -> Result<Slab, WriteError> {
        self.budget.take().await.map_err(|_| WriteError::Cancelled)
    }

    async fn new_frame(&self) -> Result<RawFrame, WriteError> {
        let mut slack = Vec::with_capacity(FRAME / SLAB + SLACK_SLABS);
        for _ in 0..SLACK_SLABS {
            slack.push(self.take().await?);
        }
        Ok(RawFrame {
            slabs: Vec::with_capacity(FRAME / SLAB),
            slack,
            raw: 0,
        })
    }

    /// Hands a frame to a thread; the frames keep their order.
    async fn pack(&self, frame: RawFrame) -> Result<(), WriteError> {
        let permit = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| WriteError::Cancelled)?;
        let packers = self.packers.clone();
        let task = spawn_blocking(move || {
            let _permit = permit;
            packers.pack(frame)
        });
        if self.frames.send(task).await.is_err() {
            // The next stage has failed and says why.
            pending::<()>().await;
        }
        Ok(())
    }
}

fn push(frame: &mut RawFrame, slab: Slab) {
    frame.raw += slab.as_ref().len();
    if !slab.as_ref().is_empty() {
        frame.slabs.push(slab);
    }
}

/// How many of the bytes read last belong to the next frame, if the frame ends at a border in them. `total` and `held` include them.
fn cut(borders: &[u64], total: u64, count: usize, held: usize) -> Option<usize> {
    borders.iter().find_map(|border| {
        let after = usize::try_from(total.checked_sub(*border)?).ok()?;
        (after <= count && held - after >= BORDER_FRAME).then_some(after)
    })
}

enum SealError {
    /// The upload behind it has ended, and says why.
    Ended,
    Failed(WriteError),
}

impl From<io::Error> for SealError {
    fn from(error: io::Error) -> Self {
        if upload::is_ended(&error) {
            Self::Ended
        } else {
            Self::Failed(WriteError::Seal(error))
        }
    }
}

/// Encrypts frames in order and cuts the stream into parts, in one thread.
struct Sealer {
    objects: Objects,
    place: StreamPath,
    part_bytes: fn(u32) -> u64,
    open_parts: Arc<Semaphore>,
    begun: mpsc::UnboundedSender<(ObjectPath, UploadTask)>,
    open: Option<(SealWriter<ObjectWriter>, PartDraft)>,
    parts: Vec<PartDraft>,
    frames: Vec<IndexFrame>,
}

/// A part whose bytes are counted while it grows.
struct PartDraft {
    number: u32,
    path: ObjectPath,
    decrypted: u64,
    raw: u64,
    frames: u64,
    written: Written,
}

impl PartDraft {
    fn into_part(self) -> Part {
        let Written { bytes, sha256 } = self.written;
        Part {
            object: self.path.to_string(),
            bytes,
            sha256,
            decrypted_bytes: self.decrypted,
            raw_bytes: self.raw,
            frames: self.frames,
        }
    }
}

impl Sealer {
    fn run(mut self, mut packed: mpsc::Receiver<PackTask>) -> Result<(Vec<PartDraft>, Vec<IndexFrame>), SealError> {
        let runtime = Handle::current();
        while let Some(task) = packed.blocking_recv() {
            let frame = match runtime.block_on(task) {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return Err(SealError::Failed(WriteError::Compress(error))),
                Err(error) => return Err(SealError::Failed(fault(&error, "compression"))),
            };
            self.add(frame, &runtime)?;
        }
        self.finish_part()?;
        Ok((self.parts, self.frames))
    }

    fn add(&mut self, frame: PackedFrame, runtime: &Handle) -> Result<(), SealError> {
        let (writer, draft) = if let Some(open) = &mut self.open {
            open
        } else {
            let open = self.begin_part(runtime)?;
            self.open.insert(open)
        };
        for slab in frame.slabs {
            writer.write_all(slab.as_ref())?;
        }
        self.frames.push(IndexFrame {
            part: draft.number,
            offset: draft.decrypted,
            stored: frame.stored,
            raw: frame.raw,
            blake3: frame.blake3,
        });
        draft.decrypted += u64::from(frame.stored);
        draft.raw += u64::from(frame.raw);
        draft.frames += 1;
        if draft.decrypted >= (self.part_bytes)(draft.number) {
            self.finish_part()?;
        }
        Ok(())
    }

    fn begin_part(&self, runtime: &Handle) -> Result<(SealWriter<ObjectWriter>, PartDraft), SealError> {
        let number = u32::try_from(self.parts.len() + 1).map_err(|_| io::Error::other("a stream has too many parts"))?;
        let path = self.place.part(number);
        let permit = runtime
            .block_on(Arc::clone(&self.open_parts).acquire_owned())
            .map_err(|_| SealError::Ended)?;
        let (writer, task) = self.objects.begin(&path).map_err(SealError::Failed)?;
        let task = self.objects.tracker.spawn_on(
            async move {
                let _permit = permit;
                task.await.map_err(|_| StoreError::Cancelled)?
            },
            runtime,
        );
        self.begun.send((path.clone(), task)).map_err(|_| SealError::Ended)?;
        let nothing = Written {
            bytes: 0,
            sha256: document::Sha256([0; 32]),
        };
        Ok((
            self.objects.sealing.begin(writer)?,
            PartDraft {
                number,
                path,
                decrypted: 0,
                raw: 0,
                frames: 0,
                written: nothing,
            },
        ))
    }

    fn finish_part(&mut self) -> Result<(), SealError> {
        if let Some((writer, mut draft)) = self.open.take() {
            draft.written = writer.finish()?.finish()?;
            self.parts.push(draft);
        }
        Ok(())
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
