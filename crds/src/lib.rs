//! The API of Holdfast (`holdfast.dev/v1alpha1`) and the documents that lie in a store. Pure: no I/O.

mod acknowledgement;
mod catalogue;
mod compliance;
mod compliance_disposal;
mod compliance_hold;
mod condition;
mod copy;
pub mod defaults;
pub mod document;
mod duration;
mod job;
mod keep;
mod reason;
mod replica;
mod restore;
mod result;
mod retention;
mod rule;
mod run;
mod schedule;
mod schedule_cluster;
mod source;
mod store;
mod store_cluster;
mod store_reference;
mod task;
mod timing;
pub mod yaml;

pub use acknowledgement::*;
pub use catalogue::*;
pub use compliance::*;
pub use compliance_disposal::*;
pub use compliance_hold::*;
pub use condition::{ConditionType, Finding, MESSAGE_LIMIT, conditions, shortened, whole_seconds};
pub use copy::*;
pub use duration::{InvalidSpan, Span};
pub use job::JobTemplate;
pub use keep::*;
pub use reason::{Class, Reason};
pub use replica::*;
pub use restore::*;
pub use result::{AgentResult, RESULT_LIMIT};
pub use retention::{Retention, SHORTEST_DELETION_DELAY};
pub use run::*;
pub use schedule::*;
pub use schedule_cluster::*;
pub use source::*;
pub use store::*;
pub use store_cluster::*;
pub use store_reference::*;
pub use task::*;
pub use timing::*;

/// The API group.
pub const GROUP: &str = "holdfast.dev";
