//! The data plane of Holdfast: engines hand bytes to the pipeline, the pipeline hands parts to a store, and a copy exists once its
//! outcome is committed in the store's register. The same code runs in Job pods and by hand.

pub mod command;
pub mod config;
pub mod engine;
pub mod pipeline;
pub mod progress;
pub mod result;
pub mod seal;
pub mod store;
