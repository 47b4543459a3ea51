//! Catalogues by chance: the planner against the naive reading of the rules, and whole lives of a store, pass by pass.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::{
    Retention, Span,
    document::{Acceptance, Label, ScheduleName, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    naive,
    tests::{at, full},
    *,
};
use crate::{chain::Chains, tick::Zone};

const ZONES: [&str; 4] = ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe"];
/// What is planned around: a change of clocks, the turn of a year in ISO week 53, a leap day, any day.
const NOWS: [&str; 5] = [
    "2026-03-29T01:30:00Z",
    "2026-10-25T01:00:00Z",
    "2027-01-02T12:00:00Z",
    "2028-02-29T23:30:00Z",
    "2026-11-20T08:00:00Z",
];

/// So many cases: 2 000, or what `HOLDFAST_CATALOGUES` says.
pub(super) fn cases(share: u32) -> ProptestConfig {
    let said = std::env::var("HOLDFAST_CATALOGUES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: (said.unwrap_or(2_000_u32) / share).max(1),
        max_shrink_iters: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn name(which: u8) -> ScheduleName {
    ScheduleName {
        namespace: (which != 1).then(|| "shop".to_owned()),
        name: format!("s{which}"),
    }
}

pub(super) fn retention() -> impl Strategy<Value = Retention> {
    fn few(most: i32) -> impl Strategy<Value = Option<i32>> {
        proptest::option::weighted(0.35, 1..=most)
    }
    let slots = (few(30), few(9), few(5), few(4), few(3), few(2));
    let rest = (few(6), proptest::option::weighted(0.3, 1_u64..400), 1_i32..4, 24_u64..80);
    (slots, rest).prop_map(
        |((hourly, daily, weekly, monthly, quarterly, yearly), (keep_last, within, min_good, delay))| Retention {
            keep_last,
            keep_within: within.map(Span::from_hours),
            hourly,
            daily,
            weekly,
            monthly,
            quarterly,
            yearly,
            min_good,
            deletion_delay: Span::from_hours(delay),
        },
    )
}

fn rules(now: Timestamp) -> impl Strategy<Value = BTreeMap<ScheduleName, Rules>> {
    let one = (
        retention(),
        0..ZONES.len(),
        prop_oneof![3 => Just(10_000_i64), 1 => 0_i64..100],
        proptest::option::weighted(0.7, 1_i64..200),
    );
    proptest::collection::vec(one, 0..=2).prop_map(move |all| {
        let rules = all.into_iter().zip(0_u8..).map(|((retention, zone, since, interval), which)| {
            let rules = Rules {
                retention,
                zone: Zone::named(ZONES[zone]).unwrap(),
                since: now - SignedDuration::from_hours(since),
                interval: interval.map(SignedDuration::from_hours),
                gone: since % 3 == 0,
            };
            (name(which), rules)
        });
        rules.collect()
    })
}

/// What chance says about one copy.
#[derive(Clone, Debug)]
struct Chance {
    age: i64,
    late: i64,
    kind: u8,
    schedule: u8,
    parent: Option<u16>,
    what: [u8; 6],
    hours: i64,
    bytes: u64,
}

fn chance() -> impl Strategy<Value = Chance> {
    let age = prop_oneof![4 => 0_i64..300, 3 => 0_i64..3_000, 2 => 0_i64..20_000, 1 => -100_i64..0];
    (
        age,
        prop_oneof![6 => 0_i64..3, 1 => 0_i64..2_000, 1 => Just(-500_i64), 1 => Just(700_000)],
        0_u8..12,
        0_u8..6,
        proptest::option::weighted(0.9, any::<u16>()),
        any::<[u8; 6]>(),
        -100_i64..100,
        prop_oneof![6 => 900_u64..1_200, 1 => 0_u64..4_000],
    )
        .prop_map(|(age, late, kind, schedule, parent, what, hours, bytes)| Chance {
            age,
            late,
            kind,
            schedule,
            parent,
            what,
            hours,
            bytes,
        })
}

fn copies(now: Timestamp, rules: &BTreeMap<ScheduleName, Rules>, chances: &[Chance]) -> Vec<CopyFacts> {
    let hours = SignedDuration::from_hours;
    let mut copies: Vec<CopyFacts> = Vec::new();
    for (number, chance) in chances.iter().enumerate() {
        // Not on the hour, so that it lies on either side of a border of slots.
        let tick = now - hours(chance.age) + SignedDuration::from_mins(i64::from(chance.what[5] % 60));
        let run = format!("r{number}");
        let [problem, mark, hold, lock, other, _] = chance.what;
        let one_in = |chance: u8, of: u8| chance.is_multiple_of(of);
        let by_hand = chance.schedule >= 4;
        let mut copy = CopyFacts {
            manifest: Sha256::of(run.as_bytes()),
            outcome: Sha256::of(format!("outcome {run}").as_bytes()),
            run: Label::new("run", run).unwrap(),
            copy_type: match chance.kind {
                0..=6 => CopyType::Full,
                7..=8 => CopyType::Incremental,
                9 => CopyType::Differential,
                10 => CopyType::Log,
                _ if one_in(other, 8) => CopyType::Unknown,
                _ => CopyType::Log,
            },
            tick: (!by_hand).then_some(tick),
            recovery_point: tick - SignedDuration::from_mins(i64::from(other % 90)),
            committed_at: tick + hours(chance.late),
            // The third is one that nobody knows.
            schedule: (!by_hand).then(|| name(chance.schedule.min(2) % if one_in(hold, 3) { 3 } else { 2 })),
            keep_until: (by_hand && !one_in(mark, 4)).then(|| now + hours(chance.hours)),
            server: (!one_in(other, 11)).then(|| {
                let server = if one_in(lock, 9) { "8" } else { "7" };
                if one_in(lock, 13) { "9" } else { server }.to_owned()
            }),
            bytes: chance.bytes,
            problem: one_in(problem, 7).then(|| "a part is missing".to_owned()),
            unreadable: (problem == 250).then(|| "its format is version 2.0".to_owned()),
            holds: Vec::new(),
            locked_until: one_in(lock, 14).then(|| now + hours(chance.hours)),
            legal_hold: lock == 251,
            reading_until: one_in(other, 23).then(|| now + hours(chance.hours)),
            in_use: other == 252,
            ..full("2026-01-01T00:00:00Z")
        };
        if one_in(hold, 15) {
            copy.holds = vec![Label::new("hold", format!("h{}", hold % 4)).unwrap()];
        }
        if !one_in(mark, 3) {
            let when = now - hours(chance.hours.abs() * 2 + if one_in(mark, 20) { -300 } else { 0 });
            copy.mark = Some(Mark {
                ulid: Ulid::new(when, [0; 10]),
                at: when,
                not_before: when + hours(i64::from(mark) % 100),
            });
        }
        let recorded = [("keepWithin", 4), ("floor books", 7)];
        for (rule, of) in recorded {
            if one_in(problem, of) {
                copy.retained.push((rule.to_owned(), now + hours(chance.hours)));
            }
        }
        if let Some(rules) = copy.schedule.as_ref().and_then(|schedule| rules.get(schedule))
            && one_in(hold, 2)
        {
            for period in [Period::Day, Period::Month, Period::Year] {
                let slot = Slot::of(period, tick, &rules.zone).rule(&rules.zone);
                copy.retained.push((slot, now + hours(chance.hours * 4)));
            }
        }
        if copy.copy_type != CopyType::Full
            && let Some(parent) = chance.parent
        {
            let older: Vec<_> = copies.iter().filter(|other| other.order().0 < tick).collect();
            if !older.is_empty() {
                copy.parents = vec![older[usize::from(parent) % older.len()].manifest];
            }
            if parent > 65_000 {
                copy.parents.push(Sha256::of(b"gone"));
            }
        }
        copies.push(copy);
    }
    copies
}

fn catalogue() -> impl Strategy<Value = SourceFacts> {
    let now = (0..NOWS.len()).prop_map(|which| at(NOWS[which]));
    now.prop_flat_map(|now| {
        let floor = (proptest::option::of(1_i64..3_000), proptest::option::of(1_u32..5));
        let floors = proptest::collection::vec(floor, 0..2);
        let said = (any::<u8>(), proptest::option::weighted(0.2, 0_u64..30), any::<u8>(), any::<u8>());
        (rules(now), proptest::collection::vec(chance(), 0..24), floors, said).prop_map(
            move |(rules, chances, floors, (retired, before, accepted, short))| {
                if short < 50 && !rules.is_empty() {
                    return shortened(now, rules, &chances, accepted);
                }
                let copies = copies(now, &rules, &chances);
                let floors = floors.into_iter().map(|(hours, good_copies)| Floor {
                    policy: "books".to_owned(),
                    retention: hours.map(SignedDuration::from_hours),
                    good_copies,
                });
                let counted_at = (retired % 2 == 0).then(|| now - SignedDuration::from_hours(i64::from(short)));
                let counted = copies.iter().filter(|copy| counted_at.is_none_or(|at| copy.committed_at <= at));
                let loss = Acceptance::Loss {
                    set: loss_digest(before.unwrap_or_default(), counted_at, counted),
                };
                let server = |was: &str, is: &str| Acceptance::Server {
                    was: was.to_owned(),
                    is: is.to_owned(),
                };
                let servers = match accepted / 4 % 8 {
                    0 => vec![server("7", "8"), server("8", "9"), server("9", "7")],
                    1 => vec![server("8", "9"), server("9", "7")],
                    2 => vec![server("8", "7")],
                    3 => vec![server("7", "8")],
                    _ => vec![],
                };
                let sizes = copies.iter().map(|copy| Acceptance::Size { run: copy.run.clone() });
                SourceFacts {
                    now,
                    rules,
                    floors: floors.collect(),
                    retired: (retired < 30).then(|| "ann: closed".to_owned()),
                    accepted: match accepted % 4 {
                        0 => [loss].into_iter().chain(servers).collect(),
                        1 => sizes.chain([loss]).chain(servers).collect(),
                        2 => sizes.step_by(3).chain([loss]).collect(),
                        _ => servers,
                    },
                    copies_before: before,
                    counted_at,
                    removed_at: (short % 4 == 0).then(|| now - SignedDuration::from_mins(i64::from(retired) * i64::from(short))),
                    problems: if accepted == 7 { vec!["a page failed".into()] } else { vec![] },
                    untold: (accepted == 6).then(|| "floors are more than can be told".into()),
                    copies,
                }
            },
        )
    })
}

/// A source that does well, whose rules were made shorter not long before most of its copies were marked.
fn shortened(now: Timestamp, mut rules: BTreeMap<ScheduleName, Rules>, chances: &[Chance], accepted: u8) -> SourceFacts {
    let hours = SignedDuration::from_hours;
    for rules in rules.values_mut() {
        rules.since = now - hours(70 + i64::from(accepted % 8));
        rules.retention = Retention {
            keep_last: Some(1),
            min_good: rules.retention.min_good,
            ..Retention::default()
        };
    }
    let first = rules.keys().next().cloned();
    let mut copies = copies(now, &rules, chances);
    for copy in &mut copies {
        copy.retained.retain(|(_, until)| *until <= now);
        (copy.problem, copy.unreadable, copy.locked_until) = (None, None, None);
        (copy.schedule, copy.keep_until) = (first.clone(), None);
        copy.tick = Some(copy.recovery_point - hours(200));
        copy.committed_at = copy.recovery_point - hours(199);
        copy.parents.clear();
        copy.bytes = 1_000;
        if let Some(mark) = &mut copy.mark {
            (mark.at, mark.not_before) = (now - hours(50 + i64::from(accepted % 3)), now - hours(2));
        }
    }
    if let Some(mut newest) = copies.first().cloned() {
        newest.run = Label::new("run", "newest").unwrap();
        (newest.manifest, newest.copy_type) = (Sha256::of(b"newest"), CopyType::Full);
        (newest.tick, newest.recovery_point, newest.committed_at) = (Some(now - hours(1)), now - hours(1), now);
        newest.mark = None;
        copies.push(newest);
    }
    let all = copies
        .iter()
        .filter(|copy| copy.mark.is_some())
        .map(|copy| (&copy.run, &copy.outcome));
    let mut lines: Vec<_> = all.map(|(run, outcome)| format!("{run} {outcome}\n")).collect();
    lines.sort();
    let set = Sha256::of(lines.concat().as_bytes());
    SourceFacts {
        now,
        rules,
        floors: vec![],
        retired: None,
        accepted: if accepted < 100 {
            vec![Acceptance::Removal { set }]
        } else {
            vec![]
        },
        copies_before: None,
        counted_at: None,
        removed_at: None,
        problems: vec![],
        untold: None,
        copies,
    }
}

fn planned(facts: &SourceFacts) -> naive::Says {
    let plan = plan(facts);
    let mut says = naive::Says {
        empty: plan.empty_slots.into_iter().collect(),
        blocked: plan.blocked.map(|blocked| blocked.reason),
        identity: plan.identity.is_some(),
        remove: plan.remove.iter().cloned().collect(),
        retain: plan.retain.into_iter().map(|(run, rule, until)| ((run, rule), until)).collect(),
        ..naive::Says::default()
    };
    assert_eq!(says.remove.len(), plan.remove.len());
    for verdict in plan.verdicts {
        if !verdict.kept.is_empty() {
            says.kept.insert(verdict.run.clone());
        }
        match verdict.next {
            Next::Mark { not_before } => drop(says.mark.insert(verdict.run, not_before)),
            Next::Unmark(_) => drop(says.unmark.insert(verdict.run)),
            Next::Remove(_) => assert!(says.remove.contains(&verdict.run)),
            Next::Stay | Next::Wait => assert!(!says.remove.contains(&verdict.run)),
        }
    }
    says
}

proptest! {
    #![proptest_config(cases(1))]

    #[test]
    fn the_planner_says_what_the_rules_say(facts in catalogue()) {
        prop_assert_eq!(planned(&facts), naive::says(&facts));
    }

    #[test]
    fn the_same_facts_in_any_order_give_the_same_plan(facts in catalogue(), turn in any::<prop::sample::Index>()) {
        let mut turned = facts.clone();
        if !turned.copies.is_empty() {
            let by = turn.index(turned.copies.len());
            turned.copies.rotate_left(by);
            turned.copies.reverse();
        }
        turned.accepted.reverse();
        turned.floors.reverse();
        turned.problems.reverse();
        for copy in &mut turned.copies {
            copy.retained.reverse();
            copy.holds.reverse();
            copy.parents.reverse();
        }
        prop_assert_eq!(plan(&turned), plan(&facts));
    }

    #[test]
    fn what_is_kept_is_not_removed_what_it_needs_stays_and_records_only_grow(facts in catalogue()) {
        let plan = plan(&facts);
        let mut copies = facts.copies.clone();
        copies.sort_by(|a, b| a.order().cmp(&b.order()));
        let chains = Chains::of(&copies);
        let removed: BTreeSet<_> = plan.remove.iter().collect();
        for (copy, verdict) in copies.iter().zip(&plan.verdicts) {
            prop_assert!(verdict.kept.is_empty() || !removed.contains(&copy.run));
            let sacred = !copy.holds.is_empty() || copy.legal_hold || copy.in_use || copy.unreadable.is_some()
                || copy.retain_until().is_some_and(|until| facts.now < until)
                || copy.locked_until.is_some_and(|until| facts.now < until);
            prop_assert!(!(sacred && removed.contains(&copy.run)), "{}", copy.run);
            prop_assert!(copy.mark.as_ref().is_some_and(|mark| mark.not_before <= facts.now) || !removed.contains(&copy.run));
        }
        let stays = |position: &usize| !removed.contains(&copies[*position].run);
        let closure = chains.closure((0..copies.len()).filter(stays));
        prop_assert!((0..copies.len()).filter(|position| closure[*position]).all(|position| stays(&position)));
        // Killed after any of the removals, nothing that is there misses a parent that was there.
        let mut gone: BTreeSet<Sha256> = BTreeSet::new();
        for run in &plan.remove {
            let copy = copies.iter().find(|copy| copy.run == *run).unwrap();
            gone.insert(copy.manifest);
            let left = copies.iter().filter(|copy| !gone.contains(&copy.manifest));
            prop_assert!(left.flat_map(|copy| &copy.parents).all(|parent| !gone.contains(parent)));
        }
        for (run, rule, until) in &plan.retain {
            let copy = copies.iter().find(|copy| copy.run == *run).unwrap();
            prop_assert!(*until > facts.now);
            prop_assert!(copy.retained.iter().all(|(known, before)| known != rule || before < until));
        }
        for verdict in &plan.verdicts {
            prop_assert!(verdict.why().len() < 2_000 && !verdict.why().is_empty());
        }
    }
}

/// A comparison of catalogues in which nothing happens would compare nothing.
#[test]
fn the_catalogues_are_of_many_kinds() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let strategy = catalogue();
    for _ in 0..1_000 {
        let facts = strategy.new_tree(&mut runner).unwrap().current();
        let says = planned(&facts);
        let happened = [
            ("mark", says.mark.len()),
            ("unmark", says.unmark.len()),
            ("remove", says.remove.len()),
            ("retain", says.retain.len()),
            ("empty", says.empty.len()),
            ("kept", says.kept.len()),
            (
                "former",
                plan(&facts)
                    .verdicts
                    .iter()
                    .filter(|verdict| verdict.kept.iter().all(|why| matches!(why, Why::Former(..))) && !verdict.kept.is_empty())
                    .count(),
            ),
            (
                "needed",
                plan(&facts)
                    .verdicts
                    .iter()
                    .flat_map(|verdict| &verdict.kept)
                    .filter(|why| matches!(why, Why::NeededBy(_)))
                    .count(),
            ),
        ];
        for (what, count) in happened {
            *seen.entry(what.to_owned()).or_default() += usize::from(count > 0);
        }
        *seen.entry(format!("{:?}", says.blocked)).or_default() += 1;
    }
    println!("of 1 000 catalogues: {seen:?}");
    for what in [
        "mark",
        "unmark",
        "remove",
        "retain",
        "empty",
        "kept",
        "former",
        "needed",
        "None",
        "Some(CatalogueUnreadable)",
        "Some(CopiesMissing)",
        "Some(CopyTooOld)",
        "Some(SizeAnomalous)",
        "Some(RemovalNeedsApproval)",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 15), "{what} in {seen:?}");
    }
}
