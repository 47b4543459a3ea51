//! The way of the bytes: reader → structure check → BLAKE3 → zstd frames → age → SHA-256 → parts of a store; and back.

pub mod check;
pub mod frame;
pub mod key;
pub mod pool;
