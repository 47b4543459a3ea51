//! Holdfast agent.

fn main() {}
