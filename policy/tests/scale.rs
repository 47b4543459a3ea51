//! The planner's bar: 50 000 copies in under a second and 100 MB, as one source and as a thousand. A process of its own, as its peak of memory
//! is measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

use std::{collections::BTreeMap, fs, time::Instant};

use holdfast_crds::{
    Retention,
    document::{Label, ScheduleName, Sha256},
};
use holdfast_policy::{
    retention::{CopyFacts, CopyType, Rules, SourceFacts, plan},
    tick::Zone,
};
use jiff::{SignedDuration, Timestamp};

/// A source whose fulls come each day, with an increment each hour that needs the one before.
fn source(copies: i64) -> SourceFacts {
    let begin: Timestamp = "2020-01-01T02:00:00Z".parse().unwrap();
    let schedule = ScheduleName {
        namespace: Some("shop".into()),
        name: "gold".into(),
    };
    let digest = |hour: i64| Sha256::of(&hour.to_be_bytes());
    let copy = |hour: i64| {
        let tick = begin + SignedDuration::from_hours(hour);
        let full = hour % 24 == 0;
        CopyFacts {
            run: Label::new("run", format!("orders-hourly-{}", tick.strftime("%Y%m%dt%H%Mz"))).unwrap(),
            manifest: digest(hour),
            outcome: digest(-hour - 1),
            copy_type: if full { CopyType::Full } else { CopyType::Incremental },
            tick: Some(tick),
            recovery_point: tick,
            committed_at: tick + SignedDuration::from_mins(5),
            schedule: Some(schedule.clone()),
            keep_until: None,
            parents: if full { vec![] } else { vec![digest(hour - 1)] },
            server: Some("7423456789012345678".into()),
            bytes: 1_000,
            problem: None,
            unreadable: None,
            retained: vec![("keepWithin".into(), tick + SignedDuration::from_hours(24 * 30))],
            holds: vec![],
            locked_until: None,
            legal_hold: false,
            mark: None,
            reading_until: None,
            in_use: false,
        }
    };
    let retention = Retention {
        keep_within: Some("30d".parse().unwrap()),
        hourly: Some(48),
        daily: Some(60),
        weekly: Some(26),
        monthly: Some(24),
        yearly: Some(7),
        ..Retention::default()
    };
    let rules = Rules {
        retention,
        zone: Zone::named("Europe/Paris").unwrap(),
        since: begin,
        interval: Some(SignedDuration::from_hours(24)),
        gone: false,
    };
    SourceFacts {
        now: begin + SignedDuration::from_hours(copies),
        copies: (0..copies).map(copy).collect(),
        rules: BTreeMap::from([(schedule, rules)]),
        floors: vec![],
        retired: None,
        accepted: vec![],
        copies_before: None,
        counted_at: None,
        removed_at: None,
        problems: vec![],
        untold: None,
    }
}

/// The most memory that this process ever had, in MB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_000
}

#[test]
fn fifty_thousand_copies_are_planned_in_a_second_and_100_mb() {
    let bar = if cfg!(debug_assertions) { 10 } else { 1 };
    let (mut spent, mut planned) = (std::time::Duration::ZERO, 0);
    for _ in 0..1_000 {
        let facts = source(50);
        let began = Instant::now();
        planned += plan(&facts).verdicts.len();
        spent += began.elapsed();
    }
    println!("1 000 sources of 50 copies: {spent:?}, peak {} MB", peak());
    assert!(planned == 50_000 && spent.as_secs() < bar);
    let facts = source(50_000);
    println!("the facts of 50 000 copies: peak {} MB", peak());
    let began = Instant::now();
    let plan = plan(&facts);
    let spent = began.elapsed();
    println!("one source of 50 000 copies: {spent:?}, peak {} MB with its facts", peak());
    assert!(plan.verdicts.len() == 50_000 && spent.as_secs() < bar);
    assert!(peak() < 100, "{} MB", peak());
    // What is said about each is not built before it is asked for.
    assert!(plan.verdicts.iter().all(|verdict| !verdict.why().is_empty()));
}
