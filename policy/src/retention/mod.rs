//! Which copies of a source stay in a store, which go, and why: rules R0 to R9 of retention.
//!
//! [`plan`] gets all that was read about one source in one store, [`SourceFacts`], and says for each copy what keeps it or that nothing
//! does, which records are to be written, and which copies may be removed now. The same facts in any order give the same plan.

mod block;
mod facts;
mod keep;
mod plan;
mod preview;
mod server;
mod slot;
mod verified;

#[cfg(test)]
mod gate_test;
#[cfg(test)]
mod life_test;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod property_test;
#[cfg(test)]
mod table_test;
#[cfg(test)]
mod tests;

pub use block::{loss_digest, may_be_parent, set_digest};
pub use facts::{CLOCK_TOLERANCE, CopyFacts, CopyType, Floor, Mark, Rules, SourceFacts, time_for_deleting, time_for_locks};
pub use keep::{Why, YOUNG};
pub use plan::{Next, SourcePlan, Verdict, plan};
pub use preview::preview;
pub use slot::{PENDING, Period, Slot};
pub use verified::standing_problem;
