//! From one store into another: an object, byte for byte, its SHA-256 computed on the way and compared before the object is made.
//!
//! An object has the same name in every store that has it. What lies under that name already is read and compared, never written again: so
//! whoever was interrupted goes on where it was, and who comes second to the same object takes what the first one made.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use holdfast_crds::document::{Sha256, StoredObject};
use object_store::PutPayload;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    fetch::{Chunk, Object, fetch},
    key::MAX_SEALED_KEY_BYTES,
    pool::{Budget, Pool, Room},
    write::Counters,
};
use crate::store::{Checksum, Confirmed, Created, ObjectMeta, PartWriter, Store, StoreError, StorePath, Stored, digest::Hasher};

/// The size of a piece, in bytes. It is the same whatever memory there is: two who bring an object at once make the same one, with the same
/// checksum over its pieces.
const PIECE: usize = 8 << 20;
/// How often an object is read whose bytes are not those that were written: some may have flipped on the way.
const READS: u32 = 2;

/// An object that is to be brought.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub path: StorePath,
    pub bytes: u64,
    pub sha256: Sha256,
    /// Where the store that is read has versions: the one that counts.
    pub version: Option<String>,
    /// Whether it is a key: a small document, which is created in one piece.
    pub key: bool,
}

/// Why an object could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("read {path} from the store that has it: {source}")]
    Read { path: StorePath, source: StoreError },
    /// Reason `CopyCorrupt`.
    #[error("read {path} from the store that has it: {problem}; the object was damaged or replaced")]
    Corrupt { path: StorePath, problem: String },
    #[error("write {path}: {source}")]
    Write { path: StorePath, source: StoreError },
    /// Reason `ChecksumMismatch`.
    #[error("write {path}: {problem}; it is not overwritten: find out who wrote it, and remove it by hand")]
    Obstructed { path: StorePath, problem: String },
    /// The manifest names what no store can hold.
    #[error(transparent)]
    Unnamed {
        #[from]
        source: crate::store::InvalidPath,
    },
    #[error("it was stopped before the object was whole")]
    Cancelled,
}

/// Brings objects out of one store into another, one at a time.
pub struct Transfer {
    from: Store,
    to: Store,
    /// Large enough that a piece can always be filled: all of the ranges that it is made of fit, and one more.
    pool: Pool,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}

/// What was read.
struct Digested {
    bytes: u64,
    sha256: Sha256,
}

impl Digested {
    fn is(&self, wanted: &Wanted) -> bool {
        (self.bytes, self.sha256) == (wanted.bytes, wanted.sha256)
    }

    fn against(&self, wanted: &Wanted) -> String {
        format!(
            "it has {} bytes with SHA-256 {}, expected {} with {}",
            self.bytes, self.sha256, wanted.bytes, wanted.sha256
        )
    }
}

impl Transfer {
    /// `memory_limit` is the container's, in bytes.
    pub fn new(from: Store, to: Store, memory_limit: Option<u64>, cancel: CancellationToken, counters: Arc<Counters>) -> Self {
        Self {
            from,
            to,
            pool: Pool::for_memory_limit(memory_limit, 1),
            cancel,
            counters,
        }
    }

    /// Makes sure that the object lies in the other store, and says what that confirmed.
    ///
    /// # Errors
    /// Nothing is left of an object that was not finished but, where it was stopped at its very end, an upload that is being aborted:
    /// [`Store::abort_open`] has it ended.
    pub async fn object(&self, wanted: &Wanted) -> Result<StoredObject, TransferError> {
        if let Some(there) = self.unless_cancelled(self.there(wanted)).await? {
            return Ok(there);
        }
        if wanted.key {
            return self.unless_cancelled(self.key(wanted)).await;
        }
        let mut reads = 1;
        loop {
            match self.stream(wanted).await {
                Err(TransferError::Corrupt { .. }) if reads < READS => reads += 1,
                other => return other,
            }
        }
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, TransferError>>) -> Result<T, TransferError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(TransferError::Cancelled),
            result = work => result,
        }
    }

    /// The object, if it lies there already. Its bytes are read and compared unless the store itself vouches for them.
    async fn there(&self, wanted: &Wanted) -> Result<Option<StoredObject>, TransferError> {
        let head = self.to.head(&wanted.path).await.map_err(|source| write_failed(wanted, source))?;
        let Some(ObjectMeta {
            size, checksum, version, ..
        }) = head
        else {
            return Ok(None);
        };
        let obstructed = |problem| TransferError::Obstructed {
            path: wanted.path.clone(),
            problem,
        };
        if size != wanted.bytes {
            return Err(obstructed(format!("{size} bytes lie there, expected {}", wanted.bytes)));
        }
        let told = checksum.filter(|checksum| *checksum == Checksum::Whole(wanted.sha256));
        if told.is_none() {
            let object = Object {
                path: wanted.path.clone(),
                bytes: size,
                version: version.clone(),
            };
            let found = self.digest(&self.to, object).await.map_err(|source| match source {
                StoreError::Cancelled => TransferError::Cancelled,
                source => write_failed(wanted, source),
            })?;
            if !found.is(wanted) {
                return Err(obstructed(format!("other bytes lie there: {}", found.against(wanted))));
            }
        }
        let stored = Stored {
            path: wanted.path.clone(),
            size,
            checksum: Checksum::Whole(wanted.sha256),
            confirmed: if told.is_some() { Confirmed::ByStore } else { Confirmed::ByReading },
            version,
        };
        Ok(Some(stored.to_document(wanted.sha256)))
    }

    async fn digest(&self, store: &Store, object: Object) -> Result<Digested, StoreError> {
        let budget = self.pool.admit_transfer().await;
        let mut chunks = Chunks::open(store, object, &budget, &self.cancel);
        let mut running = Running::default();
        while let Some((bytes, _room)) = chunks.next().await? {
            running.add(bytes).await;
        }
        Ok(running.finish())
    }

    /// A key is small: it is created as the documents beside it are.
    async fn key(&self, wanted: &Wanted) -> Result<StoredObject, TransferError> {
        let corrupt = |problem| TransferError::Corrupt {
            path: wanted.path.clone(),
            problem,
        };
        let mut reads = 0;
        let held = loop {
            reads += 1;
            let read = self
                .from
                .read_version(&wanted.path, wanted.version.as_deref(), MAX_SEALED_KEY_BYTES as u64);
            let held = read.await.map_err(|source| read_failed(wanted, source))?;
            let held = held.ok_or_else(|| corrupt("it is not there".to_owned()))?;
            let found = Digested {
                bytes: held.bytes.len() as u64,
                sha256: crate::store::digest::of(&held.bytes),
            };
            if found.is(wanted) {
                break held;
            }
            if reads == READS {
                return Err(corrupt(found.against(wanted)));
            }
        };
        match self
            .to
            .create(&wanted.path, held.bytes)
            .await
            .map_err(|source| write_failed(wanted, source))?
        {
            Created::Ours(held) => Ok(held.to_document()),
            Created::Theirs(held) => Err(TransferError::Obstructed {
                path: wanted.path.clone(),
                problem: format!("other bytes lie there, of SHA-256 {}", crate::store::digest::of(&held.bytes)),
            }),
        }
    }

    async fn stream(&self, wanted: &Wanted) -> Result<StoredObject, TransferError> {
        let budget = self.pool.admit_transfer().await;
        let object = Object {
            path: wanted.path.clone(),
            bytes: wanted.bytes,
            version: wanted.version.clone(),
        };
        let mut chunks = Chunks::open(&self.from, object, &budget, &self.cancel);
        let mut writer = self.to.write_part(wanted.path.clone());
        let sent = self.unless_cancelled(self.send(wanted, &mut chunks, &mut writer)).await;
        // Nobody waits for room that pieces hold which are not sent any more, nor for what is left of the budget.
        drop((chunks, budget));
        let problem = match sent {
            Ok(read) if read.is(wanted) => return self.finish(wanted, writer).await,
            Ok(read) => TransferError::Corrupt {
                path: wanted.path.clone(),
                problem: read.against(wanted),
            },
            Err(error) => error,
        };
        writer.abort().await;
        Err(problem)
    }

    /// Sends every byte, in pieces of one size.
    async fn send(&self, wanted: &Wanted, chunks: &mut Chunks, writer: &mut PartWriter) -> Result<Digested, TransferError> {
        let mut running = Running::default();
        let (mut piece, mut gathered) = (Vec::new(), 0);
        while let Some((bytes, room)) = chunks.next().await.map_err(|source| read_failed(wanted, source))? {
            let room = Arc::new(room);
            let read = bytes.iter().map(Bytes::len).sum::<usize>() as u64;
            self.counters.raw.fetch_add(read, Ordering::Relaxed);
            for mut bytes in running.add(bytes).await {
                while !bytes.is_empty() {
                    let take = bytes.split_to(bytes.len().min(PIECE - gathered));
                    gathered += take.len();
                    piece.push(Bytes::from_owner(Roomed {
                        bytes: take,
                        _room: Arc::clone(&room),
                    }));
                    if gathered == PIECE {
                        gathered = 0;
                        self.write(wanted, writer, std::mem::take(&mut piece)).await?;
                    }
                }
            }
        }
        if !piece.is_empty() {
            self.write(wanted, writer, piece).await?;
        }
        Ok(running.finish())
    }

    async fn write(&self, wanted: &Wanted, writer: &mut PartWriter, piece: Vec<Bytes>) -> Result<(), TransferError> {
        let bytes = piece.iter().map(Bytes::len).sum::<usize>() as u64;
        let written = writer.write(piece.into_iter().collect::<PutPayload>()).await;
        written.map_err(|source| write_failed(wanted, source))?;
        self.counters.stored.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the object, unless somebody else made it meanwhile: uploads cannot be told to create only.
    async fn finish(&self, wanted: &Wanted, writer: PartWriter) -> Result<StoredObject, TransferError> {
        let gone = || TransferError::Obstructed {
            path: wanted.path.clone(),
            problem: "it was there, and is gone".to_owned(),
        };
        let head = async { self.to.head(&wanted.path).await.map_err(|source| write_failed(wanted, source)) };
        match self.unless_cancelled(head).await {
            Ok(None) => {}
            taken => {
                writer.abort().await;
                taken?;
                return self.unless_cancelled(self.there(wanted)).await?.ok_or_else(gone);
            }
        }
        // Dropping it on the way drops the writer, which aborts the upload.
        let finished = self.unless_cancelled(async {
            match writer.finish().await {
                Ok(stored) => Ok(Some(stored.to_document(wanted.sha256))),
                // What lies there is not what was sent; it may be whole all the same, sent by another in other pieces.
                Err(StoreError::Mismatch { .. }) => self.there(wanted).await,
                Err(source) => Err(write_failed(wanted, source)),
            }
        });
        finished.await?.ok_or_else(gone)
    }
}

fn read_failed(wanted: &Wanted, source: StoreError) -> TransferError {
    let path = wanted.path.clone();
    match source {
        StoreError::Cancelled => TransferError::Cancelled,
        StoreError::NotFound { .. } => TransferError::Corrupt {
            path,
            problem: "it is not there".to_owned(),
        },
        StoreError::Mismatch { problem, .. } => TransferError::Corrupt { path, problem },
        source => TransferError::Read { path, source },
    }
}

fn write_failed(wanted: &Wanted, source: StoreError) -> TransferError {
    TransferError::Write {
        path: wanted.path.clone(),
        source,
    }
}

/// Bytes that keep their room in the budget until they were sent.
struct Roomed {
    bytes: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An object's bytes as they come. Dropping it ends the reading.
struct Chunks {
    receiver: mpsc::Receiver<Result<Chunk, StoreError>>,
    _guard: tokio_util::sync::DropGuard,
}

impl Chunks {
    fn open(store: &Store, object: Object, budget: &Budget, cancel: &CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let cancel = cancel.child_token();
        tokio::spawn(fetch(store.clone(), object, budget.clone(), cancel.clone(), sender));
        Self {
            receiver,
            _guard: cancel.drop_guard(),
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, StoreError> {
        self.receiver.recv().await.transpose()
    }
}

/// A digest that grows. Hashing megabytes takes milliseconds: not on a thread that serves connections.
#[derive(Default)]
struct Running {
    hasher: Hasher,
    bytes: u64,
}

impl Running {
    /// Takes the bytes in, and gives them back.
    async fn add(&mut self, bytes: Vec<Bytes>) -> Vec<Bytes> {
        self.bytes += bytes.iter().map(Bytes::len).sum::<usize>() as u64;
        let mut hasher = std::mem::take(&mut self.hasher);
        let work = tokio::task::spawn_blocking(move || {
            for bytes in &bytes {
                hasher.update(bytes);
            }
            (hasher, bytes)
        });
        match work.await {
            Ok((hasher, bytes)) => {
                self.hasher = hasher;
                bytes
            }
            // The runtime is shutting down: the digest will match nothing, and nothing will be made.
            Err(_) => Vec::new(),
        }
    }

    fn finish(self) -> Digested {
        Digested {
            bytes: self.bytes,
            sha256: self.hasher.finish(),
        }
    }
}

#[cfg(test)]
mod tests;
