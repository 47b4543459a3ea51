//! The tests that run beside each other on one cluster, each in a namespace of its own.

mod attacks;
mod backup;
mod cluster_store;
mod copies;
mod deletion;
mod disruption;
mod failures;
mod governance;
mod holds;
mod identity;
mod keeper;
mod operator;
mod postgresql;
mod preview;
mod restore;
mod secrets;
mod stock;
mod stores;
mod web_identity;
