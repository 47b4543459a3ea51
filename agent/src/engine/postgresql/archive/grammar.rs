//! The whole stream: header and TOC, then blocks to the end.

use std::collections::HashMap;

use super::block::{Block, BlockKind, BlockReader};
use super::toc::{Compression, Keep, Toc, Version};
use super::toc_reader::{Progress, TocReader, malformed};
use super::{ArchiveError, Entry};

/// What a stream was, once it has ended well.
#[derive(Debug, PartialEq, Eq)]
pub enum Summary {
    /// A complete archive.
    Archive(Box<Toc>),
    /// An archive of a version whose grammar is not known: its bytes were counted, nothing else was checked.
    Opaque(Version),
}

/// What the reader tells about while it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An entry begins at this raw offset: header and TOC end here, or a block.
    Border(u64),
    /// A block was read to its end.
    Block(&'a Block, &'a Entry),
}

#[derive(Debug)]
enum State {
    Toc(Box<TocReader>),
    Border,
    Block(BlockReader),
    Opaque(Version),
}

/// Reads an archive from pieces that may end anywhere. Memory depends on the number of entries with data, not on the data.
#[derive(Debug)]
pub struct Reader {
    state: State,
    offset: u64,
    toc: Option<Box<Toc>>,
    /// Entry with data → index in the TOC and whether its block was seen.
    expected: HashMap<i64, (usize, bool)>,
}

impl Reader {
    /// A reader that keeps what `keep` says.
    pub fn new(keep: Keep) -> Self {
        Self {
            state: State::Toc(Box::new(TocReader::new(keep))),
            offset: 0,
            toc: None,
            expected: HashMap::new(),
        }
    }

    /// Header and TOC, once they were read.
    pub fn toc(&self) -> Option<&Toc> {
        self.toc.as_deref()
    }

    /// The version, if it is one whose grammar is not known.
    pub fn unknown_version(&self) -> Option<Version> {
        match self.state {
            State::Opaque(version) => Some(version),
            _ => None,
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next piece of the stream.
    pub fn feed(&mut self, chunk: &[u8], mut tell: impl FnMut(Event<'_>)) -> Result<(), ArchiveError> {
        let mut input = chunk;
        while !input.is_empty() {
            let before = input.len();
            match &mut self.state {
                State::Opaque(_) => {
                    self.offset += input.len() as u64;
                    return Ok(());
                }
                State::Toc(reader) => {
                    let progress = reader.feed(&mut input, self.offset)?;
                    self.offset += (before - input.len()) as u64;
                    match progress {
                        Progress::More => {}
                        Progress::Unknown(version) => self.state = State::Opaque(version),
                        Progress::Done(mut toc) => {
                            toc.length = self.offset;
                            self.expect_blocks(&toc)?;
                            self.toc = Some(toc);
                            self.state = State::Border;
                            tell(Event::Border(self.offset));
                        }
                    }
                }
                State::Border => {
                    let header = &self.toc.as_ref().expect("blocks are read only behind the TOC").header;
                    let counts = header.compression == Compression::None;
                    self.state = State::Block(BlockReader::new(input[0], self.offset, header.int_size, counts)?);
                    input = &input[1..];
                    self.offset += 1;
                }
                State::Block(reader) => {
                    let known = reader.dump_id().is_some();
                    let block = reader.feed(&mut input, self.offset)?;
                    if !known && let Some(id) = reader.dump_id() {
                        let kind = reader.kind();
                        self.claim(id, kind)?;
                    }
                    self.offset += (before - input.len()) as u64;
                    if let Some(block) = block {
                        self.state = State::Border;
                        let toc = self.toc.as_ref().expect("blocks are read only behind the TOC");
                        let (index, _) = self.expected[&block.dump_id];
                        tell(Event::Block(&block, &toc.entries[index]));
                        tell(Event::Border(self.offset));
                    }
                }
            }
        }
        Ok(())
    }

    /// Says whether the stream may end here.
    pub fn finish(self) -> Result<Summary, ArchiveError> {
        let truncated = |within| {
            Err(ArchiveError::Truncated {
                offset: self.offset,
                within,
            })
        };
        match self.state {
            State::Opaque(version) => Ok(Summary::Opaque(version)),
            State::Toc(reader) => truncated(reader.within()),
            State::Block(reader) => match reader.kind() {
                BlockKind::TableData => truncated("the rows of a table"),
                BlockKind::LargeObjects => truncated("its large objects"),
            },
            State::Border => {
                let toc = self.toc.expect("the first border is behind the TOC");
                let mut missing = self
                    .expected
                    .values()
                    .filter(|(_, seen)| !seen)
                    .map(|(index, _)| *index)
                    .collect::<Vec<_>>();
                missing.sort_unstable();
                match missing.first() {
                    None => Ok(Summary::Archive(toc)),
                    Some(first) => Err(ArchiveError::Incomplete {
                        offset: self.offset,
                        missing: missing.len(),
                        first: toc.entries[*first].qualified_name(),
                    }),
                }
            }
        }
    }

    fn expect_blocks(&mut self, toc: &Toc) -> Result<(), ArchiveError> {
        for (index, entry) in toc.entries.iter().enumerate().filter(|(_, entry)| entry.has_data) {
            if self.expected.insert(entry.dump_id, (index, false)).is_some() {
                return Err(malformed(
                    self.offset,
                    &format!("two entries of the table of contents have the id {}", entry.dump_id),
                ));
            }
        }
        Ok(())
    }

    fn claim(&mut self, id: i64, kind: BlockKind) -> Result<(), ArchiveError> {
        let Some((index, seen)) = self.expected.get_mut(&id) else {
            return Err(malformed(self.offset, &format!("a block for entry {id}, which announced no data")));
        };
        if std::mem::replace(seen, true) {
            return Err(malformed(self.offset, &format!("a second block for entry {id}")));
        }
        let entry = &self.toc.as_ref().expect("blocks are read only behind the TOC").entries[*index];
        let announced = if entry.kind() == b"BLOBS" {
            BlockKind::LargeObjects
        } else {
            BlockKind::TableData
        };
        if announced != kind {
            return Err(malformed(
                self.offset,
                &format!("the block for {} is not of the announced kind", entry.qualified_name()),
            ));
        }
        Ok(())
    }
}
