//! zstd frames: the raw stream is cut into frames of at most 4 MiB that are compressed by several threads and still follow each other as one
//! plain zstd stream.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use holdfast_crds::document::Blake3;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::pool::{SLAB, Slab};

/// The largest frame, in raw bytes.
pub const FRAME: usize = 4 << 20;
/// From this size on, in raw bytes, a frame ends where an entry of the archive ends.
pub const BORDER_FRAME: usize = 1 << 20;
/// The buffers that a frame needs from its first byte until it is sealed: compressing gives each buffer back before it needs the next, but for two.
pub const FRAME_SLABS: usize = FRAME / SLAB + SLACK_SLABS;
/// What output can be ahead of emptied input: the buffer that is being read, and the frame's own overhead.
pub const SLACK_SLABS: usize = 2;
/// Level 1: 3 is no smaller here and takes 1.8 times the CPU.
const LEVEL: i32 = 1;
/// The largest window of a frame that is read, as a power of two: a frame needs no more than its own length.
const WINDOW_LOG: u32 = 23;

/// Raw bytes of one frame.
pub struct RawFrame {
    /// All full but the last.
    pub slabs: Vec<Slab>,
    /// [`SLACK_SLABS`] empty buffers.
    pub slack: Vec<Slab>,
    pub raw: usize,
}

/// One compressed frame.
pub struct PackedFrame {
    pub slabs: Vec<Slab>,
    pub raw: u32,
    pub stored: u32,
    /// Of the compressed bytes.
    pub blake3: Blake3,
}

/// The compressors of all streams: kept, since making one costs as much as a small frame.
#[derive(Clone, Default)]
pub struct Packers(Arc<Mutex<Vec<Encoder<'static>>>>);

impl Packers {
    /// Compresses a frame in this thread.
    pub fn pack(&self, frame: RawFrame) -> io::Result<PackedFrame> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = if let Some(encoder) = kept {
            encoder
        } else {
            let mut encoder = Encoder::new(LEVEL)?;
            encoder.set_parameter(CParameter::ChecksumFlag(true))?;
            encoder
        };
        let packed = pack(&mut encoder, frame)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        Ok(packed)
    }
}

fn pack(encoder: &mut Encoder<'static>, frame: RawFrame) -> io::Result<PackedFrame> {
    encoder.reinit()?;
    encoder.set_pledged_src_size(Some(frame.raw as u64))?;
    let RawFrame {
        slabs,
        slack: mut empty,
        raw,
    } = frame;
    let mut hasher = blake3::Hasher::new();
    let mut packed = Vec::new();
    let mut output = take_empty(&mut empty)?;
    let mut stored = 0usize;
    // Closing over the three would borrow them for too long.
    macro_rules! next_output {
        () => {{
            hasher.update(output.as_ref());
            stored += output.as_ref().len();
            packed.push(std::mem::replace(&mut output, take_empty(&mut empty)?));
        }};
    }
    for mut input in slabs {
        let mut position = 0;
        while position < input.as_ref().len() {
            let mut source = InBuffer::around(&input.as_ref()[position..]);
            let mut target = OutBuffer::around(output.spare());
            encoder.run(&mut source, &mut target)?;
            let written = target.pos();
            position += source.pos();
            output.advance(written);
            if output.is_full() {
                next_output!();
            }
        }
        input.truncate(0);
        empty.push(input);
    }
    loop {
        let mut target = OutBuffer::around(output.spare());
        let remaining = encoder.finish(&mut target, true)?;
        let written = target.pos();
        output.advance(written);
        if remaining == 0 {
            break;
        }
        next_output!();
    }
    hasher.update(output.as_ref());
    stored += output.as_ref().len();
    packed.push(output);
    let (raw, stored) = (length(raw)?, length(stored)?);
    Ok(PackedFrame {
        slabs: packed,
        raw,
        stored,
        blake3: hasher.finalize().into(),
    })
}

fn take_empty(empty: &mut Vec<Slab>) -> io::Result<Slab> {
    empty
        .pop()
        .ok_or_else(|| io::Error::other("compressed bytes outgrew the frame's buffers"))
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::Error::other("a frame is longer than 4 GiB"))
}

/// The decoders of all streams.
#[derive(Clone, Default)]
pub struct Unpackers(Arc<Mutex<Vec<Decoder<'static>>>>);

impl Unpackers {
    /// Decompresses one whole frame, whose digest was checked before, into `empty` buffers. Fails unless it has exactly `raw` bytes.
    pub fn unpack(&self, frame: &[u8], raw: u32, empty: Vec<Slab>) -> io::Result<Vec<Slab>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = if let Some(decoder) = kept {
            decoder
        } else {
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
            decoder
        };
        let slabs = unpack(&mut decoder, frame, raw, empty)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        Ok(slabs)
    }
}

fn unpack(decoder: &mut Decoder<'static>, frame: &[u8], raw: u32, empty: Vec<Slab>) -> io::Result<Vec<Slab>> {
    let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    decoder.reinit()?;
    let mut source = InBuffer::around(frame);
    let mut total = 0u64;
    let mut slabs = Vec::with_capacity(empty.len());
    let mut finished = false;
    for mut slab in empty {
        while !finished && !slab.is_full() {
            let before = source.pos();
            let mut target = OutBuffer::around(slab.spare());
            finished = decoder.run(&mut source, &mut target)? == 0;
            let written = target.pos();
            slab.advance(written);
            total += written as u64;
            if written == 0 && source.pos() == before && !finished {
                return Err(invalid(format!("the frame ends after {total} bytes, expected {raw}")));
            }
        }
        if !slab.as_ref().is_empty() {
            slabs.push(slab);
        }
        if finished {
            break;
        }
    }
    if !finished || source.pos() != frame.len() || total != u64::from(raw) {
        return Err(invalid(format!(
            "the frame has {total} bytes or more, expected {raw} bytes in one frame"
        )));
    }
    Ok(slabs)
}

/// The buffers that `raw` bytes need, with one to see that there is no more.
pub fn slabs_for(raw: u32) -> usize {
    raw as usize / SLAB + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::pool::Pool, *};

    fn raw_frame(runtime: &tokio::runtime::Runtime, budget: &super::super::pool::Budget, bytes: &[u8]) -> RawFrame {
        let take = || runtime.block_on(budget.take()).unwrap();
        let slack = vec![take(), take()];
        let slabs = bytes
            .chunks(SLAB)
            .map(|chunk| {
                let mut slab = take();
                slab.fill(chunk);
                slab
            })
            .collect();
        RawFrame {
            slabs,
            slack,
            raw: bytes.len(),
        }
    }

    fn concatenated(slabs: &[Slab]) -> Vec<u8> {
        slabs.iter().flat_map(|slab| slab.as_ref().to_vec()).collect()
    }

    /// Bytes between all zeros and pure noise.
    fn stream(length: usize, noise: u8, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [_, _, decides, _, byte, ..] = state.to_be_bytes();
                if decides <= noise { byte } else { b'x' }
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_frame_fits_its_buffers_and_comes_back(length in 0usize..=FRAME, noise: u8, seed: u64) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let share = runtime.block_on(Pool::new(0, 1).admit());
            prop_assert_eq!(share.raw.slabs(), FRAME_SLABS);
            let raw = stream(length, noise, seed);
            let packed = Packers::default().pack(raw_frame(&runtime, &share.raw, &raw)).unwrap();
            let bytes = concatenated(&packed.slabs);
            prop_assert_eq!(packed.stored as usize, bytes.len());
            prop_assert_eq!(packed.blake3, Blake3::of(&bytes));
            prop_assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), raw.clone());
            drop(packed);
            let empty = (0..slabs_for(u32::try_from(length).unwrap())).map(|_| runtime.block_on(share.raw.take()).unwrap()).collect();
            let unpacked = Unpackers::default().unpack(&bytes, u32::try_from(length).unwrap(), empty).unwrap();
            prop_assert_eq!(concatenated(&unpacked), raw);
        }
    }

    #[test]
    fn a_frame_that_is_not_what_the_index_says_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let share = runtime.block_on(Pool::new(0, 1).admit());
        let raw = stream(1 << 20, 128, 7);
        let whole = zstd::encode_all(&raw[..], 1).unwrap();
        let two = [whole.clone(), whole.clone()].concat();
        let unpackers = Unpackers::default();
        for (bytes, length) in [
            (&whole[..whole.len() - 1], 1 << 20),
            (&whole[..], (1 << 20) - 1),
            (&whole[..], (1 << 20) + 1),
            (&two[..], 1 << 20),
            (&[], 5),
        ] {
            let empty = (0..slabs_for(length))
                .map(|_| runtime.block_on(share.raw.take()).unwrap())
                .collect();
            let result = unpackers.unpack(bytes, length, empty);
            assert!(result.is_err(), "{} bytes as {length} were accepted", bytes.len());
        }
    }

    #[test]
    fn the_largest_noise_fits() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let share = runtime.block_on(Pool::new(0, 1).admit());
        let raw = stream(FRAME, 255, 3);
        let packed = Packers::default().pack(raw_frame(&runtime, &share.raw, &raw)).unwrap();
        assert!(packed.stored as usize > FRAME, "noise was compressed");
    }
}
