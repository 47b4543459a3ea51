//! The one pool of buffers that all streams share: memory stays the same however many there are.
//!
//! A stream is admitted only with its whole share in hand, split into two budgets: raw bytes up to the compressor, and bytes on their way to
//! the store. The store's side never waits for the raw side, so a stream always drains, and streams never wait for each other's halves.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::{FRAME, FRAME_SLABS};

/// One buffer, in bytes.
pub const SLAB: usize = 256 << 10;
/// The smallest pool, in bytes: what a container of 64 MiB can give.
pub const SMALLEST: usize = 16 << 20;
/// The largest pool that is taken unasked, in bytes: more buffers make nothing faster.
const LARGEST: usize = 48 << 20;
/// S3 takes no smaller piece but the last, in bytes.
pub const SMALLEST_PIECE: usize = 5 << 20;
const LARGEST_PIECE: usize = 16 << 20;
/// One piece that fills or is under way, and the buffer behind it.
const LEAST_STORED: usize = SMALLEST_PIECE / SLAB + 1;
const LEAST_SHARE: usize = FRAME_SLABS + LEAST_STORED;
/// The largest frame compressed and decompressed, each with a buffer to spare.
const OPEN_FRAME_SLABS: usize = 2 * (FRAME / SLAB + 1);

/// Buffers of [`SLAB`] bytes, handed out, returned and used again.
#[derive(Clone)]
pub struct Pool(Arc<Shelf>);

struct Shelf {
    free: Mutex<Vec<Box<[u8]>>>,
    slabs: Arc<Semaphore>,
    total: usize,
    /// How many streams at once the pool is split for.
    streams: usize,
}

impl Shelf {
    fn take(&self) -> Box<[u8]> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; SLAB].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

impl Pool {
    /// A pool of so many bytes (at least what one stream needs), split for so many streams at once. Further streams wait for their turn.
    pub fn new(bytes: usize, streams: usize) -> Self {
        let total = (bytes / SLAB).max(LEAST_SHARE);
        Self(Arc::new(Shelf {
            free: Mutex::default(),
            slabs: Arc::new(Semaphore::new(total)),
            total,
            streams: streams.max(1),
        }))
    }

    /// An eighth of the container's memory, within what is of use. At 64 MiB it is a quarter, so that the engine's tool and the agent fit beside it.
    pub fn for_memory_limit(limit: Option<u64>, streams: usize) -> Self {
        let eighth = limit.and_then(|limit| usize::try_from(limit / 8).ok()).unwrap_or(LARGEST);
        Self::new(eighth.clamp(SMALLEST, LARGEST), streams)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.total * SLAB
    }

    /// How many buffers it has made and keeps, once all came back.
    #[cfg(test)]
    pub(super) fn buffers_made(&self) -> usize {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until there is room for one more stream to the store.
    pub async fn admit(&self) -> Share {
        let slabs = self.share();
        // A little over half for raw frames, at least one; the rest fills pieces.
        let frames = (slabs * 9 / 16 / FRAME_SLABS).clamp(1, 1 + available_threads() * 2);
        self.lease(slabs, frames * FRAME_SLABS).await
    }

    /// Waits until there is room for one more stream from the store.
    pub async fn admit_reader(&self) -> Share {
        let slabs = self.share();
        self.lease(slabs, (slabs * 5 / 8).max(OPEN_FRAME_SLABS)).await
    }

    /// Waits until there is room for one more object from one store into another.
    pub async fn admit_transfer(&self) -> Budget {
        self.lease(self.share(), 0).await.stored
    }

    fn share(&self) -> usize {
        (self.0.total / self.0.streams).max(LEAST_SHARE)
    }

    async fn lease(&self, slabs: usize, raw: usize) -> Share {
        let permits = u32::try_from(slabs).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0.slabs)
            .acquire_many_owned(permits)
            .await
            .expect("the pool's semaphore is never closed");
        let lease = Arc::new(Lease {
            shelf: Arc::clone(&self.0),
            _permit: permit,
        });
        let stored = slabs - raw;
        let piece = (stored / 4 * SLAB).clamp(SMALLEST_PIECE, LARGEST_PIECE);
        Share {
            raw: Budget::new(raw, &lease),
            stored: Budget::new(stored, &lease),
            piece,
        }
    }
}

/// One stream's part of the pool.
pub struct Share {
    /// For raw bytes and compressed frames.
    pub raw: Budget,
    /// For bytes on their way to the store, or from it.
    pub stored: Budget,
    /// The size of a multipart piece, in bytes.
    pub piece: usize,
}

/// Holds the share until the last of its buffers has come back.
struct Lease {
    shelf: Arc<Shelf>,
    _permit: OwnedSemaphorePermit,
}

/// A bounded number of buffers.
#[derive(Clone)]
pub struct Budget {
    slabs: Arc<Semaphore>,
    total: usize,
    lease: Arc<Lease>,
}

/// The stream was given up while it waited for a buffer.
#[derive(Debug)]
pub struct Closed;

impl Budget {
    fn new(slabs: usize, lease: &Arc<Lease>) -> Self {
        Self {
            slabs: Arc::new(Semaphore::new(slabs)),
            total: slabs,
            lease: Arc::clone(lease),
        }
    }

    /// Its size in buffers.
    pub fn slabs(&self) -> usize {
        self.total
    }

    /// Waits for an empty buffer.
    pub async fn take(&self) -> Result<Slab, Closed> {
        let permit = Arc::clone(&self.slabs).acquire_owned().await.map_err(|_| Closed)?;
        Ok(Slab {
            buffer: self.lease.shelf.take(),
            filled: 0,
            _permit: permit,
            lease: Arc::clone(&self.lease),
        })
    }

    /// Waits for room for so many bytes that are held in other memory. More than the whole budget counts as the whole budget.
    pub async fn reserve(&self, bytes: usize) -> Result<Room, Closed> {
        let slabs = u32::try_from(bytes.div_ceil(SLAB).clamp(1, self.total)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.slabs).acquire_many_owned(slabs).await.map_err(|_| Closed)?;
        Ok(Room {
            _permit: permit,
            _lease: Arc::clone(&self.lease),
        })
    }

    /// Ends every wait for a buffer.
    pub fn close(&self) {
        self.slabs.close();
    }
}

/// Room in a budget for bytes that are held in other memory.
pub struct Room {
    _permit: OwnedSemaphorePermit,
    _lease: Arc<Lease>,
}

/// A buffer of [`SLAB`] bytes that fills from its beginning and returns to its pool when it is dropped.
pub struct Slab {
    buffer: Box<[u8]>,
    filled: usize,
    _permit: OwnedSemaphorePermit,
    lease: Arc<Lease>,
}

impl Slab {
    /// What is not filled yet.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Counts bytes that were written to the beginning of [`Slab::spare`].
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(SLAB);
    }

    /// Fills from `bytes` and returns how many fitted.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let fitting = bytes.len().min(spare.len());
        spare[..fitting].copy_from_slice(&bytes[..fitting]);
        self.advance(fitting);
        fitting
    }

    /// Cuts it to its first bytes.
    pub fn truncate(&mut self, bytes: usize) {
        self.filled = self.filled.min(bytes);
    }

    pub fn is_full(&self) -> bool {
        self.filled == SLAB
    }

    /// The filled bytes, shared without a copy; the buffer returns to the pool with the last of them.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.lease.shelf.give_back(std::mem::take(&mut self.buffer));
    }
}

/// How many threads the container may use at once.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The memory limit of this process's control group in bytes; none where there is none.
pub fn control_group_memory_limit() -> Option<u64> {
    // Version 2, then version 1, which says "no limit" with a number near 2^63.
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_pool_of_16_mib_holds_one_stream_of_two_frames_and_a_piece_in_flight() {
        let pool = Pool::for_memory_limit(Some(64 << 20), 1);
        assert_eq!(pool.bytes(), 16 << 20);
        let share = pool.admit().await;
        assert_eq!(share.raw.slabs(), 2 * FRAME_SLABS);
        assert_eq!(share.piece, SMALLEST_PIECE);
        assert!(share.stored.slabs() * SLAB >= SMALLEST_PIECE + SLAB);
        assert!(pool.admit().now_or_never().is_none(), "a second stream was admitted");
    }

    #[tokio::test]
    async fn a_share_is_free_again_only_when_its_last_buffer_came_back() {
        let pool = Pool::new(0, 1);
        let share = pool.admit().await;
        let bytes = share.stored.take().await.unwrap().into_bytes();
        drop(share);
        assert!(pool.admit().now_or_never().is_none());
        drop(bytes);
        assert!(pool.admit().now_or_never().is_some());
    }

    #[tokio::test]
    async fn buffers_are_used_again() {
        let pool = Pool::new(0, 1);
        let share = pool.admit().await;
        for _ in 0..1000 {
            let mut slab = share.raw.take().await.unwrap();
            assert_eq!(slab.fill(&[1; 10]), 10);
            assert_eq!(slab.as_ref(), [1; 10]);
        }
        assert_eq!(pool.0.free.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_budget_that_is_used_up_waits_and_closing_ends_the_wait() {
        let pool = Pool::new(0, 1);
        let share = pool.admit().await;
        let _room = share.stored.reserve(usize::MAX).await.unwrap();
        assert!(share.stored.take().now_or_never().is_none());
        let waiting = share.stored.take();
        share.stored.close();
        assert!(waiting.await.is_err());
    }
}
