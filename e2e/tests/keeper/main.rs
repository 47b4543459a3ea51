//! Keepers at work on a cluster.

mod holds;
mod preview;
mod report;
