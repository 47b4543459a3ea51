//! The table in `docs/retention.md` says what the code does: a keeper's pass each morning of a year, with the records that it writes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

use std::{collections::BTreeMap, fs, path::Path};

use holdfast_crds::{
    Retention,
    document::{Label, ScheduleName, Sha256, Ulid},
};
use holdfast_policy::{
    retention::{CopyFacts, CopyType, Mark, Next, Rules, SourceFacts, plan},
    tick::Zone,
};
use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};

fn retention(text: &str) -> Retention {
    let mut retention = Retention::default();
    for rule in text.split(", ") {
        let (name, value) = rule.split_once(": ").unwrap_or_else(|| panic!("rule {rule:?}"));
        let count = || Some(value.parse().unwrap());
        match name {
            "keepLast" => retention.keep_last = count(),
            "keepWithin" => retention.keep_within = Some(value.parse().unwrap()),
            "daily" => retention.daily = count(),
            "weekly" => retention.weekly = count(),
            "monthly" => retention.monthly = count(),
            "quarterly" => retention.quarterly = count(),
            "yearly" => retention.yearly = count(),
            "minGood" => retention.min_good = value.parse().unwrap(),
            other => panic!("rule {other:?}"),
        }
    }
    retention
}

fn copy(tick: Timestamp, parent: Option<Sha256>) -> CopyFacts {
    let name = tick.strftime("%Y%m%dt%H%M").to_string();
    CopyFacts {
        run: Label::new("run", format!("r-{name}")).unwrap(),
        manifest: Sha256::of(name.as_bytes()),
        outcome: Sha256::of(name.as_bytes()),
        copy_type: parent.map_or(CopyType::Full, |_| CopyType::Incremental),
        tick: Some(tick),
        recovery_point: tick,
        committed_at: tick + SignedDuration::from_mins(10),
        schedule: Some(schedule()),
        keep_until: None,
        parents: parent.into_iter().collect(),
        server: Some("7".into()),
        bytes: 1_000,
        problem: None,
        unreadable: None,
        retained: vec![],
        holds: vec![],
        locked_until: None,
        legal_hold: false,
        mark: None,
        reading_until: None,
        in_use: false,
    }
}

fn schedule() -> ScheduleName {
    ScheduleName {
        namespace: Some("shop".into()),
        name: "gold".into(),
    }
}

/// The cells `kept`, `the oldest, because` and `marked`: backups since the beginning of 2026, a pass each day at 08:00, up to `on`.
fn outcome(backups: &str, rules: &str, zone: &str, on: &str) -> [String; 3] {
    let zone_rules = TimeZone::get(zone).unwrap();
    let instant = |date: Date, hour: i8| date.at(hour, 0, 0, 0).to_zoned(zone_rules.clone()).unwrap().timestamp();
    let (mut day, last): (Date, Date) = ("2026-01-01".parse().unwrap(), on.parse().unwrap());
    let mut facts = SourceFacts {
        now: instant(day, 8),
        copies: vec![],
        rules: BTreeMap::new(),
        floors: vec![],
        retired: None,
        accepted: vec![],
        copies_before: None,
        counted_at: None,
        removed_at: None,
        problems: vec![],
        untold: None,
    };
    let rules = Rules {
        retention: retention(rules),
        zone: Zone::named(zone).unwrap(),
        since: facts.now - SignedDuration::from_hours(48),
        interval: Some(SignedDuration::from_hours(if backups.starts_with("Sunday") { 169 } else { 25 })),
        gone: false,
    };
    facts.rules.insert(schedule(), rules);
    while day <= last {
        let sunday = day.weekday().to_sunday_zero_offset() == 0;
        let parent = facts.copies.last().map(|copy: &CopyFacts| copy.manifest);
        let made = match backups {
            "Sunday full" | "Sunday full, daily increment" if sunday => vec![copy(instant(day, 2), None)],
            "Sunday full, daily increment" => parent.map(|parent| copy(instant(day, 2), Some(parent))).into_iter().collect(),
            "Sunday full" => vec![],
            "daily full, 14 November failed" if on == "2026-11-20" && day.to_string() == "2026-11-14" => vec![],
            "daily full" | "daily full, 14 November failed" => vec![copy(instant(day, 2), None)],
            other => panic!("backups {other:?}"),
        };
        facts.copies.extend(made);
        facts.now = instant(day, 8);
        if day < last {
            pass(&mut facts);
        }
        day = day.saturating_add(1.day());
    }
    let plan = plan(&facts);
    assert_eq!(plan.blocked, None);
    let date = |run: &Label| {
        let copy = facts.copies.iter().find(|copy| copy.run == *run).unwrap();
        copy.tick.unwrap().to_zoned(zone_rules.clone()).date()
    };
    let kept: Vec<_> = plan.verdicts.iter().filter(|verdict| !verdict.kept.is_empty()).collect();
    let marked = plan.verdicts.iter().filter(|verdict| verdict.kept.is_empty());
    let dates = |days: Vec<Date>| ranges(&days);
    [
        dates(kept.iter().map(|verdict| date(&verdict.run)).collect()),
        kept[0].why(),
        dates(marked.map(|verdict| date(&verdict.run)).collect()),
    ]
}

fn pass(facts: &mut SourceFacts) {
    let plan = plan(facts);
    for verdict in plan.verdicts {
        let copy = facts.copies.iter_mut().find(|copy| copy.run == verdict.run).unwrap();
        match verdict.next {
            Next::Mark { not_before } => {
                copy.mark = Some(Mark {
                    ulid: Ulid::new(facts.now, [0; 10]),
                    at: facts.now,
                    not_before,
                });
            }
            Next::Unmark(_) => copy.mark = None,
            Next::Stay | Next::Wait | Next::Remove(_) => {}
        }
    }
    for (run, rule, until) in plan.retain {
        let copy = facts.copies.iter_mut().find(|copy| copy.run == run).unwrap();
        copy.retained.push((rule, until));
    }
    facts.copies.retain(|copy| !plan.remove.contains(&copy.run));
}

/// `01-01 03-05…03-09`: days that follow each other are one entry.
fn ranges(days: &[Date]) -> String {
    let mut entries: Vec<(Date, Date)> = Vec::new();
    for &day in days {
        match entries.last_mut() {
            Some((_, end)) if end.saturating_add(1.day()) == day => *end = day,
            _ => entries.push((day, day)),
        }
    }
    let show = |day: Date| day.strftime("%m-%d").to_string();
    let entries = entries.into_iter().map(|(from, to)| {
        if from == to {
            show(from)
        } else {
            format!("{}…{}", show(from), show(to))
        }
    });
    entries.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_examples_of_the_documentation_are_what_the_planner_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/retention.md");
    let text = fs::read_to_string(&path).unwrap();
    let (_, table) = text.split_once("<!-- checked by policy/tests/retention.rs -->").unwrap();
    let rows: Vec<_> = table
        .lines()
        .map(str::trim)
        .skip_while(|line| !line.starts_with('|'))
        .skip(2)
        .collect();
    let rows = rows.into_iter().take_while(|line| line.starts_with('|'));
    let mut wrong = String::new();
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let &[backups, rules, zone, on, ref said @ ..] = &cells[..] else {
            panic!("row {row}")
        };
        let expected = outcome(backups, rules, zone, on);
        count += 1;
        if said != expected {
            let [kept, because, marked] = expected;
            wrong.push_str(&format!(
                "| {backups} | `{rules}` | {zone} | {on} | {kept} | {because} | {marked} |\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "docs/retention.md: these rows should be\n{wrong}");
    assert!(count >= 8, "found {count} rows");
}
