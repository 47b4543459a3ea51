//! The pure decisions of Holdfast: functions from values to values, with the clock as an argument.
//!
//! Nothing here reads a clock, a file or a network; even the time zones are part of the binary.
//!
//! - [`name`]: labels, the names of runs and Jobs
//! - [`tick`]: cron expressions, zones, timetables, and what is due
//! - [`backoff`]: how long to wait before another attempt
//! - [`protection`]: is the newest copy young enough

pub mod backoff;
pub mod name;
pub mod protection;
pub mod tick;
