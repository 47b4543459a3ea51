//! Tables of what is due.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::name::Label;

/// Two types, of which the design only has the stronger yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Incremental,
    Full,
}

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn trigger(name: &str, kind: Kind, cron: &str) -> Trigger<Kind> {
    Trigger {
        name: Label::trigger(name).unwrap(),
        kind,
        expression: cron.parse().unwrap(),
    }
}

pub(super) fn schedule(triggers: Vec<Trigger<Kind>>) -> Schedule<Kind> {
    Schedule {
        name: Label::new("gold").unwrap(),
        created: at("2026-01-01T00:00:00Z"),
        zone: Zone::utc(),
        suspended: false,
        triggers,
        catch_up: CatchUp::Latest,
        starting_deadline: None,
        concurrency: Concurrency::Forbid,
        exclusions: Vec::new(),
    }
}

pub(super) fn nightly() -> Schedule<Kind> {
    schedule(vec![trigger("nightly", Kind::Full, "0 2 * * *")])
}

pub(super) fn source(name: &str) -> Source {
    Source {
        namespace: Label::new("shop").unwrap(),
        name: Label::new(name).unwrap(),
        created: at("2026-01-01T00:00:00Z"),
        runs: Vec::new(),
        lacks: Vec::new(),
    }
}

pub(super) fn run(trigger: &str, tick: &str, in_flight: bool) -> SeenRun {
    SeenRun {
        trigger: trigger.to_owned(),
        tick: at(tick),
        in_flight,
    }
}

/// The watermark of each trigger, made with what the schedule says now.
pub(super) fn progress(schedule: &Schedule<Kind>, watermark: &str) -> Progress {
    let watermark = |trigger: &Trigger<Kind>| Watermark {
        at: at(watermark),
        expression: format!("{} {}", trigger.expression, schedule.zone),
    };
    let watermarks = schedule
        .triggers
        .iter()
        .map(|trigger| (trigger.name.to_string(), watermark(trigger)))
        .collect();
    Progress {
        watermarks,
        suspended: false,
    }
}

/// A decision as lines: `fire <source> <trigger> <tick>`, `<why> <source> <trigger> <count> <newest>`, `watermark <trigger> <at>`, `next …`.
pub(super) fn lines(decision: &Decision<Kind>) -> Vec<String> {
    let minute = |at: Timestamp| at.strftime("%m-%dT%H:%M").to_string();
    let fire = decision
        .fire
        .iter()
        .map(|fire| format!("fire {} {} {}", fire.source.name, fire.trigger.name, minute(fire.tick)));
    let passed = decision.passed.iter().map(|passed| {
        let why = match &passed.by {
            PassedBy::Missed => "missed".to_owned(),
            PassedBy::Dropped => "dropped".to_owned(),
            PassedBy::Forbidden { running } => format!("forbidden by {}", minute(*running)),
            PassedBy::Superseded { by } => format!("superseded by {by}"),
        };
        format!(
            "{why}: {} {} {} {}",
            passed.source.name,
            passed.trigger.name,
            passed.ticks,
            minute(passed.newest)
        )
    });
    let marks = decision
        .progress
        .watermarks
        .iter()
        .map(|(trigger, mark)| format!("watermark {trigger} {}", minute(mark.at)));
    let next = decision.next_tick.iter().map(|next| format!("next {}", minute(*next)));
    fire.chain(passed).chain(marks).chain(next).collect()
}

#[track_caller]
pub(super) fn assert_decision(schedule: &Schedule<Kind>, sources: &[Source], progress: &Progress, until: Timestamp, expected: &[&str]) {
    assert_eq!(lines(&decide(schedule, sources, progress, until)), expected);
}

#[test]
fn a_tick_fires_once_when_its_minute_has_come() {
    let (schedule, sources) = (nightly(), [source("a")]);
    let mut progress = progress(&schedule, "2026-03-01T02:00:00Z");
    assert_decision(
        &schedule,
        &sources,
        &progress,
        at("2026-03-02T01:59:59.9Z"),
        &["watermark nightly 03-01T02:00", "next 03-02T02:00"],
    );
    let due = decide(&schedule, &sources, &progress, at("2026-03-02T02:00:00Z"));
    assert_eq!(
        lines(&due),
        ["fire a nightly 03-02T02:00", "watermark nightly 03-02T02:00", "next 03-03T02:00"]
    );
    assert_eq!(due.fire[0].run, "a-nightly-20260302t0200z-wivcwta2");
    assert_eq!(due.wake_after, Some(SignedDuration::from_hours(24)));
    progress = due.progress;
    // Nothing to write until the next tick.
    for now in ["2026-03-02T02:00:00Z", "2026-03-02T02:00:30Z", "2026-03-03T01:59:59Z"] {
        let idle = decide(&schedule, &sources, &progress, at(now));
        assert_eq!((idle.progress, idle.fire.len(), idle.passed.len()), (progress.clone(), 0, 0));
    }
}

#[test]
fn of_missed_ticks_the_newest_is_fired_and_the_others_are_counted() {
    let schedule = nightly();
    let progress = progress(&schedule, "2026-03-01T02:00:00Z");
    let expected = [
        "fire a nightly 03-10T02:00",
        "missed: a nightly 8 03-09T02:00",
        "watermark nightly 03-10T02:00",
        "next 03-11T02:00",
    ];
    assert_decision(&schedule, &[source("a")], &progress, at("2026-03-10T17:00:00Z"), &expected);
    // Ticks whose runs are there were not missed.
    let with_runs = Source {
        runs: vec![
            run("nightly", "2026-03-03T02:00:00Z", false),
            run("other", "2026-03-04T02:00:00Z", false),
        ],
        ..source("a")
    };
    let expected = [
        "fire a nightly 03-10T02:00",
        "missed: a nightly 7 03-09T02:00",
        "watermark nightly 03-10T02:00",
        "next 03-11T02:00",
    ];
    assert_decision(&schedule, &[with_runs], &progress, at("2026-03-10T17:00:00Z"), &expected);
}

#[test]
fn the_count_of_missed_ticks_is_bounded() {
    let (schedule, sources) = (schedule(vec![trigger("often", Kind::Full, "* * * * *")]), [source("a")]);
    let progress = progress(&schedule, "2026-01-01T00:00:00Z");
    let decision = decide(&schedule, &sources, &progress, at("2106-01-01T00:00:00Z"));
    assert_eq!((decision.fire.len(), decision.passed[0].ticks), (1, MISSED_LIMIT));
}

#[test]
fn ticks_count_from_the_creation_of_source_and_schedule() {
    let schedule = nightly();
    let progress = progress(&schedule, "2026-03-01T02:00:00Z");
    let created = |at_: &str| Source {
        created: at(at_),
        ..source("a")
    };
    for (source, fires) in [
        ("2026-03-05T01:59:59Z", 1),
        ("2026-03-05T02:00:00Z", 0),
        ("2026-03-05T02:00:01Z", 0),
        ("2027-01-01T00:00:00Z", 0),
    ] {
        let sources = [created(source)];
        assert_eq!(
            decide(&schedule, &sources, &progress, at("2026-03-05T03:00:00Z")).fire.len(),
            fires,
            "{source}"
        );
    }
    // A schedule that was made while nothing looked.
    let fresh = Schedule {
        created: at("2026-03-05T01:00:00Z"),
        ..nightly()
    };
    let expected = ["fire a nightly 03-05T02:00", "watermark nightly 03-05T03:00", "next 03-06T02:00"];
    assert_decision(&fresh, &[source("a")], &Progress::default(), at("2026-03-05T03:00:00Z"), &expected);
    let fresh = Schedule {
        created: at("2026-03-05T02:00:00Z"),
        ..nightly()
    };
    let expected = ["watermark nightly 03-05T03:00", "next 03-06T02:00"];
    assert_decision(&fresh, &[source("a")], &Progress::default(), at("2026-03-05T03:00:00Z"), &expected);
    // Without sources it is accepted, and waits for none.
    let none = decide(&fresh, &[], &Progress::default(), at("2026-03-05T03:00:00Z"));
    assert_eq!((none.next_tick, none.wake_after, none.progress.watermarks.len()), (None, None, 1));
}

#[test]
fn changing_cron_or_zone_or_adding_a_trigger_fires_nothing_of_the_past() {
    let before = nightly();
    let progress = progress(&before, "2026-03-01T02:00:00Z");
    let now = "2026-03-02T12:30:00Z";
    let cron = schedule(vec![trigger("nightly", Kind::Full, "0 12 * * *")]);
    let expected = ["watermark nightly 03-02T12:30", "next 03-03T12:00"];
    assert_decision(&cron, &[source("a")], &progress, at(now), &expected);
    let zone = Schedule {
        zone: Zone::named("America/New_York").unwrap(),
        ..nightly()
    };
    assert_decision(
        &zone,
        &[source("a")],
        &progress,
        at(now),
        &["watermark nightly 03-02T12:30", "next 03-03T07:00"],
    );
    let added = schedule(vec![
        trigger("nightly", Kind::Full, "0 2 * * *"),
        trigger("noon", Kind::Full, "0 12 * * *"),
    ]);
    let expected = [
        "fire a nightly 03-02T02:00",
        "watermark nightly 03-02T02:00",
        "watermark noon 03-02T12:30",
        "next 03-03T02:00",
    ];
    assert_decision(&added, &[source("a")], &progress, at(now), &expected);
    // Other spaces are no other cron. A trigger that is gone leaves no watermark.
    let same = schedule(vec![trigger("nightly", Kind::Full, "0  2 * * *")]);
    let expected = ["fire a nightly 03-02T02:00", "watermark nightly 03-02T02:00", "next 03-03T02:00"];
    assert_decision(&same, &[source("a")], &progress, at(now), &expected);
    let renamed = schedule(vec![trigger("daily", Kind::Full, "0 2 * * *")]);
    assert_decision(
        &renamed,
        &[source("a")],
        &progress,
        at(now),
        &["watermark daily 03-02T12:30", "next 03-03T02:00"],
    );
}

#[test]
fn time_suspended_has_no_ticks() {
    let (running, sources) = (nightly(), [source("a")]);
    let suspended = Schedule {
        suspended: true,
        ..nightly()
    };
    let mut progress = progress(&running, "2026-03-01T02:00:00Z");
    let decision = decide(&suspended, &sources, &progress, at("2026-03-05T03:00:00Z"));
    assert_eq!((decision.fire.len(), decision.passed.len(), decision.wake_after), (0, 0, None));
    progress = decision.progress;
    // Nothing to write as it goes on.
    assert_eq!(
        decide(&suspended, &sources, &progress, at("2026-03-09T03:00:00Z")).progress,
        progress
    );
    // At its end, what lies behind is gone; the next tick fires.
    let resumed = decide(&running, &sources, &progress, at("2026-03-09T12:00:00Z"));
    assert_eq!(lines(&resumed), ["watermark nightly 03-09T12:00", "next 03-10T02:00"]);
    let expected = ["fire a nightly 03-10T02:00", "watermark nightly 03-10T02:00", "next 03-11T02:00"];
    assert_decision(&running, &sources, &resumed.progress, at("2026-03-10T02:00:00Z"), &expected);
}

#[test]
fn forbid_skips_while_an_earlier_run_of_the_trigger_is_in_flight() {
    let schedule = schedule(vec![
        trigger("nightly", Kind::Full, "0 2 * * *"),
        trigger("noon", Kind::Full, "0 12 * * *"),
    ]);
    let progress = progress(&schedule, "2026-03-01T12:00:00Z");
    let with = |run| {
        [
            Source {
                runs: vec![run],
                ..source("a")
            },
            source("b"),
        ]
    };
    let now = at("2026-03-02T02:00:00Z");
    let rest = ["watermark nightly 03-02T02:00", "watermark noon 03-01T12:00", "next 03-02T12:00"];
    let check = |run, first: &[&str]| assert_decision(&schedule, &with(run), &progress, now, &[first, &rest].concat());
    // Another source is not concerned.
    check(
        run("nightly", "2026-03-01T02:00:00Z", true),
        &["fire b nightly 03-02T02:00", "forbidden by 03-01T02:00: a nightly 1 03-02T02:00"],
    );
    let both = ["fire a nightly 03-02T02:00", "fire b nightly 03-02T02:00"];
    check(run("nightly", "2026-03-01T02:00:00Z", false), &both);
    check(run("noon", "2026-03-01T12:00:00Z", true), &both);
    // Its own run was made right before the operator was killed: neither made again nor skipped.
    check(run("nightly", "2026-03-02T02:00:00Z", true), &["fire b nightly 03-02T02:00"]);
    check(run("nightly", "2026-03-02T02:00:00Z", false), &["fire b nightly 03-02T02:00"]);
}

#[test]
fn when_triggers_meet_the_strongest_wins() {
    let full = || trigger("weekly", Kind::Full, "0 2 * * 0");
    let increment = || trigger("hourly", Kind::Incremental, "0 * * * *");
    for triggers in [vec![full(), increment()], vec![increment(), full()]] {
        let schedule = schedule(triggers);
        let progress = progress(&schedule, "2026-03-01T01:00:00Z");
        let sources = [source("a")];
        // 2026-03-01 is a Sunday.
        let meet = decide(&schedule, &sources, &progress, at("2026-03-01T02:00:00Z"));
        let expected = ["fire a weekly 03-01T02:00", "superseded by weekly: a hourly 1 03-01T02:00"];
        assert_eq!(lines(&meet)[..2], expected);
        // Later, the newest of both differ: both fire.
        let expected = [
            "fire a hourly 03-01T04:00",
            "fire a weekly 03-01T02:00",
            "missed: a hourly 2 03-01T03:00",
        ];
        let mut found = lines(&decide(&schedule, &sources, &progress, at("2026-03-01T04:30:00Z")))[..3].to_vec();
        found.sort();
        assert_eq!(found, expected);
        // The stronger is skipped: the weaker runs.
        let busy = [Source {
            runs: vec![run("weekly", "2026-02-22T02:00:00Z", true)],
            ..source("a")
        }];
        let found = lines(&decide(&schedule, &busy, &progress, at("2026-03-01T02:00:00Z")))[..2].to_vec();
        assert_eq!(
            found,
            ["fire a hourly 03-01T02:00", "forbidden by 02-22T02:00: a weekly 1 03-01T02:00"]
        );
        // The stronger one's run is there already: the weaker still gives way.
        let made = [Source {
            runs: vec![run("weekly", "2026-03-01T02:00:00Z", true)],
            ..source("a")
        }];
        let found = lines(&decide(&schedule, &made, &progress, at("2026-03-01T02:00:00Z")))[..1].to_vec();
        assert_eq!(found, ["superseded by weekly: a hourly 1 03-01T02:00"]);
    }
    // Of one type, the one named first.
    let equals = schedule(vec![trigger("z", Kind::Full, "0 2 * * *"), trigger("a", Kind::Full, "0 2 * * *")]);
    let expected = [
        "fire a z 03-01T02:00",
        "superseded by z: a a 1 03-01T02:00",
        "watermark a 03-01T02:00",
        "watermark z 03-01T02:00",
        "next 03-02T02:00",
    ];
    assert_decision(
        &equals,
        &[source("a")],
        &progress(&equals, "2026-03-01T00:00:00Z"),
        at("2026-03-01T02:00:00Z"),
        &expected,
    );
}

#[test]
fn sources_have_their_own_ticks_and_share_the_watermark() {
    let schedule = schedule(vec![trigger("nightly", Kind::Full, "H 2 * * *")]);
    let sources: Vec<_> = (0..200).map(|source_| source(&format!("db-{source_}"))).collect();
    let mut progress = progress(&schedule, "2026-03-01T03:00:00Z");
    let mut fired = std::collections::BTreeMap::new();
    let mut now = at("2026-03-02T00:00:00Z");
    let mut wakes = 0;
    while now < at("2026-03-02T12:00:00Z") {
        let decision = decide(&schedule, &sources, &progress, now);
        assert!(decision.passed.is_empty());
        for firing in &decision.fire {
            assert_eq!(firing.tick, now);
            assert!(fired.insert(firing.source.name.to_string(), firing.tick).is_none());
        }
        now += decision.wake_after.unwrap();
        progress = decision.progress;
        wakes += 1;
    }
    assert_eq!(fired.len(), 200);
    assert!((40..=61).contains(&wakes), "{wakes} wakes");
}

#[test]
fn a_watermark_from_the_future_is_reported_and_set_back() {
    let (schedule, sources) = (nightly(), [source("a")]);
    let ahead = |watermark: &str, now: &str| {
        let progress = progress(&schedule, watermark);
        let decision = decide(&schedule, &sources, &progress, at(now));
        (lines(&decision), decision.ahead)
    };
    let (found, finding) = ahead("2106-02-07T02:00:00Z", "2026-03-02T01:00:00Z");
    assert_eq!(found, ["watermark nightly 03-02T01:00", "next 03-02T02:00"]);
    let expected = WatermarkAhead {
        trigger: "nightly".to_owned(),
        watermark: at("2106-02-07T02:00:00Z"),
        set_to: at("2026-03-02T01:00:00Z"),
    };
    assert_eq!(finding, [expected]);
    // A replica whose clock was a little ahead has fired the tick: nothing is wrong, and nothing fires twice.
    let (found, finding) = ahead("2026-03-02T02:00:00Z", "2026-03-02T01:55:00Z");
    assert_eq!(
        (found, finding),
        (
            vec!["watermark nightly 03-02T02:00".to_owned(), "next 03-03T02:00".to_owned()],
            Vec::new()
        )
    );
}

#[test]
fn a_clock_that_was_wrong_and_is_right_again() {
    let (schedule, sources) = (nightly(), [source("a")]);
    for wrong in [
        "1970-01-01T00:00:00Z",
        "2025-03-02T12:00:00Z",
        "2027-03-02T12:00:00Z",
        "2106-02-07T06:28:15Z",
    ] {
        let mut progress = progress(&schedule, "2026-03-02T02:00:00Z");
        let mut runs = std::collections::BTreeSet::new();
        // The API server's clock jumps.
        for now in [
            "2026-03-02T12:00:00Z",
            wrong,
            wrong,
            "2026-03-02T13:00:00Z",
            "2026-03-03T02:00:00Z",
            "2026-03-04T02:00:00Z",
        ] {
            let decision = decide(&schedule, &sources, &progress, at(now));
            runs.extend(decision.fire.iter().map(|firing| firing.tick.to_string()));
            progress = decision.progress;
        }
        // The next ticks fire as if nothing had been. While the clock was ahead, that time's tick fired; after it was behind, the newest fires again, under its name.
        assert!(
            runs.contains("2026-03-03T02:00:00Z") && runs.contains("2026-03-04T02:00:00Z"),
            "{wrong}: {runs:?}"
        );
        let others: Vec<_> = runs
            .iter()
            .filter(|tick| !tick.starts_with("2026-03-03") && !tick.starts_with("2026-03-04"))
            .collect();
        let expected = match wrong {
            "1970-01-01T00:00:00Z" | "2025-03-02T12:00:00Z" => "2026-03-02T02:00:00Z",
            "2027-03-02T12:00:00Z" => "2027-03-02T02:00:00Z",
            _ => "2106-02-07T02:00:00Z",
        };
        assert_eq!(others, [expected], "{wrong}");
    }
}
