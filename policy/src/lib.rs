//! The pure decisions of Holdfast: functions from values to values, with the clock as an argument.
//!
//! Nothing here reads a clock, a file or a network; even the time zones are part of the binary.
//!
//! - [`name`]: labels, the names of runs and Jobs
//! - [`tick`]: cron expressions, zones, timetables

pub mod name;
pub mod tick;
