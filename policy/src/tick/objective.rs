//! The recovery point objective that a schedule implies when it states none.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::Offset};

use super::{
    cron::Cron,
    due::CatchUp,
    exclusion::{Exclusion, may_start},
    timetable::{Timetable, minute, timestamp},
    zone::Zone,
};

const DAY: i64 = 24 * 60;
/// Two years of hourly ticks, two weeks of those of each minute.
const STARTS: usize = 20_000;

/// The RPO of a source by its triggers: the longest interval between two ticks plus the timeout of one attempt.
///
/// A copy is as old as its tick and there only when its run has ended: right before that, the copy before it is one interval and the
/// time of a run old, and nothing is wrong. Exclusions that recur move ticks to their end, or cost them; those of some dates do not count,
/// so that a freeze of weeks is no objective for the rest of the year. None without triggers.
pub fn derived_rpo(
    crons: &[Cron],
    zone: &Zone,
    (exclusions, catch_up): (&[Exclusion], CatchUp),
    timeout: SignedDuration,
    now: Timestamp,
) -> Option<SignedDuration> {
    let recurring: Vec<_> = exclusions.iter().filter(|exclusion| exclusion.recurs()).cloned().collect();
    let longest = if recurring.is_empty() {
        longest_interval(crons, zone, now)?
    } else {
        longest_around(crons, zone, &recurring, catch_up, now)?
    };
    longest.checked_add(timeout)
}

/// The longest interval between consecutive starts, where ticks in exclusions start at their end, or not at all: in the year that `now`
/// lies in, or in its first [`STARTS`] starts.
fn longest_around(crons: &[Cron], zone: &Zone, exclusions: &[Exclusion], catch_up: CatchUp, now: Timestamp) -> Option<SignedDuration> {
    let timetables: Vec<_> = crons.iter().map(|cron| Timetable::new(*cron, zone.clone())).collect();
    let year = Offset::UTC.to_datetime(now).year();
    let new_year = |year| Offset::UTC.to_timestamp(Date::new(year, 1, 1).ok()?.at(0, 0, 0, 0)).ok();
    let (mut at, end) = (new_year(year)?, new_year(year + 1)?);
    let (mut last, mut longest) = (None::<Timestamp>, SignedDuration::ZERO);
    for _ in 0..STARTS {
        let tick = timetables.iter().filter_map(|timetable| timetable.next_after(at)).min()?;
        let start = may_start(exclusions, zone, tick)?;
        if catch_up == CatchUp::Skip && start != tick {
            // The next that counts may come at the very end.
            at = start.checked_sub(SignedDuration::from_mins(1)).ok()?.max(tick);
            continue;
        }
        if let Some(last) = last.replace(start) {
            longest = longest.max(start.duration_since(last));
        }
        at = start;
        if start >= end {
            break;
        }
    }
    last.map(|_| longest)
}

/// The longest interval between consecutive ticks of any of the crons, in the year (of UTC) that `now` lies in and to the tick after it.
///
/// Only the year counts, so that the value stays the same through it. It is exact but where a time of the longest kind spans the
/// spring's change of clocks: then it may be that hour too long, never too short. None without crons.
pub fn longest_interval(crons: &[Cron], zone: &Zone, now: Timestamp) -> Option<SignedDuration> {
    let year = Offset::UTC.to_datetime(now).year();
    let new_year = |year| Some(minute(Offset::UTC.to_timestamp(Date::new(year, 1, 1).ok()?.at(0, 0, 0, 0)).ok()?));
    let (begin, end) = (new_year(year)?, new_year(year + 1)?);
    let civil = longest_on_calendar(crons, begin / DAY, end / DAY)?;
    let longest = across_changes(crons, zone, begin, end).fold(civil, i64::max);
    Some(SignedDuration::from_mins(longest))
}

/// On a calendar without a zone, in minutes.
fn longest_on_calendar(crons: &[Cron], begin: i64, end: i64) -> Option<i64> {
    let mut within = BTreeMap::new();
    let mut longest = 0;
    let mut last = crons.iter().filter_map(|cron| cron.last_until(begin * DAY - 1)).max()?;
    while last < end * DAY {
        let first = crons.iter().filter_map(|cron| cron.first_from(last + 1)).min()?;
        longest = longest.max(first - last);
        // The rest of the day is the same on each day on which the same crons fire.
        let day = first.div_euclid(DAY);
        let midnight = (day + 1) * DAY;
        let firing: Vec<_> = crons
            .iter()
            .map(|cron| cron.first_from(day * DAY).is_some_and(|tick| tick < midnight))
            .collect();
        let (gap, of_day) = *within.entry(firing).or_insert_with(|| {
            let next = |tick: i64| {
                crons
                    .iter()
                    .filter_map(|cron| cron.first_from(tick + 1))
                    .min()
                    .filter(|tick| *tick < midnight)
            };
            let ticks: Vec<_> = std::iter::successors(Some(first), |tick| next(*tick)).collect();
            let gap = ticks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            (gap, ticks[ticks.len() - 1] - day * DAY)
        });
        longest = longest.max(gap);
        last = day * DAY + of_day;
    }
    Some(longest)
}

/// The intervals in which clocks are moved, in minutes.
fn across_changes(crons: &[Cron], zone: &Zone, begin: i64, end: i64) -> impl Iterator<Item = i64> {
    let timetables: Vec<_> = crons.iter().map(|cron| Timetable::new(*cron, zone.clone())).collect();
    let changes = std::iter::successors(zone.stretch(begin), |stretch| zone.stretch(stretch.end)).map(|stretch| stretch.end);
    changes.take_while(move |change| *change < end).filter_map(move |change| {
        let before = timestamp(change - 1)?;
        let last = timetables.iter().filter_map(|timetable| timetable.last_until(before)).max()?;
        let next = timetables.iter().filter_map(|timetable| timetable.next_after(before)).min()?;
        Some(minute(next) - minute(last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tick::{Expression, Seed};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_rpo_that_a_schedule_implies() {
        let hours = |crons: &[&str], zone: &str, now: &str| {
            let seed = Seed::of_source("shop", "orders");
            let crons: Vec<_> = crons
                .iter()
                .map(|cron| cron.parse::<Expression>().unwrap().resolve(&seed))
                .collect();
            let longest = longest_interval(&crons, &Zone::named(zone).unwrap(), at(now)).unwrap();
            (longest.as_mins() / 60, longest.as_mins() % 60)
        };
        let now = "2026-06-01T12:00:00Z";
        let table: [(&[&str], &str, (i64, i64)); 17] = [
            (&["0 2 * * *"], "UTC", (24, 0)),
            // The night in which clocks are moved back has 25 hours.
            (&["30 2 * * *"], "Europe/Paris", (25, 0)),
            (&["0 12 * * *"], "Europe/Paris", (25, 0)),
            (&["H * * * *"], "Europe/Paris", (1, 0)),
            (&["* * * * *"], "Europe/Paris", (0, 1)),
            (&["*/15 * * * *"], "UTC", (0, 15)),
            (&["*/45 * * * *"], "UTC", (0, 45)),
            (&["0 */2 * * *"], "Europe/Paris", (2, 0)),
            (&["0 */5 * * *"], "UTC", (5, 0)),
            (&["0 8-18 * * *"], "UTC", (14, 0)),
            (&["0 2 * * 1-5"], "UTC", (72, 0)),
            (&["0 2 * * 0"], "America/New_York", (7 * 24 + 1, 0)),
            (&["0 0 1 * *"], "UTC", (31 * 24, 0)),
            (&["0 0 31 * *"], "UTC", (61 * 24, 0)),
            // Together they are denser than each alone: on Sunday the tick after midnight is that of Monday.
            (&["0 2 * * 1-5", "0 12 * * 0,6"], "UTC", (34, 0)),
            (&["0 0 * * *", "0 6 * * *", "0 12,18 * * *"], "UTC", (6, 0)),
            (&["* * * 1 *"], "UTC", (334 * 24, 1)),
        ];
        for (crons, zone, expected) in table {
            assert_eq!(hours(crons, zone, now), expected, "{crons:?} in {zone}");
        }
        assert_eq!(hours(&["0 0 29 2 *"], "UTC", now), (1461 * 24, 0));
        assert_eq!(hours(&["0 0 29 2 *"], "UTC", "2100-06-01T00:00:00Z"), (2921 * 24, 0));
        // The year it is computed in does not flutter within the year.
        assert_eq!(
            hours(&["30 2 * * *"], "Europe/Paris", "2026-01-01T00:00:00Z"),
            hours(&["30 2 * * *"], "Europe/Paris", "2026-12-31T23:59:59Z")
        );
        let cron = "0 2 * * *"
            .parse::<Expression>()
            .unwrap()
            .resolve(&Seed::of_source("shop", "orders"));
        let none = (&[][..], CatchUp::Latest);
        let rpo = derived_rpo(&[cron], &Zone::utc(), none, SignedDuration::from_hours(6), at(now));
        assert_eq!(rpo, Some(SignedDuration::from_hours(30)));
        assert_eq!(derived_rpo(&[], &Zone::utc(), none, SignedDuration::from_hours(6), at(now)), None);
    }

    #[test]
    fn exclusions_that_recur_move_ticks_or_cost_them() {
        let window = |days: &[u8], from, to, dates| Exclusion::new("w", days, from, to, dates).unwrap();
        let office = || window(&[1, 2, 3, 4, 5], "08:00", "18:00", None);
        let hours = |cron: &str, exclusions: &[Exclusion], catch_up| {
            let cron = cron.parse::<Expression>().unwrap().resolve(&Seed::of_source("shop", "orders"));
            let rpo = derived_rpo(
                &[cron],
                &Zone::utc(),
                (exclusions, catch_up),
                SignedDuration::ZERO,
                at("2026-06-01T12:00:00Z"),
            );
            rpo.map(|rpo| (rpo.as_mins() / 60, rpo.as_mins() % 60))
        };
        for (cron, exclusions, catch_up, expected) in [
            ("0 * * * *", vec![office()], CatchUp::Latest, (11, 0)),
            ("30 * * * *", vec![office()], CatchUp::Latest, (10, 30)),
            ("30 * * * *", vec![office()], CatchUp::Skip, (11, 0)),
            ("0 * * * *", vec![office()], CatchUp::Skip, (11, 0)),
            ("* * * * *", vec![office()], CatchUp::Latest, (10, 1)),
            // Noon waits for the evening; from Sunday's noon it is one evening more to Monday's.
            ("0 12 * * *", vec![office()], CatchUp::Latest, (30, 0)),
            // … or comes on Saturday and Sunday alone.
            ("0 12 * * *", vec![office()], CatchUp::Skip, (6 * 24, 0)),
            ("0 2 * * *", vec![office()], CatchUp::Skip, (24, 0)),
            // A freeze is no objective.
            (
                "0 2 * * *",
                vec![window(&[], "00:00", "24:00", Some(("2026-08-01", "2026-08-31")))],
                CatchUp::Latest,
                (24, 0),
            ),
        ] {
            assert_eq!(
                hours(cron, &exclusions, catch_up),
                Some(expected),
                "{cron} {exclusions:?} {catch_up:?}"
            );
        }
        // No tick is ever outside: there is nothing to go by.
        assert_eq!(hours("0 12 * * 1", &[office()], CatchUp::Skip), None);
    }
}
