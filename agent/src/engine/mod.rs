//! The databases: one folder per engine.

pub mod postgresql;
pub mod secret;
pub mod streaming;
