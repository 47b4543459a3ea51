//! A model of what a tick does: schedule, run object, attempt, register. Two operators at once that may see what is past, and stop anywhere; schedules and
//! runs that are deleted and made anew, an etcd that is set back. What is due is decided by `holdfast_policy::tick` itself; what becomes of the copy
//! then is the other model's.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_policy::{
    name::Label,
    tick::{self, CatchUp, Concurrency, Progress, SeenRun, Source, Trigger, Watermark, Zone},
};
use jiff::Timestamp;
use stateright::{HasDiscoveries, Model, Property};

use crate::{
    discoveries, large,
    world::{Minute, UNDER_WAY, time},
};

const ONE_RUN: &str = "I1: a tick has one run";
const ONE_OUTCOME: &str = "I1: a tick has one outcome, and it stays";
const KNOWN: &str = "I1: what the store knows is not copied again";
const DUE: &str = "no run before its tick, and none of a tick before its schedule was there";
const NONE_LOST: &str = "a tick that is behind the watermark has its run, or is counted";
const COPIED: &str = "a tick is copied";
const COUNTED: &str = "a tick is counted that has no run";

/// Ticks are at each full hour.
const EVERY: &str = "0 * * * *";
const HOUR: Minute = 60;

#[derive(Clone, Copy, Debug)]
struct Rules {
    /// A run is named after its tick.
    names: bool,
    /// The watermark moves when the runs are made, not before.
    watermark_last: bool,
    /// A pod looks into the register before it begins.
    asks: bool,
    /// The register is created only if it is absent.
    create_if_absent: bool,
}

impl Rules {
    const KEPT: Self = Self {
        names: true,
        watermark_last: true,
        asks: true,
        create_if_absent: true,
    };
}

/// How many steps of each sort are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    minutes: u8,
    hours: u8,
    operators: u8,
    pods: u8,
    deleted_runs: u8,
    new_schedules: u8,
    set_back: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Schedule {
    created: Minute,
    /// Each write makes it another.
    version: u8,
    watermark: Option<Minute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    tick: Minute,
    uid: u8,
    ended: bool,
}

/// The objects, as etcd has them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Objects {
    schedule: Schedule,
    runs: BTreeMap<String, Run>,
}

/// A reconcile of a leader, or of one that still takes itself for the leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Operator {
    seen: Objects,
    at: Minute,
    /// None until it has decided.
    plan: Option<Plan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Plan {
    runs: Vec<(String, Minute)>,
    watermark: Option<Minute>,
    /// Ticks that get no run.
    passed: Vec<Minute>,
    wrote: bool,
}

/// A pod that is at work for a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Pod {
    run: String,
    tick: Minute,
    uid: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: Minute,
    left: Budget,
    objects: Objects,
    /// What etcd is set back to: what it had at the beginning.
    backup: Objects,
    operators: Vec<Operator>,
    pods: BTreeSet<Pod>,
    /// By the name of the run: its tick, and whose copy it is.
    registers: BTreeMap<String, (Minute, u8)>,
    uids: u8,
    versions: u8,
    /// Ticks that had a run at some time, and ticks that were counted as passed.
    made: BTreeSet<Minute>,
    counted: BTreeSet<Minute>,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Wait(Minute),
    Look,
    Operator(usize),
    StartPod(String),
    Commit(Pod),
    DeleteRun(String),
    NewSchedule,
    SetBack,
}

struct Ticks {
    catch_up: CatchUp,
    concurrency: Concurrency,
    budget: Budget,
    rules: Rules,
}

fn minute(at: Timestamp) -> Minute {
    let minutes = at.duration_since(time(0)).as_mins();
    Minute::try_from(minutes).unwrap()
}

impl Ticks {
    fn decide(&self, seen: &Objects, now: Minute) -> Plan {
        let trigger = Trigger {
            name: Label::trigger("hourly").unwrap(),
            kind: (),
            expression: EVERY.parse().unwrap(),
        };
        let rule = format!("{EVERY} {}", Zone::utc());
        let schedule = tick::Schedule {
            name: Label::new("nightly").unwrap(),
            created: time(seen.schedule.created),
            zone: Zone::utc(),
            suspended: false,
            triggers: vec![trigger],
            catch_up: self.catch_up,
            starting_deadline: None,
            concurrency: self.concurrency,
            exclusions: Vec::new(),
        };
        let runs = seen.runs.values().map(|run| SeenRun {
            trigger: "hourly".to_owned(),
            tick: time(run.tick),
            in_flight: !run.ended,
        });
        let sources = [Source {
            namespace: Label::new("shop").unwrap(),
            name: Label::new("shop").unwrap(),
            created: time(0),
            runs: runs.collect(),
            lacks: Vec::new(),
        }];
        let watermark = |at| {
            let watermark = Watermark {
                at: time(at),
                expression: rule.clone(),
            };
            ("hourly".to_owned(), watermark)
        };
        let progress = Progress {
            watermarks: seen.schedule.watermark.map(watermark).into_iter().collect(),
            suspended: false,
        };
        let decision = tick::decide(&schedule, &sources, &progress, time(now));
        let ticks_of = |passed: &tick::Passed<'_, ()>| {
            let newest_first = std::iter::successors(Some(minute(passed.newest)), |tick| Some(tick - HOUR));
            let without_run = newest_first.filter(|tick| seen.runs.values().all(|run| run.tick != *tick));
            without_run.take(usize::try_from(passed.ticks).unwrap()).collect::<Vec<_>>()
        };
        Plan {
            runs: decision
                .fire
                .iter()
                .map(|firing| (firing.run.clone(), minute(firing.tick)))
                .collect(),
            watermark: decision.progress.watermarks.get("hourly").map(|watermark| minute(watermark.at)),
            passed: decision.passed.iter().flat_map(ticks_of).collect(),
            wrote: false,
        }
    }

    /// The next call of a reconcile. None when it has made its last.
    fn step(&self, world: &mut World, mut operator: Operator) -> Option<Operator> {
        // What it saw is not older than that, and what it sends later has no effect: it has lost its Lease.
        if world.now - operator.at > UNDER_WAY {
            return None;
        }
        let Some(plan) = &mut operator.plan else {
            operator.plan = Some(self.decide(&operator.seen, world.now));
            operator.at = world.now;
            return Some(operator);
        };
        let write = plan.runs.is_empty() || !self.rules.watermark_last;
        if write && !plan.wrote {
            plan.wrote = true;
            let schedule = &mut world.objects.schedule;
            // It is written onto the state that was decided on, and onto no other.
            if schedule.version != operator.seen.schedule.version {
                return None;
            }
            if schedule.watermark != plan.watermark {
                world.versions += 1;
                (schedule.version, schedule.watermark) = (world.versions, plan.watermark);
                world.counted.extend(&plan.passed);
            }
        } else {
            let (name, tick) = plan.runs.remove(0);
            let name = if self.rules.names { name } else { format!("{name}-{}", world.uids) };
            if !world.objects.runs.contains_key(&name) {
                if tick > world.now || tick <= operator.seen.schedule.created {
                    world.broken = Some(DUE);
                }
                let run = Run {
                    tick,
                    uid: world.uids,
                    ended: false,
                };
                world.uids += 1;
                world.objects.runs.insert(name, run);
            }
            world.made.insert(tick);
        }
        let plan = operator.plan.as_ref()?;
        (!plan.wrote || !plan.runs.is_empty()).then_some(operator)
    }
}

impl World {
    fn new(budget: Budget) -> Self {
        let objects = Objects {
            schedule: Schedule {
                created: HOUR - 1,
                version: 0,
                watermark: None,
            },
            runs: BTreeMap::new(),
        };
        Self {
            now: HOUR - 1,
            left: budget,
            backup: objects.clone(),
            objects,
            operators: Vec::new(),
            pods: BTreeSet::new(),
            registers: BTreeMap::new(),
            uids: 0,
            versions: 0,
            made: BTreeSet::new(),
            counted: BTreeSet::new(),
            broken: None,
        }
    }

    /// The run of this object has ended, if it is there still.
    fn end(&mut self, name: &str, uid: u8) {
        if let Some(run) = self.objects.runs.get_mut(name).filter(|run| run.uid == uid) {
            run.ended = true;
        }
    }
}

impl Model for Ticks {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let left = &world.left;
        actions.extend((left.minutes > 0).then_some(Action::Wait(1)));
        actions.extend((left.hours > 0).then_some(Action::Wait(HOUR)));
        actions.extend((left.operators > 0 && world.operators.len() < 2).then_some(Action::Look));
        actions.extend((0..world.operators.len()).map(Action::Operator));
        let runs = world.objects.runs.iter();
        if left.pods > 0 {
            let open = runs.clone().filter(|(_, run)| !run.ended);
            actions.extend(open.map(|(name, _)| Action::StartPod(name.clone())));
        }
        actions.extend(world.pods.iter().cloned().map(Action::Commit));
        if left.deleted_runs > 0 {
            actions.extend(runs.map(|(name, _)| Action::DeleteRun(name.clone())));
        }
        actions.extend((left.new_schedules > 0).then_some(Action::NewSchedule));
        actions.extend((left.set_back > 0).then_some(Action::SetBack));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        let left = &mut world.left;
        match action {
            Action::Wait(minutes) => {
                *(if minutes == HOUR { &mut left.hours } else { &mut left.minutes }) -= 1;
                world.now += minutes;
            }
            Action::Look => {
                left.operators -= 1;
                let operator = Operator {
                    seen: world.objects.clone(),
                    at: world.now,
                    plan: None,
                };
                world.operators.push(operator);
            }
            Action::Operator(at) => {
                let operator = world.operators.remove(at);
                let next = self.step(&mut world, operator);
                world.operators.extend(next);
            }
            Action::StartPod(name) => {
                left.pods -= 1;
                let Run { tick, uid, .. } = world.objects.runs[&name];
                if self.rules.asks && world.registers.contains_key(&name) {
                    world.end(&name, uid);
                } else {
                    if world.registers.values().any(|(of, _)| *of == tick) {
                        world.broken = Some(KNOWN);
                    }
                    let pod = Pod { run: name, tick, uid };
                    world.pods.insert(pod);
                }
            }
            Action::Commit(pod) => {
                world.pods.remove(&pod);
                let outcome = (pod.tick, pod.uid);
                let lies = *world.registers.entry(pod.run.clone()).or_insert(outcome);
                if !self.rules.create_if_absent && lies != outcome {
                    world.registers.insert(pod.run.clone(), outcome);
                    world.broken = Some(ONE_OUTCOME);
                }
                world.end(&pod.run, pod.uid);
            }
            Action::DeleteRun(name) => {
                left.deleted_runs -= 1;
                world.objects.runs.remove(&name);
            }
            Action::NewSchedule => {
                left.new_schedules -= 1;
                world.versions += 1;
                world.objects.schedule = Schedule {
                    created: world.now,
                    version: world.versions,
                    watermark: None,
                };
            }
            Action::SetBack => {
                left.set_back -= 1;
                world.objects = world.backup.clone();
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_RUN, |_, world: &World| {
                let runs = world.objects.runs.values();
                runs.clone().map(|run| run.tick).collect::<BTreeSet<_>>().len() == runs.len()
            }),
            Property::always(ONE_OUTCOME, |_, world: &World| {
                let registers = world.registers.values();
                let ticks: BTreeSet<_> = registers.clone().map(|(tick, _)| tick).collect();
                ticks.len() == registers.len() && world.broken != Some(ONE_OUTCOME)
            }),
            Property::always(KNOWN, |_, world: &World| world.broken != Some(KNOWN)),
            Property::always(DUE, |_, world: &World| world.broken != Some(DUE)),
            Property::always(NONE_LOST, |_, world: &World| {
                let Schedule { created, watermark, .. } = world.objects.schedule;
                let mut passed = (0..=watermark.unwrap_or(created)).step_by(60).filter(|tick| *tick > created);
                passed.all(|tick| world.made.contains(&tick) || world.counted.contains(&tick))
            }),
            Property::sometimes(COPIED, |_, world: &World| !world.registers.is_empty()),
            Property::sometimes(COUNTED, |_, world: &World| {
                world.counted.iter().any(|tick| !world.made.contains(tick))
            }),
        ]
    }
}

fn budget(theme: &str) -> Budget {
    let more = u8::from(large());
    let usual = Budget {
        minutes: 1,
        hours: 2,
        operators: 2 + more,
        pods: 2 + more,
        deleted_runs: 0,
        new_schedules: 0,
        set_back: 0,
    };
    match theme {
        "leaders" => Budget {
            minutes: 2,
            operators: 3 + more,
            ..usual
        },
        "deleted" => Budget {
            deleted_runs: 1 + more,
            ..usual
        },
        "made anew" => Budget { new_schedules: 1, ..usual },
        "set back" => Budget { set_back: 1, ..usual },
        other => panic!("{other}: there is no such theme"),
    }
}

fn check(theme: &str, (catch_up, concurrency): (CatchUp, Concurrency), rules: Rules, until: HasDiscoveries) -> BTreeSet<&'static str> {
    let model = Ticks {
        catch_up,
        concurrency,
        budget: budget(theme),
        rules,
    };
    discoveries(&format!("{theme}, {catch_up:?}, {concurrency:?}"), model, until)
        .into_iter()
        .collect()
}

/// All promises are kept, whatever a schedule says of late ticks and of ticks while a run is in flight.
fn holds(theme: &str) {
    for rules in [
        (CatchUp::Skip, Concurrency::Forbid),
        (CatchUp::Latest, Concurrency::Queue),
        (CatchUp::Latest, Concurrency::Replace),
        (CatchUp::All, Concurrency::Forbid),
    ] {
        let found = check(theme, rules, Rules::KEPT, HasDiscoveries::All);
        assert_eq!(found, BTreeSet::from([COPIED, COUNTED]), "{theme}");
    }
}

fn breaks(theme: &str, rules: Rules, promise: &'static str) {
    let usual = (CatchUp::Latest, Concurrency::Queue);
    let found = check(theme, usual, rules, HasDiscoveries::AnyOf(BTreeSet::from([promise])));
    assert!(found.contains(promise), "{theme} {rules:?}: {found:?}");
}

#[test]
fn two_leaders_make_one_run_of_a_tick() {
    holds("leaders");
}

#[test]
fn runs_that_are_deleted_are_not_copied_again() {
    holds("deleted");
}

#[test]
fn a_schedule_that_is_made_anew_begins_anew() {
    holds("made anew");
}

#[test]
fn an_etcd_that_is_set_back_starts_nothing_that_the_store_knows() {
    holds("set back");
}

#[test]
fn runs_with_names_of_their_own_are_noticed() {
    let rules = Rules {
        names: false,
        ..Rules::KEPT
    };
    breaks("leaders", rules, ONE_RUN);
    breaks("leaders", rules, ONE_OUTCOME);
}

#[test]
fn a_watermark_that_moves_before_the_runs_are_made_is_noticed() {
    let rules = Rules {
        watermark_last: false,
        ..Rules::KEPT
    };
    breaks("leaders", rules, NONE_LOST);
}

#[test]
fn a_pod_that_does_not_look_into_the_register_is_noticed() {
    breaks(
        "set back",
        Rules {
            asks: false,
            ..Rules::KEPT
        },
        KNOWN,
    );
}

#[test]
fn a_register_that_is_overwritten_is_noticed() {
    let rules = Rules {
        create_if_absent: false,
        ..Rules::KEPT
    };
    breaks("deleted", rules, ONE_OUTCOME);
}
