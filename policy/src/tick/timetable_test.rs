//! Tables of ticks, with the clock changes of real zones.

use super::*;

fn timetable(cron: &str, zone: &str) -> Timetable {
    let seed = Seed::of_source("shop", "orders");
    Timetable::new(cron.parse::<Expression>().unwrap().resolve(&seed), Zone::named(zone).unwrap())
}

fn at(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

/// All ticks in `(from, to]`, found forwards and again backwards.
#[track_caller]
fn assert_ticks(cron: &str, zone: &str, from: &str, to: &str, expected: &[&str]) {
    let (from, to) = (at(from), at(to));
    let timetable = timetable(cron, zone);
    let forwards: Vec<_> = timetable.between(from, to).map(|tick| tick.to_string()).collect();
    assert_eq!(forwards, expected, "{cron} in {zone}");
    let mut backwards = Vec::new();
    let mut last = timetable.last_until(to);
    while let Some(tick) = last.filter(|tick| *tick > from) {
        backwards.push(tick.to_string());
        last = timetable.last_until(tick - jiff::SignedDuration::from_nanos(1));
    }
    backwards.reverse();
    assert_eq!(backwards, expected, "{cron} in {zone}, backwards");
}

const PARIS: &str = "Europe/Paris";
const NEW_YORK: &str = "America/New_York";

#[test]
fn a_skipped_local_time_runs_once_at_the_first_valid_instant() {
    // 2026-03-29 02:00 CET is 03:00 CEST.
    assert_ticks(
        "30 2 * * *",
        PARIS,
        "2026-03-27T12:00:00Z",
        "2026-03-30T12:00:00Z",
        &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    );
    // Two skipped times and the first valid one are one tick.
    assert_ticks(
        "0,30 2,3 * * *",
        PARIS,
        "2026-03-28T12:00:00Z",
        "2026-03-29T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
    );
    // 2026-03-08 02:00 EST is 03:00 EDT.
    assert_ticks(
        "30 2 * * *",
        NEW_YORK,
        "2026-03-07T12:00:00Z",
        "2026-03-09T12:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
    );
    // Only that one day is named.
    assert_ticks(
        "30 2 8 3 *",
        NEW_YORK,
        "2026-01-01T00:00:00Z",
        "2026-12-31T00:00:00Z",
        &["2026-03-08T07:00:00Z"],
    );
    // Half an hour is skipped, from 02:00 to 02:30.
    assert_ticks(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        "2026-10-05T00:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    );
    // Midnight is skipped.
    assert_ticks(
        "0 0 * * *",
        "America/Havana",
        "2026-03-07T12:00:00Z",
        "2026-03-09T12:00:00Z",
        &["2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"],
    );
    // A whole day is skipped: 2011-12-30 was not in Samoa.
    assert_ticks(
        "30 2 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2011-12-31T00:00:00Z",
        &["2011-12-29T12:30:00Z", "2011-12-30T10:00:00Z", "2011-12-30T12:30:00Z"],
    );
}

#[test]
fn a_repeated_local_time_runs_at_its_first_occurrence() {
    // 2026-10-25 03:00 CEST is 02:00 CET.
    assert_ticks(
        "30 2 * * *",
        PARIS,
        "2026-10-24T12:00:00Z",
        "2026-10-26T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    );
    assert_ticks(
        "0 2,3 * * *",
        PARIS,
        "2026-10-24T12:00:00Z",
        "2026-10-25T12:00:00Z",
        &["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"],
    );
    // 2026-11-01 02:00 EDT is 01:00 EST.
    assert_ticks(
        "30 1,2 * * *",
        NEW_YORK,
        "2026-10-31T12:00:00Z",
        "2026-11-01T12:00:00Z",
        &["2026-11-01T05:30:00Z", "2026-11-01T07:30:00Z"],
    );
    assert_ticks(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        "2026-04-05T00:00:00Z",
        &["2026-04-04T14:45:00Z"],
    );
}

#[test]
fn in_the_midst_of_an_overlap_nothing_comes_again() {
    let timetable = timetable("30 2 * * *", PARIS);
    for (clock, next, last) in [
        ("2026-10-25T00:29:59Z", "2026-10-25T00:30:00Z", "2026-10-24T00:30:00Z"),
        ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T01:10:00Z", "2026-10-26T01:30:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z", "2026-10-25T00:30:00Z"),
    ] {
        assert_eq!(timetable.next_after(at(clock)), Some(at(next)), "{clock}");
        assert_eq!(timetable.last_until(at(clock)), Some(at(last)), "{clock}");
    }
}

#[test]
fn what_recurs_follows_elapsed_time() {
    let gap = |cron, expected| assert_ticks(cron, PARIS, "2026-03-28T23:01:00Z", "2026-03-29T03:00:00Z", expected);
    gap(
        "30 * * * *",
        &[
            "2026-03-28T23:30:00Z",
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:30:00Z",
            "2026-03-29T02:30:00Z",
        ],
    );
    // 00:00, then 02:00 as if clocks had not moved, which is 03:00, then 04:00.
    gap("0 */2 * * *", &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]);
    // What is read by the unmoved clock ends with the gap: no tick at 04:00, which that clock calls 03:00.
    gap("0 */3 * * *", &["2026-03-29T01:00:00Z"]);
    gap("*/30 2 * * *", &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    let overlap = |cron, expected| assert_ticks(cron, PARIS, "2026-10-24T22:01:00Z", "2026-10-25T02:00:00Z", expected);
    overlap(
        "30 * * * *",
        &[
            "2026-10-24T22:30:00Z",
            "2026-10-24T23:30:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
        ],
    );
    overlap("0 */2 * * *", &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"]);
    overlap(
        "*/30 2 * * *",
        &[
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
        ],
    );
    // The hour before a gap of half an hour: 01:45, then what is 60 minutes later, then 02:45 and so on.
    assert_ticks(
        "15 * * * *",
        "Australia/Lord_Howe",
        "2026-10-03T14:00:00Z",
        "2026-10-03T17:00:00Z",
        &["2026-10-03T14:45:00Z", "2026-10-03T15:45:00Z", "2026-10-03T16:15:00Z"],
    );
}

#[test]
fn days_that_not_each_month_or_year_has() {
    assert_ticks(
        "0 12 31 * *",
        "UTC",
        "2026-01-01T00:00:00Z",
        "2026-08-30T00:00:00Z",
        &[
            "2026-01-31T12:00:00Z",
            "2026-03-31T12:00:00Z",
            "2026-05-31T12:00:00Z",
            "2026-07-31T12:00:00Z",
        ],
    );
    assert_ticks(
        "0 0 29 2 *",
        "UTC",
        "2020-03-01T00:00:00Z",
        "2028-12-31T00:00:00Z",
        &["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"],
    );
    // 2100 is no leap year.
    assert_ticks(
        "0 0 29 2 *",
        NEW_YORK,
        "2096-03-01T00:00:00Z",
        "2106-12-31T00:00:00Z",
        &["2104-02-29T05:00:00Z"],
    );
    assert_ticks(
        "30 2 29 2 *",
        PARIS,
        "2096-02-29T01:30:00Z",
        "2104-02-29T01:30:00Z",
        &["2104-02-29T01:30:00Z"],
    );
    // Either day field, where both are named: Friday or the 13th.
    assert_ticks(
        "0 0 13 * 5",
        "UTC",
        "2026-02-10T00:00:00Z",
        "2026-02-21T00:00:00Z",
        &["2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"],
    );
    assert_ticks(
        "0 0 1 * 7",
        "UTC",
        "2026-10-31T00:00:00Z",
        "2026-11-09T00:00:00Z",
        &["2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z"],
    );
}

#[test]
fn any_clock() {
    for (zone, clock, next) in [
        (PARIS, "1970-01-01T00:00:00Z", "1970-01-01T01:30:00Z"),
        (PARIS, "1969-12-31T23:59:59.5Z", "1970-01-01T01:30:00Z"),
        (NEW_YORK, "2106-02-07T06:28:15Z", "2106-02-07T07:30:00Z"),
        (PARIS, "2106-03-27T12:00:00Z", "2106-03-28T01:00:00Z"),
        ("UTC", "-000001-12-31T01:59:59Z", "-000001-12-31T02:30:00Z"),
        // Ends of representable time: None, not a panic.
        ("Asia/Kathmandu", "9999-12-29T12:00:00Z", "9999-12-29T20:45:00Z"),
    ] {
        assert_eq!(
            timetable("30 2 * * *", zone).next_after(at(clock)),
            Some(at(next)),
            "{zone} {clock}"
        );
    }
    for cron in ["30 2 * * *", "0 0 29 2 *", "* * * * *"] {
        assert_eq!(timetable(cron, PARIS).next_after(jiff::Timestamp::MAX), None);
        assert!(timetable(cron, PARIS).last_until(at("9999-12-30T21:59:59Z")).is_some());
        assert_eq!(timetable(cron, PARIS).last_until(jiff::Timestamp::MIN), None);
    }
}

#[test]
fn a_sub_minute_offset_still_gives_whole_minutes() {
    // Monrovia was 44 minutes and 30 seconds behind until 1972.
    for tick in timetable("*/7 * * * *", "Africa/Monrovia").between(at("1972-01-06T20:00:00Z"), at("1972-01-07T04:00:00Z")) {
        assert_eq!(tick.as_second() % 60, 0, "{tick}");
    }
}

#[test]
fn the_next_five() {
    let timetable = timetable("H 2 * * 1-5", "Europe/Zurich");
    let next: Vec<_> = timetable
        .after(at("2026-11-19T12:00:00Z"))
        .take(5)
        .map(|tick| tick.to_string())
        .collect();
    let days: Vec<_> = next.iter().map(|tick| &tick[..10]).collect();
    assert_eq!(days, ["2026-11-20", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26"]);
}
