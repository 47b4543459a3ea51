//! PostgreSQL 15 to 18: one archive of `pg_dump` per database, and what belongs to the whole cluster.

pub mod archive;
#[cfg(test)]
pub(crate) mod test_server;
