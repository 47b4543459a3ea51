//! Which copies of a source stay in a store, which go, and why: rules R0 to R9 of retention.
//!
//! [`plan`] gets all that was read about one source in one store, [`SourceFacts`], and says for each copy what keeps it or that nothing
//! does, which records are to be written, and which copies may be removed now. The same facts in any order give the same plan.

mod block;
mod facts;
mod keep;
mod plan;
mod slot;

#[cfg(test)]
mod tests;

pub use block::{may_be_parent, set_digest};
pub use facts::{CLOCK_TOLERANCE, CopyFacts, CopyType, Floor, Mark, Rules, SourceFacts, time_for_deleting};
pub use keep::{Why, YOUNG};
pub use plan::{Next, SourcePlan, Verdict, plan};
pub use slot::{PENDING, Period, Slot};
