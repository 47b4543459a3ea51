//! The one way to watch: each kind once, pruned, in pages, with back-off, into a cache that all controllers share.

mod cache;
mod caches;
mod drive;
pub mod ended;
mod key;

pub use cache::{Cache, Change, IndexName};
pub use caches::Caches;
pub use drive::{drive, watcher_config};
pub use key::Key;
