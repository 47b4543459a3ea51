//! The structure checks of this engine's streams.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_crds::document::EntryKind;

use super::archive::{ArchiveError, Block, BlockKind, Entry as TocEntry, Event, Keep, Reader, Summary};
use crate::pipeline::check::{CheckFailed, Checked, Entry, StreamCheck};

/// A table in an archive. Names are in the encoding of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableData {
    /// Its schema.
    pub schema: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its rows; `None` where they are compressed.
    pub rows: Option<u64>,
}

/// What an archive holds, known once it has ended well.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ArchiveContents {
    /// Every table whose rows are in the archive, in its order.
    pub tables: Vec<TableData>,
    /// Number of large objects; `None` where the format is not known.
    pub large_objects: Option<u64>,
    /// Why nothing is known, where the format is not.
    pub unknown: Option<String>,
}

/// Where a check leaves what it found, for the manifest.
pub type SharedContents = Arc<Mutex<ArchiveContents>>;

/// Follows an archive of `pg_dump -Fc` through the pipeline.
pub struct ArchiveCheck {
    reader: Reader,
    entries: Vec<Entry>,
    contents: ArchiveContents,
    shared: SharedContents,
}

impl ArchiveCheck {
    /// A check, and where its findings will be.
    pub fn new() -> (Self, SharedContents) {
        let shared = SharedContents::default();
        let check = Self {
            reader: Reader::new(Keep::DataNames),
            entries: Vec::new(),
            contents: ArchiveContents {
                large_objects: Some(0),
                ..ArchiveContents::default()
            },
            shared: Arc::clone(&shared),
        };
        (check, shared)
    }
}

fn failed(error: &ArchiveError, read: u64) -> CheckFailed {
    let offset = match error {
        ArchiveError::Malformed { offset, .. } | ArchiveError::Truncated { offset, .. } | ArchiveError::Incomplete { offset, .. } => {
            *offset
        }
        ArchiveError::TocTooLarge { .. } => read,
    };
    CheckFailed {
        offset,
        problem: error.to_string(),
    }
}

fn index_entry(block: &Block, entry: &TocEntry) -> Entry {
    Entry {
        id: block.dump_id.to_string(),
        kind: match block.kind {
            BlockKind::TableData => EntryKind::TableData,
            BlockKind::LargeObjects => EntryKind::LargeObjects,
        },
        name: entry.qualified_name(),
        raw_offset: block.offset,
        length: block.length,
        rows: block.count,
    }
}

impl StreamCheck for ArchiveCheck {
    fn feed(&mut self, chunk: &[u8], borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        let Self {
            reader, entries, contents, ..
        } = self;
        let result = reader.feed(chunk, |event| match event {
            Event::Border(offset) => {
                if entries.is_empty() {
                    let (id, name) = ("0".to_owned(), "header and table of contents".to_owned());
                    entries.push(Entry {
                        id,
                        kind: EntryKind::Preamble,
                        name,
                        raw_offset: 0,
                        length: offset,
                        rows: None,
                    });
                }
                borders.push(offset);
            }
            Event::Block(block, entry) => {
                entries.push(index_entry(block, entry));
                match block.kind {
                    BlockKind::LargeObjects => {
                        contents.large_objects = contents.large_objects.zip(block.count).map(|(sum, count)| sum + count);
                    }
                    BlockKind::TableData => contents.tables.push(TableData {
                        schema: entry.namespace.clone().unwrap_or_default(),
                        name: entry.tag.clone().unwrap_or_default(),
                        rows: block.count,
                    }),
                }
            }
        });
        result.map_err(|error| failed(&error, self.reader.offset()))
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        let Self {
            reader,
            entries,
            mut contents,
            shared,
        } = *self;
        let read = reader.offset();
        let summary = reader.finish().map_err(|error| failed(&error, read))?;
        let opaque = match summary {
            Summary::Archive(_) => false,
            Summary::Opaque(version) => {
                contents.large_objects = None;
                contents.unknown = Some(format!(
                    "the archive has format {version}, and 1.14 to 1.16 are known: only pg_dump's exit code vouches for it; use tools of the server's major version"
                ));
                true
            }
        };
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = contents;
        Ok(Checked { entries, opaque })
    }
}

/// What `pg_dumpall` writes last.
const GLOBALS_END: &[u8] = b"-- PostgreSQL database cluster dump complete\n";
/// Behind it there is at most a line or two.
const GLOBALS_TAIL: usize = 256;

/// Follows the SQL of `pg_dumpall --globals-only`: it must have its first and its last line.
#[derive(Default)]
pub struct GlobalsCheck {
    read: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl StreamCheck for GlobalsCheck {
    fn feed(&mut self, chunk: &[u8], _borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        self.read += chunk.len() as u64;
        let head = chunk.len().min(64 - self.head.len());
        self.head.extend_from_slice(&chunk[..head]);
        self.tail.extend_from_slice(&chunk[chunk.len().saturating_sub(GLOBALS_TAIL)..]);
        let spare = self.tail.len().saturating_sub(GLOBALS_TAIL);
        self.tail.drain(..spare);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        let failed = |problem: &str| {
            Err(CheckFailed {
                offset: self.read,
                problem: problem.to_owned(),
            })
        };
        if !self.head.starts_with(b"--\n-- PostgreSQL database cluster dump\n") {
            return failed("the globals do not begin as pg_dumpall begins");
        }
        if !self.tail.windows(GLOBALS_END.len()).any(|window| window == GLOBALS_END) {
            return failed("the globals end without pg_dumpall's last line");
        }
        Ok(Checked {
            entries: Vec::new(),
            opaque: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgresql::test_server::{TestServer, awkward};

    fn run(check: impl StreamCheck + 'static, bytes: &[u8], size: usize) -> Result<(Checked, Vec<u64>), CheckFailed> {
        let (mut check, mut borders) = (Box::new(check), Vec::new());
        for chunk in bytes.chunks(size) {
            check.feed(chunk, &mut borders)?;
        }
        Ok((check.finish()?, borders))
    }

    #[test]
    fn the_index_covers_the_whole_archive() {
        let server = TestServer::shared();
        server.create("check_awkward", &awkward());
        let bytes = server.dump("check_awkward", &[]);
        let (check, contents) = ArchiveCheck::new();
        let (checked, borders) = run(check, &bytes, 1000).unwrap();
        assert!(!checked.opaque && checked.entries[0].kind == EntryKind::Preamble);
        let mut end = 0;
        for entry in &checked.entries {
            assert_eq!(entry.raw_offset, end, "{entry:?}");
            end += entry.length;
            assert!(borders.contains(&end));
        }
        assert_eq!(end, bytes.len() as u64);
        let contents = contents.lock().unwrap().clone();
        assert_eq!(contents.large_objects, Some(3));
        let secrets = contents.tables.iter().find(|table| table.name == b"secrets").unwrap();
        assert_eq!((secrets.schema.as_slice(), secrets.rows), (&b"public"[..], Some(100)));
        let error = run(ArchiveCheck::new().0, &bytes[..bytes.len() - 1], 1000).unwrap_err();
        assert_eq!(error.offset, bytes.len() as u64 - 1);
    }

    #[test]
    fn globals_without_their_last_line_are_refused() {
        let output = TestServer::shared().tool("pg_dumpall").arg("--globals-only").output().unwrap();
        assert!(output.status.success());
        let bytes = output.stdout;
        for size in [1, 7, 100_000] {
            run(GlobalsCheck::default(), &bytes, size).unwrap();
        }
        let end = bytes.windows(GLOBALS_END.len()).rposition(|window| window == GLOBALS_END).unwrap();
        for length in 0..=end {
            assert!(run(GlobalsCheck::default(), &bytes[..length], 50).is_err(), "cut at {length}");
        }
    }
}
