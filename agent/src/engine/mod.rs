//! The databases: one folder per engine.

pub mod postgresql;
