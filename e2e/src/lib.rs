//! Harness for tests on a real cluster.
