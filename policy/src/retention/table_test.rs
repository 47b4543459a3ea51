//! What the rules' text names, each by its name.

use holdfast_crds::{
    Reason, Retention,
    document::{Acceptance, Label, ScheduleName, Ulid},
};
use jiff::SignedDuration;

use super::{
    tests::{at, child, facts, full, rules, schedule},
    *,
};
use crate::{chain::Chains, tick::Zone};

const NOW: &str = "2026-11-20T08:00:00Z";

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

/// One full a day at 02:00 UTC, the newest today.
fn days(count: i64) -> Vec<CopyFacts> {
    let today = at("2026-11-20T02:00:00Z");
    (0..count).rev().map(|back| full(&(today - hours(24 * back)).to_string())).collect()
}

fn marked(copy: &mut CopyFacts, when: &str) {
    copy.mark = Some(Mark {
        ulid: Ulid::new(at(when), [1; 10]),
        at: at(when),
        not_before: at(when) + hours(48),
    });
}

fn verdict(plan: &SourcePlan, copy: &CopyFacts) -> Verdict {
    plan.verdicts.iter().find(|verdict| verdict.run == copy.run).unwrap().clone()
}

fn hold(name: &str) -> Label {
    Label::new("hold", name).unwrap()
}

fn keep_last(count: i32) -> Retention {
    rules(|r| r.keep_last = Some(count))
}

#[test]
fn both_clocks_wrong_remove_nothing_and_nothing_latches() {
    let mut copies = days(30);
    for copy in &mut copies {
        copy.retained = vec![("daily".into(), copy.order().0 + hours(24 * 20))];
    }
    for wrong in [
        "1970-01-01T00:00:05Z",
        "2025-11-20T08:00:00Z",
        "2027-11-20T08:00:00Z",
        "2106-02-07T06:28:15Z",
    ] {
        let mut source = facts(wrong, keep_last(3), copies.clone());
        // Marked while all was well.
        for copy in &mut source.copies[..9] {
            marked(copy, "2026-11-17T08:00:00Z");
        }
        let plan_ = plan(&source);
        assert!(plan_.remove.is_empty(), "{wrong}");
        // The records of that pass, and then the clocks are right again.
        let mut back = facts(NOW, keep_last(3), copies.clone());
        for verdict in &plan_.verdicts {
            let copy = back.copies.iter_mut().find(|copy| copy.run == verdict.run).unwrap();
            if let Next::Mark { not_before } = verdict.next {
                let ulid = Ulid::new(at(wrong), [0; 10]);
                copy.mark = Some(Mark {
                    ulid,
                    at: at(wrong),
                    not_before,
                });
            }
            let recorded = plan_.retain.iter().filter(|(run, _, _)| *run == copy.run);
            copy.retained.extend(recorded.map(|(_, rule, until)| (rule.clone(), *until)));
        }
        let first = plan(&back);
        assert!(first.remove.is_empty(), "no mark of a wrong clock removes anything: {wrong}");
        assert_eq!(first.blocked, None);
        for verdict in &first.verdicts {
            let copy = back.copies.iter_mut().find(|copy| copy.run == verdict.run).unwrap();
            match verdict.next {
                Next::Unmark(_) => copy.mark = None,
                Next::Mark { .. } => marked(copy, NOW),
                _ => assert!(copy.mark.is_none(), "a mark of {wrong} is withdrawn"),
            }
        }
        let second = plan(&back);
        let unkept = second.verdicts.iter().filter(|verdict| verdict.kept.is_empty());
        assert!(unkept.clone().count() >= 9);
        for verdict in unkept {
            let right = Next::Mark {
                not_before: at(NOW) + hours(48),
            };
            assert!(verdict.next == Next::Wait || verdict.next == right, "{wrong}: {verdict:?}");
        }
    }
}

#[test]
fn a_copy_committed_by_a_clock_of_2106_is_young_for_a_day_and_no_longer() {
    let mut copies = days(9);
    copies[0].committed_at = at("2106-02-07T06:28:15Z");
    let plan_ = plan(&facts(NOW, keep_last(1), copies.clone()));
    assert!(matches!(verdict(&plan_, &copies[0]).next, Next::Mark { .. }));
    copies[8].committed_at = at("2106-02-07T06:28:15Z");
    copies.push(full("2026-11-20T04:00:00Z"));
    let mut source = facts(NOW, keep_last(1), copies.clone());
    source.rules.get_mut(&schedule()).unwrap().retention.min_good = 1;
    assert_eq!(verdict(&plan(&source), &copies[8]).kept, vec![Why::Young]);
}

#[test]
fn two_schedules_on_one_source_each_keep_their_own() {
    let gold = schedule();
    let silver = ScheduleName {
        namespace: None,
        name: "silver".into(),
    };
    let mut copies = days(20);
    for copy in copies.iter_mut().step_by(2) {
        copy.schedule = Some(silver.clone());
    }
    let mut source = facts(NOW, keep_last(4), copies.clone());
    let other = Rules {
        retention: rules(|r| {
            r.daily = Some(30);
            r.min_good = 1;
        }),
        ..source.rules[&gold].clone()
    };
    source.rules.insert(silver.clone(), other);
    let both = plan(&source);
    for (position, copy) in copies.iter().enumerate() {
        let kept = copy.schedule.as_ref() == Some(&silver) || position >= 13;
        assert_eq!(!verdict(&both, copy).kept.is_empty(), kept, "{}", copy.run);
    }
    // One is gone, and left no rules behind: its copies stay.
    source.rules.remove(&gold);
    let one = plan(&source);
    assert!(one.verdicts.iter().all(|verdict| !verdict.kept.is_empty()));
    assert_eq!(verdict(&one, &copies[1]).kept, vec![Why::NoRule]);
    // Gone, and its recorded rules go on: without an interval that the newest copy is measured by.
    let mut recorded = facts("2027-06-01T00:00:00Z", keep_last(4), copies.clone());
    recorded.rules.get_mut(&gold).unwrap().interval = None;
    let on = plan(&recorded);
    assert_eq!(on.blocked, None);
    assert!(matches!(verdict(&on, &copies[1]).next, Next::Mark { .. }));
}

#[test]
fn a_source_re_created_as_another_server_has_chains_that_never_cross() {
    let old = full("2026-11-01T02:00:00Z");
    let mut log_of_old = child("2026-11-02T02:00:00Z", &old);
    log_of_old.copy_type = CopyType::Log;
    let mut new = full("2026-11-10T02:00:00Z");
    new.server = Some("8".into());
    let mut log_of_new = child("2026-11-19T02:00:00Z", &new);
    (log_of_new.copy_type, log_of_new.server) = (CopyType::Log, new.server.clone());
    let mut latest = full("2026-11-20T02:00:00Z");
    latest.server = new.server.clone();
    assert!(!may_be_parent(&old, Some("8"), at(NOW)));
    assert!(may_be_parent(&old, Some("7"), at(NOW)));
    let copies = vec![old, log_of_old, new, log_of_new, latest];
    let retention = rules(|r| r.keep_within = Some("5d".parse().unwrap()));
    let plan_ = plan(&facts(NOW, retention, copies.clone()));
    // The window of the new server begins with its own base; that of the old one is not cut by it.
    assert!(verdict(&plan_, &copies[2]).kept.contains(&Why::Window));
    assert!(verdict(&plan_, &copies[3]).kept.contains(&Why::Window));
    let chains = Chains::of(&copies);
    assert_eq!(chains.closure([3]), vec![false, false, true, true, false]);
    assert!(chains.is_restorable(&copies, 3));
    // A forged child of both worlds is no copy to count on.
    let mut crossed = copies.clone();
    crossed[3].parents = vec![crossed[0].manifest];
    assert!(!Chains::of(&crossed).is_restorable(&crossed, 3));
}

#[test]
fn the_last_good_copies_of_a_server_stay_until_somebody_accepts_the_change_to_another() {
    let accept = |was: &str, is: &str| Acceptance::Server {
        was: was.to_owned(),
        is: is.to_owned(),
    };
    let rules = || rules(|r| (r.keep_last, r.min_good) = (Some(2), 2));
    let of = |servers: &str| {
        let mut copies = days(i64::try_from(servers.len()).unwrap());
        for (copy, server) in copies.iter_mut().zip(servers.chars()) {
            copy.server = (server != '-').then(|| server.to_string());
        }
        facts(NOW, rules(), copies)
    };
    // Which stay, by the place of each copy, and whether anything is told.
    let stays = |facts: &SourceFacts| {
        let plan = plan(facts);
        assert_eq!(plan.blocked, None);
        let stays = plan.verdicts.iter().map(|verdict| if verdict.kept.is_empty() { ' ' } else { 'x' });
        (stays.collect::<String>(), plan.identity)
    };
    let none = |stay: &str| (stay.to_owned(), None);
    assert_eq!(stays(&of("7777777")), none("     xx"));
    let changed = of("7777888");
    let (stay, told) = stays(&changed);
    assert_eq!(stay, "  xx xx");
    let told = told.unwrap();
    let [.., last, since, _, _] = &changed.copies[..] else { panic!() };
    assert!(
        told.starts_with(&format!(
            "copies up to {} are of server 7, those since {} of 8",
            last.run, since.run
        )),
        "{told}"
    );
    assert!(told.contains(r#"spec.accept: [{server: {was: "7", is: "8"}, by: "#), "{told}");
    let why = verdict(&plan(&changed), last).why();
    assert_eq!(why, "among the newest 2 good full copies of server 7, whose change nobody accepted");
    let accepted = |servers: &str, words: &[(&str, &str)]| SourceFacts {
        accepted: words.iter().map(|(was, is)| accept(was, is)).collect(),
        ..of(servers)
    };
    assert_eq!(stays(&accepted("7777888", &[("7", "8")])), none("     xx"));
    // The other way round is another change, and so is one to a third.
    assert_eq!(stays(&accepted("7777888", &[("8", "7")])).0, "  xx xx");
    assert_eq!(stays(&accepted("7788999", &[("7", "8")])).0, "xxxx xx");
    assert_eq!(stays(&accepted("7788999", &[("8", "9")])).0, "xx   xx");
    assert_eq!(stays(&accepted("7788999", &[("8", "9"), ("7", "8")])), none("     xx"));
    // Pointed at the wrong one for a day, and back: also what was right all the time is said.
    assert_eq!(stays(&of("7777877")).0, "    xxx");
    assert_eq!(stays(&accepted("7777877", &[("8", "7")])), none("     xx"));
    // Who does not tell its server says nothing.
    assert_eq!(stays(&of("777--")), none("   xx"));
    assert_eq!(stays(&of("-----")), none("   xx"));
    assert_eq!(stays(&of("--777")), none("   xx"));
    assert_eq!(stays(&of("777-8-")).0, " xx xx");
    // What is not good counts neither as new nor as old.
    let mut bad = of("777888");
    bad.copies[2].problem = Some("a part is missing".into());
    assert_eq!(stays(&bad).0, "xx  xx");
    let mut empty = of("77778");
    empty.copies[4].problem = Some("a part is missing".into());
    assert_eq!(plan(&empty).identity, None);
    // A floor asks for more, and the end of the protection for none.
    let mut floor = of("7777888");
    floor.floors = vec![Floor {
        policy: "books".into(),
        retention: None,
        good_copies: Some(3),
    }];
    assert_eq!(stays(&floor).0, " xxxxxx");
    let mut retired = of("7777888");
    retired.retired = Some("ann: closed".into());
    assert_eq!(stays(&retired), none("     xx"));
}

#[test]
fn slots_in_new_york_and_paris_when_clocks_change_at_half_past_two() {
    let rule = |zone: &str, period, when: &str| {
        let zone = Zone::named(zone).unwrap();
        Slot::of(period, at(when), &zone).rule(&zone)
    };
    for (zone, period, when, expected) in [
        // 02:30 does not exist: the tick runs at 03:00 (07:00 UTC), the same day.
        ("America/New_York", Period::Day, "2026-03-08T07:00:00Z", "daily 2026-03-08"),
        ("America/New_York", Period::Day, "2026-03-08T04:59:00Z", "daily 2026-03-07"),
        ("Europe/Paris", Period::Day, "2026-03-29T01:00:00Z", "daily 2026-03-29"),
        // It comes twice: two hours, one day.
        ("America/New_York", Period::Hour, "2026-11-01T05:30:00Z", "hourly 2026-11-01T05Z"),
        ("America/New_York", Period::Hour, "2026-11-01T06:30:00Z", "hourly 2026-11-01T06Z"),
        ("America/New_York", Period::Day, "2026-11-01T06:30:00Z", "daily 2026-11-01"),
        ("America/New_York", Period::Day, "2026-11-02T04:59:00Z", "daily 2026-11-01"),
        ("Europe/Paris", Period::Day, "2026-10-25T22:59:00Z", "daily 2026-10-25"),
        ("Europe/Paris", Period::Week, "2026-10-25T22:59:00Z", "weekly 2026-W43"),
        ("Europe/Paris", Period::Week, "2026-10-25T23:00:00Z", "weekly 2026-W44"),
    ] {
        assert_eq!(rule(zone, period, when), expected, "{zone} {when}");
    }
}

#[test]
fn another_zone_takes_no_slot_from_its_owner() {
    // 23:30 in Paris is the next day in Auckland.
    let ticks = ["2026-11-15T22:30:00Z", "2026-11-16T22:30:00Z", "2026-11-17T22:30:00Z"];
    let mut source = facts("2026-11-19T08:00:00Z", rules(|r| r.daily = Some(9)), ticks.map(full).to_vec());
    source.rules.get_mut(&schedule()).unwrap().zone = Zone::named("Europe/Paris").unwrap();
    let before = plan(&source);
    assert_eq!(before.retain.len(), 3);
    for (run, rule, until) in &before.retain {
        let copy = source.copies.iter_mut().find(|copy| copy.run == *run).unwrap();
        copy.retained.push((rule.clone(), *until));
    }
    source.rules.get_mut(&schedule()).unwrap().zone = Zone::named("Pacific/Auckland").unwrap();
    let after = plan(&source);
    assert!(after.verdicts.iter().all(|verdict| !verdict.kept.is_empty()));
    assert!(after.empty_slots.is_empty());
    for (run, rule, _) in &after.retain {
        // Only the day that nobody had is new.
        assert_eq!((run, rule.as_str()), (&source.copies[2].run, "daily 2026-11-18"));
    }
}

#[test]
fn a_key_listed_twice_stops_the_source() {
    let mut copies = days(9);
    marked(&mut copies[0], "2026-11-17T08:00:00Z");
    copies.push(copies[4].clone());
    let plan_ = plan(&facts(NOW, keep_last(1), copies));
    assert!(plan_.remove.is_empty());
    let blocked = plan_.blocked.unwrap();
    assert_eq!(blocked.reason, Reason::CatalogueUnreadable);
    assert!(blocked.message.contains("listed twice"), "{}", blocked.message);
}

#[test]
fn a_copy_with_a_missing_part_counts_for_nothing_and_is_removed_like_any_other() {
    let mut copies = days(3);
    copies[2].problem = Some("part 00002 is missing".into());
    let source = facts(NOW, rules(|r| r.min_good = 2), copies.clone());
    let mut source = SourceFacts { ..source };
    source.rules.get_mut(&schedule()).unwrap().retention.keep_last = Some(1);
    let plan_ = plan(&source);
    assert_eq!(verdict(&plan_, &copies[0]).kept, vec![Why::MinGood(2)]);
    assert!(verdict(&plan_, &copies[1]).kept.contains(&Why::KeepLast(1)));
    assert_eq!(verdict(&plan_, &copies[2]).kept, vec![Why::Young]);
}

#[test]
fn a_crash_after_each_delete_and_a_refused_delete_are_planned_again() {
    let base = full("2026-09-01T02:00:00Z");
    let middle = child("2026-09-02T02:00:00Z", &base);
    let mut log = child("2026-09-03T02:00:00Z", &middle);
    log.copy_type = CopyType::Log;
    let mut copies = vec![base, middle, log];
    for copy in &mut copies {
        marked(copy, "2026-11-10T08:00:00Z");
    }
    let chain = copies.clone();
    copies.extend(days(5));
    let mut source = facts(NOW, rules(|r| r.keep_last = Some(3)), copies);
    let all = [&chain[2], &chain[1], &chain[0]].map(|copy| copy.run.clone());
    for gone in 0..=3 {
        let plan_ = plan(&source);
        assert_eq!(plan_.remove, all[gone..], "after {gone} deletes");
        assert_eq!(plan_.blocked, None);
        // The store refuses to delete the next (403): the plan of the next pass is the same.
        assert_eq!(plan(&source), plan_);
        if let Some(next) = plan_.remove.first() {
            source.copies.retain(|copy| copy.run != *next);
        }
    }
}

#[test]
fn a_restore_or_an_increment_during_a_pass_keeps_what_it_needs() {
    let base = full("2026-09-01T02:00:00Z");
    let increment = child("2026-09-02T02:00:00Z", &base);
    let mut copies = vec![base, increment];
    for copy in &mut copies {
        marked(copy, "2026-11-10T08:00:00Z");
    }
    copies.extend(days(5));
    assert_eq!(plan(&facts(NOW, keep_last(3), copies.clone())).remove.len(), 2);
    assert!(!may_be_parent(&copies[0], Some("7"), at(NOW)), "a marked copy is no parent");
    let mut reading = copies.clone();
    reading[1].reading_until = Some(at(NOW) + hours(1));
    let mut in_use = copies.clone();
    in_use[1].in_use = true;
    for copies in [reading, in_use] {
        let plan_ = plan(&facts(NOW, keep_last(3), copies.clone()));
        assert!(plan_.remove.is_empty());
        for copy in &copies[..2] {
            assert!(matches!(verdict(&plan_, copy).next, Next::Unmark(_)), "its mark is withdrawn");
        }
    }
    // An increment that was committed all the same has its parent.
    let late = child("2026-11-20T07:00:00Z", &copies[1]);
    copies.push(late);
    let plan_ = plan(&facts(NOW, keep_last(3), copies.clone()));
    assert!(plan_.remove.is_empty());
    assert!(verdict(&plan_, &copies[0]).why().contains("needed by"));
}

#[test]
fn a_hold_between_mark_and_sweep_released_and_placed_again() {
    let mut copies = days(9);
    marked(&mut copies[0], "2026-11-17T08:00:00Z");
    let run = copies[0].run.clone();
    let next = |copies: &[CopyFacts], now: &str| {
        let plan_ = plan(&facts(now, keep_last(3), copies.to_vec()));
        (verdict(&plan_, &copies[0]).next, plan_.remove.contains(&run))
    };
    assert!(next(&copies, NOW).1);
    copies[0].holds = vec![hold("htax-1")];
    assert!(matches!(next(&copies, NOW), (Next::Unmark(_), false)));
    copies[0].mark = None;
    assert_eq!(next(&copies, NOW).0, Next::Stay);
    copies[0].holds.clear();
    // Released: the whole delay begins again.
    let Next::Mark { not_before } = next(&copies, NOW).0 else {
        panic!("it is marked again")
    };
    assert_eq!(not_before, at(NOW) + hours(48));
    marked(&mut copies[0], NOW);
    copies[0].holds = vec![hold("htax-1")];
    copies.extend([full("2026-11-21T02:00:00Z"), full("2026-11-22T02:00:00Z")]);
    assert!(matches!(next(&copies, "2026-11-22T08:00:00Z"), (Next::Unmark(_), false)));
}

#[test]
fn a_policy_shortened_or_emptied_takes_nothing_that_was_promised() {
    let mut source = facts(NOW, rules(|r| r.daily = Some(30)), days(20));
    let promised = plan(&source).retain;
    assert_eq!(promised.len(), 19, "today's is pending");
    for (run, rule, until) in &promised {
        let copy = source.copies.iter_mut().find(|copy| copy.run == *run).unwrap();
        copy.retained.push((rule.clone(), *until));
    }
    let mut set = |retention: Retention| {
        source.rules.get_mut(&schedule()).unwrap().retention = retention;
        plan(&source)
    };
    let shortened = set(rules(|r| r.daily = Some(2)));
    assert!(shortened.verdicts.iter().all(|verdict| verdict.next == Next::Stay));
    assert!(shortened.retain.is_empty(), "nothing is promised for less long");
    let emptied = set(Retention::default());
    assert!(emptied.verdicts.iter().all(|verdict| verdict.kept.contains(&Why::NoRule)));
    let longer = set(rules(|r| r.daily = Some(40)));
    assert_eq!(longer.retain.len(), 19);
    for (run, rule, until) in &longer.retain {
        let before = promised.iter().find(|(known, old, _)| known == run && old == rule).unwrap().2;
        assert!(before < *until, "a longer policy extends");
    }
}

#[test]
fn a_timeline_reset_changes_no_order() {
    // After a restore to a moment of the past, recovery points and names go back; ticks do not.
    let mut copies = days(6);
    copies[4].recovery_point = at("2026-10-01T00:00:00Z");
    copies[5].recovery_point = at("2026-10-02T00:00:00Z");
    copies[4].run = Label::new("run", "zz").unwrap();
    copies[5].run = Label::new("run", "aa").unwrap();
    let plan_ = plan(&facts(NOW, keep_last(2), copies.clone()));
    for (position, copy) in copies.iter().enumerate() {
        let last = verdict(&plan_, copy).kept.contains(&Why::KeepLast(2));
        assert_eq!(last, position >= 4, "{}", copy.run);
    }
}

#[test]
fn one_run_in_two_stores_is_judged_in_each_by_its_own_rules() {
    let copies = days(9);
    let short = plan(&facts(NOW, keep_last(2), copies.clone()));
    let long = plan(&facts(NOW, rules(|r| r.monthly = Some(12)), copies.clone()));
    assert!(matches!(verdict(&short, &copies[0]).next, Next::Mark { .. }));
    assert!(verdict(&long, &copies[0]).why().starts_with("monthly 2026-11, until"));
}

#[test]
fn a_lock_longer_than_retention_defers_and_the_copy_goes_when_it_ends() {
    let mut copies = days(9);
    copies[0].locked_until = Some(at("2026-11-21T08:00:00Z"));
    let plan_ = plan(&facts(NOW, keep_last(1), copies.clone()));
    assert_eq!(verdict(&plan_, &copies[0]).kept, vec![Why::Locked(at("2026-11-21T08:00:00Z"))]);
    assert!(plan_.blocked.is_none(), "a lock is a fact, not an error");
    let after = plan(&facts("2026-11-21T08:00:01Z", keep_last(1), copies.clone()));
    assert!(matches!(verdict(&after, &copies[0]).next, Next::Mark { .. }));
}

#[test]
fn ranges_of_logs_belong_to_the_log_that_is_kept() {
    let base = full("2026-11-01T02:00:00Z");
    let log = |tick: &str| {
        let mut log = full(tick);
        log.copy_type = CopyType::Log;
        log
    };
    let later = full("2026-11-03T02:00:00Z");
    let mut copies = vec![
        log("2026-11-01T01:00:00Z"),
        base,
        log("2026-11-01T03:00:00Z"),
        log("2026-11-02T03:00:00Z"),
        later,
        log("2026-11-03T03:00:00Z"),
    ];
    copies[3].holds = vec![hold("htax-1")];
    copies.extend(days(4));
    let plan_ = plan(&facts(NOW, keep_last(3), copies.clone()));
    for (position, held) in [false, true, true, true, false, false].into_iter().enumerate() {
        let kept = verdict(&plan_, &copies[position]).kept;
        assert_eq!(kept.contains(&Why::Held(hold("htax-1"))), held, "{position}: {kept:?}");
    }
}

#[test]
fn a_preview_of_a_later_day_says_what_will_be_gone_by_then() {
    let copies = days(10);
    let source = facts(NOW, rules(|r| r.daily = Some(5)), copies.clone());
    let as_now = |copy: &CopyFacts, _| copy.holds.clone();
    assert_eq!(preview(&source, at(NOW), as_now), plan(&source));
    let then = preview(&source, at("2026-11-24T08:00:00Z"), as_now);
    // 19 November goes on the 24th; two days before it was not marked yet. 20 November and the newest two stay.
    let state = |copy: &CopyFacts| verdict(&then, copy).next;
    assert!(matches!(state(&copies[0]), Next::Remove(_)));
    assert!(matches!(state(&copies[6]), Next::Remove(_)), "{:?}", state(&copies[6]));
    assert!(matches!(state(&copies[7]), Next::Mark { .. }), "{:?}", verdict(&then, &copies[7]));
    assert_eq!(state(&copies[9]), Next::Stay);
    assert_eq!(then.blocked, None, "that no copy came since is how it was asked");

    // A hold on the oldest that ends on the 23rd: it was not marked in time. One that ends on the 21st was.
    let until = |end: &'static str| {
        let first = copies[0].run.clone();
        move |copy: &CopyFacts, then: jiff::Timestamp| {
            let held = copy.run == first && then < at(end);
            held.then(|| hold("htax-1")).into_iter().collect::<Vec<_>>()
        }
    };
    let mut source = source;
    source.copies[0].holds = vec![hold("htax-1")];
    let then = |end| verdict(&preview(&source, at("2026-11-24T08:00:00Z"), until(end)), &copies[0]).next;
    assert!(matches!(then("2026-11-21T00:00:00Z"), Next::Remove(_)));
    assert!(matches!(then("2026-11-23T00:00:00Z"), Next::Mark { .. }));
    assert_eq!(then("2026-12-01T00:00:00Z"), Next::Stay);
}

#[test]
fn a_held_increment_whose_parent_is_not_good_holds_both() {
    let mut base = full("2026-09-01T02:00:00Z");
    base.problem = Some("a part is missing".into());
    let mut increment = child("2026-09-02T02:00:00Z", &base);
    let mut copies = vec![base.clone(), increment.clone()];
    copies.extend(days(5));
    let retention = || rules(|r| r.keep_within = Some("7d".parse().unwrap()));
    let free = plan(&facts(NOW, retention(), copies.clone()));
    for copy in [&base, &increment] {
        assert!(matches!(verdict(&free, copy).next, Next::Mark { .. }));
    }
    increment.holds = vec![hold("htax-1")];
    copies[1] = increment.clone();
    let held = plan(&facts(NOW, retention(), copies));
    for copy in [&base, &increment] {
        assert_eq!(verdict(&held, copy).next, Next::Stay);
        assert!(
            verdict(&held, copy).kept.contains(&Why::Held(hold("htax-1"))),
            "{:?}",
            verdict(&held, copy)
        );
    }
}
