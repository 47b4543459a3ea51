//! From the store to the engine: a stream's raw bytes, each frame checked before a byte of it is handed out.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Seek, SeekFrom},
    iter,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use age::{DecryptError, Decryptor, stream::StreamReader};
use bytes::Bytes;
use holdfast_crds::Reason;
use holdfast_crds::document::{
    Blake3, ChecksumAlgorithm, Committed, Confirmed, IndexFrame, IndexObject, Part, RawDigest, Sha256, StoredObject, Stream,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    runtime::Handle,
    sync::mpsc,
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use super::{
    fetch::{Fetched, Object, Sought, fetch},
    frame::{Unpackers, slabs_for},
    index::{Index, IndexError},
    key::RunKey,
    pool::{Budget, Pool, Share, Slab},
    upload::shown,
    write::Counters,
};
use crate::store::{Checksum, Store, StoreError};

/// Frames that are decompressed ahead; the budget bounds them further.
const FRAMES_AHEAD: usize = 16;
/// Buffers that wait for the consumer.
const BUFFERS_AHEAD: usize = 4;

/// Why a copy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("read {object}: {source}")]
    Store { object: String, source: StoreError },
    /// Reason `CopyCorrupt`.
    #[error("read {object}: {problem}; the object was damaged or replaced, use another copy")]
    Corrupt { object: String, problem: String },
    /// Reason `KeyMissing`.
    #[error("read {object}: it is encrypted and no key was given")]
    KeyMissing { object: String },
    #[error("hand out the stream: {0}")]
    Write(#[source] io::Error),
    #[error("a thread of the pipeline ended by a fault in {0}; this is a defect of Holdfast")]
    Fault(&'static str),
    #[error("the work was cancelled")]
    Cancelled,
}

impl OpenError {
    /// For conditions, exit code and runbook.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Store { source, .. } => source.reason(),
            Self::Corrupt { .. } => Reason::CopyCorrupt,
            Self::KeyMissing { .. } => Reason::KeyMissing,
            Self::Write(_) => Reason::RestoreFailed,
            Self::Fault(_) => Reason::InternalError,
            Self::Cancelled => Reason::Interrupted,
        }
    }
}

/// Reads the streams of one committed copy from one store.
#[derive(Clone)]
pub struct CopyReader {
    store: Store,
    pool: Pool,
    key: Option<Arc<RunKey>>,
    /// What the outcome says about the copy's objects, by path.
    stored: Arc<HashMap<String, StoredObject>>,
    unpackers: Unpackers,
    counters: Arc<Counters>,
    cancel: CancellationToken,
}

impl CopyReader {
    /// `key` is the run's own key, opened before; none where the copy is not encrypted. What `copy` names was checked when it was read.
    pub fn new(
        store: Store,
        copy: &Committed,
        key: Option<RunKey>,
        pool: Pool,
        cancel: CancellationToken,
        counters: Arc<Counters>,
    ) -> Self {
        let stored = copy.stored().iter().map(|object| (object.path.clone(), object.clone())).collect();
        Self {
            store,
            pool,
            key: key.map(Arc::new),
            stored: Arc::new(stored),
            unpackers: Unpackers::default(),
            counters,
            cancel,
        }
    }

    /// Compares what the store says about an object with what was written, without reading it: its size, and its checksum where the store tells one that
    /// can be compared.
    pub async fn check_head(&self, path: &str, bytes: u64, sha256: Sha256) -> Result<(), OpenError> {
        let object = self.object(path, bytes)?;
        let corrupt = |problem: String| OpenError::Corrupt {
            object: path.to_owned(),
            problem,
        };
        let found = self.store.head(&object.path).await.map_err(|source| store_failed(path, source))?;
        let found = found.ok_or_else(|| corrupt("it is not there".to_owned()))?;
        if found.size != bytes {
            return Err(corrupt(format!("it has {} bytes, expected {bytes}", found.size)));
        }
        let (told, expected) = match (found.checksum, self.stored.get(path).map(|stored| &stored.confirmed)) {
            (Some(Checksum::Whole(found)), _) => (found.to_string(), sha256.to_string()),
            (
                Some(found),
                Some(Confirmed::Checksum {
                    algorithm: ChecksumAlgorithm::Sha256Composite,
                    value,
                }),
            ) => (shown(found), value.clone()),
            _ => return Ok(()),
        };
        if told == expected {
            Ok(())
        } else {
            Err(corrupt(format!("the store says its SHA-256 is {told}, expected {expected}")))
        }
    }

    /// Reads an object whole and compares its SHA-256.
    pub async fn check_digest(&self, path: &str, bytes: u64, sha256: Sha256) -> Result<(), OpenError> {
        let share = self.admit().await?;
        let object = self.object(path, bytes)?;
        let fetched = self.fetch(object, &share.stored);
        let path = path.to_owned();
        blocking("reading", move || finish_object(&path, fetched, bytes, sha256)).await
    }

    /// Reads a stream's index and compares it with the manifest.
    pub async fn index(&self, stream: &Stream) -> Result<Index, OpenError> {
        let share = self.admit().await?;
        let IndexObject {
            object: path,
            bytes,
            sha256,
            raw,
        } = stream.index.clone();
        let mut fetched = self.fetch(self.object(&path, bytes)?, &share.stored);
        let key = self.key.clone();
        let stream = stream.clone();
        blocking("the index", move || {
            let corrupt = |problem: String| OpenError::Corrupt {
                object: path.clone(),
                problem,
            };
            let index = {
                let plain = decrypt(&path, &stream, key.as_deref(), &mut fetched)?;
                let mut hashed = Hashed {
                    inner: zstd::Decoder::new(plain).map_err(|error| failed(&path, error))?,
                    hasher: blake3::Hasher::new(),
                    left: raw.bytes,
                };
                let index = Index::read(&stream, BufReader::new(&mut hashed)).map_err(|error| match error {
                    IndexError::Io(error) => failed(&path, error),
                    error => corrupt(error.to_string()),
                })?;
                let found = Blake3::from(hashed.hasher.finalize());
                if (hashed.left, found) != (0, raw.blake3) {
                    return Err(corrupt(format!("BLAKE3 of its lines is {found}, expected {}", raw.blake3)));
                }
                index
            };
            finish_object(&path, fetched, bytes, sha256)?;
            Ok(index)
        })
        .await
    }

    /// Begins to read a stream whole. Its end is an error unless all digests of the manifest were met.
    pub async fn open(&self, stream: &Stream, index: &Index) -> Result<RawStream, OpenError> {
        let share = self.admit().await?;
        let (ending, frames) = self.begin(&share, stream, 0..stream.raw.bytes, Some(stream.raw));
        let (parts_out, parts) = mpsc::channel::<(Part, Fetched)>(1);
        let opener = Opener {
            key: self.key.clone(),
            stream: stream.clone(),
            raw: share.raw.clone(),
            unpackers: self.unpackers.clone(),
            out: frames,
        };
        let index = index.frames.clone();
        let opener = spawn_blocking(move || opener.whole(&index, parts));
        let reader = self.clone();
        let budget = share.stored;
        let parts = stream.parts.clone();
        tokio::spawn(async move {
            for part in parts {
                let Ok(object) = reader.object(&part.object, part.bytes) else {
                    return;
                };
                let (sender, receiver) = mpsc::channel(1);
                if parts_out
                    .send((part, Fetched::new(receiver, Arc::clone(&reader.counters.stored))))
                    .await
                    .is_err()
                {
                    return;
                }
                fetch(reader.store.clone(), object, budget.clone(), reader.cancel.clone(), sender).await;
            }
        });
        Ok(RawStream { ending, opener })
    }

    /// Begins to read a range of a stream's raw bytes: only the frames that hold it are fetched.
    pub async fn open_range(&self, stream: &Stream, index: &Index, raw: Range<u64>) -> Result<RawStream, OpenError> {
        let share = self.admit().await?;
        let raw = raw.start.min(stream.raw.bytes)..raw.end.min(stream.raw.bytes);
        let (frames, begins) = index.frames_of(&raw);
        let (ending, sender) = self.begin(
            &share,
            stream,
            raw.start.saturating_sub(begins)..raw.end.saturating_sub(begins),
            None,
        );
        let opener = Opener {
            key: self.key.clone(),
            stream: stream.clone(),
            raw: share.raw.clone(),
            unpackers: self.unpackers.clone(),
            out: sender,
        };
        let frames = index.frames[frames].to_vec();
        let reader = self.clone();
        let opener = spawn_blocking(move || opener.range(&frames, &reader));
        Ok(RawStream { ending, opener })
    }

    /// Begins the last stage: it awaits frames in order and hands out the wanted bytes of them.
    fn begin(&self, share: &Share, stream: &Stream, wanted: Range<u64>, expected: Option<RawDigest>) -> (Ending, mpsc::Sender<FrameTask>) {
        let (sender, out) = mpsc::channel(BUFFERS_AHEAD);
        let (frames, tasks) = mpsc::channel(FRAMES_AHEAD);
        let delivery = Delivery {
            tasks,
            out: sender,
            wanted,
            expected,
            object: format!("stream {}", stream.name),
            counters: Arc::clone(&self.counters),
        };
        let (cancel, raw) = (self.cancel.clone(), share.raw.clone());
        let delivered = tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(OpenError::Cancelled),
                result = delivery.run() => result,
            };
            // The thread before must not wait for buffers that nobody will return.
            raw.close();
            result
        });
        (Ending { out, delivered }, frames)
    }

    async fn admit(&self) -> Result<Share, OpenError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(OpenError::Cancelled),
            share = self.pool.admit_reader() => Ok(share),
        }
    }

    fn object(&self, path: &str, bytes: u64) -> Result<Object, OpenError> {
        let at = path
            .parse()
            .map_err(|source: crate::store::InvalidPath| store_failed(path, source.into()))?;
        Ok(Object {
            path: at,
            bytes,
            version: self.stored.get(path).and_then(|stored| stored.version_id.clone()),
        })
    }

    fn fetch(&self, object: Object, budget: &Budget) -> Fetched {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(fetch(self.store.clone(), object, budget.clone(), self.cancel.clone(), sender));
        Fetched::new(receiver, Arc::clone(&self.counters.stored))
    }
}

/// The last stage: what it hands out, and how it ended.
struct Ending {
    out: mpsc::Receiver<Bytes>,
    delivered: JoinHandle<Result<(), OpenError>>,
}

/// Raw bytes in order. Dropping it ends the reading.
pub struct RawStream {
    ending: Ending,
    opener: JoinHandle<Result<(), OpenError>>,
}

impl RawStream {
    /// The next bytes; `None` once all were handed out and every digest was met. Not to be called again after an end or an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OpenError> {
        if let Some(bytes) = self.ending.out.recv().await {
            return Ok(Some(bytes));
        }
        // The stage that failed first says why; the other only noticed.
        joined((&mut self.opener).await, "decryption")?;
        joined((&mut self.ending.delivered).await, "delivery")?;
        Ok(None)
    }

    /// Hands all bytes to `writer`, and returns how many there were.
    pub async fn copy_to(mut self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<u64, OpenError> {
        let mut total = 0;
        while let Some(bytes) = self.next().await? {
            writer.write_all(&bytes).await.map_err(OpenError::Write)?;
            total += bytes.len() as u64;
        }
        writer.flush().await.map_err(OpenError::Write)?;
        Ok(total)
    }
}

type FrameTask = JoinHandle<Result<Vec<Slab>, OpenError>>;

/// Decrypts parts and cuts them into frames, in one thread.
struct Opener {
    key: Option<Arc<RunKey>>,
    stream: Stream,
    raw: Budget,
    unpackers: Unpackers,
    out: mpsc::Sender<FrameTask>,
}

/// The consumer has gone; nobody asks why.
struct Gone;

enum Stop {
    Gone,
    Failed(OpenError),
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        Self::Failed(error)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn stopped(result: Result<(), Stop>) -> Result<(), OpenError> {
    match result {
        Ok(()) | Err(Stop::Gone) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

impl Opener {
    fn whole(self, index: &[IndexFrame], mut parts: mpsc::Receiver<(Part, Fetched)>) -> Result<(), OpenError> {
        let mut frames = index;
        let mut count = 0;
        while let Some((part, mut fetched)) = parts.blocking_recv() {
            let own = frames.partition_point(|frame| frame.part == frames[0].part);
            let (mine, rest) = frames.split_at(own);
            frames = rest;
            let result = self.part(&part, mine, &mut fetched);
            if !matches!(result, Ok(())) {
                return stopped(result);
            }
            finish_object(&part.object, fetched, part.bytes, part.sha256)?;
            count += 1;
        }
        // Whoever fetches has ended early: cancelled.
        if count == self.stream.parts.len() {
            Ok(())
        } else {
            Err(OpenError::Cancelled)
        }
    }

    fn part(&self, part: &Part, frames: &[IndexFrame], fetched: &mut Fetched) -> Result<(), Stop> {
        let mut plain = decrypt(&part.object, &self.stream, self.key.as_deref(), fetched)?;
        for frame in frames {
            self.frame(part, frame, &mut plain)?;
        }
        // Reading on to the end is what authenticates it.
        match plain.read(&mut [0; 1]).map_err(|error| failed(&part.object, error))? {
            0 => Ok(()),
            _ => Err(OpenError::Corrupt {
                object: part.object.clone(),
                problem: "it goes on after its last frame".to_owned(),
            }
            .into()),
        }
    }

    fn range(self, frames: &[IndexFrame], reader: &CopyReader) -> Result<(), OpenError> {
        for own in frames.chunk_by(|one, other| one.part == other.part) {
            let part = usize::try_from(own[0].part)
                .ok()
                .and_then(|number| self.stream.parts.get(number.checked_sub(1)?));
            let part = part.ok_or_else(|| OpenError::Corrupt {
                object: self.stream.index.object.clone(),
                problem: "it names a part that is not there".to_owned(),
            })?;
            let source = Sought::new(reader.store.clone(), reader.object(&part.object, part.bytes)?);
            let result = match &self.key {
                Some(key) if self.is_encrypted() => {
                    let mut plain = age_reader(&part.object, key, source)?;
                    skip(&mut plain, own[0].offset).map_err(|error| failed(&part.object, error))?;
                    own.iter().try_for_each(|frame| self.frame(part, frame, &mut plain))
                }
                _ => {
                    let mut plain = source;
                    plain
                        .seek(SeekFrom::Start(own[0].offset))
                        .map_err(|error| failed(&part.object, error))?;
                    own.iter().try_for_each(|frame| self.frame(part, frame, &mut plain))
                }
            };
            if result.is_err() {
                return stopped(result);
            }
        }
        Ok(())
    }

    fn is_encrypted(&self) -> bool {
        is_encrypted(&self.stream)
    }

    /// Reads one frame, checks it, and has it decompressed in another thread.
    fn frame(&self, part: &Part, frame: &IndexFrame, plain: &mut impl Read) -> Result<(), Stop> {
        let runtime = Handle::current();
        let room = runtime.block_on(self.raw.reserve(frame.stored as usize)).map_err(|_| Gone)?;
        let mut bytes = vec![0; frame.stored as usize];
        plain.read_exact(&mut bytes).map_err(|error| failed(&part.object, error))?;
        let found = Blake3::of(&bytes);
        if found != frame.blake3 {
            let problem = format!(
                "BLAKE3 of the frame at {} is {found}, its index says {}",
                frame.offset, frame.blake3
            );
            return Err(OpenError::Corrupt {
                object: part.object.clone(),
                problem,
            }
            .into());
        }
        let empty = (0..slabs_for(frame.raw))
            .map(|_| runtime.block_on(self.raw.take()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Gone)?;
        let (unpackers, raw, object) = (self.unpackers.clone(), frame.raw, part.object.clone());
        let task = spawn_blocking(move || {
            let unpacked = unpackers.unpack(&bytes, raw, empty).map_err(|error| failed(&object, error));
            drop((bytes, room));
            unpacked
        });
        self.out.blocking_send(task).map_err(|_| Gone.into())
    }
}

/// Hands out raw bytes in order.
struct Delivery {
    tasks: mpsc::Receiver<FrameTask>,
    out: mpsc::Sender<Bytes>,
    /// Which of the bytes are wanted, counted from the first frame's beginning.
    wanted: Range<u64>,
    /// What the whole must be, where it is the whole stream.
    expected: Option<RawDigest>,
    object: String,
    counters: Arc<Counters>,
}

impl Delivery {
    async fn run(mut self) -> Result<(), OpenError> {
        let mut hasher = blake3::Hasher::new();
        let mut position = 0u64;
        while let Some(task) = self.tasks.recv().await {
            for slab in joined(task.await, "decompression")? {
                let bytes = slab.into_bytes();
                if self.expected.is_some() {
                    hasher.update(&bytes);
                }
                let within = |offset: u64| {
                    usize::try_from(offset.saturating_sub(position))
                        .unwrap_or(usize::MAX)
                        .min(bytes.len())
                };
                let wanted = within(self.wanted.start)..within(self.wanted.end);
                position += bytes.len() as u64;
                let bytes = bytes.slice(wanted);
                self.counters.raw.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if !bytes.is_empty() && self.out.send(bytes).await.is_err() {
                    return Ok(());
                }
            }
        }
        if position < self.wanted.end {
            // The thread before has failed and says why, or was told to stop.
            return Err(OpenError::Cancelled);
        }
        let found = Blake3::from(hasher.finalize());
        match self.expected {
            Some(expected) if (position, found) != (expected.bytes, expected.blake3) => {
                let problem = format!(
                    "it has {position} raw bytes with BLAKE3 {found}, the manifest says {} with {}",
                    expected.bytes, expected.blake3
                );
                Err(OpenError::Corrupt {
                    object: self.object,
                    problem,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Reads as age file or as it is.
enum Plain<R> {
    Age(StreamReader<R>),
    As(R),
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Age(reader) => reader.read(buffer),
            Self::As(reader) => reader.read(buffer),
        }
    }
}

fn is_encrypted(stream: &Stream) -> bool {
    stream.index.object.strip_suffix(".age").is_some()
}

fn decrypt<R: Read>(object: &str, stream: &Stream, key: Option<&RunKey>, reader: R) -> Result<Plain<R>, OpenError> {
    match key {
        _ if !is_encrypted(stream) => Ok(Plain::As(reader)),
        Some(key) => age_reader(object, key, reader).map(Plain::Age),
        None => Err(OpenError::KeyMissing { object: object.to_owned() }),
    }
}

fn age_reader<R: Read>(object: &str, key: &RunKey, reader: R) -> Result<StreamReader<R>, OpenError> {
    let opened = Decryptor::new(reader).and_then(|decryptor| decryptor.decrypt(iter::once(key.identity() as &dyn age::Identity)));
    opened.map_err(|error| match error {
        DecryptError::Io(error) => failed(object, error),
        error => OpenError::Corrupt {
            object: object.to_owned(),
            problem: format!("decrypt it: {error}"),
        },
    })
}

/// Goes to a position of the decrypted bytes. A seek to a border between age's chunks would read the last chunk as well: one byte earlier does not.
fn skip(plain: &mut StreamReader<Sought>, offset: u64) -> io::Result<()> {
    if offset > 0 {
        plain.seek(SeekFrom::Start(offset - 1))?;
        plain.read_exact(&mut [0; 1])?;
    }
    Ok(())
}

/// Compares a whole object with what was written.
fn finish_object(path: &str, fetched: Fetched, bytes: u64, sha256: Sha256) -> Result<(), OpenError> {
    let (size, found) = fetched.finish().map_err(|error| failed(path, error))?;
    if (size, found) == (bytes, sha256) {
        return Ok(());
    }
    let problem = format!("it has {size} bytes with SHA-256 {found}, expected {bytes} bytes with {sha256}");
    Err(OpenError::Corrupt {
        object: path.to_owned(),
        problem,
    })
}

/// What an error of a reader means: the store's own error, or a damaged object.
fn failed(object: &str, error: io::Error) -> OpenError {
    match error.downcast::<StoreError>() {
        Ok(StoreError::Cancelled) => OpenError::Cancelled,
        Ok(source) => store_failed(object, source),
        Err(error) => OpenError::Corrupt {
            object: object.to_owned(),
            problem: error.to_string(),
        },
    }
}

fn store_failed(object: &str, source: StoreError) -> OpenError {
    match source {
        // The manifest says that it is there, and how long it is.
        StoreError::NotFound { .. } => OpenError::Corrupt {
            object: object.to_owned(),
            problem: "it is not there".to_owned(),
        },
        StoreError::Mismatch { problem, .. } => OpenError::Corrupt {
            object: object.to_owned(),
            problem,
        },
        source => OpenError::Store {
            object: object.to_owned(),
            source,
        },
    }
}

fn joined<T>(result: Result<Result<T, OpenError>, JoinError>, stage: &'static str) -> Result<T, OpenError> {
    result.map_err(|error| {
        if error.is_panic() {
            OpenError::Fault(stage)
        } else {
            OpenError::Cancelled
        }
    })?
}

async fn blocking<T: Send + 'static>(
    stage: &'static str,
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    joined(spawn_blocking(work).await, stage)
}

/// Hashes what passes, and ends with an error where more comes than expected.
struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    left: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is longer than the manifest says"))?;
        Ok(count)
    }
}
