//! The pure decisions of Holdfast: functions from values to values, with the clock as an argument.
//!
//! Nothing here reads a clock, a file or a network; even the time zones are part of the binary.
//!
//! - [`name`]: labels, the names of runs and Jobs
//! - [`tick`]: cron expressions, zones, timetables, and what is due
//! - [`backoff`]: how long to wait before another attempt
//! - [`protection`]: is the newest copy young enough
//! - [`retention`]: which copies stay, which go, and why
//! - [`chain`]: which copies a copy cannot be restored without
//! - [`increment`]: on which copy the next one builds, and when it must be a full one
//! - [`hold`]: which copies a hold names, and whether it is in force
//! - [`turn`]: who begins where only so many runs may be at work

pub mod backoff;
pub mod chain;
pub mod hold;
pub mod increment;
pub mod name;
pub mod protection;
pub mod retention;
pub mod tick;
pub mod turn;
