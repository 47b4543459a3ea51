//! Tables of catch-up, starting deadline, concurrency and exclusions.

use jiff::SignedDuration;

use super::{due_test::*, *};

/// Every hour, made with a watermark at 04:00.
fn hourly() -> (Schedule<Kind>, Progress) {
    let schedule = schedule(vec![trigger("hourly", Kind::Full, "0 * * * *")]);
    let progress = progress(&schedule, "2026-03-01T04:00:00Z");
    (schedule, progress)
}

/// The decision at a time, but for watermarks and the next tick.
fn at_work(schedule: &Schedule<Kind>, sources: &[Source], progress: &Progress, now: &str) -> Vec<String> {
    let mut found = lines(&decide(schedule, sources, progress, at(now)));
    found.retain(|line| !line.starts_with("watermark") && !line.starts_with("next"));
    found
}

#[test]
fn what_is_made_up_for() {
    let (mut schedule, progress) = hourly();
    let sources = [source("a")];
    let table = [
        (CatchUp::Skip, "2026-03-01T05:05:00Z", vec!["fire a hourly 03-01T05:00"]),
        (CatchUp::Skip, "2026-03-01T05:05:01Z", vec!["missed: a hourly 1 03-01T05:00"]),
        (
            CatchUp::Skip,
            "2026-03-01T07:04:00Z",
            vec!["fire a hourly 03-01T07:00", "missed: a hourly 2 03-01T06:00"],
        ),
        (CatchUp::Skip, "2026-03-01T07:30:00Z", vec!["missed: a hourly 3 03-01T07:00"]),
        (
            CatchUp::Latest,
            "2026-03-01T07:30:00Z",
            vec!["fire a hourly 03-01T07:00", "missed: a hourly 2 03-01T06:00"],
        ),
        (
            CatchUp::All,
            "2026-03-01T07:30:00Z",
            vec![
                "fire a hourly 03-01T05:00",
                "fire a hourly 03-01T06:00",
                "fire a hourly 03-01T07:00",
            ],
        ),
    ];
    for (catch_up, now, expected) in table {
        schedule.catch_up = catch_up;
        assert_eq!(at_work(&schedule, &sources, &progress, now), expected, "{catch_up:?} at {now}");
    }
    // Ten at most, the newest.
    schedule.catch_up = CatchUp::All;
    let found = at_work(&schedule, &sources, &progress, "2026-03-01T20:30:00Z");
    assert_eq!(found.len(), 11);
    assert_eq!(
        (found[0].as_str(), found[9].as_str()),
        ("fire a hourly 03-01T11:00", "fire a hourly 03-01T20:00")
    );
    assert_eq!(found[10], "missed: a hourly 6 03-01T10:00");
    // Killed after the first three: the others follow, though those are in flight.
    let runs = [11, 12, 13].map(|hour| run("hourly", &format!("2026-03-01T{hour}:00:00Z"), true));
    let killed = [Source {
        runs: runs.to_vec(),
        ..source("a")
    }];
    let found = at_work(&schedule, &killed, &progress, "2026-03-01T20:30:00Z");
    assert_eq!((found.len(), found[0].as_str()), (8, "fire a hourly 03-01T14:00"));
}

#[test]
fn what_is_too_late_is_dropped() {
    let (mut schedule, progress) = hourly();
    let sources = [source("a")];
    schedule.starting_deadline = Some(SignedDuration::from_mins(90));
    for (catch_up, now, expected) in [
        (
            CatchUp::Latest,
            "2026-03-01T07:30:00Z",
            vec![
                "fire a hourly 03-01T07:00",
                "missed: a hourly 1 03-01T06:00",
                "dropped: a hourly 1 03-01T05:00",
            ],
        ),
        (
            CatchUp::All,
            "2026-03-01T07:30:00Z",
            vec![
                "fire a hourly 03-01T06:00",
                "fire a hourly 03-01T07:00",
                "dropped: a hourly 1 03-01T05:00",
            ],
        ),
        // A second later.
        (
            CatchUp::All,
            "2026-03-01T07:30:01Z",
            vec!["fire a hourly 03-01T07:00", "dropped: a hourly 2 03-01T06:00"],
        ),
    ] {
        schedule.catch_up = catch_up;
        assert_eq!(at_work(&schedule, &sources, &progress, now), expected, "{catch_up:?} at {now}");
    }
    let nightly_ = Schedule {
        starting_deadline: Some(SignedDuration::from_hours(1)),
        ..nightly()
    };
    let progress = super::due_test::progress(&nightly_, "2026-03-01T02:00:00Z");
    let found = at_work(&nightly_, &sources, &progress, "2026-03-03T12:00:00Z");
    assert_eq!(found, ["dropped: a nightly 2 03-03T02:00"]);
}

#[test]
fn what_becomes_of_a_tick_while_runs_are_in_flight() {
    let (mut schedule, progress) = hourly();
    let now = "2026-03-01T05:00:10Z";
    let fire = "fire a hourly 03-01T05:00";
    let one = [("2026-03-01T03:00:00Z", true)];
    let two = [("2026-03-01T03:00:00Z", true), ("2026-03-01T04:00:00Z", true)];
    for (concurrency, runs, expected) in [
        (Concurrency::Forbid, &one[..], "forbidden by 03-01T03:00: a hourly 1 03-01T05:00"),
        (Concurrency::Queue, &one[..], fire),
        // One runs and one waits.
        (Concurrency::Queue, &two[..], "forbidden by 03-01T04:00: a hourly 1 03-01T05:00"),
        (Concurrency::Replace, &one[..], fire),
        (Concurrency::Replace, &two[..], fire),
        (Concurrency::Queue, &[], fire),
    ] {
        schedule.concurrency = concurrency;
        let runs = runs.iter().map(|(tick, in_flight)| run("hourly", tick, *in_flight)).collect();
        let sources = [Source { runs, ..source("a") }];
        assert_eq!(at_work(&schedule, &sources, &progress, now), [expected], "{concurrency:?}");
    }
    // Of several ticks that queue, the newest does.
    (schedule.concurrency, schedule.catch_up) = (Concurrency::Queue, CatchUp::All);
    let sources = [Source {
        runs: vec![run("hourly", "2026-03-01T03:00:00Z", true)],
        ..source("a")
    }];
    let found = at_work(&schedule, &sources, &progress, "2026-03-01T07:00:00Z");
    assert_eq!(
        found,
        ["fire a hourly 03-01T07:00", "forbidden by 03-01T03:00: a hourly 2 03-01T06:00"]
    );
    // Runs that replace one another are of no use but for the last.
    (schedule.concurrency, schedule.catch_up) = (Concurrency::Replace, CatchUp::All);
    let found = at_work(&schedule, &sources, &progress, "2026-03-01T07:00:00Z");
    assert_eq!(found, ["fire a hourly 03-01T07:00", "missed: a hourly 2 03-01T06:00"]);
}

#[test]
fn what_is_due_within_an_exclusion_waits_for_its_end() {
    let (mut schedule, mut progress) = hourly();
    let sources = [source("a")];
    // Sunday; the ticks at 05:00 and 06:00 lie in it.
    schedule.exclusions = vec![Exclusion::new("load", &[0], "04:30", "06:30", None).unwrap()];
    schedule.starting_deadline = Some(SignedDuration::from_mins(20));
    let waiting = ["watermark hourly 03-01T04:00", "next 03-01T06:30"];
    for now in ["2026-03-01T04:10:00Z", "2026-03-01T05:00:00Z", "2026-03-01T06:29:59Z"] {
        assert_decision(&schedule, &sources, &progress, at(now), &waiting);
    }
    // Its end comes as said, and the deadline counts from there.
    for (catch_up, now, expected) in [
        (
            CatchUp::Latest,
            "2026-03-01T06:30:00Z",
            vec!["fire a hourly 03-01T06:00", "missed: a hourly 1 03-01T05:00"],
        ),
        (
            CatchUp::All,
            "2026-03-01T06:50:00Z",
            vec!["fire a hourly 03-01T05:00", "fire a hourly 03-01T06:00"],
        ),
        (CatchUp::All, "2026-03-01T06:50:01Z", vec!["dropped: a hourly 2 03-01T06:00"]),
        // What could not run at its time does not run.
        (CatchUp::Skip, "2026-03-01T06:30:00Z", vec!["missed: a hourly 2 03-01T06:00"]),
    ] {
        schedule.catch_up = catch_up;
        assert_eq!(at_work(&schedule, &sources, &progress, now), expected, "{catch_up:?} at {now}");
    }
    // What was due before and found nobody waits too; nothing starts within.
    progress = super::due_test::progress(&schedule, "2026-03-01T03:00:00Z");
    let waiting = ["watermark hourly 03-01T03:00", "next 03-01T06:30"];
    assert_decision(&schedule, &sources, &progress, at("2026-03-01T04:31:00Z"), &waiting);
    // A schedule that is new in it has the ticks since its creation, as ever.
    let fresh = Schedule {
        created: at("2026-03-01T04:40:00Z"),
        catch_up: CatchUp::Latest,
        ..schedule
    };
    let first = decide(&fresh, &sources, &Progress::default(), at("2026-03-01T05:10:00Z"));
    assert_eq!(lines(&first), ["watermark hourly 03-01T04:40", "next 03-01T06:30"]);
    let found = at_work(&fresh, &sources, &first.progress, "2026-03-01T06:30:00Z");
    assert_eq!(found[0], "fire a hourly 03-01T06:00");
}
