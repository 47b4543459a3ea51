//! Decrypts parts, checks their frames, decompresses them, and hands out raw bytes in order.

use std::{
    io::{self, Read, Seek, SeekFrom},
    iter,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use age::{DecryptError, Decryptor, stream::StreamReader};
use bytes::Bytes;
use holdfast_crds::document::{Blake3, IndexFrame, Part, RawDigest, Stream};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    fetch::{Fetched, Sought},
    frame::{Unpackers, slabs_for},
    key::RunKey,
    open::{CopyReader, OpenError, failed, finish_object, joined},
    pool::{Budget, Slab},
    write::Counters,
};

pub type FrameTask = JoinHandle<Result<Vec<Slab>, OpenError>>;

/// Decrypts parts and cuts them into frames, in one thread.
pub struct Opener {
    pub key: Option<Arc<RunKey>>,
    pub stream: Stream,
    pub raw: Budget,
    pub unpackers: Unpackers,
    pub out: mpsc::Sender<FrameTask>,
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
    pub fn whole(self, index: &[IndexFrame], mut parts: mpsc::Receiver<(Part, Fetched)>) -> Result<(), OpenError> {
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

    pub fn range(self, frames: &[IndexFrame], reader: &CopyReader) -> Result<(), OpenError> {
        for own in frames.chunk_by(|one, other| one.part == other.part) {
            let part = usize::try_from(own[0].part)
                .ok()
                .and_then(|number| self.stream.parts.get(number.checked_sub(1)?));
            let part = part.ok_or_else(|| OpenError::Corrupt {
                object: self.stream.index.object.clone(),
                problem: "it names a part that is not there".to_owned(),
            })?;
            let source = reader.seek(&part.object, part.bytes)?;
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
pub struct Delivery {
    pub tasks: mpsc::Receiver<FrameTask>,
    pub out: mpsc::Sender<Bytes>,
    /// Which of the bytes are wanted, counted from the first frame's beginning.
    pub wanted: Range<u64>,
    /// What the whole must be, where it is the whole stream.
    pub expected: Option<RawDigest>,
    pub object: String,
    pub counters: Arc<Counters>,
}

impl Delivery {
    pub async fn run(mut self) -> Result<(), OpenError> {
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
pub enum Plain<R> {
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

pub fn decrypt<R: Read>(object: &str, stream: &Stream, key: Option<&RunKey>, reader: R) -> Result<Plain<R>, OpenError> {
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
