//! Timetables against the slow rule, and against another implementation of cron.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use proptest::prelude::*;

use super::{
    slow::{SlowCron, ZONES, cases, expression, moment},
    *,
};

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn ticks_are_those_of_the_slow_rule(expression in expression(), zone in prop::sample::select(&ZONES[..]), from in moment(), source in "[a-z]{1,3}") {
        let seed = Seed::of_source("shop", &source);
        let expanded = expression.expanded(&seed);
        let to = from + 72.hours();
        let expected = SlowCron::new(&expanded).ticks(zone, from, to);
        let timetable = Timetable::new(expression.resolve(&seed), Zone::named(zone).unwrap());
        let found: Vec<_> = timetable.between(from, to).collect();
        prop_assert!(found.iter().eq(&expected), "{} in {}: found {:?}, expected {:?}", expanded, zone, found, expected);
        // From any time within: the next and the last.
        for minutes in (0..72 * 60).step_by(97) {
            let t = from + minutes.minutes() + 30.seconds();
            if let Some(next) = expected.range(t..).next() {
                prop_assert_eq!(timetable.next_after(t), Some(*next), "{} in {}: after {}", expanded, zone, t);
            } else {
                prop_assert!(timetable.next_after(t).unwrap() > to);
            }
            if let Some(last) = expected.range(..=t).next_back() {
                prop_assert_eq!(timetable.last_until(t), Some(*last), "{} in {}: until {}", expanded, zone, t);
            } else {
                prop_assert!(timetable.last_until(t).unwrap() <= from);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn without_a_zone_ticks_are_those_of_croner(expression in expression(), from in moment(), source in "[a-z]{1,3}") {
        let seed = Seed::of_source("shop", &source);
        let expanded = expression.expanded(&seed);
        let other: croner::Cron = expanded.parse().unwrap();
        let expected: Vec<Timestamp> = other.iter_after(from.to_zoned(TimeZone::UTC)).take(5).map(|tick| tick.timestamp()).collect();
        let timetable = Timetable::new(expression.resolve(&seed), Zone::utc());
        prop_assert_eq!(timetable.after(from).take(5).collect::<Vec<_>>(), expected, "{}", expanded);
    }

    #[test]
    fn there_and_back(expression in expression(), zone in prop::sample::select(&ZONES[..]), from in moment()) {
        let timetable = Timetable::new(expression.resolve(&Seed::of_source("shop", "orders")), Zone::named(zone).unwrap());
        let mut last = timetable.last_until(from).unwrap();
        prop_assert!(last <= from);
        for tick in timetable.after(from).take(20) {
            prop_assert_eq!(tick.as_second() % 60, 0);
            prop_assert_eq!(timetable.last_until(tick), Some(tick));
            prop_assert_eq!(timetable.last_until(tick - 1.nanosecond()), Some(last));
            prop_assert_eq!(timetable.next_after(last), Some(tick));
            prop_assert_eq!(timetable.next_after(tick - 1.nanosecond()), Some(tick));
            last = tick;
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused_without_a_panic(text in "[*/,HL0-9@() -]{0,20}|.{0,40}", zone in ".{0,20}") {
        if let Ok(expression) = text.parse::<Expression>() {
            let cron = expression.resolve(&Seed::of_source("shop", "orders"));
            prop_assert!(Timetable::new(cron, Zone::utc()).next_after(Timestamp::UNIX_EPOCH).is_some());
        }
        let _ = Zone::named(&zone);
    }

    #[test]
    fn no_interval_is_longer_than_the_longest(expression in expression(), other in expression(), zone in prop::sample::select(&ZONES[..]), from in moment()) {
        let seed = Seed::of_source("shop", "orders");
        let crons = [expression.resolve(&seed), other.resolve(&seed)];
        let zone = Zone::named(zone).unwrap();
        let longest = longest_interval(&crons, &zone, from).unwrap();
        let timetables = crons.map(|cron| Timetable::new(cron, zone.clone()));
        let next = |after| timetables.iter().filter_map(|timetable| timetable.next_after(after)).min().unwrap();
        let mut last = next(from);
        for _ in 0..20 {
            let tick = next(last);
            // The next year has its own.
            if last.strftime("%Y").to_string() == from.strftime("%Y").to_string() {
                prop_assert!(tick.duration_since(last) <= longest, "{} and {} in {}: {} to {}, said {:#}", expression, other, zone, last, tick, longest);
            }
            last = tick;
        }
    }
}

/// What an operator computes at its start for a large fleet: some 10 ms in a debug build, if nothing else runs.
#[test]
fn three_thousand_schedules_are_cheap() {
    let zones = ZONES.map(|zone| Zone::named(zone).unwrap());
    let crons: Vec<Expression> = ["H 2 * * *", "H/15 * * * *", "H H * * 0", "H 2 31 * *"]
        .iter()
        .map(|cron| cron.parse().unwrap())
        .collect();
    let now: Timestamp = "2096-03-01T12:00:00Z".parse().unwrap();
    let begin = std::time::Instant::now();
    for schedule in 0..3000 {
        let seed = Seed::of_source("shop", &format!("db-{schedule}"));
        let timetable = Timetable::new(crons[schedule % crons.len()].resolve(&seed), zones[schedule % zones.len()].clone());
        assert!(timetable.next_after(now).is_some() && timetable.last_until(now).is_some());
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
}
