//! `index.zst[.age]`: where each frame and each entry of a stream lies. JSON lines, so that it can be written and read piece by piece.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Blake3, EntryKind, FormatVersion, Label};

/// One line of an index: first the header, then all frames in stream order, then the archive's entries in stream order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IndexLine {
    Header(IndexHeader),
    Frame(IndexFrame),
    Entry(IndexEntry),
}

/// What the index is about and how many lines follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexHeader {
    pub version: FormatVersion,
    pub stream: Label,
    pub frames: u64,
    pub entries: u64,
}

/// One zstd frame. Frames follow each other without a gap, in the raw stream and in the decrypted parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexFrame {
    /// Number of the part that holds it, counted from 1.
    pub part: u32,
    /// Where it begins in the decrypted part, in bytes.
    pub offset: u64,
    /// Its length in the decrypted part, in bytes.
    pub stored: u32,
    /// Its length once decompressed, in bytes.
    pub raw: u32,
    /// Of the frame's bytes as they lie in the decrypted part: checked before they reach the decoder.
    pub blake3: Blake3,
}

/// An entry of the engine's archive, such as a table's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexEntry {
    /// The engine's own identifier: a dump id of `pg_dump`'s archive.
    pub id: String,
    pub kind: EntryKind,
    /// The entry's name as the engine shows it, such as `public.orders`.
    pub name: String,
    /// The frame in which the entry begins: the header's frames counted from 0.
    pub frame: u64,
    /// Where the entry begins in the raw stream, in bytes.
    pub raw_offset: u64,
    /// Its length in the raw stream, in bytes.
    pub length: u64,
    /// The exact number of rows, where the engine's format shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}
