//! The blocks behind the TOC.

use super::ArchiveError;
use super::primitive::Number;
use super::toc_reader::malformed;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Rows of a table.
    TableData,
    /// Large objects.
    LargeObjects,
}

impl BlockKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::TableData),
            3 => Some(Self::LargeObjects),
            _ => None,
        }
    }
}

/// A block that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The entry of the TOC whose data it holds.
    pub dump_id: i64,
    /// What it holds.
    pub kind: BlockKind,
    /// Raw offset of its first byte.
    pub offset: u64,
    /// Length in bytes, all framing included.
    pub length: u64,
    /// Bytes of data in it, without framing.
    pub data: u64,
    /// Rows of the table or number of large objects; `None` for the rows of a compressed block.
    pub count: Option<u64>,
}

/// What every COPY in an archive ends with: the end-of-data line and two empty ones.
const COPY_END: &[u8; 5] = b"\\.\n\n\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Id,
    ChunkLength,
    Chunk { left: u64 },
    ObjectOid,
    ObjectChunkLength,
    ObjectChunk { left: u64 },
}

/// Reads one block behind its type byte.
#[derive(Debug)]
pub(super) struct BlockReader {
    block: Block,
    state: State,
    number: Number,
    int_size: usize,
    counts_rows: bool,
    newlines: u64,
    /// The last eight bytes of the data, the newest in the lowest byte.
    tail: u64,
}

impl BlockReader {
    /// Begins a block at `offset` with its type byte. `counts_rows` is false where the data is compressed.
    pub(super) fn new(byte: u8, offset: u64, int_size: u8, counts_rows: bool) -> Result<Self, ArchiveError> {
        let kind = BlockKind::from_byte(byte)
            .ok_or_else(|| malformed(offset, &format!("a block of type {byte}, 1 (rows) and 3 (large objects) are known")))?;
        Ok(Self {
            block: Block {
                dump_id: 0,
                kind,
                offset,
                length: 0,
                data: 0,
                count: None,
            },
            state: State::Id,
            number: Number::default(),
            int_size: int_size.into(),
            counts_rows,
            newlines: 0,
            tail: 0,
        })
    }

    /// The entry whose data it is, once that is known.
    pub(super) fn dump_id(&self) -> Option<i64> {
        (self.state != State::Id).then_some(self.block.dump_id)
    }

    pub(super) fn kind(&self) -> BlockKind {
        self.block.kind
    }

    /// Reads on; the block once it is whole. `offset` is the raw offset of the first byte of `input`.
    pub(super) fn feed(&mut self, input: &mut &[u8], offset: u64) -> Result<Option<Block>, ArchiveError> {
        let given = input.len() as u64;
        while !input.is_empty() {
            let at = offset + given - input.len() as u64;
            match self.state {
                State::Chunk { left } => {
                    let data = take(input, left);
                    self.block.data += data.len() as u64;
                    if self.counts_rows {
                        self.newlines += memchr::memchr_iter(b'\n', data).count() as u64;
                        self.remember_tail(data);
                    }
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::ChunkLength } else { State::Chunk { left } };
                }
                State::ObjectChunk { left } => {
                    let data = take(input, left);
                    self.block.data += data.len() as u64;
                    let left = left - data.len() as u64;
                    self.state = if left == 0 {
                        State::ObjectChunkLength
                    } else {
                        State::ObjectChunk { left }
                    };
                }
                state => {
                    let Some(value) = self.number.take(input, self.int_size) else {
                        break;
                    };
                    let end = offset + given - input.len() as u64;
                    self.state = match state {
                        State::Id => {
                            self.block.dump_id = value;
                            match self.block.kind {
                                BlockKind::TableData => State::ChunkLength,
                                BlockKind::LargeObjects => {
                                    self.block.count = Some(0);
                                    State::ObjectOid
                                }
                            }
                        }
                        State::ChunkLength if value == 0 => {
                            self.end_of_rows(at)?;
                            return Ok(Some(self.whole(end)));
                        }
                        State::ChunkLength => State::Chunk {
                            left: chunk_length(value, at)?,
                        },
                        State::ObjectOid if value == 0 => return Ok(Some(self.whole(end))),
                        // An oid is unsigned and was written as a signed number: any other value is one.
                        State::ObjectOid => {
                            self.block.count = self.block.count.map(|count| count + 1);
                            State::ObjectChunkLength
                        }
                        State::ObjectChunkLength if value == 0 => State::ObjectOid,
                        _ => State::ObjectChunk {
                            left: chunk_length(value, at)?,
                        },
                    };
                }
            }
        }
        Ok(None)
    }

    fn whole(&self, end: u64) -> Block {
        Block {
            length: end - self.block.offset,
            ..self.block
        }
    }

    fn remember_tail(&mut self, data: &[u8]) {
        if let Some(last) = data.last_chunk::<8>() {
            self.tail = u64::from_be_bytes(*last);
        } else {
            self.tail = data.iter().fold(self.tail, |tail, byte| tail << 8 | u64::from(*byte));
        }
    }

    /// Holds the end of a table's rows against what `pg_dump` writes there, and counts them: a line is a row, for COPY escapes newlines.
    fn end_of_rows(&mut self, at: u64) -> Result<(), ArchiveError> {
        if !self.counts_rows {
            return Ok(());
        }
        let tail = self.tail.to_be_bytes();
        let ends_well = tail[3..] == COPY_END[..] && (self.block.data == COPY_END.len() as u64 || tail[2] == b'\n');
        if !ends_well {
            return Err(malformed(
                at,
                &format!("the rows of entry {} do not end with COPY's end-of-data line", self.block.dump_id),
            ));
        }
        self.block.count = Some(self.newlines - 3);
        Ok(())
    }
}

fn take<'a>(input: &mut &'a [u8], left: u64) -> &'a [u8] {
    let n = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    let (data, rest) = input.split_at(n);
    *input = rest;
    data
}

fn chunk_length(value: i64, at: u64) -> Result<u64, ArchiveError> {
    u64::try_from(value).map_err(|_| malformed(at, &format!("a chunk of {value} bytes")))
}
