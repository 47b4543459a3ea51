//! Parts: sent in pieces, several at once, and confirmed by the store.

use super::{
    Store,
    backend::{Checksum, Content, ObjectMeta, Piece, PieceReceipt},
    digest::{self, Hasher, Sha256},
    error::StoreError,
    path::StorePath,
};
use futures::TryStreamExt;
use holdfast_crds::document::{self, ChecksumAlgorithm, StoredObject};
use object_store::PutPayload;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The most pieces that a part may have (S3's limit).
pub const MAX_PIECES: u32 = 10_000;

/// How an object's content was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The store showed the checksum that we computed.
    ByStore,
    /// The store keeps no checksum; we read all bytes back and compared.
    ByReading,
}

/// An object that lies in the store, confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub path: StorePath,
    /// Size in bytes.
    pub size: u64,
    /// The checksum that we computed.
    pub checksum: Checksum,
    /// How it was confirmed.
    pub confirmed: Confirmed,
    /// The version, where the store has versions.
    pub version: Option<String>,
}

impl Stored {
    /// As the outcome lists it. `sha256` is that of the whole object, computed while it was written.
    pub fn to_document(&self, sha256: Sha256) -> StoredObject {
        let checksum = |algorithm, value| document::Confirmed::Checksum { algorithm, value };
        let confirmed = match (self.confirmed, self.checksum) {
            (Confirmed::ByReading, _) => document::Confirmed::ReadBack {},
            (Confirmed::ByStore, Checksum::Whole(sha256)) => checksum(ChecksumAlgorithm::Sha256, digest::to_base64(&sha256)),
            (Confirmed::ByStore, Checksum::OfPieces { digest, pieces }) => checksum(
                ChecksumAlgorithm::Sha256Composite,
                format!("{}-{pieces}", digest::to_base64(&digest)),
            ),
        };
        StoredObject {
            path: self.path.to_string(),
            bytes: self.size,
            sha256,
            confirmed,
            version_id: self.version.clone(),
        }
    }
}

/// A part that is being written. Dropping it abandons the part: its upload is aborted.
///
/// A part that is smaller than a piece is created with a single put; a larger one is a multipart upload.
pub struct PartWriter {
    store: Store,
    path: StorePath,
    /// A first piece that is too small to be followed by another: the whole part. A larger one is sent at once, so that nobody's memory waits for a second.
    only: Option<Piece>,
    upload: Option<Arc<str>>,
    tasks: JoinSet<Result<PieceReceipt, StoreError>>,
    receipts: Vec<PieceReceipt>,
    count: u32,
    size: u64,
    /// The last piece that was taken was smaller than the store allows before the end.
    short: bool,
}

impl PartWriter {
    pub(super) fn new(store: Store, path: StorePath) -> Self {
        Self {
            store,
            path,
            only: None,
            upload: None,
            tasks: JoinSet::new(),
            receipts: Vec::new(),
            count: 0,
            size: 0,
            short: false,
        }
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next piece: at least [`Store::min_piece`] bytes unless it is the last. Returns as soon as its sending could begin, which is when fewer
    /// than the store's number of pieces are under way. After an error the part is lost: drop it.
    pub async fn write(&mut self, body: impl Into<PutPayload>) -> Result<(), StoreError> {
        let body: PutPayload = body.into();
        let length = body.content_length() as u64;
        if length == 0 {
            return Ok(());
        }
        if self.short {
            let problem = format!("a piece before the last was smaller than {} bytes", self.store.min_piece());
            return Err(StoreError::Unsupported {
                call: "write part",
                problem,
            });
        }
        if self.count == MAX_PIECES {
            return Err(StoreError::Unsupported {
                call: "write part",
                problem: format!("a part has at most {MAX_PIECES} pieces"),
            });
        }
        self.short = length < self.store.min_piece();
        self.count += 1;
        let (sha256, body) = hashed(body).await;
        let piece = Piece {
            number: self.count,
            offset: self.size,
            body,
            sha256,
        };
        self.size += length;
        if self.count == 1 && self.short {
            self.only = Some(piece);
            return Ok(());
        }
        let upload = self.start().await?;
        self.send(&upload, piece).await
    }

    /// Sends what is left, makes the object, and has the store confirm its size and checksum.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if the store holds something else.
    pub async fn finish(mut self) -> Result<Stored, StoreError> {
        let Some(upload) = self.upload.clone() else {
            let (sha256, body) = match self.only.take() {
                Some(piece) => (piece.sha256, piece.body),
                None => (digest::of(b""), PutPayload::default()),
            };
            return self.store.put_whole(self.path.clone(), body, sha256).await;
        };
        while let Some(joined) = self.tasks.join_next().await {
            self.receipts.push(sent(joined)?);
        }
        self.receipts.sort_unstable_by_key(|receipt| receipt.number);
        let stored = self.store.finish_upload(&self.path, &upload, &self.receipts).await?;
        self.store.uploads().remove(&*upload);
        self.upload = None;
        Ok(stored)
    }

    /// Abandons the part, and waits until the store has forgotten its pieces. False if that could not be reached.
    pub async fn abort(mut self) -> bool {
        self.tasks.shutdown().await;
        match self.upload.take() {
            Some(upload) => self.store.abort(self.path.as_str(), &upload).await,
            None => true,
        }
    }

    async fn start(&mut self) -> Result<Arc<str>, StoreError> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        let id = self
            .store
            .repeat("start upload", |backend| backend.start_upload(self.path.as_str()))
            .await?;
        self.store.uploads().insert(id.clone(), self.path.to_string());
        let upload: Arc<str> = id.into();
        self.upload = Some(upload.clone());
        Ok(upload)
    }

    async fn send(&mut self, upload: &Arc<str>, piece: Piece) -> Result<(), StoreError> {
        // Errors of pieces before come out here, not only at the end.
        while let Some(joined) = self.tasks.try_join_next() {
            self.receipts.push(sent(joined)?);
        }
        let permit = loop {
            tokio::select! {
                permit = self.store.0.in_flight.clone().acquire_owned() => break permit.map_err(|_| StoreError::Cancelled)?,
                Some(joined) = self.tasks.join_next() => self.receipts.push(sent(joined)?),
            }
        };
        let (store, path, upload) = (self.store.clone(), self.path.clone(), upload.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            let mut attempts = store.attempts("put piece");
            loop {
                match store.0.backend.put_piece(path.as_str(), &upload, &piece).await {
                    Ok(receipt) => return Ok(receipt),
                    // Sending it again would meet the same answer.
                    Err(error @ StoreError::UploadLost { .. }) => return Err(error),
                    Err(error) => attempts.again(error).await?,
                }
            }
        });
        Ok(())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        self.tasks.abort_all();
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            let (store, path) = (self.store.clone(), self.path.clone());
            let mut tasks = std::mem::take(&mut self.tasks);
            runtime.spawn(async move {
                tasks.shutdown().await;
                store.abort(path.as_str(), &upload).await;
            });
        }
    }
}

fn sent(joined: Result<Result<PieceReceipt, StoreError>, tokio::task::JoinError>) -> Result<PieceReceipt, StoreError> {
    joined.map_err(|_| StoreError::Cancelled)?
}

/// Hashing megabytes takes milliseconds: not on a thread that serves connections.
async fn hashed(body: PutPayload) -> (Sha256, PutPayload) {
    let clone = body.clone();
    match tokio::task::spawn_blocking(move || digest::of_payload(&clone)).await {
        Ok(sha256) => (sha256, body),
        // The runtime is shutting down; the digest is still due.
        Err(_) => (digest::of_payload(&body), body),
    }
}

/// What was written, to compare with what the store holds.
struct Expected {
    size: u64,
    checksum: Checksum,
    /// Size and digest of each piece, in order.
    pieces: Vec<(u64, Sha256)>,
}

impl Store {
    /// Creates a part with one put.
    async fn put_whole(&self, path: StorePath, body: PutPayload, sha256: Sha256) -> Result<Stored, StoreError> {
        let size = body.content_length() as u64;
        let expected = Expected {
            size,
            checksum: Checksum::Whole(sha256),
            pieces: vec![(size, sha256)],
        };
        let mut attempts = self.attempts("create part");
        loop {
            match self.0.backend.create(path.as_str(), Content::Part, &body, &sha256).await {
                // Nobody else writes here: what exists is our own earlier attempt, or `confirm` finds that it is not.
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => return self.confirm(&path, &expected).await,
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Makes the object out of all pieces, and has the store confirm it.
    pub(super) async fn finish_upload(&self, path: &StorePath, upload: &str, receipts: &[PieceReceipt]) -> Result<Stored, StoreError> {
        let digest = digest::of_pieces(receipts.iter().map(|receipt| receipt.sha256));
        let expected = Expected {
            size: receipts.iter().map(|receipt| receipt.size).sum(),
            // At most `MAX_PIECES`.
            checksum: Checksum::OfPieces {
                digest,
                pieces: u32::try_from(receipts.len()).unwrap_or(u32::MAX),
            },
            pieces: receipts.iter().map(|receipt| (receipt.size, receipt.sha256)).collect(),
        };
        self.complete(path, upload, receipts).await?;
        self.confirm(path, &expected).await
    }

    async fn complete(&self, path: &StorePath, upload: &str, receipts: &[PieceReceipt]) -> Result<(), StoreError> {
        let mut attempts = self.attempts("complete upload");
        // The answer to a complete that succeeded may have been lost.
        let mut ambiguous = false;
        loop {
            let error = match self.0.backend.complete_upload(path.as_str(), upload, receipts).await {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => return Ok(()),
                Err(error) => error,
            };
            let lost = matches!(error, StoreError::UploadLost { .. });
            if lost && ambiguous && self.head(path).await?.is_some() {
                return Ok(());
            }
            if lost {
                return Err(error);
            }
            ambiguous |= error.is_ambiguous();
            attempts.again(error).await?;
        }
    }

    /// Compares what the store holds with what was written.
    async fn confirm(&self, path: &StorePath, expected: &Expected) -> Result<Stored, StoreError> {
        let mismatch = |problem| StoreError::Mismatch {
            path: path.to_string(),
            problem,
        };
        let mut attempts = self.attempts("confirm");
        let meta: ObjectMeta = loop {
            match self.head(path).await? {
                Some(meta) => break meta,
                None => {
                    attempts
                        .again(StoreError::Malformed {
                            call: "confirm",
                            problem: format!("{path} was written and is not there"),
                        })
                        .await?;
                }
            }
        };
        if meta.size != expected.size {
            return Err(mismatch(format!("{} bytes were written, it has {}", expected.size, meta.size)));
        }
        let confirmed = match (meta.checksum, expected.checksum) {
            (Some(found), wanted) if found == wanted => Confirmed::ByStore,
            (Some(found @ Checksum::Whole(_)), wanted @ Checksum::Whole(_))
            | (Some(found @ Checksum::OfPieces { .. }), wanted @ Checksum::OfPieces { .. }) => {
                return Err(mismatch(format!("checksum {wanted:?} was written, it has {found:?}")));
            }
            _ => {
                self.compare(path, meta.version.as_deref(), expected).await?;
                Confirmed::ByReading
            }
        };
        Ok(Stored {
            path: path.clone(),
            size: meta.size,
            checksum: expected.checksum,
            confirmed,
            version: meta.version,
        })
    }

    /// Reads an object back and compares it piece by piece.
    async fn compare(&self, path: &StorePath, version: Option<&str>, expected: &Expected) -> Result<(), StoreError> {
        if expected.size == 0 {
            return Ok(());
        }
        let (_, mut body) = self.open(path, None, version).await?;
        let mut chunk = bytes::Bytes::new();
        for (number, (size, sha256)) in (1..).zip(&expected.pieces) {
            let (mut hasher, mut left) = (Hasher::new(), *size);
            while left > 0 {
                if chunk.is_empty() {
                    chunk = body.try_next().await?.unwrap_or_default();
                    if chunk.is_empty() {
                        return Err(StoreError::Mismatch {
                            path: path.to_string(),
                            problem: format!("it ends in piece {number}"),
                        });
                    }
                }
                let take = chunk.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len()));
                hasher.update(&take);
                left -= take.len() as u64;
            }
            if hasher.finish() != *sha256 {
                return Err(StoreError::Mismatch {
                    path: path.to_string(),
                    problem: format!("piece {number} reads back otherwise than it was written"),
                });
            }
        }
        Ok(())
    }
}
