//! The first stage: reads the engine's bytes, checks and hashes them, and cuts them into frames.

use std::{
    future::pending,
    io,
    sync::{Arc, atomic::Ordering},
};

use holdfast_crds::document::RawDigest;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{Semaphore, mpsc},
    task::{JoinHandle, spawn_blocking},
};

use super::{
    check::{Checked, StreamCheck},
    frame::{BORDER_FRAME, FRAME, PackedFrame, Packers, RawFrame, SLACK_SLABS},
    pool::{Budget, SLAB, Slab},
    write::{Counters, WriteError},
};

pub type PackTask = JoinHandle<io::Result<PackedFrame>>;

/// Reads, checks, hashes and cuts.
pub struct Reading<'a> {
    pub budget: Budget,
    pub frames: mpsc::Sender<PackTask>,
    pub packers: Packers,
    pub threads: Arc<Semaphore>,
    pub counters: &'a Counters,
}

impl Reading<'_> {
    pub async fn run(
        self,
        mut reader: impl AsyncRead + Unpin,
        mut check: Box<dyn StreamCheck>,
    ) -> Result<(RawDigest, Checked), WriteError> {
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
