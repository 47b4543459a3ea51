//! One object on its way to the store: a thread writes, a task sends its pieces.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use holdfast_crds::document::{self, ChecksumAlgorithm, ObjectPath, Sha256, StoredObject};
use object_store::PutPayload;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::pool::{Budget, Slab};
use crate::store::{Checksum, Confirmed, PartWriter, StoreError, Stored, digest::Hasher};

/// What was written, as the writer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub sha256: Sha256,
}

enum Message {
    Piece(Vec<Bytes>),
    End,
}

/// Takes an object's bytes in a thread that may wait: it waits while the store is slower.
pub struct ObjectWriter {
    sender: mpsc::Sender<Message>,
    pieces: Vec<Bytes>,
    filling: Option<Slab>,
    /// Bytes in `pieces`.
    gathered: usize,
    piece: usize,
    budget: Budget,
    sha256: Hasher,
    bytes: u64,
    runtime: Handle,
    counter: Arc<AtomicU64>,
}

/// The task behind an [`ObjectWriter`]: it ends with the confirmed object, or with the upload aborted.
pub struct Upload {
    writer: PartWriter,
    receiver: mpsc::Receiver<Message>,
    cancel: CancellationToken,
}

/// Begins an object. `counter` counts the bytes that are ready to be sent. To be called inside a runtime.
pub fn begin(
    writer: PartWriter,
    budget: Budget,
    piece: usize,
    counter: Arc<AtomicU64>,
    cancel: CancellationToken,
) -> (ObjectWriter, Upload) {
    // One piece may wait; more would only hold memory.
    let (sender, receiver) = mpsc::channel(1);
    let object = ObjectWriter {
        sender,
        pieces: Vec::new(),
        filling: None,
        gathered: 0,
        piece,
        budget,
        sha256: Hasher::new(),
        bytes: 0,
        runtime: Handle::current(),
        counter,
    };
    (object, Upload { writer, receiver, cancel })
}

impl ObjectWriter {
    fn send(&mut self, message: Message) -> io::Result<()> {
        self.sender.blocking_send(message).map_err(|_| ended())
    }

    fn shelve(&mut self) -> io::Result<()> {
        let Some(slab) = self.filling.take() else { return Ok(()) };
        self.gathered += slab.as_ref().len();
        self.pieces.push(slab.into_bytes());
        if self.gathered >= self.piece {
            self.gathered = 0;
            let pieces = std::mem::take(&mut self.pieces);
            self.send(Message::Piece(pieces))?;
        }
        Ok(())
    }

    /// Sends the rest. The object exists once its [`Upload`] says so.
    pub fn finish(mut self) -> io::Result<Written> {
        self.shelve()?;
        let rest = std::mem::take(&mut self.pieces);
        if !rest.is_empty() {
            self.send(Message::Piece(rest))?;
        }
        self.send(Message::End)?;
        Ok(Written {
            bytes: self.bytes,
            sha256: self.sha256.finish(),
        })
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let slab = if let Some(slab) = &mut self.filling {
            slab
        } else {
            let slab = self.runtime.block_on(self.budget.take()).map_err(|_| ended())?;
            self.filling.insert(slab)
        };
        let taken = slab.fill(bytes);
        let full = slab.is_full();
        self.sha256.update(&bytes[..taken]);
        self.bytes += taken as u64;
        self.counter.fetch_add(taken as u64, Ordering::Relaxed);
        if full {
            self.shelve()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload {
    /// Sends pieces until the writer finishes. If it is dropped unfinished, or the run is cancelled, the upload is aborted.
    pub async fn run(self) -> Result<Stored, StoreError> {
        let Self {
            mut writer,
            mut receiver,
            cancel,
        } = self;
        let error = loop {
            let message = tokio::select! {
                biased;
                () = cancel.cancelled() => break StoreError::Cancelled,
                message = receiver.recv() => message,
            };
            let sent = match message {
                Some(Message::Piece(pieces)) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => Err(StoreError::Cancelled),
                    sent = writer.write(pieces.into_iter().collect::<PutPayload>()) => sent,
                },
                // Dropping the future drops the writer, which aborts the upload.
                Some(Message::End) => {
                    return tokio::select! {
                        biased;
                        () = cancel.cancelled() => Err(StoreError::Cancelled),
                        stored = writer.finish() => stored,
                    };
                }
                None => Err(StoreError::Cancelled),
            };
            if let Err(error) = sent {
                break error;
            }
        };
        // Nobody waits for buffers of pieces that will not be sent.
        drop(receiver);
        writer.abort().await;
        Err(error)
    }
}

/// The writer's side of a broken channel: the reason is in what [`Upload::run`] returned.
fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended")
}

/// Whether an error only says that the upload has ended.
pub fn is_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// A store's checksum in base64, as S3 shows it: of a multipart object with the number of pieces.
pub fn shown(checksum: Checksum) -> String {
    match checksum {
        Checksum::Whole(digest) => BASE64_STANDARD.encode(digest.0),
        Checksum::OfPieces { digest, pieces } => format!("{}-{pieces}", BASE64_STANDARD.encode(digest.0)),
    }
}

/// What the outcome says about an object.
pub fn stored_object(path: &ObjectPath, written: Written, stored: &Stored) -> StoredObject {
    let algorithm = match stored.checksum {
        Checksum::Whole(_) => ChecksumAlgorithm::Sha256,
        Checksum::OfPieces { .. } => ChecksumAlgorithm::Sha256Composite,
    };
    let confirmed = match stored.confirmed {
        Confirmed::ByReading => document::Confirmed::ReadBack {},
        Confirmed::ByStore => document::Confirmed::Checksum {
            algorithm,
            value: shown(stored.checksum),
        },
    };
    StoredObject {
        path: path.to_string(),
        bytes: written.bytes,
        sha256: written.sha256,
        confirmed,
        version_id: stored.version.clone(),
    }
}
