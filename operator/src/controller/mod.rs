//! One controller per kind, each a pipeline: dereference (reads) → validate (pure) → build (pure) → apply (writes) → status (writes).

mod carry_out;
pub mod cluster_schedule;
pub mod compliance;
pub mod copy;
pub mod disposal;
mod history;
pub mod hold;
mod jobs;
pub mod keep;
pub mod preview;
mod report_log;
pub mod restore;
pub mod run;
pub mod schedule;
pub mod source;
pub mod store;
mod stores;

#[cfg(test)]
mod tests;
