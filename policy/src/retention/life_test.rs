//! Whole lives of a source in a store, pass by pass: backups, increments, bad copies, holds, locks, new rules, wrong clocks, keepers that are
//! killed. What must never happen is judged by what was done, not by what the planner says.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::{
    Retention,
    document::{Acceptance, Label, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    naive,
    property_test::{cases, retention},
    tests::{at, facts, full, schedule},
    *,
};
use crate::chain::Chains;

const YEAR: i64 = 365 * 24;

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in hours.
    Wait(u8),
    Full,
    /// Of the newest copy that may be a parent.
    Increment,
    ByHand(u8),
    Fail(u8),
    Heal(u8),
    Hold(u8),
    Release(u8),
    Lock(u8, u8),
    Read(u8),
    Rules(Retention),
    Retire(bool),
    Pass,
    /// The keeper is killed after so many of its removals.
    Killed(u8),
    /// Our clock and the store's are wrong by so many hours, for one pass.
    WrongClocks(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u8..40).prop_map(Step::Wait),
        6 => Just(Step::Full),
        4 => Just(Step::Increment),
        1 => any::<u8>().prop_map(Step::ByHand),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Heal),
        1 => any::<u8>().prop_map(Step::Hold),
        1 => any::<u8>().prop_map(Step::Release),
        1 => any::<(u8, u8)>().prop_map(|(copy, hours)| Step::Lock(copy, hours)),
        1 => any::<u8>().prop_map(Step::Read),
        1 => retention().prop_map(Step::Rules),
        1 => prop::bool::weighted(0.2).prop_map(Step::Retire),
        6 => Just(Step::Pass),
        1 => any::<u8>().prop_map(Step::Killed),
        1 => prop::sample::select(vec![-YEAR, YEAR, -56 * YEAR, 80 * YEAR, -1, 1]).prop_map(Step::WrongClocks),
    ]
}

struct Life {
    source: SourceFacts,
    made: u32,
    /// Until when each copy was promised to be kept, by a pass whose clocks were right.
    promised: BTreeMap<Label, Timestamp>,
    /// Since when each mark stands, in true time.
    marked: BTreeMap<Label, Timestamp>,
    /// Since when each copy is kept by nothing.
    unkept: BTreeMap<Label, Timestamp>,
    clocks_were_wrong: bool,
    removed: usize,
}

impl Life {
    fn new(retention: Retention) -> Self {
        let mut source = facts("2026-01-01T02:00:00Z", retention, vec![]);
        // The oldest are from long before, so that what a clock of a year ago keeps is not all.
        source.copies = ["2024-01-01T02:00:00Z", "2025-06-01T02:00:00Z", "2025-12-31T02:00:00Z"]
            .map(full)
            .to_vec();
        Self {
            source,
            made: 0,
            promised: BTreeMap::new(),
            marked: BTreeMap::new(),
            unkept: BTreeMap::new(),
            clocks_were_wrong: false,
            removed: 0,
        }
    }

    fn add(&mut self, copy_type: CopyType, parents: Vec<Sha256>) -> &mut CopyFacts {
        self.made += 1;
        let run = format!("n{}", self.made);
        self.source.copies.push(CopyFacts {
            run: Label::new("run", run.clone()).unwrap(),
            manifest: Sha256::of(run.as_bytes()),
            outcome: Sha256::of(run.as_bytes()),
            tick: Some(self.source.now),
            recovery_point: self.source.now,
            committed_at: self.source.now,
            copy_type,
            parents,
            ..full("2026-01-01T00:00:00Z")
        });
        self.source.copies.last_mut().unwrap()
    }

    fn copy(&mut self, which: u8) -> Option<&mut CopyFacts> {
        let count = self.source.copies.len();
        (count > 0).then(|| &mut self.source.copies[usize::from(which) % count])
    }

    fn step(&mut self, step: &Step) {
        let hours = SignedDuration::from_hours;
        let now = self.source.now;
        match step {
            Step::Wait(count) => self.source.now += hours(i64::from(*count)),
            Step::Full => drop(self.add(CopyType::Full, vec![]).run.clone()),
            Step::Increment => {
                let parent = self
                    .source
                    .copies
                    .iter()
                    .filter(|copy| may_be_parent(copy, Some("7"), now))
                    .max_by_key(|copy| copy.order());
                if let Some(parent) = parent.map(|parent| parent.manifest) {
                    self.add(CopyType::Incremental, vec![parent]);
                }
            }
            Step::ByHand(days) => {
                let until = now + hours(24 * i64::from(*days % 40 + 1));
                let copy = self.add(CopyType::Full, vec![]);
                (copy.schedule, copy.tick, copy.keep_until) = (None, None, Some(until));
            }
            Step::Fail(which) => {
                if let Some(copy) = self.copy(*which) {
                    copy.problem = Some("a bit flipped".into());
                }
            }
            Step::Heal(which) => {
                if let Some(copy) = self.copy(*which) {
                    copy.problem = None;
                }
            }
            Step::Hold(which) => {
                if let Some(copy) = self.copy(*which) {
                    copy.holds = vec![Label::new("hold", "htax-1").unwrap()];
                }
            }
            Step::Release(which) => {
                if let Some(copy) = self.copy(*which) {
                    copy.holds.clear();
                }
            }
            Step::Lock(which, length) => {
                if let Some(copy) = self.copy(*which) {
                    copy.locked_until = copy.locked_until.max(Some(now + hours(i64::from(*length))));
                }
            }
            Step::Read(which) => {
                if let Some(copy) = self.copy(*which) {
                    copy.reading_until = Some(now + hours(6));
                }
            }
            Step::Rules(retention) => {
                let rules = self.source.rules.get_mut(&schedule()).unwrap();
                rules.retention = retention.clone();
                rules.since = now;
            }
            Step::Retire(yes) => self.source.retired = yes.then(|| "ann: closed".to_owned()),
            Step::Pass => self.pass(now, usize::MAX),
            Step::Killed(after) => self.pass(now, usize::from(*after % 5)),
            Step::WrongClocks(by) => {
                self.clocks_were_wrong = true;
                self.pass(now + hours(*by), usize::MAX);
            }
        }
    }

    fn pass(&mut self, clock: Timestamp, removals: usize) {
        let now = self.source.now;
        let right = clock == now;
        self.source.now = clock;
        let plan = plan(&self.source);
        if right {
            let kept = naive::says(&self.source).kept;
            for copy in &self.source.copies {
                if kept.contains(&copy.run) {
                    self.unkept.remove(&copy.run);
                } else {
                    self.unkept.entry(copy.run.clone()).or_insert(now);
                }
            }
        }
        self.source.now = now;
        let good = |source: &SourceFacts| {
            let counts = |copy: &&CopyFacts| copy.copy_type == CopyType::Full && copy.is_good() && copy.order().0 <= now;
            source.copies.iter().filter(counts).count()
        };
        let before = good(&self.source);
        for (run, rule, until) in &plan.retain {
            let copy = self.source.copies.iter_mut().find(|copy| copy.run == *run).unwrap();
            let recorded = copy.retain_until();
            copy.retained.push((rule.clone(), *until));
            assert!(copy.retain_until() >= recorded, "what is promised only grows");
            if right {
                let promise = self.promised.entry(run.clone()).or_insert(*until);
                *promise = (*promise).max(*until);
            }
        }
        for verdict in &plan.verdicts {
            let copy = self.source.copies.iter_mut().find(|copy| copy.run == verdict.run).unwrap();
            match &verdict.next {
                Next::Mark { not_before } => {
                    assert!(copy.mark.is_none());
                    copy.mark = Some(Mark {
                        ulid: Ulid::new(clock, [0; 10]),
                        at: clock,
                        not_before: *not_before,
                    });
                    self.marked.insert(verdict.run.clone(), now);
                }
                Next::Unmark(_) => {
                    copy.mark = None;
                    self.marked.remove(&verdict.run);
                }
                Next::Stay | Next::Wait | Next::Remove(_) => {}
            }
        }
        for run in plan.remove.iter().take(removals) {
            self.remove(run, now, clock);
        }
        if self.source.retired.is_none() {
            let min_good = usize::try_from(self.source.rules[&schedule()].retention.min_good).unwrap();
            assert!(
                good(&self.source) >= before.min(min_good),
                "of {before} good fulls too few are left"
            );
        }
        self.source.copies_before = Some(self.source.copies.len() as u64);
        // A person approves whatever is asked.
        if let Some(text) = plan.blocked.map(|blocked| blocked.message)
            && let Some((_, rest)) = text.split_once("{set: ")
        {
            self.source.accepted = vec![Acceptance::Removal {
                set: rest[..64].parse().unwrap(),
            }];
        }
    }

    /// What must not happen, whatever the planner thought.
    fn remove(&mut self, run: &Label, now: Timestamp, clock: Timestamp) {
        let position = self.source.copies.iter().position(|copy| copy.run == *run).unwrap();
        let copy = self.source.copies.remove(position);
        self.removed += 1;
        assert!(copy.holds.is_empty() && !copy.legal_hold, "{run} is held");
        let needs = self.source.copies.iter().find(|other| other.parents.contains(&copy.manifest));
        assert!(needs.is_none(), "{run} is needed");
        if clock > now + SignedDuration::from_hours(48) {
            assert!(self.source.retired.is_some(), "clocks of the future removed {run}");
            return;
        }
        // Two clocks that are wrong by the same hour end each wait an hour early: nobody can know.
        let over = |until: Option<Timestamp>| until.is_none_or(|until| until <= now.max(clock));
        assert!(
            over(copy.locked_until) && over(copy.reading_until) && over(copy.keep_until),
            "{run} is locked, read or asked for"
        );
        assert!(over(self.promised.get(run).copied()), "{run} was promised to be kept");
        if !self.clocks_were_wrong {
            let delay = SignedDuration::from_hours(24);
            assert!(self.marked[run] + delay <= now, "{run} was marked too late");
            assert!(copy.committed_at + delay <= now, "{run} is young");
        }
    }

    /// Days in which all goes well: then whatever may go does go, whatever was before.
    fn settle(&mut self) {
        self.source.retired = None;
        for half in 0..40 {
            if half % 2 == 0 {
                self.step(&Step::Full);
            }
            self.source.now += SignedDuration::from_hours(12);
            let now = self.source.now;
            self.pass(now, usize::MAX);
        }
        let longest = SignedDuration::from_hours(80 + 48);
        let needed = self.waiting_for();
        for (run, since) in &self.unkept {
            let there = self.source.copies.iter().any(|copy| copy.run == *run);
            let late = self.source.now.duration_since(*since) > longest;
            assert!(
                !there || !late || needed.contains(run),
                "{run} is kept by nothing since {since} and does not go"
            );
        }
    }

    /// What copies need that are not due yet.
    fn waiting_for(&self) -> BTreeSet<Label> {
        let mut copies = self.source.copies.clone();
        copies.sort_by(|a, b| a.order().cmp(&b.order()));
        let waits = |copy: &CopyFacts| copy.mark.as_ref().is_none_or(|mark| mark.not_before > self.source.now);
        let closure = Chains::of(&copies).closure((0..copies.len()).filter(|position| waits(&copies[*position])));
        (0..copies.len())
            .filter(|position| closure[*position])
            .map(|position| copies[position].run.clone())
            .collect()
    }
}

proptest! {
    #![proptest_config(cases(5))]

    #[test]
    fn nothing_is_lost_and_what_may_go_goes(retention in retention(), steps in proptest::collection::vec(step(), 1..70)) {
        let mut life = Life::new(retention);
        for step in &steps {
            life.step(step);
        }
        life.settle();
    }
}

/// Lives in which nothing is ever removed would prove nothing.
#[test]
fn in_an_ordinary_life_most_copies_go() {
    let retention = Retention {
        daily: Some(5),
        ..Retention::default()
    };
    let mut life = Life::new(retention);
    for _ in 0..40 {
        for step in [Step::Full, Step::Wait(12), Step::Increment, Step::Wait(12), Step::Pass] {
            life.step(&step);
        }
    }
    assert!(life.removed > 50, "{}", life.removed);
    assert!(life.source.copies.len() < 25, "{}", life.source.copies.len());
    assert!(life.source.now > at("2026-02-09T00:00:00Z"));
}
