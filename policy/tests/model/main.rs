//! A model of all that happens to a copy: run, attempt, register, hold, mark, removal, take-over (how a tick comes to its run is in `ticks`). Two clusters with an operator each, pods
//! that come back, keepers at work at once, two stores, answers that are lost; whoever is killed makes no step any more. Every order of steps is
//! tried within a budget, and what keepers decide is decided by `holdfast_policy` itself.
//!
//! `HOLDFAST_MODEL=large` has larger budgets: for changes of the rules, and each night.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

mod keeper;
mod process;
mod ticks;
mod world;

use std::{collections::BTreeSet, fmt::Debug, hash::Hash};

use holdfast_policy::hold;
use keeper::Keeper;
use process::{Answer, Process, Step, Work};
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Budget, LONG, NEW, Object, Register, Rules, SHORT, World, time};

const ONE_VALUE: &str = "I1: a register has one value for ever";
const TOLD: &str = "I1: what is told of a run is what its register says";
const WHOLE: &str = "I2: no copy lacks a part";
const HELD: &str = "I3: what a hold was said to hold is there";
const RETAINED: &str = "I3: what is to be kept until a time is there until then";
const LAST: &str = "I3: the last good copy of a store is not removed";
const LOCKS: &str = "I9: locks only grow";
const EPOCH: &str = "nothing is committed or removed under an epoch that ended";
const REMOVED: &str = "a copy is removed";

struct Life {
    budget: Budget,
    rules: Rules,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Wait(i32),
    StartKeeper { cluster: u8, store: u8, told: Object },
    Keeper(usize),
    StartPod { cluster: u8 },
    Settle { cluster: u8 },
    StartCopy { run: u8 },
    Process(usize, Answer),
    Place { cluster: u8 },
    Release { cluster: u8 },
    TakeOver { store: u8 },
}

impl Model for Life {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let left = &world.left;
        actions.extend((left.shorts > 0).then_some(Action::Wait(SHORT)));
        actions.extend((left.longs > 0).then_some(Action::Wait(LONG)));
        for cluster in 0..2u8 {
            let place = usize::from(cluster);
            if left.keepers[place] > 0 {
                // By an operator that sees the hold, or by one that does not see it yet.
                let views = [world.objects[place], Object::Absent];
                let views = &views[..=usize::from(views[0] != Object::Absent)];
                for store in 0..left.stores {
                    actions.extend(views.iter().map(|&told| Action::StartKeeper { cluster, store, told }));
                }
            }
            actions.extend((left.pods[place] > 0).then_some(Action::StartPod { cluster }));
            actions.extend((left.places[place] > 0 && world.objects[place] == Object::Absent).then_some(Action::Place { cluster }));
            actions.extend((left.releases > 0 && world.objects[place] == Object::Placed).then_some(Action::Release { cluster }));
            actions.extend((left.settles > 0).then_some(Action::Settle { cluster }));
        }
        if left.copies > 0 {
            actions.extend((1..3).map(|run| Action::StartCopy { run }));
        }
        if left.take_overs > 0 {
            actions.extend((0..left.stores).map(|store| Action::TakeOver { store }));
        }
        actions.extend((0..world.keepers.len()).map(Action::Keeper));
        for (at, process) in world.processes.iter().enumerate() {
            actions.push(Action::Process(at, Answer::Comes));
            if left.lost > 0 && matches!(process.step, Step::Send { .. }) {
                actions.extend([Answer::Lost, Answer::Dropped].map(|answer| Action::Process(at, answer)));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Wait(minutes) => {
                world.now += minutes;
                if minutes == SHORT {
                    world.left.shorts -= 1;
                } else {
                    world.left.longs -= 1;
                }
            }
            Action::StartKeeper { cluster, store, told } => {
                world.left.keepers[usize::from(cluster)] -= 1;
                let keeper = Keeper::start(&world, cluster, store, told);
                world.keepers.push(keeper?);
            }
            Action::Keeper(at) => {
                let keeper = world.keepers.remove(at);
                let next = keeper.step(&mut world, self.rules);
                world.keepers.extend(next);
            }
            Action::StartPod { cluster } => {
                world.left.pods[usize::from(cluster)] -= 1;
                let process = Process::start(&mut world, cluster, Work::Backup);
                world.processes.extend(process);
            }
            Action::Settle { cluster } => {
                world.left.settles -= 1;
                let process = Process::start(&mut world, cluster, Work::Settle);
                world.processes.extend(process);
            }
            Action::StartCopy { run } => {
                world.left.copies -= 1;
                let process = Process::start(&mut world, 0, Work::Copy { run });
                world.processes.extend(process);
            }
            Action::Process(at, answer) => {
                let process = world.processes.remove(at);
                world.left.lost -= u8::from(answer != Answer::Comes);
                let next = process.step(&mut world, answer, self.rules);
                world.processes.extend(next);
            }
            Action::Place { cluster } => {
                world.left.places[usize::from(cluster)] -= 1;
                world.objects[usize::from(cluster)] = Object::Placed;
            }
            Action::Release { cluster } => {
                world.left.releases -= 1;
                let ends = world.now + 24 * 60;
                world.objects[usize::from(cluster)] = Object::Released { ends };
            }
            Action::TakeOver { store } => {
                world.left.take_overs -= 1;
                let now = world.now;
                let place = &mut world.places[usize::from(store)];
                (place.owner, place.epoch, place.since) = (1 - place.owner, place.epoch + 1, now);
                // What was said of the hold was said by the other cluster.
                place.in_force_at = None;
            }
        }
        world.settle();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_VALUE, |_, world: &World| {
                all(world, |_, _, folder| folder.register == folder.first)
            }),
            Property::always(TOLD, |_, world: &World| {
                (0..2).all(|store| {
                    let said = match world.places[store].folders[NEW].register {
                        None => 0,
                        Some(Register::Copy { .. }) => 1,
                        Some(Register::Abandoned) => 2,
                    };
                    world.told[store] == 0 || world.told[store] == said
                })
            }),
            Property::always(WHOLE, |_, world: &World| {
                all(world, |_, _, folder| !folder.is_copy() || folder.is_whole())
            }),
            Property::always(HELD, |_, world: &World| {
                all(world, |store, run, folder| {
                    let place = &world.places[store];
                    place.promised & (1 << run) == 0
                        || !hold::in_force(&place.records(), time(world.now))
                        || folder.is_copy() && folder.is_whole()
                })
            }),
            Property::always(RETAINED, |_, world: &World| {
                all(world, |_, _, folder| {
                    let until = folder.retained.iter().map(|(_, until)| *until).max();
                    until.is_none_or(|until| world.now >= until || folder.is_copy() && folder.is_whole())
                })
            }),
            Property::always(LAST, |_, world: &World| {
                world
                    .places
                    .iter()
                    .all(|place| place.folders.iter().any(|folder| folder.is_copy() && folder.is_whole()))
            }),
            Property::always(LOCKS, |_, world: &World| {
                all(world, |_, _, folder| folder.lock == folder.locked_once)
            }),
            Property::always(EPOCH, |_, world: &World| world.broken.is_none()),
            Property::sometimes(REMOVED, |_, world: &World| world.places[0].folders[0].removed.is_some()),
        ]
    }
}

fn all(world: &World, holds: impl Fn(usize, usize, &world::Folder) -> bool) -> bool {
    let places = world.places.iter().enumerate();
    places
        .flat_map(|(store, place)| place.folders.iter().enumerate().map(move |(run, folder)| (store, run, folder)))
        .all(|(store, run, folder)| holds(store, run, folder))
}

/// The budgets that are tried: each has one theme, so that every order of its steps can be.
fn budget(theme: &str) -> Budget {
    let more = u8::from(large());
    match theme {
        "run" => Budget {
            longs: 1 + more,
            keepers: [1, 0],
            pods: [2, 0],
            settles: 1,
            lost: 1 + more,
            shorts: more,
            stores: 1,
            ..Budget::default()
        },
        "hold" => Budget {
            shorts: 3 + more,
            longs: 1,
            keepers: [2 + more, 0],
            places: [1, 0],
            releases: more,
            stores: 1,
            ..Budget::default()
        },
        "keep" => Budget {
            shorts: 1,
            longs: 1,
            keepers: [2, 0],
            pods: [1, more],
            stores: 1,
            ..Budget::default()
        },
        "take-over" => Budget {
            shorts: 2 + more,
            keepers: [1, 1],
            pods: [1, more],
            places: [0, 1],
            take_overs: 1,
            stores: 1,
            ..Budget::default()
        },
        "stores" => Budget {
            shorts: more,
            longs: 1,
            keepers: [2, 0],
            pods: [1, 0],
            copies: 1 + more,
            lost: more,
            stores: 2,
            places: [more, 0],
            ..Budget::default()
        },
        other => panic!("{other}: there is no such theme"),
    }
}

/// Whether budgets are large.
fn large() -> bool {
    std::env::var("HOLDFAST_MODEL").is_ok_and(|size| size == "large")
}

/// Goes through all states of a theme. The properties that do not hold, or of those that are to be seen the ones that were.
fn check(theme: &str, rules: Rules, until: HasDiscoveries) -> Vec<&'static str> {
    let budget = budget(theme);
    discoveries(theme, Life { budget, rules }, until)
}

fn discoveries<M>(theme: &str, model: M, until: HasDiscoveries) -> Vec<&'static str>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let started = std::time::Instant::now();
    let checker = model
        .checker()
        .threads(std::thread::available_parallelism().map_or(2, usize::from))
        .finish_when(until)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    println!(
        "{theme}: {} states in {:?}: {:?}",
        checker.unique_state_count(),
        started.elapsed(),
        found.keys()
    );
    found.into_keys().collect()
}

/// Every promise is kept in every state, and the theme is one in which something happens.
fn holds(theme: &str) {
    assert_eq!(check(theme, Rules::KEPT, HasDiscoveries::All), [REMOVED], "{theme}");
}

/// With this rule broken a promise is broken too.
fn breaks(theme: &str, rules: Rules, promise: &'static str) {
    let found = check(theme, rules, HasDiscoveries::AnyOf(BTreeSet::from([promise])));
    assert!(found.contains(&promise), "{theme} {rules:?}: {found:?}");
}

#[test]
fn attempts_settling_and_a_keeper_leave_one_whole_outcome() {
    holds("run");
}

#[test]
fn a_hold_that_is_said_to_be_in_force_holds() {
    holds("hold");
}

#[test]
fn what_is_recorded_and_locked_stays_so() {
    holds("keep");
}

#[test]
fn a_take_over_stops_who_was_there_before() {
    holds("take-over");
}

#[test]
fn copies_in_two_stores_are_judged_by_themselves() {
    holds("stores");
}

#[test]
fn a_store_that_overwrites_is_noticed() {
    let rules = Rules {
        create_if_absent: false,
        ..Rules::KEPT
    };
    breaks("run", rules, ONE_VALUE);
}

#[test]
fn who_takes_a_lost_answer_for_a_failure_is_noticed() {
    let rules = Rules {
        reads_back: false,
        ..Rules::KEPT
    };
    breaks("run", rules, TOLD);
}

#[test]
fn a_sweep_that_does_not_win_the_register_first_is_noticed() {
    let rules = Rules {
        register_first: false,
        ..Rules::KEPT
    };
    breaks("run", rules, WHOLE);
}

#[test]
fn a_removal_that_is_not_recorded_first_is_noticed() {
    let rules = Rules {
        removed_first: false,
        ..Rules::KEPT
    };
    breaks("hold", rules, WHOLE);
}

#[test]
fn a_keeper_that_deletes_for_as_long_as_it_likes_is_noticed() {
    let rules = Rules {
        cool_down: false,
        ..Rules::KEPT
    };
    breaks("hold", rules, HELD);
}

#[test]
fn a_removal_that_is_sent_again_and_again_is_noticed() {
    let rules = Rules {
        in_time: false,
        ..Rules::KEPT
    };
    breaks("hold", rules, HELD);
}

#[test]
fn a_hold_that_counts_from_the_beginning_of_the_pass_is_noticed() {
    let rules = Rules {
        from_record: false,
        ..Rules::KEPT
    };
    breaks("hold", rules, HELD);
}

#[test]
fn who_does_not_ask_whose_the_store_is_is_noticed() {
    let rules = Rules {
        epoch: false,
        ..Rules::KEPT
    };
    breaks("take-over", rules, EPOCH);
}

#[test]
fn locks_that_are_set_without_a_look_at_what_they_were_are_noticed() {
    let rules = Rules {
        locks_grow: false,
        ..Rules::KEPT
    };
    breaks("keep", rules, LOCKS);
}
