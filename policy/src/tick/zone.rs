//! Time zones, as stretches of one offset.

use std::fmt;

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::{TimeZone, TimeZoneDatabase},
};

/// A time zone of the IANA database that is part of the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// Why a text is no [`Zone`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time zone: found {found:?}, expected a name of the IANA database such as Europe/Zurich or UTC{remedy}")]
pub struct ZoneError {
    pub found: String,
    pub remedy: String,
}

impl Zone {
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            rules: TimeZone::UTC,
        }
    }

    /// By its IANA name; lower and upper case do not matter.
    pub fn named(name: &str) -> Result<Self, ZoneError> {
        let zones = TimeZoneDatabase::bundled();
        // `Etc/Unknown` is a placeholder, not a place.
        let known = zones.get(name).ok().filter(|rules| !rules.is_unknown());
        if let Some(rules) = known {
            let name = rules.iana_name().unwrap_or(name).to_owned();
            return Ok(Self { name, rules });
        }
        let wanted = name.trim().to_lowercase().replace(' ', "_");
        let city = wanted.rsplit('/').next().unwrap_or_default().to_owned();
        let near = zones
            .available()
            .find(|zone| !city.is_empty() && zone.as_str().to_lowercase().rsplit('/').next() == Some(&city));
        let remedy = match near {
            Some(zone) => format!("; did you mean {zone}?"),
            None if wanted.starts_with(['+', '-']) || wanted.contains(':') => {
                "; an offset does not know when clocks change: name a place".to_owned()
            }
            None => String::new(),
        };
        Err(ZoneError {
            found: name.chars().take(80).collect(),
            remedy,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What clocks show there.
    pub fn local(&self, at: Timestamp) -> DateTime {
        self.rules.to_datetime(at)
    }

    /// When a day begins there: the first moment that has its date. None outside of representable time.
    pub fn midnight(&self, date: Date) -> Option<Timestamp> {
        let zoned = self.rules.to_ambiguous_zoned(date.at(0, 0, 0, 0)).compatible().ok()?;
        Some(zoned.timestamp())
    }

    /// The stretch of one offset that `minute` (of UTC, since 1970) lies in. None outside of representable time.
    pub(super) fn stretch(&self, minute: i64) -> Option<Stretch> {
        let after = Timestamp::from_second(minute.checked_add(1)?.checked_mul(60)?).ok()?;
        let begin = self.rules.preceding(after).next();
        let end = self.rules.following(after.checked_sub(SECOND).ok()?).next();
        let offset_at = |at: Timestamp| i64::from(self.rules.to_offset(at).seconds()).div_euclid(60);
        let offset = offset_at(after.checked_sub(SECOND).ok()?);
        Some(Stretch {
            begin: begin.as_ref().map_or(i64::MIN, |begin| whole_minute(begin.timestamp())),
            end: end.map_or(i64::MAX, |end| whole_minute(end.timestamp())),
            offset,
            before: begin
                .and_then(|begin| begin.timestamp().checked_sub(SECOND).ok())
                .map_or(offset, offset_at),
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

const SECOND: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// Before 1972 some zones changed in the middle of a minute; ticks are whole minutes, so there the change comes up to a minute early.
fn whole_minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// The minutes of UTC from `begin` to before `end`, in which local time is UTC and `offset`; in the minute before, it was UTC and `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub begin: i64,
    pub end: i64,
    pub offset: i64,
    pub before: i64,
}

impl Stretch {
    /// How far clocks were moved forward at its begin (a gap), or back if negative (an overlap), in minutes.
    pub fn shift(&self) -> i64 {
        self.offset - self.before
    }
}
