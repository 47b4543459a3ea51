//! The way of the bytes: reader → structure check → BLAKE3 → zstd frames → age → SHA-256 → parts of a store; and back.

pub mod check;
mod decode;
mod fetch;
pub mod frame;
mod index;
pub mod key;
mod open;
mod part;
mod pipe;
pub mod pool;
mod read;
mod seal;
mod transfer;
mod upload;
mod verify;
mod write;

pub use index::{Index, IndexError};
pub use open::{CopyReader, OpenError, RawStream};
pub use pipe::Pipe;
pub use seal::Sealing;
pub use transfer::{Transfer, TransferError, Wanted};
pub use verify::{Level, Report, verify};
pub use write::{Counters, Pipeline, StoredStream, WriteError};

#[cfg(test)]
pub(crate) mod tests;
