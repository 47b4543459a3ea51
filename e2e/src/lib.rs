//! Harness for tests on a real cluster.
#![expect(clippy::panic, reason = "a test fails by a panic")]

pub mod api;
pub mod fixture;
pub mod helm;
pub mod keeper;
pub mod operator;
pub mod preview;
pub mod s3;
pub mod sandbox;
