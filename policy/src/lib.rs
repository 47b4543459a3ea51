//! The pure decisions of Holdfast: functions from values to values, with the clock as an argument.
