//! The table in `docs/schedules.md` says what the code does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

use std::{collections::BTreeMap, fs, path::Path};

use holdfast_policy::{
    name::Label,
    tick::{CatchUp, Concurrency, Exclusion, Passed, PassedBy, Progress, Schedule, Source, Trigger, Watermark, Zone, decide},
};
use jiff::{SignedDuration, Timestamp};

fn at(time: &str) -> Timestamp {
    format!("2026-03-02T{time}:00Z").parse().unwrap()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// The cells `runs`, `missed` and `dropped` for the cells before them.
fn outcome(catch_up: &str, deadline: &str, exclusion: &str, back_at: &str) -> [String; 3] {
    let cron = "0 * * * *";
    let schedule = Schedule {
        name: label("gold"),
        created: at("00:00"),
        zone: Zone::utc(),
        suspended: false,
        triggers: vec![Trigger {
            name: label("hourly"),
            kind: 0,
            expression: cron.parse().unwrap(),
        }],
        catch_up: match catch_up {
            "Skip" => CatchUp::Skip,
            "Latest" => CatchUp::Latest,
            "All" => CatchUp::All,
            other => panic!("catchUp {other}"),
        },
        starting_deadline: deadline
            .strip_suffix('m')
            .map(|minutes| SignedDuration::from_mins(minutes.parse().unwrap())),
        concurrency: Concurrency::Forbid,
        exclusions: exclusion
            .split_once('–')
            .map(|(from, to)| Exclusion::new("window", &[], from, to, None).unwrap())
            .into_iter()
            .collect(),
    };
    let sources = [Source {
        namespace: label("shop"),
        name: label("orders"),
        created: at("00:00"),
        runs: Vec::new(),
        lacks: Vec::new(),
    }];
    let watermark = Watermark {
        at: at("04:00"),
        expression: format!("{cron} UTC"),
    };
    let progress = Progress {
        watermarks: BTreeMap::from([("hourly".to_owned(), watermark)]),
        suspended: false,
    };
    let decision = decide(&schedule, &sources, &progress, at(back_at));
    let runs: Vec<_> = decision
        .fire
        .iter()
        .map(|firing| firing.tick.strftime("%H:%M").to_string())
        .collect();
    let count = |of: fn(&PassedBy) -> bool| {
        let mine = decision.passed.iter().filter(|passed: &&Passed<'_, _>| of(&passed.by));
        mine.map(|passed| passed.ticks).sum::<u32>().to_string()
    };
    [
        runs.join(" "),
        count(|by| matches!(by, PassedBy::Missed)),
        count(|by| matches!(by, PassedBy::Dropped)),
    ]
}

#[test]
fn the_table_of_what_is_made_up_for() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schedules.md")).unwrap();
    let (_, table) = page.split_once("<!-- checked by policy/tests/schedules.rs -->").unwrap();
    let rows = table.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    let mut seen = 0;
    for row in rows {
        let row = row.strip_prefix('|').and_then(|row| row.strip_suffix('|')).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [catch_up, deadline, exclusion, back_at, expected @ ..] = cells.as_slice() else {
            panic!("{row}")
        };
        assert_eq!(outcome(catch_up, deadline, exclusion, back_at), expected, "{row}");
        seen += 1;
    }
    assert!(seen > 8, "only {seen} rows were found");
}
