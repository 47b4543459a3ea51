//! Ticks: when the triggers of a schedule fire.
//!
//! An [`Expression`] is what a user wrote; [`Expression::resolve`] makes it the [`Cron`] of one source, with each `H` replaced by a
//! value that only depends on the source's namespace and name. A [`Timetable`] is a cron in a [`Zone`]: it knows the next tick, the
//! last, and those between. [`decide`] says which ticks are due.

mod candidates;
#[cfg(test)]
mod candidates_test;
mod civil;
mod cron;
#[cfg(test)]
mod cron_test;
mod due;
#[cfg(test)]
mod due_property_test;
#[cfg(test)]
mod due_test;
mod exclusion;
mod field;
mod objective;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod slow_schedule;
mod timetable;
#[cfg(test)]
mod timetable_property_test;
#[cfg(test)]
mod timetable_test;
mod zone;

pub use cron::{Cron, CronError, Expression, Seed};
pub use due::{
    CATCH_UP_LIMIT, CatchUp, Concurrency, Decision, Firing, MISSED_LIMIT, PUNCTUAL, Passed, PassedBy, Progress, Schedule, SeenRun, Source,
    TOLERANCE, Trigger, Watermark, WatermarkAhead, decide,
};
pub use exclusion::{Exclusion, ExclusionError, leave_time, may_start};
pub use field::Field;
pub use objective::{derived_rpo, longest_interval};
pub use timetable::{TickIter, Timetable};
pub use zone::{Zone, ZoneError};
