//! A virtual clock drives schedules through outages, crashes, suspensions, wrong clocks and edits, and each decision is compared, tick by
//! tick, with a model that looks at the minutes of the slow rule.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, ToSpan};
use proptest::prelude::*;

use super::{
    slow::{SlowCron, cases},
    *,
};
use crate::name::Label;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Incremental,
    Full,
}

const CRONS: [&str; 10] = [
    "H 2 * * *",
    "30 2 * * *",
    "30 2 * * *",
    "H * * * *",
    "0 */2 * * *",
    "H/20 2-4 * * *",
    "0 0 * * 1-5",
    "H H(1-3) * * *",
    "*/30 1 29 2 *",
    "15,45 0-3 * * 0",
];

const ZONES: [&str; 4] = ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe"];
const NAMES: [&str; 3] = ["weekly", "nightly", "hourly"];

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The operator wakes when it said it would, or by an event if it would sleep on.
    Wake,
    /// So many seconds pass with nobody looking.
    Outage(i64),
    /// The operator is killed after it has made the runs, before it has written its status.
    Killed,
    Suspend(bool),
    /// Our clock goes wrong by so many seconds.
    OwnClock(i64),
    /// The API server's clock, and ours with it, goes wrong by so many seconds.
    BothClocks(i64),
    /// The date of the API server is not known for a while.
    ServerUnknown(bool),
    Recreate(usize),
    Select(usize, bool),
    EndRuns,
    /// Ended runs are cleaned up.
    PruneRuns,
    ChangeCron(usize, usize),
    ChangeZone(usize),
    AddTrigger,
    RemoveTrigger,
}

fn step() -> impl Strategy<Value = Step> {
    let skew = prop_oneof![
        -3600_i64..3600,
        Just(299),
        Just(300),
        Just(301),
        Just(-301),
        Just(-365 * 86_400),
        Just(365 * 86_400),
        Just(-56 * 365 * 86_400),
        Just(80 * 365 * 86_400),
        Just(0),
    ];
    let jump = prop_oneof![-2 * 86_400_i64..0, 0_i64..2 * 86_400, Just(0), Just(-299), Just(-301)];
    prop_oneof![
        24 => Just(Step::Wake),
        6 => (0_i64..90_000).prop_map(Step::Outage),
        2 => (0_i64..250_000).prop_map(Step::Outage),
        3 => Just(Step::Killed),
        2 => any::<bool>().prop_map(Step::Suspend),
        2 => skew.prop_map(Step::OwnClock),
        1 => jump.prop_map(Step::BothClocks),
        1 => any::<bool>().prop_map(Step::ServerUnknown),
        2 => (0_usize..3).prop_map(Step::Recreate),
        2 => (0_usize..3, any::<bool>()).prop_map(|(source, selected)| Step::Select(source, selected)),
        6 => Just(Step::EndRuns),
        2 => Just(Step::PruneRuns),
        1 => (0..NAMES.len(), 0..CRONS.len()).prop_map(|(trigger, cron)| Step::ChangeCron(trigger, cron)),
        1 => (0..ZONES.len()).prop_map(Step::ChangeZone),
        1 => Just(Step::AddTrigger),
        1 => Just(Step::RemoveTrigger),
    ]
}

/// What the model remembers of a trigger.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    handled: Timestamp,
    rule: (String, String),
}

/// A world with a clock that is right.
struct World {
    now: Timestamp,
    own_offset: i64,
    both_offset: i64,
    server_unknown: bool,
    schedule: Schedule<Kind>,
    sources: Vec<(Source, bool)>,
    /// What is written in the schedule's status, and what the model would have written.
    progress: Progress,
    marks: BTreeMap<String, Mark>,
    was_suspended: bool,
    slow: BTreeMap<(String, String), BTreeSet<Timestamp>>,
    span: (Timestamp, Timestamp),
    wake_after: Option<SignedDuration>,
    /// Each run that was ever made, by name.
    names: BTreeMap<String, (String, String, Timestamp)>,
}

/// What becomes of a tick: source, trigger, tick (the newest), what, how many.
type Outcome = (String, String, Timestamp, String, u32);

impl World {
    fn clock(&self) -> Clock {
        let shift = |seconds: i64| self.now + SignedDuration::from_secs(seconds);
        Clock {
            now: shift(self.own_offset + self.both_offset),
            server: (!self.server_unknown).then(|| shift(self.both_offset)),
        }
    }

    /// Up to when ticks are due, by the words of the rule.
    fn until(&self) -> Timestamp {
        let clock = self.clock();
        let Some(server) = clock.server else { return clock.now };
        if clock.now <= server {
            server
        } else if clock.now > server + 5.minutes() {
            server + 5.minutes()
        } else {
            clock.now
        }
    }

    fn slow(&mut self, trigger: usize, source: &Source) -> &BTreeSet<Timestamp> {
        let seed = Seed::of_source(source.namespace.as_str(), source.name.as_str());
        let key = (
            self.schedule.triggers[trigger].expression.expanded(&seed),
            self.schedule.zone.name().to_owned(),
        );
        let (from, to) = self.span;
        self.slow
            .entry(key.clone())
            .or_insert_with(|| SlowCron::new(&key.0).ticks(&key.1, from, to))
    }

    /// What the rules say, in their own words.
    fn expect(&mut self) -> (BTreeSet<Outcome>, BTreeMap<String, Mark>, usize) {
        let until = self.until();
        let mut outcomes = BTreeSet::new();
        if self.schedule.suspended {
            return (outcomes, self.marks.clone(), 0);
        }
        let mut marks = BTreeMap::new();
        let mut set_back = 0;
        let mut begins = Vec::new();
        for trigger in &self.schedule.triggers {
            let rule = (trigger.expression.to_string(), self.schedule.zone.name().to_owned());
            let mark = self.marks.get(trigger.name.as_str());
            let ahead = mark.is_some_and(|mark| mark.handled > until + 5.minutes());
            let (begin, handled) = match mark {
                _ if self.was_suspended => (until, until),
                None if self.marks.is_empty() => (self.schedule.created, until),
                None => (until, until),
                Some(_) if ahead => {
                    set_back += 1;
                    (until, until)
                }
                Some(mark) if mark.rule != rule => (until, until),
                Some(mark) => (mark.handled, mark.handled),
            };
            begins.push(begin);
            marks.insert(trigger.name.to_string(), Mark { handled, rule });
        }
        let sources: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, selected)| *selected)
            .map(|(source, _)| source.clone())
            .collect();
        for source in sources {
            // By trigger: its newest tick, if it is to run.
            let mut newest: BTreeMap<usize, Timestamp> = BTreeMap::new();
            for (trigger, begin) in begins.iter().enumerate() {
                let name = self.schedule.triggers[trigger].name.to_string();
                let created = self.schedule.created.max(source.created);
                let due: Vec<_> = self
                    .slow(trigger, &source)
                    .iter()
                    .copied()
                    .filter(|tick| tick > begin && *tick > created && *tick <= until)
                    .collect();
                let Some(last) = due.last().copied() else { continue };
                let mark = marks.get_mut(&name).unwrap();
                mark.handled = mark.handled.max(last);
                let has_run = |tick: Timestamp| source.runs.iter().any(|run| run.trigger == name && run.tick == tick);
                let missed: Vec<_> = due.iter().copied().filter(|tick| *tick != last && !has_run(*tick)).collect();
                if let Some(newest) = missed.last() {
                    let count = u32::try_from(missed.len()).unwrap().min(MISSED_LIMIT);
                    outcomes.insert((source.name.to_string(), name.clone(), *newest, "missed".to_owned(), count));
                }
                let busy = source.runs.iter().any(|run| run.trigger == name && run.in_flight);
                if busy && !has_run(last) {
                    outcomes.insert((source.name.to_string(), name, last, "forbidden".to_owned(), 1));
                } else {
                    newest.insert(trigger, last);
                }
            }
            for (trigger, tick) in &newest {
                let mine = &self.schedule.triggers[*trigger];
                if source.runs.iter().any(|run| run.trigger == mine.name.as_str() && run.tick == *tick) {
                    continue;
                }
                let beaten = newest.iter().any(|(other, at)| {
                    let kind = self.schedule.triggers[*other].kind;
                    at == tick && (kind > mine.kind || (kind == mine.kind && other < trigger))
                });
                let what = if beaten { "superseded" } else { "fire" };
                outcomes.insert((source.name.to_string(), mine.name.to_string(), *tick, what.to_owned(), 1));
            }
        }
        (outcomes, marks, set_back)
    }

    /// The operator decides, and what it decides is compared, done and, if it lives so long, written.
    fn decide(&mut self, lives: bool) -> Result<(), TestCaseError> {
        let (expected, marks, set_back) = self.expect();
        let selected: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, selected)| *selected)
            .map(|(source, _)| source.clone())
            .collect();
        let clock = self.clock();
        let decision = decide(&self.schedule, &selected, &self.progress, clock);
        let mut found = BTreeSet::new();
        for Firing {
            source,
            trigger,
            tick,
            run,
        } in &decision.fire
        {
            found.insert((source.name.to_string(), trigger.name.to_string(), *tick, "fire".to_owned(), 1));
            // The promises, whatever the model says.
            let server = clock.server.unwrap_or(clock.now);
            prop_assert!(*tick <= server + 5.minutes() && *tick > source.created && *tick > self.schedule.created);
            prop_assert!(!self.schedule.suspended && !self.was_suspended);
            let identity = (source.name.to_string(), trigger.name.to_string(), *tick);
            prop_assert_eq!(self.names.entry(run.clone()).or_insert_with(|| identity.clone()), &identity);
        }
        for passed in &decision.passed {
            let what = match passed.by {
                PassedBy::Missed => "missed",
                PassedBy::Forbidden { .. } => "forbidden",
                PassedBy::Superseded { .. } => "superseded",
            };
            found.insert((
                passed.source.name.to_string(),
                passed.trigger.name.to_string(),
                passed.newest,
                what.to_owned(),
                passed.ticks,
            ));
        }
        prop_assert_eq!(found.len(), decision.fire.len() + decision.passed.len());
        prop_assert_eq!(&found, &expected, "at {} until {}", self.now, self.until());
        let written: BTreeMap<_, _> = decision
            .progress
            .watermarks
            .iter()
            .map(|(trigger, mark)| (trigger.clone(), mark.at))
            .collect();
        prop_assert_eq!(
            written,
            marks
                .iter()
                .map(|(trigger, mark)| (trigger.clone(), mark.handled))
                .collect::<BTreeMap<_, _>>()
        );
        let ahead = decision
            .clock
            .iter()
            .filter(|finding| matches!(finding, ClockFinding::WatermarkAhead { .. }))
            .count();
        prop_assert_eq!(ahead, set_back);
        prop_assert_eq!(
            decision.clock.len() - ahead,
            usize::from(clock.server.is_some() && self.own_offset.abs() > 300)
        );
        let made: Vec<_> = decision
            .fire
            .iter()
            .map(|fire| (fire.source.name.clone(), fire.trigger.name.to_string(), fire.tick))
            .collect();
        let (progress, next_tick, wake_after) = (decision.progress, decision.next_tick, decision.wake_after);
        self.expect_wake(next_tick, wake_after, &selected, &marks)?;
        for (name, trigger, tick) in made {
            let (source, _) = self.sources.iter_mut().find(|(source, _)| source.name == name).unwrap();
            source.runs.push(SeenRun {
                trigger,
                tick,
                in_flight: true,
            });
        }
        if lives {
            self.marks = marks;
            self.was_suspended = self.schedule.suspended;
            self.progress = progress;
        }
        self.wake_after = wake_after;
        Ok(())
    }

    /// It wakes for the next tick of any, and not before.
    fn expect_wake(
        &mut self,
        next_tick: Option<Timestamp>,
        wake_after: Option<SignedDuration>,
        selected: &[Source],
        marks: &BTreeMap<String, Mark>,
    ) -> Result<(), TestCaseError> {
        let until = self.until();
        let mut next = None;
        if !self.schedule.suspended {
            for source in selected {
                for trigger in 0..self.schedule.triggers.len() {
                    let from = until
                        .max(source.created)
                        .max(self.schedule.created)
                        .max(marks[self.schedule.triggers[trigger].name.as_str()].handled);
                    let first = self.slow(trigger, source).iter().find(|tick| **tick > from).copied();
                    next = [next, first].into_iter().flatten().min();
                }
            }
        }
        // The model's minutes end.
        if next.is_some() || self.schedule.suspended {
            prop_assert_eq!(next_tick, next);
            prop_assert_eq!(wake_after, next.map(|next| next.duration_since(until)));
        }
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let mut lives = true;
        match *step {
            Step::Wake => {
                let sleep = self
                    .wake_after
                    .unwrap_or(SignedDuration::from_hours(5))
                    .min(SignedDuration::from_hours(30));
                self.now += sleep;
            }
            Step::Outage(seconds) => self.now += seconds.seconds(),
            Step::Killed => {
                self.now += self.wake_after.unwrap_or_default().min(SignedDuration::from_hours(30));
                lives = false;
            }
            Step::Suspend(suspended) => self.schedule.suspended = suspended,
            Step::OwnClock(offset) => self.own_offset = if self.server_unknown { 0 } else { offset },
            Step::BothClocks(offset) => self.both_offset = offset,
            Step::ServerUnknown(unknown) => {
                self.server_unknown = unknown;
                self.own_offset = 0;
            }
            Step::Recreate(place) => {
                let created = self.now + SignedDuration::from_secs(self.both_offset);
                self.sources[place].0.created = created;
            }
            Step::Select(place, selected) => self.sources[place].1 = selected,
            Step::EndRuns => self
                .sources
                .iter_mut()
                .flat_map(|(source, _)| &mut source.runs)
                .for_each(|run| run.in_flight = false),
            Step::PruneRuns => self
                .sources
                .iter_mut()
                .for_each(|(source, _)| source.runs.retain(|run| run.in_flight)),
            Step::ChangeCron(trigger, cron) => {
                if let Some(trigger) = self.schedule.triggers.get_mut(trigger) {
                    trigger.expression = CRONS[cron].parse().unwrap();
                }
            }
            Step::ChangeZone(zone) => self.schedule.zone = Zone::named(ZONES[zone]).unwrap(),
            Step::AddTrigger => {
                let used: BTreeSet<_> = self.schedule.triggers.iter().map(|trigger| trigger.name.to_string()).collect();
                if let Some(name) = NAMES.iter().find(|name| !used.contains(**name)) {
                    self.schedule.triggers.push(trigger(name, Kind::Full, 1));
                }
            }
            Step::RemoveTrigger => {
                if self.schedule.triggers.len() > 1 {
                    self.schedule.triggers.pop();
                }
            }
        }
        self.decide(lives)
    }
}

fn trigger(name: &str, kind: Kind, cron: usize) -> Trigger<Kind> {
    Trigger {
        name: Label::trigger(name).unwrap(),
        kind,
        expression: CRONS[cron].parse().unwrap(),
    }
}

/// Days around changes of clocks, a leap day, and the end of a year; long enough for the steps, and a margin for clocks that jump.
const BEGINS: [&str; 6] = [
    "2026-03-20T12:00:00Z",
    "2026-10-20T12:00:00Z",
    "2026-03-05T12:00:30Z",
    "2026-10-30T00:00:00Z",
    "2028-02-24T06:00:00Z",
    "2105-12-28T06:00:00Z",
];
const DAYS: i64 = 12;

prop_compose! {
    fn world()(
        begin in prop::sample::select(&BEGINS[..]),
        zone in prop::sample::select(&ZONES[..]),
        triggers in prop::collection::vec((0..CRONS.len(), any::<bool>()), 1..=3),
        ages in prop::array::uniform3(0_i64..200_000),
    ) -> World {
        let now: Timestamp = begin.parse().unwrap();
        let triggers = NAMES.iter().zip(triggers).map(|(name, (cron, full))| trigger(name, if full { Kind::Full } else { Kind::Incremental }, cron));
        let source = |(place, age): (usize, &i64)| {
            let name = Label::new(["orders", "users", "a-database-with-a-long-name"][place]).unwrap();
            (Source { namespace: Label::new("shop").unwrap(), name, created: now - age.seconds(), runs: Vec::new() }, true)
        };
        World {
            now,
            own_offset: 0,
            both_offset: 0,
            server_unknown: false,
            schedule: Schedule {
                name: Label::new("gold").unwrap(),
                created: now - ages[0].seconds(),
                zone: Zone::named(zone).unwrap(),
                suspended: false,
                triggers: triggers.collect(),
            },
            sources: ages.iter().enumerate().map(source).collect(),
            progress: Progress::default(),
            marks: BTreeMap::new(),
            was_suspended: false,
            slow: BTreeMap::new(),
            span: (Timestamp::from_second((now.as_second() / 60 - 5 * 1440) * 60).unwrap(), now + (24 * (DAYS + 5)).hours()),
            wake_after: None,
            names: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now)
            .field("schedule", &self.schedule)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn decisions_are_those_of_the_model(mut world in world(), steps in prop::collection::vec(step(), 20..80)) {
        let end = world.now + (24 * DAYS).hours();
        world.decide(true)?;
        for step in steps {
            world.take(&step)?;
            if world.now > end {
                break;
            }
        }
    }

    /// Only outages and deaths of the operator: each tick has exactly one outcome in the end, and the newest of each outage its run.
    #[test]
    fn no_tick_is_lost_and_none_runs_twice(mut world in world(), outages in prop::collection::vec((0_i64..200_000, any::<bool>()), 1..30)) {
        world.schedule.triggers.truncate(1);
        world.sources.truncate(1);
        let created = world.sources[0].0.created.max(world.schedule.created);
        let end = world.now + (24 * DAYS).hours();
        let mut missed = 0;
        let mut dies = false;
        for (seconds, next_dies) in outages {
            let decision = decide(&world.schedule, std::slice::from_ref(&world.sources[0].0), &world.progress, world.clock());
            // What is counted is written with the watermark.
            let count: u32 = decision.passed.iter().map(|passed| passed.ticks).sum();
            let progress = decision.progress.clone();
            let runs: Vec<_> = decision.fire.iter().map(|fire| SeenRun { trigger: fire.trigger.name.to_string(), tick: fire.tick, in_flight: false }).collect();
            world.sources[0].0.runs.extend(runs);
            if !dies {
                missed += count;
                world.progress = progress;
            }
            dies = next_dies;
            if world.now + seconds.seconds() > end {
                break;
            }
            world.now += seconds.seconds();
        }
        let decision = decide(&world.schedule, std::slice::from_ref(&world.sources[0].0), &world.progress, world.clock());
        missed += decision.passed.iter().map(|passed| passed.ticks).sum::<u32>();
        let mut runs: Vec<_> = world.sources[0].0.runs.iter().map(|run| run.tick).chain(decision.fire.iter().map(|fire| fire.tick)).collect();
        let made = runs.len();
        runs.sort_unstable();
        runs.dedup();
        prop_assert_eq!(runs.len(), made, "a tick ran twice");
        let source = world.sources[0].0.clone();
        let now = world.now;
        let all: BTreeSet<_> = world.slow(0, &source).iter().copied().filter(|tick| *tick > created && *tick <= now).collect();
        prop_assert!(runs.iter().all(|tick| all.contains(tick)));
        prop_assert_eq!(made + missed as usize, all.len());
        prop_assert_eq!(runs.last(), all.last());
    }
}
