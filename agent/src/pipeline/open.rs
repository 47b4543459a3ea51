//! From the store to the engine: a stream's raw bytes, each frame checked before a byte of it is handed out.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use holdfast_crds::Reason;
use holdfast_crds::document::{
    Blake3, ChecksumAlgorithm, Committed, Confirmed, IndexObject, Part, RawDigest, Sha256, StoredObject, Stream,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use super::{
    decode::{Delivery, FrameTask, Opener, decrypt},
    fetch::{Fetched, Object, Sought, fetch},
    frame::Unpackers,
    index::{Index, IndexError},
    key::RunKey,
    pool::{Budget, Pool, Share},
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
        let found = self.store.head_version(&object.path, object.version.as_deref()).await;
        let found = found.map_err(|source| store_failed(path, source))?;
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
    ///
    /// Like everything here that reads, it waits for its share of the pool: where the pool is made for one stream at once, until the stream before was
    /// read to its end or dropped.
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

    /// An object that is read from its middle.
    pub(super) fn seek(&self, path: &str, bytes: u64) -> Result<Sought, OpenError> {
        Ok(Sought::new(self.store.clone(), self.object(path, bytes)?))
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

/// Compares a whole object with what was written.
pub(super) fn finish_object(path: &str, fetched: Fetched, bytes: u64, sha256: Sha256) -> Result<(), OpenError> {
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
pub(super) fn failed(object: &str, error: io::Error) -> OpenError {
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

pub(super) fn joined<T>(result: Result<Result<T, OpenError>, JoinError>, stage: &'static str) -> Result<T, OpenError> {
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
