//! Objects on their way back from the store: in order and in parallel for whole objects, by seeking for ranges.

use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_crds::document::Sha256;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::pool::{Budget, Room, SLAB};
use crate::store::{Store, StoreError, StorePath, digest::Hasher};

/// Ranges of one object that are asked for at once.
const PARALLEL: usize = 4;
/// The largest range, in bytes.
const LARGEST_RANGE: usize = 8 << 20;
/// What is read ahead where an object is read from its middle, in bytes.
const READ_AHEAD: u64 = 512 << 10;

/// One version of one object, with the size that its manifest says.
#[derive(Clone, Debug)]
pub struct Object {
    pub path: StorePath,
    pub bytes: u64,
    /// Where the store has versions: the one that was written.
    pub version: Option<String>,
}

/// Some bytes of an object, and the room that they take.
pub type Chunk = (Vec<Bytes>, Room);

/// Fetches a whole object in order, several ranges at once, as far as the budget lets it run ahead.
pub async fn fetch(store: Store, object: Object, budget: Budget, cancel: CancellationToken, out: mpsc::Sender<Result<Chunk, StoreError>>) {
    let step = (budget.slabs() / PARALLEL * SLAB).clamp(SLAB, LARGEST_RANGE) as u64;
    let ranges = (0..object.bytes.div_ceil(step)).map(|number| number * step..((number + 1) * step).min(object.bytes));
    let mut chunks = stream::iter(ranges)
        .map(|range| {
            let (store, object, budget) = (&store, &object, &budget);
            async move {
                let length = usize::try_from(range.end - range.start).unwrap_or(LARGEST_RANGE);
                let room = budget.reserve(length).await.map_err(|_| StoreError::Cancelled)?;
                let (_, body) = store.open(&object.path, Some(range), object.version.as_deref()).await?;
                Ok((body.try_collect().await?, room))
            }
        })
        .buffered(PARALLEL);
    loop {
        let chunk = tokio::select! {
            biased;
            () = cancel.cancelled() => Some(Err(StoreError::Cancelled)),
            chunk = chunks.next() => chunk,
        };
        let Some(chunk) = chunk else { return };
        let failed = chunk.is_err();
        if out.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

/// Reads what [`fetch`] sends, in a thread that may wait, and hashes it.
pub struct Fetched {
    receiver: mpsc::Receiver<Result<Chunk, StoreError>>,
    pending: VecDeque<Bytes>,
    room: Option<Room>,
    sha256: Hasher,
    bytes: u64,
    counter: Arc<AtomicU64>,
}

impl Fetched {
    pub fn new(receiver: mpsc::Receiver<Result<Chunk, StoreError>>, counter: Arc<AtomicU64>) -> Self {
        Self {
            receiver,
            pending: VecDeque::new(),
            room: None,
            sha256: Hasher::new(),
            bytes: 0,
            counter,
        }
    }

    /// Size and SHA-256 of the whole object, also of what nobody read.
    pub fn finish(mut self) -> io::Result<(u64, Sha256)> {
        while let Some(bytes) = self.next()? {
            self.count(&bytes);
        }
        Ok((self.bytes, self.sha256.finish()))
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                return Ok(Some(bytes));
            }
            self.room = None;
            match self.receiver.blocking_recv() {
                Some(chunk) => {
                    let (bytes, room) = chunk.map_err(io::Error::other)?;
                    self.pending = bytes.into();
                    self.room = Some(room);
                }
                None => return Ok(None),
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

impl Read for Fetched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut bytes) = self.next()? else { return Ok(0) };
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        let rest = bytes.split_off(count);
        self.count(&bytes);
        if !rest.is_empty() {
            self.pending.push_front(rest);
        }
        Ok(count)
    }
}

/// Reads an object from anywhere, in a thread that may wait.
pub struct Sought {
    store: Store,
    object: Object,
    position: u64,
    /// What was read ahead, and where it begins.
    ahead: Bytes,
    begins: u64,
    runtime: Handle,
}

impl Sought {
    pub fn new(store: Store, object: Object) -> Self {
        Self {
            store,
            object,
            position: 0,
            ahead: Bytes::new(),
            begins: 0,
            runtime: Handle::current(),
        }
    }

    fn fetch(&self) -> Result<Bytes, StoreError> {
        let range = self.position..(self.position + READ_AHEAD).min(self.object.bytes);
        self.runtime.block_on(async {
            let (_, body) = self
                .store
                .open(&self.object.path, Some(range), self.object.version.as_deref())
                .await?;
            let bytes: Vec<Bytes> = body.try_collect().await?;
            Ok(bytes.concat().into())
        })
    }
}

impl Read for Sought {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.object.bytes || buffer.is_empty() {
            return Ok(0);
        }
        let skip = self
            .position
            .checked_sub(self.begins)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| *skip < self.ahead.len());
        let skip = if let Some(skip) = skip {
            skip
        } else {
            self.ahead = self.fetch().map_err(io::Error::other)?;
            self.begins = self.position;
            0
        };
        let count = buffer.len().min(self.ahead.len() - skip);
        buffer[..count].copy_from_slice(&self.ahead[skip..skip + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Sought {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.object.bytes.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a position before the beginning"))?;
        Ok(self.position)
    }
}
