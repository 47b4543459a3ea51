//! Durations as people write them: `90s`, `30m`, `6h`, `14d`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A whole number of seconds, minutes, hours or days, written as in `14d`. At least one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    seconds: u64,
}

/// Why a text is no [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found {found:?}, expected a whole number of 1 to 6 digits that does not begin with 0, then s, m, h or d, such as 90s, 30m, 6h or 14d"
)]
pub struct InvalidSpan {
    found: String,
}

const PATTERN: &str = "^[1-9][0-9]{0,5}[smhd]$";
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Span {
    /// A span of so many seconds; zero becomes one.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self {
            seconds: if seconds == 0 { 1 } else { seconds },
        }
    }

    pub const fn from_minutes(minutes: u64) -> Self {
        Self::from_seconds(minutes * 60)
    }

    pub const fn from_hours(hours: u64) -> Self {
        Self::from_seconds(hours * 3_600)
    }

    pub const fn from_days(days: u64) -> Self {
        Self::from_seconds(days * 86_400)
    }

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        self.seconds
    }

    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.seconds)
    }

    pub fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_secs(i64::try_from(self.seconds).unwrap_or(i64::MAX))
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan { found: text.to_owned() };
        let unit = text.chars().next_back().ok_or_else(invalid)?;
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let digits = &text[..text.len() - 1];
        let plain = (1..=6).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
        let count: u64 = if plain {
            digits.parse().map_err(|_| invalid())?
        } else {
            return Err(invalid());
        };
        Ok(Self { seconds: count * scale })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = UNITS
            .into_iter()
            .find(|(_, scale)| self.seconds.is_multiple_of(*scale))
            .unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.seconds / scale)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 7})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_people_write() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("30m", 1_800),
            ("6h", 21_600),
            ("14d", 1_209_600),
            ("999999d", 86_399_913_600),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().seconds(), seconds);
            assert_eq!(
                text.parse::<Span>().unwrap().to_string().parse::<Span>().unwrap().seconds(),
                seconds
            );
        }
        assert_eq!(Span::from_seconds(7_200).to_string(), "2h");
    }

    #[test]
    fn refuses_the_rest_and_says_what_it_found() {
        for text in ["", "s", "0s", "05m", "1w", "1.5h", "-1h", "1000000s", "1h30m", "١s", " 1s", "1 s"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
