//! Holdfast operator.

fn main() {}
