//! The custom archive format of `pg_dump -Fc`, read while it streams.
//!
//! An archive that was written to a pipe is a header, a table of contents (TOC), and one block for each entry that has data:
//!
//! ```text
//! "PGDMP" major minor revision int-size offset-size format(1) compression seconds minutes hours day month year dst
//!         database server-version tool-version
//! count { id has-data table-oid oid tag desc section definition drop copy namespace tablespace access-method
//!         [relkind] owner "false" { dependency } NULL offset }
//! { 1 id { length bytes } 0 }                          the rows of a table, in COPY text
//! { 3 id { oid { length bytes } 0 } 0 }                large objects
//! ```
//!
//! There are no offsets in it and no end marker: an archive that was cut at the border of a block lists without complaint and fails in
//! the middle of a restore. So the reader holds the TOC against the blocks: every entry that announced data must have had its block,
//! terminated, exactly once. The format is described by `src/bin/pg_dump/pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL.

mod block;
mod grammar;
mod primitive;
mod toc;
mod toc_reader;
mod write;

#[cfg(test)]
mod tests;

pub use block::{Block, BlockKind};
pub use grammar::{Event, Reader, Summary};
pub use toc::{Compression, Entry, Header, Keep, Toc, Version};

/// Why a stream is not a complete archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes at `offset` (of the raw stream) do not follow the format.
    #[error("the archive is malformed at byte {offset}: {what}")]
    Malformed {
        /// Raw offset of the byte that was being read.
        offset: u64,
        /// What was found and what was expected.
        what: String,
    },
    /// The stream ended within an element.
    #[error("the archive ends at byte {offset} within {within}")]
    Truncated {
        /// Length of what there was.
        offset: u64,
        /// The element that was not finished.
        within: &'static str,
    },
    /// The stream ended at a border, but entries of the TOC never had their data.
    #[error("the archive ends at byte {offset} without the data of {missing} of its entries, the first is {first}")]
    Incomplete {
        /// Length of what there was.
        offset: u64,
        /// Number of entries whose block is missing.
        missing: usize,
        /// The first of them, as `schema.table`.
        first: String,
    },
    /// The TOC does not fit the memory that may be spent on it.
    #[error("the archive's table of contents is larger than {limit} bytes")]
    TocTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}
