//! How a schedule deals with time: what it makes up for, what may overlap, and when nothing starts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of ticks that could not run at their time, because nothing acted on them or an exclusion lasted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CatchUp {
    /// None is made up for: a tick that is 5 minutes late is missed.
    Skip,
    /// The latest is made up for.
    #[default]
    Latest,
    /// The latest ten are made up for, one after the other.
    All,
}

/// What becomes of a tick while the run of an earlier tick of its trigger for the same source is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// It gets no run, and is counted.
    #[default]
    Forbid,
    /// Its run waits for the earlier one to end. One waits; further ticks get no run.
    Queue,
    /// The earlier run is cancelled, and the new one begins when that has ended.
    Replace,
}

/// A window of local time in which no tick's run starts. What is due in it waits for its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exclusion {
    /// What it is for, such as `office-hours`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The days of the week on which it begins. By default each day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub days: Vec<Weekday>,
    /// When it begins, by a clock on the wall in the schedule's zone.
    #[serde(default = "default_from")]
    #[schemars(length(min = 5, max = 5), regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: String,
    /// When it ends: on the day after, where this is not later than `from`.
    #[serde(default = "default_to")]
    #[schemars(length(min = 5, max = 5), regex(pattern = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"))]
    pub to: String,
    /// The days of the calendar on which it begins. By default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dates: Option<Dates>,
}

fn default_from() -> String {
    "00:00".to_owned()
}

fn default_to() -> String {
    "24:00".to_owned()
}

/// Days of the calendar, both included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dates {
    /// The first, such as `2026-12-24`.
    #[schemars(length(min = 10, max = 10), regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub from: String,
    /// The last, such as `2027-01-02`.
    #[schemars(length(min = 10, max = 10), regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub to: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    /// Sunday is 0, as in cron.
    pub const fn number(self) -> u8 {
        match self {
            Self::Sun => 0,
            Self::Mon => 1,
            Self::Tue => 2,
            Self::Wed => 3,
            Self::Thu => 4,
            Self::Fri => 5,
            Self::Sat => 6,
        }
    }
}
