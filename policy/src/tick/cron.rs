//! Cron expressions with five fields and `H` (rule T2).

use std::{fmt, str::FromStr};

use super::field::{Fault, Field, FieldList};

/// How long an expression may be, in bytes.
const LENGTH_LIMIT: usize = 256;
/// The most days that a month can have, January first.
const MONTH_DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Why a text is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("cron {expression:?}: found {found} fields, expected five: minute, hour, day of month, month, day of week{remedy}")]
    FieldCount {
        expression: String,
        found: usize,
        remedy: &'static str,
    },
    #[error("cron {expression:?}, {field}: found {found:?}, expected {expected}{remedy}")]
    Field {
        expression: String,
        field: Field,
        found: String,
        expected: String,
        remedy: String,
    },
    #[error("cron {expression:?}: found an alias, expected five fields; write {remedy}")]
    Alias { expression: String, remedy: String },
    #[error("cron {expression:?}: found a zone, expected five fields; remove it and set timeZone")]
    Zone { expression: String },
    #[error(
        "cron {expression:?}, day of month: found days that the months named do not have, expected a day that comes; name an earlier day or another month"
    )]
    NeverHappens { expression: String },
    #[error("cron {expression:?}…: found {found} bytes, expected at most {LENGTH_LIMIT}; write ranges or steps instead of lists")]
    TooLong { expression: String, found: usize },
}

/// A cron expression as it was written, `H` not yet replaced.
///
/// Each of the five fields is a list, separated by commas, of `*`, `a`, `a-b`, `*/n`, `a-b/n`, `H`, `H/n`, `H(a-b)` and `H(a-b)/n`.
/// Months and days of the week may be named (`JAN`, `SUN`). Where neither day field is `*`, a day is meant that one of the two names.
/// An expression whose minute or hour is `*` or has a step *recurs*: it follows elapsed time where clocks change (see [`Timetable`]).
///
/// [`Timetable`]: super::Timetable
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    fields: [FieldList; 5],
    text: String,
}

impl FromStr for Expression {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        if text.len() > LENGTH_LIMIT {
            return Err(CronError::TooLong {
                expression: text.chars().take(80).collect(),
                found: text.len(),
            });
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let upper = text.to_uppercase();
        if upper.starts_with('@') {
            let remedy = alias(&upper).unwrap_or_else(|| "minute, hour, day of month, month and day of week".to_owned());
            return Err(CronError::Alias { expression: text, remedy });
        }
        if upper.starts_with("TZ=") || upper.starts_with("CRON_TZ=") {
            return Err(CronError::Zone { expression: text });
        }
        let parts: Vec<_> = upper.split(' ').filter(|part| !part.is_empty()).collect();
        let &[minute, hour, day_of_month, month, day_of_week] = parts.as_slice() else {
            let remedy = match parts.len() {
                6 | 7 => "; a tick is a whole minute: remove seconds and years",
                _ if upper.contains('(') => "; write no spaces within H(a-b)",
                _ => "; write * for a field that does not matter",
            };
            return Err(CronError::FieldCount {
                found: parts.len(),
                expression: text,
                remedy,
            });
        };
        let parse = |field, part| {
            FieldList::parse(field, part).map_err(|Fault { found, expected, remedy }| CronError::Field {
                expression: text.clone(),
                field,
                found,
                expected,
                remedy: if remedy.is_empty() { remedy } else { format!("; {remedy}") },
            })
        };
        let fields = [
            parse(Field::Minute, minute)?,
            parse(Field::Hour, hour)?,
            parse(Field::DayOfMonth, day_of_month)?,
            parse(Field::Month, month)?,
            parse(Field::DayOfWeek, day_of_week)?,
        ];
        let expression = Self { fields, text };
        if !expression.happens() {
            return Err(CronError::NeverHappens {
                expression: expression.text,
            });
        }
        Ok(expression)
    }
}

impl Expression {
    /// The cron of one source.
    pub fn resolve(&self, seed: &Seed) -> Cron {
        let [minutes, hours, days, months, weekdays] = self.fields.each_ref().map(|field| field.mask(seed));
        let [minute, hour, day, _, weekday] = &self.fields;
        Cron {
            minutes,
            hours,
            days,
            months,
            weekdays,
            days_unrestricted: day.unrestricted(),
            weekdays_unrestricted: weekday.unrestricted(),
            recurs: minute.recurs() || hour.recurs(),
        }
    }

    /// The expression of one source, `H` replaced: for display. It parses, and means the same.
    pub fn expanded(&self, seed: &Seed) -> String {
        self.fields.each_ref().map(|field| field.expanded(seed)).join(" ")
    }

    /// Is there for each source a day in some year? Only days of the month can be missing in all months named.
    fn happens(&self) -> bool {
        let [_, _, day, month, weekday] = &self.fields;
        // The union of both day fields; and `H` only takes days that each month has.
        if !weekday.unrestricted() || day.hashed_mask() != 0 {
            return true;
        }
        let first = day.literal_mask().trailing_zeros();
        let possible = |months: u64| {
            (1..)
                .zip(MONTH_DAYS)
                .filter(move |(month, _)| months >> month & 1 == 1)
                .map(move |(_, days)| first <= days)
        };
        let hashed = month.hashed_mask();
        possible(month.literal_mask()).any(|possible| possible) || (hashed != 0 && possible(hashed).all(|possible| possible))
    }
}

/// As it was written, with single spaces.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn alias(upper: &str) -> Option<String> {
    let (exact, spread) = match upper {
        "@YEARLY" | "@ANNUALLY" => ("0 0 1 1 *", "H H H H *"),
        "@MONTHLY" => ("0 0 1 * *", "H H H * *"),
        "@WEEKLY" => ("0 0 * * 0", "H H * * H"),
        "@DAILY" | "@MIDNIGHT" => ("0 0 * * *", "H H * * *"),
        "@HOURLY" => ("0 * * * *", "H * * * *"),
        _ => return None,
    };
    Some(format!("{exact:?}, or {spread:?} to spread the load"))
}

/// From what the `H` of a source are taken: a hash of its namespace and name, so that a source that GitOps re-creates keeps its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed([u32; 5]);

impl Seed {
    pub fn of_source(namespace: &str, name: &str) -> Self {
        let digest = blake3::hash(format!("holdfast.dev cron H v1\n{namespace}\n{name}").as_bytes());
        let bytes = digest.as_bytes();
        Self(std::array::from_fn(|field| {
            bytes[4 * field..4 * field + 4]
                .iter()
                .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
        }))
    }

    /// A value below `size`, evenly spread over sources, and independent between fields.
    pub(super) fn below(&self, field: Field, size: u8) -> u8 {
        let bits = Field::ALL.iter().position(|other| *other == field).map_or(0, |place| self.0[place]);
        u8::try_from(bits % u32::from(size.max(1))).expect("a remainder of an u8 is one")
    }
}

/// A cron without `H`: sets of values, a bit for each. Days of the week begin with Sunday, as bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    pub(super) minutes: u64,
    pub(super) hours: u64,
    pub(super) days: u64,
    pub(super) months: u64,
    pub(super) weekdays: u64,
    pub(super) days_unrestricted: bool,
    pub(super) weekdays_unrestricted: bool,
    pub(super) recurs: bool,
}
