use std::collections::BTreeMap;

use holdfast_crds::{
    Reason, Retention,
    document::{Acceptance, Label, ScheduleName, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::tick::Zone;

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn schedule() -> ScheduleName {
    ScheduleName {
        namespace: Some("shop".into()),
        name: "gold".into(),
    }
}

/// A good full copy of the schedule, of 1000 bytes.
pub(super) fn full(tick: &str) -> CopyFacts {
    let tick = at(tick);
    let run = format!("orders-{}", tick.as_second());
    CopyFacts {
        manifest: Sha256::of(run.as_bytes()),
        outcome: Sha256::of(format!("outcome of {run}").as_bytes()),
        run: Label::new("run", run).unwrap(),
        copy_type: CopyType::Full,
        tick: Some(tick),
        recovery_point: tick,
        committed_at: tick + SignedDuration::from_mins(5),
        schedule: Some(schedule()),
        keep_until: None,
        parents: vec![],
        server: Some("7".into()),
        bytes: 1000,
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

pub(super) fn child(tick: &str, parent: &CopyFacts) -> CopyFacts {
    CopyFacts {
        copy_type: CopyType::Incremental,
        parents: vec![parent.manifest],
        ..full(tick)
    }
}

pub(super) fn facts(now: &str, retention: Retention, copies: Vec<CopyFacts>) -> SourceFacts {
    let rules = Rules {
        retention,
        zone: Zone::utc(),
        since: at("2020-01-01T00:00:00Z"),
        interval: Some(SignedDuration::from_hours(24)),
        gone: false,
    };
    SourceFacts {
        now: at(now),
        copies,
        rules: BTreeMap::from([(schedule(), rules)]),
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

pub(super) fn rules(edit: impl FnOnce(&mut Retention)) -> Retention {
    let mut retention = Retention::default();
    edit(&mut retention);
    retention
}

/// One full a day at 02:00, the last on the day of `until`.
pub(super) fn days(count: i64, until: &str) -> Vec<CopyFacts> {
    let last = at(until);
    (0..count)
        .rev()
        .map(|back| full(&(last - SignedDuration::from_hours(24 * back)).to_string()))
        .collect()
}

pub(super) fn marked(mut copy: CopyFacts, when: &str) -> CopyFacts {
    let when = at(when);
    copy.mark = Some(Mark {
        ulid: Ulid::new(when, [1; 10]),
        at: when,
        not_before: when + SignedDuration::from_hours(48),
    });
    copy
}

fn next_of(plan: &SourcePlan, copy: &CopyFacts) -> Next {
    plan.verdicts.iter().find(|verdict| verdict.run == copy.run).unwrap().next.clone()
}

fn why_of(plan: &SourcePlan, copy: &CopyFacts) -> String {
    plan.verdicts.iter().find(|verdict| verdict.run == copy.run).unwrap().why()
}

#[test]
fn what_nothing_keeps_is_marked_waits_and_is_removed() {
    let retention = || rules(|r| r.keep_last = Some(3));
    let mut copies = days(5, "2026-11-20T02:00:00Z");
    let first = plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone()));
    assert_eq!(first.blocked, None);
    assert_eq!(next_of(&first, &copies[2]), Next::Stay);
    assert_eq!(
        next_of(&first, &copies[0]),
        Next::Mark {
            not_before: at("2026-11-22T08:00:00Z")
        }
    );
    assert!(first.remove.is_empty());
    copies[0] = marked(copies[0].clone(), "2026-11-20T08:00:00Z");
    copies[1] = marked(copies[1].clone(), "2026-11-20T08:00:00Z");
    copies.extend([full("2026-11-21T02:00:00Z"), full("2026-11-22T02:00:00Z")]);
    let early = plan(&facts("2026-11-22T07:59:59Z", retention(), copies.clone()));
    assert!(early.remove.is_empty());
    assert_eq!(next_of(&early, &copies[0]), Next::Wait);
    let due = plan(&facts("2026-11-22T08:00:00Z", retention(), copies.clone()));
    assert_eq!(due.remove, vec![copies[0].run.clone(), copies[1].run.clone()]);
}

#[test]
fn a_mark_is_withdrawn_when_something_keeps_the_copy_again() {
    let mut copies = days(5, "2026-11-20T02:00:00Z");
    copies[0] = marked(copies[0].clone(), "2026-11-17T08:00:00Z");
    copies[0].holds = vec![Label::new("hold", "htax-1").unwrap()];
    let plan = plan(&facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(3)), copies.clone()));
    assert!(matches!(next_of(&plan, &copies[0]), Next::Unmark(_)));
    assert!(why_of(&plan, &copies[0]).contains("held by htax-1"));
}

#[test]
fn an_empty_policy_and_a_schedule_that_nobody_knows_keep_everything() {
    let copies = days(9, "2026-11-20T02:00:00Z");
    let all = plan(&facts("2027-11-20T08:00:00Z", Retention::default(), copies.clone()));
    assert!(all.verdicts.iter().all(|verdict| verdict.next == Next::Stay));
    let mut unknown = facts("2027-11-20T08:00:00Z", rules(|r| r.keep_last = Some(1)), copies);
    unknown.rules.clear();
    assert!(plan(&unknown).verdicts.iter().all(|verdict| verdict.next == Next::Stay));
}

#[test]
fn slots_go_to_the_first_good_full_after_a_day_and_stay_there() {
    let retention = || {
        rules(|r| {
            r.daily = Some(7);
            r.monthly = Some(12);
        })
    };
    let mut failed = full("2026-11-01T02:00:00Z");
    failed.problem = Some("a part is missing".into());
    let copies = vec![failed, full("2026-11-01T14:00:00Z"), full("2026-11-02T02:00:00Z")];
    let pending = plan(&facts("2026-11-02T13:59:59Z", retention(), copies.clone()));
    assert!(pending.retain.is_empty(), "{:?}", pending.retain);
    let given = plan(&facts("2026-11-03T03:00:00Z", retention(), copies.clone()));
    let recorded: Vec<_> = given
        .retain
        .iter()
        .map(|(run, rule, until)| (run.clone(), rule.as_str(), *until))
        .collect();
    assert_eq!(
        recorded,
        vec![
            (copies[1].run.clone(), "daily 2026-11-01", at("2026-11-08T00:00:00Z")),
            (copies[2].run.clone(), "daily 2026-11-02", at("2026-11-09T00:00:00Z")),
            (copies[1].run.clone(), "monthly 2026-11", at("2027-11-01T00:00:00Z")),
        ]
    );
    // The earlier copy becomes good after all: it displaces nobody.
    let mut later = copies.clone();
    later[0].problem = None;
    later[1].retained = vec![
        ("daily 2026-11-01".into(), at("2026-11-08T00:00:00Z")),
        ("monthly 2026-11".into(), at("2027-11-01T00:00:00Z")),
    ];
    let kept = plan(&facts("2026-11-03T03:00:00Z", retention(), later.clone()));
    assert!(!kept.retain.iter().any(|(run, _, _)| *run == later[0].run), "{:?}", kept.retain);
    // Its owner turns out bad: the nearest good full takes the slot.
    later[0].problem = Some("a part is missing".into());
    later[1].problem = Some("a bit flipped".into());
    let moved = plan(&facts("2026-11-03T03:00:00Z", retention(), later.clone()));
    let monthly: Vec<_> = moved.retain.iter().filter(|(_, rule, _)| rule == "monthly 2026-11").collect();
    assert_eq!(monthly.len(), 1);
    assert_eq!(monthly[0].0, later[2].run);
    assert_eq!(next_of(&moved, &later[1]), Next::Stay, "what was recorded is kept, good or not");
    // Nobody is left to take it.
    let alone = plan(&facts("2026-11-03T03:00:00Z", retention(), later[..2].to_vec()));
    assert_eq!(alone.empty_slots, vec!["daily 2026-11-01", "monthly 2026-11"]);
}

#[test]
fn slots_follow_the_zone_through_clock_changes_leap_days_and_week_53() {
    let paris = Zone::named("Europe/Paris").unwrap();
    let rule = |period, when: &str| Slot::of(period, at(when), &paris).rule(&paris);
    // 02:30 does not exist on 29 March 2026 and comes twice on 25 October.
    assert_eq!(rule(Period::Day, "2026-03-29T00:30:00Z"), "daily 2026-03-29");
    assert_eq!(rule(Period::Day, "2026-03-28T23:00:00Z"), "daily 2026-03-29");
    assert_eq!(rule(Period::Hour, "2026-10-25T00:30:00Z"), "hourly 2026-10-25T00Z");
    assert_eq!(rule(Period::Hour, "2026-10-25T01:30:00Z"), "hourly 2026-10-25T01Z");
    assert_eq!(rule(Period::Week, "2027-01-02T12:00:00Z"), "weekly 2026-W53");
    assert_eq!(rule(Period::Week, "2027-01-03T23:30:00Z"), "weekly 2027-W01");
    assert_eq!(rule(Period::Month, "2028-02-29T22:59:59Z"), "monthly 2028-02");
    assert_eq!(rule(Period::Month, "2028-02-29T23:00:00Z"), "monthly 2028-03");
    assert_eq!(rule(Period::Quarter, "2026-12-31T23:00:00Z"), "quarterly 2027-Q1");
    assert_eq!(rule(Period::Year, "2026-12-31T22:59:59Z"), "yearly 2026");
    let end = |period, when: &str, count| Slot::of(period, at(when), &paris).later(count).begins(&paris);
    // A day of 23 hours, and one of 25.
    assert_eq!(end(Period::Day, "2026-03-28T23:00:00Z", 1), at("2026-03-29T22:00:00Z"));
    assert_eq!(end(Period::Day, "2026-10-24T22:00:00Z", 1), at("2026-10-25T23:00:00Z"));
    // The 31st, a month on: the month that follows, whatever its length.
    assert_eq!(end(Period::Month, "2027-01-31T12:00:00Z", 1), at("2027-01-31T23:00:00Z"));
    assert_eq!(end(Period::Year, "2028-02-29T12:00:00Z", 1), at("2028-12-31T23:00:00Z"));
}

#[test]
fn a_full_whose_time_is_over_stays_while_an_increment_is_kept_or_held() {
    let base = full("2026-09-01T02:00:00Z");
    let increment = child("2026-09-02T02:00:00Z", &base);
    let last = child("2026-09-03T02:00:00Z", &increment);
    let retention = || rules(|r| r.keep_within = Some("7d".parse().unwrap()));
    let mut copies = vec![base, increment, last];
    copies.extend(days(5, "2026-11-20T02:00:00Z"));
    let gone = plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone()));
    for copy in &copies[..3] {
        assert!(matches!(next_of(&gone, copy), Next::Mark { .. }));
    }
    copies[2].holds = vec![Label::new("hold", "htax-1").unwrap()];
    // Also where the parent is not good: what is held is held with what it needs.
    copies[0].problem = Some("a part is missing".into());
    let held = plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone()));
    for copy in &copies[..3] {
        assert_eq!(next_of(&held, copy), Next::Stay);
        assert!(why_of(&held, copy).contains("held by htax-1"), "{}", why_of(&held, copy));
    }
    // Marked at different times: the base waits for its increments.
    copies[2].holds.clear();
    copies[0] = marked(copies[0].clone(), "2026-11-10T08:00:00Z");
    copies[1] = marked(copies[1].clone(), "2026-11-10T08:00:00Z");
    copies[2] = marked(copies[2].clone(), "2026-11-19T08:00:00Z");
    let waits = plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone()));
    assert!(waits.remove.is_empty());
    copies[2] = marked(copies[2].clone(), "2026-11-10T08:00:00Z");
    let due = plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone()));
    assert_eq!(
        due.remove,
        vec![copies[2].run.clone(), copies[1].run.clone(), copies[0].run.clone()]
    );
}

#[test]
fn the_newest_good_fulls_stay_whatever_comes_after_them() {
    let mut copies = days(2, "2026-01-02T02:00:00Z");
    // A later copy that is garbage, and one that claims to be of the next year.
    let mut garbage = full("2026-11-20T02:00:00Z");
    garbage.problem = Some("the structure of db was not checked".into());
    copies.extend([garbage, full("2027-11-20T02:00:00Z")]);
    let mut source = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(1)), copies.clone());
    let plan_ = plan(&source);
    for copy in &copies[..2] {
        assert_eq!(next_of(&plan_, copy), Next::Stay, "{}", why_of(&plan_, copy));
    }
    assert!(why_of(&plan_, &copies[3]).contains("in the future"));
    // Retired: minGood falls, a floor does not.
    source.retired = Some("ann: the shop is closed".into());
    assert!(matches!(next_of(&plan(&source), &copies[0]), Next::Mark { .. }));
    source.floors = vec![Floor {
        policy: "books".into(),
        retention: None,
        good_copies: Some(2),
    }];
    assert_eq!(next_of(&plan(&source), &copies[0]), Next::Stay);
}

#[test]
fn a_lock_holds_at_the_very_moment_of_its_end_and_longer_than_retention() {
    let retention = || rules(|r| r.keep_last = Some(1));
    let mut copies = days(9, "2026-11-20T02:00:00Z");
    copies[0].locked_until = Some(at("2026-11-20T08:00:00Z"));
    assert_eq!(
        next_of(&plan(&facts("2026-11-20T08:00:00Z", retention(), copies.clone())), &copies[0]),
        Next::Stay
    );
    let after = plan(&facts("2026-11-20T08:00:01Z", retention(), copies.clone()));
    assert!(matches!(next_of(&after, &copies[0]), Next::Mark { .. }));
}

#[test]
fn what_is_recorded_outlives_shorter_rules_and_only_grows() {
    let mut copies = days(60, "2026-11-20T02:00:00Z");
    copies[0].retained = vec![("daily 2026-09-22".into(), at("2026-12-01T00:00:00Z"))];
    let shortened = plan(&facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(1)), copies.clone()));
    assert_eq!(next_of(&shortened, &copies[0]), Next::Stay);
    let longer = plan(&facts("2026-11-20T08:00:00Z", rules(|r| r.daily = Some(90)), copies.clone()));
    let grown = longer.retain.iter().find(|(run, _, _)| *run == copies[0].run).unwrap();
    assert!(grown.2 > at("2026-12-01T00:00:00Z"));
}

#[test]
fn what_cannot_be_read_or_is_missing_stops_the_source() {
    let retention = || rules(|r| r.keep_last = Some(1));
    let mut copies = days(9, "2026-11-20T02:00:00Z");
    copies[0] = marked(copies[0].clone(), "2026-11-13T08:00:00Z");
    let now = "2026-11-20T08:00:00Z";
    let mut good = facts(now, retention(), copies.clone());
    good.copies_before = Some(9);
    assert_eq!(plan(&good).remove, vec![copies[0].run.clone()]);
    let reason = |source: &SourceFacts| {
        let plan = plan(source);
        assert!(plan.remove.is_empty());
        assert!(!plan.verdicts.iter().any(|verdict| matches!(verdict.next, Next::Mark { .. })));
        plan.blocked.unwrap().reason
    };
    let mut failed = good.clone();
    failed.problems = vec!["the second page of the listing failed".into()];
    assert_eq!(reason(&failed), Reason::CatalogueUnreadable);
    let mut unreadable = good.clone();
    unreadable.copies[4].unreadable = Some("its format is version 2.0".into());
    assert_eq!(reason(&unreadable), Reason::CatalogueUnreadable);
    let mut orphan = good.clone();
    orphan.copies[8] = child("2026-11-20T02:00:00Z", &full("2026-11-19T03:00:00Z"));
    assert_eq!(reason(&orphan), Reason::CopiesMissing);
    let mut fewer = good.clone();
    fewer.copies_before = Some(12);
    assert_eq!(reason(&fewer), Reason::CopiesMissing);
    let accept = |before, left: &[CopyFacts]| {
        vec![Acceptance::Loss {
            set: loss_digest(before, None, left.iter()),
        }]
    };
    fewer.accepted = accept(12, &copies[1..]);
    assert_eq!(reason(&fewer), Reason::CopiesMissing);
    fewer.accepted = accept(12, &copies);
    assert_eq!(plan(&fewer).remove, vec![copies[0].run.clone()]);
}

#[test]
fn a_source_that_does_not_do_well_loses_nothing() {
    let mut copies = days(9, "2026-11-20T02:00:00Z");
    copies[0] = marked(copies[0].clone(), "2026-11-13T08:00:00Z");
    let retention = || rules(|r| r.keep_last = Some(1));
    let old = plan(&facts("2026-11-22T02:00:01Z", retention(), copies.clone()));
    assert_eq!(old.blocked.unwrap().reason, Reason::CopyTooOld);
    let mut small = facts("2026-11-20T08:00:00Z", retention(), copies.clone());
    small.copies[8].bytes = 499;
    let stopped = plan(&small).blocked.unwrap();
    assert_eq!(stopped.reason, Reason::SizeAnomalous);
    assert!(stopped.message.contains("499 bytes"), "{}", stopped.message);
    small.accepted = vec![Acceptance::Size {
        run: copies[8].run.clone(),
    }];
    assert_eq!(plan(&small).blocked, None);
    for (bytes, expected) in [(500, true), (2000, true), (2001, false)] {
        small.accepted.clear();
        small.copies[8].bytes = bytes;
        assert_eq!(plan(&small).blocked.is_none(), expected, "{bytes}");
    }
}

#[test]
fn the_pace_of_a_schedule_that_never_copied_the_source_counts_only_where_nothing_else_tells_one() {
    let mut copies = days(9, "2026-11-20T02:00:00Z");
    copies[0] = marked(copies[0].clone(), "2026-11-13T08:00:00Z");
    let mut source = facts("2026-11-21T02:00:00Z", rules(|r| r.keep_last = Some(1)), copies.clone());
    let hourly = Rules {
        interval: Some(SignedDuration::from_hours(1)),
        ..source.rules[&schedule()].clone()
    };
    let other = ScheduleName {
        name: "hourly".into(),
        ..schedule()
    };
    source.rules.insert(other.clone(), hourly);
    assert_eq!(plan(&source).blocked, None, "the hourly schedule is another source's");
    assert_eq!(plan(&source).remove, vec![copies[0].run.clone()]);
    // It made a copy once: it is this source's too.
    let mut both = source.clone();
    both.copies[1].schedule = Some(other);
    assert_eq!(plan(&both).blocked.unwrap().reason, Reason::CopyTooOld);
    // The schedule was renamed, and the new one has made no copy yet.
    source.rules.get_mut(&schedule()).unwrap().interval = None;
    assert_eq!(plan(&source).blocked.unwrap().reason, Reason::CopyTooOld);
}

#[test]
fn new_rules_that_would_take_much_at_once_wait_for_an_approval_of_exactly_that_set() {
    let mut copies = days(60, "2026-11-20T02:00:00Z");
    for copy in &mut copies[..50] {
        *copy = marked(copy.clone(), "2026-11-17T08:00:00Z");
        copy.retained = vec![("keepWithin".into(), at("2026-11-17T02:00:00Z"))];
    }
    let mut source = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(10)), copies.clone());
    assert_eq!(plan(&source).remove.len(), 50, "rules of old: time alone made them go");
    source.rules.get_mut(&schedule()).unwrap().since = at("2026-11-17T07:00:00Z");
    let braked = plan(&source);
    assert!(braked.remove.is_empty());
    let blocked = braked.blocked.unwrap();
    assert_eq!(blocked.reason, Reason::RemovalNeedsApproval);
    let set = block::set_digest(copies[..50].iter());
    assert!(blocked.message.contains(&set.to_string()), "{}", blocked.message);
    source.accepted = vec![Acceptance::Removal {
        set: Sha256::of(b"another set"),
    }];
    assert!(plan(&source).remove.is_empty());
    source.accepted = vec![Acceptance::Removal { set }];
    assert_eq!(plan(&source).remove.len(), 50);
    // Few chains need no approval.
    let mut few = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(10)), copies[45..].to_vec());
    few.rules.get_mut(&schedule()).unwrap().since = at("2026-11-17T07:00:00Z");
    few.copies[0].mark = None;
    assert_eq!(plan(&few).remove.len(), 4);
}

#[test]
fn what_one_pass_marked_in_a_mass_waits_for_an_approval_whatever_ended() {
    let mut copies = days(60, "2026-11-20T02:00:00Z");
    for (copy, seconds) in copies[..50].iter_mut().zip(0..) {
        *copy = marked(copy.clone(), "2026-11-17T08:00:00Z");
        // A hold that was released long after their time, or rules that could not be applied for weeks.
        copy.retained = vec![("keepWithin".into(), at("2026-11-01T02:00:00Z"))];
        copy.mark.as_mut().unwrap().at += SignedDuration::from_secs(seconds);
    }
    let mut source = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(10)), copies.clone());
    let braked = plan(&source);
    assert!(braked.remove.is_empty());
    assert_eq!(braked.blocked.unwrap().reason, Reason::RemovalNeedsApproval);
    let set = block::set_digest(copies[..50].iter());
    source.retired = Some("ann: the shop is closed".into());
    assert!(plan(&source).remove.is_empty(), "the end of a protection approves of no removal");
    source.accepted = vec![Acceptance::Removal { set }];
    assert_eq!(plan(&source).remove.len(), 50);
    // As many, in passes an hour apart.
    source.retired = None;
    source.accepted.clear();
    for (copy, hour) in source.copies[..50].iter_mut().zip(0..) {
        copy.mark.as_mut().unwrap().at -= SignedDuration::from_hours(hour);
    }
    assert_eq!(plan(&source).remove.len(), 50);
}

#[test]
fn a_schedule_that_is_gone_still_asks_for_copies() {
    let mut copies = days(9, "2026-11-20T02:00:00Z");
    copies[0] = marked(copies[0].clone(), "2026-11-13T08:00:00Z");
    let mut source = facts("2026-11-23T02:00:00Z", rules(|r| r.keep_last = Some(1)), copies);
    source.rules.get_mut(&schedule()).unwrap().gone = true;
    assert_eq!(plan(&source).blocked.unwrap().reason, Reason::CopyTooOld);
    let mut retired = source.clone();
    retired.retired = Some("ann: the shop is closed".into());
    assert_eq!(plan(&retired).remove.len(), 1);
    // Another took its place, and made a copy: its own pace counts.
    let weekly = ScheduleName {
        name: "weekly".into(),
        ..schedule()
    };
    let rules = Rules {
        interval: Some(SignedDuration::from_hours(7 * 24)),
        gone: false,
        ..source.rules[&schedule()].clone()
    };
    source.rules.insert(weekly.clone(), rules);
    source.copies[8].schedule = Some(weekly);
    assert_eq!(plan(&source).blocked, None);
}

#[test]
fn the_recovery_window_keeps_its_base_and_the_logs_since() {
    let base = full("2026-11-01T02:00:00Z");
    let mut log = child("2026-11-05T02:00:00Z", &base);
    log.copy_type = CopyType::Log;
    let mut copies = vec![full("2026-10-20T02:00:00Z"), base, log];
    copies.extend(days(3, "2026-11-20T02:00:00Z"));
    let plan = plan(&facts(
        "2026-11-20T08:00:00Z",
        rules(|r| r.keep_within = Some("7d".parse().unwrap())),
        copies.clone(),
    ));
    assert!(matches!(next_of(&plan, &copies[0]), Next::Mark { .. }));
    for copy in &copies[1..3] {
        assert!(why_of(&plan, copy).contains("recovery window"), "{}", why_of(&plan, copy));
    }
}
