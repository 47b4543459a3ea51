//! Harness for tests on a real cluster.

pub mod fixture;
pub mod sandbox;
