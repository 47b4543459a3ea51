//! A virtual clock drives schedules for years through outages, crashes, suspensions, wrong clocks, edits and new beginnings, and each
//! decision is compared, tick by tick, with a model that looks at the minutes of the slow rule.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, ToSpan};
use proptest::prelude::*;

use super::{
    slow::cases,
    slow_schedule::{self, EXCLUSIONS, Expected, HORIZON, Memory},
    *,
};
use crate::name::Label;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Incremental,
    Full,
}

const CRONS: [&str; 9] = [
    "30 2 * * *",
    "H 2 * * *",
    "H * * * *",
    "0 */2 * * *",
    "*/20 2-4 * * *",
    "0 0 * * 1-5",
    "*/30 1 29 2 *",
    "15,45 0-3 * * 0",
    "*/7 * 1,15 * *",
];

const ZONES: [&str; 3] = ["UTC", "Europe/Paris", "Australia/Lord_Howe"];
const CATCH_UPS: [CatchUp; 3] = [CatchUp::Skip, CatchUp::Latest, CatchUp::All];
const CONCURRENCIES: [Concurrency; 3] = [Concurrency::Forbid, Concurrency::Queue, Concurrency::Replace];
const NAMES: [&str; 3] = ["weekly", "nightly", "hourly"];

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The operator wakes when it said it would, or by an event if it would sleep on.
    Wake,
    /// So many seconds pass with nobody looking.
    Outage(i64),
    /// All runs end, then weeks or years pass with nobody looking.
    Absence(i64),
    /// The operator is killed after it has made the runs, before it has written its status.
    Killed,
    Suspend(bool),
    /// The API server's clock goes wrong by so many seconds.
    Clock(i64),
    RecreateSource(usize),
    /// The schedule is deleted and applied again: it remembers nothing, and the runs that it made are still there.
    RecreateSchedule,
    Select(usize, bool),
    EndRuns,
    /// Ended runs are cleaned up.
    PruneRuns,
    ChangeCron(usize, usize),
    ChangeZone(usize),
    AddTrigger,
    RemoveTrigger,
    CatchUp(CatchUp),
    Concurrency(Concurrency),
    StartingDeadline(Option<i64>),
    Exclude(usize),
    /// The engine of a source has the type of these triggers, or not.
    Lack(usize, usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let jump = prop_oneof![
        -40 * 86_400_i64..0,
        -2 * 86_400_i64..0,
        0_i64..2 * 86_400,
        0_i64..40 * 86_400,
        Just(0),
        Just(-299),
        Just(-301)
    ];
    let deadline = prop_oneof![
        Just(None),
        prop::sample::select(&[0, 60, 300, 3_600][..]).prop_map(Some),
        (0_i64..900).prop_map(Some),
        (0_i64..20_000).prop_map(Some),
        (0_i64..600_000).prop_map(Some)
    ];
    prop_oneof![
        24 => Just(Step::Wake),
        6 => (0_i64..90_000).prop_map(Step::Outage),
        2 => (0_i64..250_000).prop_map(Step::Outage),
        3 => Just(Step::Killed),
        2 => any::<bool>().prop_map(Step::Suspend),
        2 => jump.prop_map(Step::Clock),
        2 => (0_usize..2).prop_map(Step::RecreateSource),
        2 => Just(Step::RecreateSchedule),
        2 => (0_usize..2, any::<bool>()).prop_map(|(source, selected)| Step::Select(source, selected)),
        6 => Just(Step::EndRuns),
        2 => Just(Step::PruneRuns),
        1 => (0..NAMES.len(), 0..CRONS.len()).prop_map(|(trigger, cron)| Step::ChangeCron(trigger, cron)),
        1 => (0..ZONES.len()).prop_map(Step::ChangeZone),
        1 => Just(Step::AddTrigger),
        1 => Just(Step::RemoveTrigger),
        4 => (0_i64..40 * 86_400).prop_map(Step::Absence),
        1 => (0_i64..800 * 86_400).prop_map(Step::Absence),
        1 => prop::sample::select(&CATCH_UPS[..]).prop_map(Step::CatchUp),
        1 => prop::sample::select(&CONCURRENCIES[..]).prop_map(Step::Concurrency),
        1 => deadline.prop_map(Step::StartingDeadline),
        2 => (0..EXCLUSIONS.len()).prop_map(Step::Exclude),
        1 => (0_usize..2, 0..NAMES.len(), any::<bool>()).prop_map(|(source, trigger, lacks)| Step::Lack(source, trigger, lacks)),
    ]
}

/// A world, and what time it really is.
struct World {
    now: Timestamp,
    /// How wrong the API server's clock is, in seconds.
    offset: i64,
    schedule: Schedule<Kind>,
    /// Which of the model's [`EXCLUSIONS`] it has.
    exclusions: usize,
    sources: Vec<(Source, bool)>,
    /// What is written in the schedule's status, and what the model would have written.
    progress: Progress,
    memory: Memory,
    wake_after: Option<SignedDuration>,
    /// Each run that was ever made, by name.
    names: BTreeMap<String, (String, String, Timestamp)>,
}

impl World {
    /// What time it is for the API server: up to then ticks are due.
    fn until(&self) -> Timestamp {
        self.now + SignedDuration::from_secs(self.offset)
    }

    /// The operator decides, and what it decides is compared, done and, if it lives so long, written.
    fn decide(&mut self, lives: bool) -> Result<(), TestCaseError> {
        let selected: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, selected)| *selected)
            .map(|(source, _)| source.clone())
            .collect();
        let until = self.until();
        let expected = slow_schedule::expect(&self.schedule, self.exclusions, &selected, &self.memory, until);
        let decision = decide(&self.schedule, &selected, &self.progress, until);
        let mut found = BTreeSet::new();
        for Firing {
            source,
            trigger,
            tick,
            run,
        } in &decision.fire
        {
            found.insert((source.name.to_string(), trigger.name.to_string(), *tick, "fire", 1));
            // The promises, whatever the model says.
            prop_assert!(*tick <= until && *tick > source.created && *tick > self.schedule.created);
            prop_assert!(!self.schedule.suspended && !self.memory.suspended);
            prop_assert_eq!(slow_schedule::free(self.exclusions, self.schedule.zone.name(), until), until);
            let identity = (source.name.to_string(), trigger.name.to_string(), *tick);
            prop_assert_eq!(self.names.entry(run.clone()).or_insert_with(|| identity.clone()), &identity);
        }
        for passed in &decision.passed {
            let what = match passed.by {
                PassedBy::Missed => "missed",
                PassedBy::Dropped => "dropped",
                PassedBy::Forbidden { .. } => "forbidden",
                PassedBy::Superseded { .. } => "superseded",
            };
            found.insert((
                passed.source.name.to_string(),
                passed.trigger.name.to_string(),
                passed.newest,
                what,
                passed.ticks,
            ));
        }
        prop_assert_eq!(found.len(), decision.fire.len() + decision.passed.len());
        prop_assert_eq!(&found, &expected.outcomes, "at {} until {}", self.now, until);
        self.compare_progress(&decision, &expected)?;
        let made: Vec<_> = decision
            .fire
            .iter()
            .map(|fire| (fire.source.name.clone(), fire.trigger.name.to_string(), fire.tick))
            .collect();
        let (progress, wake_after) = (decision.progress, decision.wake_after);
        for (name, trigger, tick) in made {
            let (source, _) = self.sources.iter_mut().find(|(source, _)| source.name == name).unwrap();
            if self.schedule.concurrency == Concurrency::Replace {
                source.runs.iter_mut().for_each(|run| run.in_flight &= run.trigger != trigger);
            }
            source.runs.push(SeenRun {
                trigger,
                tick,
                in_flight: true,
            });
        }
        if lives {
            self.memory = Memory {
                marks: expected.marks,
                suspended: self.schedule.suspended,
            };
            self.progress = progress;
        }
        self.wake_after = wake_after;
        Ok(())
    }

    /// Watermarks, findings about clocks, and when it wakes: for the next tick of any, and not before.
    fn compare_progress(&self, decision: &Decision<'_, Kind>, expected: &Expected) -> Result<(), TestCaseError> {
        let until = self.until();
        let written: BTreeMap<_, _> = decision
            .progress
            .watermarks
            .iter()
            .map(|(trigger, mark)| (trigger.clone(), mark.at))
            .collect();
        let marks: BTreeMap<_, _> = expected
            .marks
            .iter()
            .map(|(trigger, mark)| (trigger.clone(), mark.handled))
            .collect();
        prop_assert_eq!(written, marks);
        prop_assert_eq!(decision.ahead.len(), expected.set_back);
        match expected.next {
            Some(next) => {
                prop_assert_eq!(decision.next_tick, Some(next));
                prop_assert_eq!(decision.wake_after, Some(next.duration_since(until)));
            }
            None => prop_assert!(decision.next_tick.is_none_or(|next| next > until + HORIZON.minutes())),
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
            Step::Absence(seconds) => {
                self.end_runs();
                self.now += seconds.seconds();
            }
            Step::Killed => {
                self.now += self.wake_after.unwrap_or_default().min(SignedDuration::from_hours(30));
                lives = false;
            }
            Step::Suspend(suspended) => self.schedule.suspended = suspended,
            Step::Clock(offset) => self.offset = offset,
            Step::RecreateSource(place) => self.sources[place].0.created = self.until(),
            Step::RecreateSchedule => {
                self.schedule.created = self.until();
                self.progress = Progress::default();
                self.memory = Memory::default();
            }
            Step::Select(place, selected) => self.sources[place].1 = selected,
            Step::EndRuns => self.end_runs(),
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
            Step::CatchUp(catch_up) => self.schedule.catch_up = catch_up,
            Step::Concurrency(concurrency) => self.schedule.concurrency = concurrency,
            Step::StartingDeadline(seconds) => self.schedule.starting_deadline = seconds.map(SignedDuration::from_secs),
            Step::Lack(source, trigger, lacks) => {
                let name = Label::trigger(NAMES[trigger]).unwrap();
                let list = &mut self.sources[source].0.lacks;
                list.retain(|other| *other != name);
                list.extend(lacks.then_some(name));
            }
            Step::Exclude(place) => {
                self.exclusions = place;
                self.schedule.exclusions = exclusions(place);
            }
        }
        self.decide(lives)
    }

    fn end_runs(&mut self) {
        let runs = self.sources.iter_mut().flat_map(|(source, _)| &mut source.runs);
        runs.for_each(|run| run.in_flight = false);
    }
}

fn exclusions(place: usize) -> Vec<Exclusion> {
    let windows = EXCLUSIONS[place].iter();
    windows
        .map(|(days, from, to, dates)| Exclusion::new("window", days, from, to, *dates).unwrap())
        .collect()
}

fn trigger(name: &str, kind: Kind, cron: usize) -> Trigger<Kind> {
    Trigger {
        name: Label::trigger(name).unwrap(),
        kind,
        expression: CRONS[cron].parse().unwrap(),
    }
}

/// Days before changes of clocks, and a leap day.
const BEGINS: [&str; 4] = [
    "2026-03-20T12:00:00Z",
    "2026-10-20T12:00:30Z",
    "2026-11-30T00:00:00Z",
    "2028-02-24T06:00:00Z",
];
/// A case ends after so much time, or after its steps.
const DAYS: i64 = 1_500;

prop_compose! {
    fn world()(
        begin in prop::sample::select(&BEGINS[..]),
        zone in prop::sample::select(&ZONES[..]),
        triggers in prop::collection::vec((0..CRONS.len(), any::<bool>()), 1..=3),
        ages in prop::array::uniform2(0_i64..200_000),
        catch_up in prop::sample::select(&CATCH_UPS[..]),
        concurrency in prop::sample::select(&CONCURRENCIES[..]),
        excluded in 0..EXCLUSIONS.len(),
    ) -> World {
        let now: Timestamp = begin.parse().unwrap();
        let triggers = NAMES.iter().zip(triggers).map(|(name, (cron, full))| trigger(name, if full { Kind::Full } else { Kind::Incremental }, cron));
        let source = |(place, age): (usize, &i64)| {
            let name = Label::new(["orders", "a-database-with-a-long-name"][place]).unwrap();
            (Source { namespace: Label::new("shop").unwrap(), name, created: now - age.seconds(), runs: Vec::new(), lacks: Vec::new() }, true)
        };
        World {
            now,
            offset: 0,
            schedule: Schedule {
                name: Label::new("gold").unwrap(),
                created: now - ages[0].seconds(),
                zone: Zone::named(zone).unwrap(),
                suspended: false,
                triggers: triggers.collect(),
                catch_up,
                starting_deadline: None,
                concurrency,
                exclusions: exclusions(excluded),
            },
            exclusions: excluded,
            sources: ages.iter().enumerate().map(source).collect(),
            progress: Progress::default(),
            memory: Memory::default(),
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
    #![proptest_config(cases(2_000))]

    #[test]
    fn decisions_are_those_of_the_model(mut world in world(), steps in prop::collection::vec(step(), 10..50)) {
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
        world.schedule.catch_up = CatchUp::Latest;
        world.schedule.exclusions.clear();
        let created = world.sources[0].0.created.max(world.schedule.created);
        let end = world.now + (24 * DAYS).hours();
        let mut missed = 0;
        let mut dies = false;
        for (seconds, next_dies) in outages {
            let decision = decide(&world.schedule, std::slice::from_ref(&world.sources[0].0), &world.progress, world.until());
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
        let decision = decide(&world.schedule, std::slice::from_ref(&world.sources[0].0), &world.progress, world.until());
        missed += decision.passed.iter().map(|passed| passed.ticks).sum::<u32>();
        let mut runs: Vec<_> = world.sources[0].0.runs.iter().map(|run| run.tick).chain(decision.fire.iter().map(|fire| fire.tick)).collect();
        let made = runs.len();
        runs.sort_unstable();
        runs.dedup();
        prop_assert_eq!(runs.len(), made, "a tick ran twice");
        let seed = Seed::of_source("shop", world.sources[0].0.name.as_str());
        let cron = world.schedule.triggers[0].expression.expanded(&seed);
        let all: BTreeSet<_> = slow_schedule::ticks(&cron, world.schedule.zone.name(), created, world.now).into_iter().collect();
        prop_assert!(runs.iter().all(|tick| all.contains(tick)));
        prop_assert_eq!(made + missed as usize, all.len());
        prop_assert_eq!(runs.last(), all.last());
    }
}
