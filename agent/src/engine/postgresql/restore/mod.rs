//! Restores: what an archive needs of a server, into a database beside, checked, and renamed into place with a receipt.

pub mod creator;
pub mod load;
pub mod plan;
pub mod receipt;
pub mod rights;
pub mod roles;
pub mod scheduler;
pub mod statement;
pub mod swap;
pub mod target;
