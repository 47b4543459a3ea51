//! The Holdfast operator: it watches what users declare, makes Jobs, and says what became of it. It talks to the API server only.

pub mod admin;
pub mod attempt;
pub mod clients;
pub mod clock;
pub mod config;
pub mod context;
pub mod controller;
pub mod job;
pub mod lease;
pub mod metrics;
pub mod observation;
pub mod process;
pub mod queue;
pub mod report;
pub mod store;
pub mod watch;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod scripted;
