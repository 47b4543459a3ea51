//! PostgreSQL 15 to 18: one archive of `pg_dump` per database, and what belongs to the whole cluster.

pub mod archive;
pub mod check;
pub mod connect;
pub mod dump;
pub mod error;
pub mod host;
pub mod pattern;
pub mod preflight;
pub mod restore;
pub mod session;
pub mod source;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod tool;
mod words;
