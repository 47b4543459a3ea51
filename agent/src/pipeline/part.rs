//! The second stage: encrypts frames in order, and cuts the stream into parts on their way to the store.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::AtomicU64},
};

use holdfast_crds::document::{self, IndexFrame, ObjectPath, Part, StreamPath};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    frame::PackedFrame,
    pool::Budget,
    read::PackTask,
    seal::{SealWriter, Sealing},
    upload::{self, ObjectWriter, Written},
    write::{WriteError, fault, store_failed},
};
use crate::store::{Store, StoreError, StorePath, Stored};

/// What is needed to begin an object.
pub struct Objects {
    pub store: Store,
    pub sealing: Sealing,
    pub budget: Budget,
    pub piece: usize,
    pub counter: Arc<AtomicU64>,
    pub cancel: CancellationToken,
    pub tracker: TaskTracker,
}

pub type UploadTask = JoinHandle<Result<Stored, StoreError>>;

impl Objects {
    pub fn begin(&self, path: &ObjectPath) -> Result<(ObjectWriter, UploadTask), WriteError> {
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

pub enum SealError {
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
pub struct Sealer {
    pub objects: Objects,
    pub place: StreamPath,
    pub part_bytes: fn(u32) -> u64,
    pub open_parts: Arc<Semaphore>,
    pub begun: mpsc::UnboundedSender<(ObjectPath, UploadTask)>,
    pub open: Option<(SealWriter<ObjectWriter>, PartDraft)>,
    pub parts: Vec<PartDraft>,
    pub frames: Vec<IndexFrame>,
}

/// A part whose bytes are counted while it grows.
pub struct PartDraft {
    pub number: u32,
    pub path: ObjectPath,
    pub decrypted: u64,
    pub raw: u64,
    pub frames: u64,
    pub written: Written,
}

impl PartDraft {
    pub fn into_part(self) -> Part {
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
    pub fn run(mut self, mut packed: mpsc::Receiver<PackTask>) -> Result<(Vec<PartDraft>, Vec<IndexFrame>), SealError> {
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
