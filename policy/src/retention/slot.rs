//! Slots: the hour, day, ISO week, month, quarter or year that a copy can stand for. Rule R1.

use std::{collections::BTreeMap, fmt};

use holdfast_crds::Retention;
use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date};

use super::facts::{CopyFacts, CopyType};
use crate::tick::Zone;

/// A slot is given away so long after the tick of the copy that would get it: until then an earlier one may still become good.
pub const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// The kinds of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Period {
    /// Those that the rules name, with how many of each.
    pub fn wanted(retention: &Retention) -> Vec<(Self, i64)> {
        [
            (Self::Hour, retention.hourly),
            (Self::Day, retention.daily),
            (Self::Week, retention.weekly),
            (Self::Month, retention.monthly),
            (Self::Quarter, retention.quarterly),
            (Self::Year, retention.yearly),
        ]
        .into_iter()
        .filter_map(|(period, count)| Some((period, i64::from(count?))))
        .collect()
    }

    /// Whether a recorded rule is that of a slot, such as `monthly 2026-11`.
    pub fn is_slot(rule: &str) -> bool {
        let all = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Quarter, Self::Year];
        all.iter()
            .any(|period| rule.strip_prefix(period.rule()).is_some_and(|rest| rest.starts_with(' ')))
    }

    /// The name of the rule.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Quarter => "quarterly",
            Self::Year => "yearly",
        }
    }
}

/// One slot: a period, and which one. Counted so that the next is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub period: Period,
    /// Hours since 1970 (of UTC, so that an hour that clocks repeat is two), days since 1970, weeks since the Monday of 1970's first ISO week,
    /// months, quarters or years since year 0.
    number: i64,
}

const EPOCH: Date = Date::constant(1970, 1, 1);
/// The Monday of the week that 1970 began in.
const MONDAY: Date = Date::constant(1969, 12, 29);

impl Slot {
    /// The slot of `period` that `at` lies in, in `zone`.
    pub fn of(period: Period, at: Timestamp, zone: &Zone) -> Self {
        let date = zone.local(at).date();
        let days = |from: Date| i64::from(date.since(from).map_or(0, |span| span.get_days()));
        let month = i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
        let number = match period {
            Period::Hour => at.as_second().div_euclid(3_600),
            Period::Day => days(EPOCH),
            Period::Week => days(MONDAY).div_euclid(7),
            Period::Month => month,
            Period::Quarter => month.div_euclid(3),
            Period::Year => i64::from(date.year()),
        };
        Self { period, number }
    }

    /// When the slot begins in `zone`. The end of time where that cannot be told.
    pub fn begins(self, zone: &Zone) -> Timestamp {
        let from = |date: Date, days: i64| date.checked_add(days.days()).ok();
        let month = |months: i64| {
            let year = i16::try_from(months.div_euclid(12)).ok()?;
            Date::new(year, i8::try_from(months.rem_euclid(12) + 1).ok()?, 1).ok()
        };
        let date = match self.period {
            Period::Hour => return Timestamp::from_second(self.number.saturating_mul(3_600)).unwrap_or(Timestamp::MAX),
            Period::Day => from(EPOCH, self.number),
            Period::Week => from(MONDAY, self.number.saturating_mul(7)),
            Period::Month => month(self.number),
            Period::Quarter => month(self.number.saturating_mul(3)),
            Period::Year => month(self.number.saturating_mul(12)),
        };
        date.and_then(|date| zone.midnight(date)).unwrap_or(Timestamp::MAX)
    }

    /// The slot that comes `count` later.
    #[must_use]
    pub fn later(self, count: i64) -> Self {
        Self {
            number: self.number.saturating_add(count),
            ..self
        }
    }

    /// Such as `2026-11-20`, `2026-W47`, `2026-11`, `2026-Q4`, `2026`, and for an hour `2026-11-20T22Z`.
    pub fn name(self, zone: &Zone) -> String {
        let begins = self.begins(zone);
        let date = zone.local(begins).date();
        match self.period {
            Period::Hour => begins.strftime("%Y-%m-%dT%HZ").to_string(),
            Period::Day => date.to_string(),
            Period::Week => {
                let week = date.iso_week_date();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Period::Month => format!("{:04}-{:02}", date.year(), date.month()),
            Period::Quarter => format!("{:04}-Q{}", date.year(), (date.month() - 1) / 3 + 1),
            Period::Year => format!("{:04}", date.year()),
        }
    }

    /// The rule as records name it, such as `monthly 2026-11`.
    pub fn rule(self, zone: &Zone) -> String {
        format!("{} {}", self.period.rule(), self.name(zone))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule())
    }
}

/// Which copy has which slot.
#[derive(Debug, Default)]
pub struct Slots {
    /// By copy (its position among those that were given): the rule as recorded, and until when it keeps the copy.
    pub owned: Vec<(usize, String, Timestamp)>,
    /// Slots that should keep a copy and have none.
    pub empty: Vec<String>,
}

/// Gives the slots of one schedule's copies away. `copies` are all copies of the schedule, by order.
///
/// The first good full by tick order gets the slot, [`PENDING`] after its tick. Who has it by record keeps it while it is good; where it is
/// not, the nearest good full takes it.
pub fn give(
    copies: &[(usize, &CopyFacts)],
    retention: &Retention,
    zone: &Zone,
    now: Timestamp,
    is_good_full: impl Fn(&CopyFacts) -> bool,
) -> Slots {
    let mut slots = Slots::default();
    let good: Vec<_> = copies.iter().filter(|(_, copy)| is_good_full(copy)).collect();
    let mut recorded: BTreeMap<&str, Vec<&(usize, &CopyFacts)>> = BTreeMap::new();
    for entry in copies {
        for (rule, _) in &entry.1.retained {
            recorded.entry(rule.as_str()).or_default().push(entry);
        }
    }
    for (period, count) in Period::wanted(retention) {
        let mut groups: BTreeMap<Slot, Vec<&(usize, &CopyFacts)>> = BTreeMap::new();
        for entry in copies.iter().filter(|(_, copy)| copy.copy_type == CopyType::Full) {
            groups.entry(Slot::of(period, entry.1.order().0, zone)).or_default().push(entry);
        }
        for (slot, entries) in groups {
            let until = slot.later(count).begins(zone);
            if until <= now {
                continue;
            }
            let rule = slot.rule(zone);
            let owners = recorded.get(rule.as_str()).map_or(&[][..], Vec::as_slice);
            let first = entries.iter().find(|(_, copy)| is_good_full(copy));
            let given = match (owners.iter().find(|(_, copy)| is_good_full(copy)), owners.last(), first) {
                // Whoever has it keeps it.
                (Some(owner), _, _) => Some(*owner),
                // Whoever had it is not good any more.
                (None, Some((_, demoted)), _) => {
                    let at = demoted.order().0;
                    let distance = |copy: &CopyFacts| copy.order().0.duration_since(at).abs();
                    good.iter().min_by_key(|(_, copy)| (distance(copy), copy.order())).copied()
                }
                (None, None, Some(first)) if now.duration_since(first.1.order().0) < PENDING => continue,
                (None, None, Some(first)) => Some(*first),
                // Another copy may still come.
                (None, None, None) if now.duration_since(slot.later(1).begins(zone)) < PENDING => continue,
                (None, None, None) => None,
            };
            match given {
                Some((position, _)) => slots.owned.push((*position, rule, until)),
                None => slots.empty.push(rule),
            }
        }
    }
    slots
}
