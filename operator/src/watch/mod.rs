//! The one way to watch: each kind once, pruned, object by object, with back-off, into a cache that all controllers share.

mod cache;
mod caches;
mod drive;
pub mod ended;
mod key;
mod read;

pub use cache::{Cache, Change, IndexName};
pub use caches::Caches;
pub use drive::drive;
pub use key::Key;
