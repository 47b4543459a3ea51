//! The tables of the rules.
