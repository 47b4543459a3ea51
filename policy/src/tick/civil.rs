//! The minutes that a cron names on a calendar without a zone, counted from 1970-01-01 00:00.

use jiff::{Timestamp, civil::Date, tz::Offset};

use super::cron::Cron;

pub(super) const DAY: i64 = 24 * 60;
/// The longest wait for a day is from one 29 February over the turn of a century to the next: eight years.
const SEARCH_DAYS: i64 = 9 * 366;

impl Cron {
    /// The first minute named at or after `from`. None only at the end of representable time.
    pub(super) fn first_from(&self, from: i64) -> Option<i64> {
        let (day, minute) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        if self.names_day(date(day)?)
            && let Some(minute) = self.minute_from(minute)
        {
            return Some(day * DAY + minute);
        }
        Some(self.day_from(day + 1)? * DAY + self.minute_from(0)?)
    }

    /// The last minute named at or before `to`. None only at the beginning of representable time.
    pub(super) fn last_until(&self, to: i64) -> Option<i64> {
        let (day, minute) = (to.div_euclid(DAY), to.rem_euclid(DAY));
        if self.names_day(date(day)?)
            && let Some(minute) = self.minute_until(minute)
        {
            return Some(day * DAY + minute);
        }
        Some(self.day_until(day - 1)? * DAY + self.minute_until(DAY - 1)?)
    }

    /// Where neither day field is `*`, one of them suffices.
    fn names_day(&self, date: Date) -> bool {
        let of_month = bit(self.days, date.day());
        let of_week = bit(self.weekdays, date.weekday().to_sunday_zero_offset());
        let day = match (self.days_unrestricted, self.weekdays_unrestricted) {
            (true, true) => true,
            (true, false) => of_week,
            (false, true) => of_month,
            (false, false) => of_month || of_week,
        };
        day && bit(self.months, date.month())
    }

    fn day_from(&self, from: i64) -> Option<i64> {
        let mut day = from;
        while day < from + SEARCH_DAYS {
            let date = date(day)?;
            if self.names_day(date) {
                return Some(day);
            }
            let rest_of_month = if bit(self.months, date.month()) {
                0
            } else {
                date.days_in_month() - date.day()
            };
            day += i64::from(rest_of_month) + 1;
        }
        None
    }

    fn day_until(&self, to: i64) -> Option<i64> {
        let mut day = to;
        while day > to - SEARCH_DAYS {
            let date = date(day)?;
            if self.names_day(date) {
                return Some(day);
            }
            day -= if bit(self.months, date.month()) { 1 } else { i64::from(date.day()) };
        }
        None
    }

    /// The first minute of a day at or after `from`.
    fn minute_from(&self, from: i64) -> Option<i64> {
        let (hour, minute) = (from / 60, from % 60);
        if bit(self.hours, hour)
            && let Some(minute) = lowest(self.minutes & (u64::MAX << minute))
        {
            return Some(hour * 60 + minute);
        }
        Some(lowest(self.hours & (u64::MAX << (hour + 1)))? * 60 + lowest(self.minutes)?)
    }

    /// The last minute of a day at or before `to`.
    fn minute_until(&self, to: i64) -> Option<i64> {
        let (hour, minute) = (to / 60, to % 60);
        if bit(self.hours, hour)
            && let Some(minute) = highest(self.minutes & !(u64::MAX << (minute + 1)))
        {
            return Some(hour * 60 + minute);
        }
        Some(highest(self.hours & !(u64::MAX << hour))? * 60 + highest(self.minutes)?)
    }
}

pub(super) fn bit(set: u64, place: impl Into<i64>) -> bool {
    set >> place.into() & 1 == 1
}

fn lowest(set: u64) -> Option<i64> {
    (set != 0).then(|| i64::from(set.trailing_zeros()))
}

fn highest(set: u64) -> Option<i64> {
    (set != 0).then(|| i64::from(set.ilog2()))
}

pub(super) fn date(day: i64) -> Option<Date> {
    let midnight = Timestamp::from_second(day.checked_mul(24 * 60 * 60)?).ok()?;
    Some(Offset::UTC.to_datetime(midnight).date())
}
