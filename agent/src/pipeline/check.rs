//! The structure check of a stream while it flows: what an engine knows about its own format.

use holdfast_crds::document::EntryKind;

/// Proves that a raw stream is whole in its engine's own terms.
pub trait StreamCheck: Send {
    /// Takes the next raw bytes, in order, and pushes the absolute raw offset of each border between entries that it finds in them.
    /// A border is where the next entry begins; borders ascend.
    fn feed(&mut self, chunk: &[u8], borders: &mut Vec<u64>) -> Result<(), CheckFailed>;

    /// After the last byte: proves that the stream is complete.
    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed>;
}

/// The stream is not what the engine writes, or ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("check the stream's structure at byte {offset}: {problem}")]
pub struct CheckFailed {
    /// Absolute offset in the raw stream, in bytes.
    pub offset: u64,
    /// What was found, and what is expected.
    pub problem: String,
}

/// What a check found in a stream that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// In the order of the stream.
    pub entries: Vec<Entry>,
    /// The format was not known: only the exit codes of the engine's tools vouch for the stream.
    pub opaque: bool,
}

/// One entry of the engine's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The engine's own identifier, such as a dump id.
    pub id: String,
    pub kind: EntryKind,
    /// As the engine shows it, such as `public.orders`.
    pub name: String,
    /// Where it begins in the raw stream, in bytes.
    pub raw_offset: u64,
    /// Its length in the raw stream, in bytes.
    pub length: u64,
    /// The exact number of rows, where the format shows it.
    pub rows: Option<u64>,
}

/// Takes any bytes: for streams whose format has no structure to check.
#[derive(Debug, Default)]
pub struct Opaque;

impl StreamCheck for Opaque {
    fn feed(&mut self, _chunk: &[u8], _borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        Ok(Checked {
            entries: Vec::new(),
            opaque: true,
        })
    }
}
