//! Exclusions: windows of local time in which no tick's run starts (rule T4).

use jiff::{Timestamp, civil::Date};

use super::{
    civil::{DAY, bit, date},
    timetable::{minute, timestamp},
    zone::Zone,
};

/// The end of a day, in minutes.
const MIDNIGHT: u16 = 24 * 60;
/// So many ends of windows are looked behind, one a day at the least: what excludes longer than ten years excludes for good.
const LIMIT: usize = 4_000;

/// A window that recurs on days of the week, by what a clock on the wall shows: the hour that comes twice in autumn is in it twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    name: String,
    /// A bit for each day of the week on which it begins, Sunday first.
    days: u64,
    /// Minutes of the day.
    from: u16,
    to: u16,
    /// The days on which it begins lie in these, both included.
    dates: Option<(Date, Date)>,
}

/// Why there is no such [`Exclusion`]. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExclusionError {
    #[error("{field}: found {found:?}, expected a time of day such as 08:00{more}")]
    Time {
        field: &'static str,
        found: String,
        more: &'static str,
    },
    #[error("dates.{field}: found {found:?}, expected a day of the calendar such as 2026-12-24")]
    Date { field: &'static str, found: String },
    #[error("dates: found {from} to {to}, expected the earlier day first; exchange them")]
    Order { from: Date, to: Date },
    #[error("found windows that leave no minute of the week, expected some time for runs; shorten them, or suspend the schedule")]
    Everything,
}

impl Exclusion {
    /// From `from` (`08:00`) to before `to` (`18:00`, or `24:00`), on the next day where `to` is not later than `from`.
    ///
    /// `days` are those on which it begins, Sunday is 0; none stand for all. `dates` limit the days on which it begins.
    pub fn new(name: &str, days: &[u8], from: &str, to: &str, dates: Option<(&str, &str)>) -> Result<Self, ExclusionError> {
        let time = |field, text: &str, more, most| {
            let error = || ExclusionError::Time {
                field,
                found: text.chars().take(16).collect(),
                more,
            };
            time_of_day(text).filter(|time| *time <= most).ok_or_else(error)
        };
        let day = |field, text: &str| {
            let error = |_| ExclusionError::Date {
                field,
                found: text.chars().take(16).collect(),
            };
            text.parse::<Date>().map_err(error)
        };
        let dates = match dates {
            None => None,
            Some((from, to)) => {
                let (from, to) = (day("from", from)?, day("to", to)?);
                if to < from {
                    return Err(ExclusionError::Order { from, to });
                }
                Some((from, to))
            }
        };
        Ok(Self {
            name: name.to_owned(),
            days: days.iter().fold(0, |days, day| days | 1 << (day % 7)),
            from: time("from", from, "", MIDNIGHT - 1)?,
            to: time("to", to, ", or 24:00", MIDNIGHT)?,
            dates,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it comes each week, and not only at some dates.
    pub fn recurs(&self) -> bool {
        self.dates.is_none()
    }

    /// The end of the window that `local` (a minute of a calendar without a zone) lies in.
    fn end(&self, local: i64) -> Option<i64> {
        let today = local.div_euclid(DAY);
        [today - 1, today].into_iter().find_map(|day| {
            let begin = day * DAY + i64::from(self.from);
            let end = begin + self.length();
            (begin <= local && local < end && self.begins_on(day)).then_some(end)
        })
    }

    fn length(&self) -> i64 {
        let length = i64::from(self.to) - i64::from(self.from);
        if length > 0 { length } else { length + DAY }
    }

    fn begins_on(&self, day: i64) -> bool {
        let Some(date) = date(day) else { return false };
        let weekday = self.days == 0 || bit(self.days, date.weekday().to_sunday_zero_offset());
        weekday && self.dates.is_none_or(|(from, to)| from <= date && date <= to)
    }
}

/// Whether the windows that recur each week leave any time.
///
/// # Errors
/// [`ExclusionError::Everything`] if they do not.
pub fn leave_time(exclusions: &[Exclusion]) -> Result<(), ExclusionError> {
    let weekly: Vec<_> = exclusions.iter().filter(|exclusion| exclusion.recurs()).collect();
    let mut local = 0;
    while local < 8 * DAY {
        match weekly.iter().filter_map(|exclusion| exclusion.end(local)).max() {
            Some(end) => local = end,
            None => return Ok(()),
        }
    }
    Err(ExclusionError::Everything)
}

/// When what is due at `at` may start: at once, or at the end of the windows that it lies in. None if they do not end.
pub fn may_start(exclusions: &[Exclusion], zone: &Zone, at: Timestamp) -> Option<Timestamp> {
    if exclusions.is_empty() {
        return Some(at);
    }
    let begin = minute(at);
    let mut free = begin;
    for _ in 0..LIMIT {
        let stretch = zone.stretch(free)?;
        let local = free + stretch.offset;
        match exclusions.iter().filter_map(|exclusion| exclusion.end(local)).max() {
            // Where clocks are moved, another time may be shown that is in no window.
            Some(end) => free = (end - stretch.offset).min(stretch.end),
            None if free == begin => return Some(at),
            None => return timestamp(free),
        }
    }
    None
}

fn time_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
    let (hour, minute) = (number(hour)?, number(minute)?);
    (minute < 60).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn office() -> Exclusion {
        Exclusion::new("office", &[1, 2, 3, 4, 5], "08:00", "18:00", None).unwrap()
    }

    #[test]
    fn when_what_is_due_may_start() {
        let night = Exclusion::new("night", &[6], "22:30", "04:00", None).unwrap();
        let freeze = Exclusion::new("freeze", &[], "00:00", "24:00", Some(("2026-12-24", "2027-01-01"))).unwrap();
        let all = [office(), night, freeze];
        let table = [
            // 2026-03-02 is a Monday.
            ("UTC", "2026-03-02T07:59:00Z", "2026-03-02T07:59:00Z"),
            ("UTC", "2026-03-02T07:59:59.5Z", "2026-03-02T07:59:59.5Z"),
            ("UTC", "2026-03-02T08:00:00Z", "2026-03-02T18:00:00Z"),
            ("UTC", "2026-03-02T17:59:59Z", "2026-03-02T18:00:00Z"),
            ("UTC", "2026-03-02T18:00:00Z", "2026-03-02T18:00:00Z"),
            ("Europe/Zurich", "2026-03-02T07:00:00Z", "2026-03-02T17:00:00Z"),
            ("UTC", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"),
            // Over midnight, from Saturday to Sunday, and not from Sunday to Monday.
            ("UTC", "2026-02-28T22:30:00Z", "2026-03-01T04:00:00Z"),
            ("UTC", "2026-03-01T03:59:00Z", "2026-03-01T04:00:00Z"),
            ("UTC", "2026-03-01T22:30:00Z", "2026-03-01T22:30:00Z"),
            // Days of the calendar, both included; and the office day behind them (2027-01-04 is a Monday).
            ("UTC", "2026-12-23T23:59:00Z", "2026-12-23T23:59:00Z"),
            ("UTC", "2026-12-24T00:00:00Z", "2027-01-02T00:00:00Z"),
            ("UTC", "2027-01-01T23:59:00Z", "2027-01-02T00:00:00Z"),
            // The night in which 02:00 becomes 03:00 is shorter.
            ("Europe/Zurich", "2026-03-28T23:00:00Z", "2026-03-29T02:00:00Z"),
        ];
        for (zone, due, expected) in table {
            assert_eq!(
                may_start(&all, &Zone::named(zone).unwrap(), at(due)),
                Some(at(expected)),
                "{due} in {zone}"
            );
        }
        assert_eq!(
            may_start(&[], &Zone::utc(), at("2026-03-02T08:00:00Z")),
            Some(at("2026-03-02T08:00:00Z"))
        );
    }

    #[test]
    fn windows_end_where_the_clock_on_the_wall_says_so() {
        let zone = Zone::named("Europe/Zurich").unwrap();
        let window = |from, to| [Exclusion::new("w", &[], from, to, None).unwrap()];
        // 02:00 to 03:00 does not come: what begins in it begins at 03:00, and what ends in it ends there.
        assert_eq!(
            may_start(&window("02:30", "05:00"), &zone, at("2026-03-29T01:00:00Z")),
            Some(at("2026-03-29T03:00:00Z"))
        );
        assert_eq!(
            may_start(&window("01:00", "02:30"), &zone, at("2026-03-29T00:00:00Z")),
            Some(at("2026-03-29T01:00:00Z"))
        );
        // 02:00 to 03:00 comes twice, and is excluded twice, with the free half hour between.
        let twice = window("02:00", "02:30");
        assert_eq!(
            may_start(&twice, &zone, at("2026-10-25T00:00:00Z")),
            Some(at("2026-10-25T00:30:00Z"))
        );
        assert_eq!(
            may_start(&twice, &zone, at("2026-10-25T01:00:00Z")),
            Some(at("2026-10-25T01:30:00Z"))
        );
    }

    #[test]
    fn what_leaves_no_time_is_refused() {
        let always = Exclusion::new("always", &[], "00:00", "24:00", None).unwrap();
        let around = Exclusion::new("around", &[], "08:00", "08:00", None).unwrap();
        let frozen = Exclusion::new("frozen", &[], "00:00", "24:00", Some(("2026-01-01", "2027-01-01"))).unwrap();
        let rest = Exclusion::new("rest", &[0, 6, 5, 4, 3, 2, 1], "18:00", "07:59", None).unwrap();
        for windows in [vec![always.clone()], vec![around], vec![office(), rest.clone(), always.clone()]] {
            assert_eq!(leave_time(&windows), Err(ExclusionError::Everything), "{windows:?}");
        }
        for windows in [vec![], vec![frozen.clone()], vec![office(), rest]] {
            assert_eq!(leave_time(&windows), Ok(()), "{windows:?}");
        }
        assert_eq!(may_start(&[always], &Zone::utc(), at("2026-03-02T08:00:00Z")), None);
        // Years, and yet an end.
        let free = may_start(&[frozen], &Zone::utc(), at("2026-01-01T00:00:00Z"));
        assert_eq!(free, Some(at("2027-01-02T00:00:00Z")));
    }

    #[test]
    fn what_is_no_window_is_named() {
        for (from, to, dates, words) in [
            ("8", "18:00", None, "from: found \"8\", expected a time of day"),
            ("24:00", "18:00", None, "from: found \"24:00\""),
            (
                "08:00",
                "24:01",
                None,
                "to: found \"24:01\", expected a time of day such as 08:00, or 24:00",
            ),
            ("08:60", "18:00", None, "from: found \"08:60\""),
            (
                "08:00",
                "18:00",
                Some(("2026-02-30", "2026-03-01")),
                "dates.from: found \"2026-02-30\"",
            ),
            ("08:00", "18:00", Some(("2026-03-01", "soon")), "dates.to: found \"soon\""),
            (
                "08:00",
                "18:00",
                Some(("2026-03-02", "2026-03-01")),
                "dates: found 2026-03-02 to 2026-03-01",
            ),
        ] {
            let error = Exclusion::new("w", &[], from, to, dates).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
