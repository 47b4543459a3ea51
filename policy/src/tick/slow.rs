//! The rule of ticks again, as slowly and plainly as can be: each minute is asked in turn. The properties compare it with the real code.

use std::collections::BTreeSet;

use jiff::{
    Timestamp, ToSpan,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZoneDatabase},
};
use proptest::prelude::*;

/// How many cases a property tries: `PROPTEST_CASES` if that is set (nightly), else so many.
pub fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .map_or(usual, |cases| cases.parse().expect("PROPTEST_CASES is a number"));
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

pub const ZONES: [&str; 12] = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Europe/Zurich",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "America/Havana",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Pacific/Chatham",
    "America/Nuuk",
];

/// A cron without `H`: the texts of its fields, and the values that they name.
pub struct SlowCron {
    fields: Vec<String>,
    values: Vec<Vec<bool>>,
    /// Fields of day of month and day of week that are `*`.
    stars: bool,
    recurs: bool,
}

impl SlowCron {
    pub fn new(expanded: &str) -> Self {
        let fields: Vec<_> = expanded.split(' ').map(str::to_owned).collect();
        let values = |(place, text): (usize, &String)| (0..60).map(|value| names(text, place, value)).collect();
        let mut cron = Self {
            values: fields.iter().enumerate().map(values).collect(),
            fields,
            stars: false,
            recurs: false,
        };
        cron.stars = cron.star(2) || cron.star(4);
        cron.recurs = [0, 1].into_iter().any(|place| cron.star(place) || cron.fields[place].contains('/'));
        cron
    }

    fn field(&self, place: usize, value: i8) -> bool {
        self.values[place][usize::try_from(value).unwrap()]
    }

    fn star(&self, place: usize) -> bool {
        self.fields[place].split(',').any(|element| element == "*")
    }

    fn names(&self, local: DateTime) -> bool {
        let of_month = self.field(2, local.day());
        let of_week = self.field(4, local.weekday().to_sunday_zero_offset());
        let day = if self.stars { of_month && of_week } else { of_month || of_week };
        self.field(0, local.minute()) && self.field(1, local.hour()) && self.field(3, local.month()) && day
    }

    /// The ticks in `(from, to]`; `from` is a whole minute.
    pub fn ticks(&self, zone: &str, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        let mut ticks = BTreeSet::new();
        // What a clock shows that nobody set when the last gap came, as long as the gap was.
        let mut unset: Option<(DateTime, i64)> = None;
        let warm_up = from - 48.hours();
        let mut last = zone.to_datetime(warm_up);
        let mut minute = warm_up + 1.minute();
        while minute <= to {
            let local = zone.to_datetime(minute);
            let skipped = local.duration_since(last).as_mins() - 1;
            if skipped > 0 {
                unset = Some((last + 1.minute(), skipped));
            }
            let is_tick = if self.recurs {
                let by_unset = unset.is_some_and(|(shown, _)| self.names(shown));
                self.names(local) || by_unset
            } else {
                let first = || match zone.to_ambiguous_timestamp(local).offset() {
                    AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).unwrap() == minute,
                    _ => true,
                };
                let skips_one = (1..=skipped).any(|minutes| self.names(last + minutes.minutes()));
                (self.names(local) && first()) || skips_one
            };
            if is_tick && minute > from {
                ticks.insert(minute);
            }
            unset = unset
                .filter(|(_, left)| *left > 1)
                .map(|(shown, left)| (shown + 1.minute(), left - 1));
            last = local;
            minute += 1.minute();
        }
        ticks
    }
}

fn names(text: &str, place: usize, value: i8) -> bool {
    let greatest = [59, 23, 31, 12, 6][place];
    let number = |text: &str| text.parse::<i8>().unwrap();
    text.split(',').any(|element| {
        let (range, step) = element.split_once('/').map_or((element, 1), |(range, step)| (range, number(step)));
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (number(from), number(to)),
            None if range == "*" => (i8::from(place == 2 || place == 3), greatest),
            None => (number(range), number(range)),
        };
        let is = |value: i8| value >= from && value <= to && (value - from) % step == 0;
        is(value) || (place == 4 && value == 0 && is(7))
    })
}

fn field(least: u8, greatest: u8, hashed: u8, star: u32) -> impl Strategy<Value = String> {
    let value = least..=greatest;
    let range = (value.clone(), value.clone()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let step = 2..=(greatest - least);
    let element = prop_oneof![
        4 => value.clone().prop_map(|value| value.to_string()),
        2 => range.clone().prop_map(|(from, to)| format!("{from}-{to}")),
        2 => (range.clone(), step.clone()).prop_map(|((from, to), step)| format!("{from}-{to}/{step}")),
        2 => step.clone().prop_map(|step| format!("*/{step}")),
        1 => Just("H".to_owned()),
        1 => step.prop_map(|step| format!("H/{step}")),
        1 => range.prop_map(move |(from, to)| format!("H({}-{})", from.min(hashed), to.min(hashed))),
    ];
    prop_oneof![
        star => Just("*".to_owned()),
        8 => prop::collection::vec(element, 1..=3).prop_map(|elements| elements.join(",")),
    ]
}

/// Valid expressions of all shapes.
pub fn expression() -> impl Strategy<Value = super::Expression> {
    let fields = (
        field(0, 59, 59, 2),
        field(0, 23, 23, 8),
        field(1, 31, 28, 40),
        field(1, 12, 12, 80),
        field(0, 6, 6, 40),
    );
    fields
        .prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}").parse())
        .prop_filter_map("never happens", Result::ok)
}

/// A whole minute: any, or in the days around a change of clocks.
pub fn moment() -> impl Strategy<Value = Timestamp> {
    const CHANGES: [&str; 5] = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2028-02-29T00:00:00Z",
    ];
    let around = (prop::sample::select(&CHANGES[..]), -4320_i64..4320)
        .prop_map(|(change, minutes)| change.parse::<Timestamp>().unwrap() + minutes.minutes());
    // From 1973 to 2106.
    let any = (1_577_836_i64..71_582_788).prop_map(|minute| Timestamp::from_second(minute * 60).unwrap());
    prop_oneof![2 => around, 1 => any]
}
