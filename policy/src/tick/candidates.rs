//! What becomes of the due ticks of one source: which may be fired by their age, and which of those are (rules T4 to T6).

use jiff::{SignedDuration, Timestamp};

use super::{
    due::{CATCH_UP_LIMIT, CatchUp, Concurrency, Decision, Firing, MISSED_LIMIT, PUNCTUAL, Passed, PassedBy, Schedule, Source, Trigger},
    exclusion::may_start,
    timetable::Timetable,
};
use crate::name::run_name;

/// The due ticks of one trigger for one source.
pub(super) struct Due<'a, K> {
    pub candidates: Candidates<'a, K>,
    /// Those that are too old.
    pub passed: Vec<Passed<'a, K>>,
}

/// The ticks of one trigger for one source that may be fired, the oldest first.
pub(super) struct Candidates<'a, K> {
    trigger: &'a Trigger<K>,
    ticks: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    tick: Timestamp,
    /// Its run exists.
    made: bool,
}

/// Sorts the ticks after the first of `span` up to the second, which is one, by their age.
pub(super) fn due<'a, K>(
    schedule: &Schedule<K>,
    source: &'a Source,
    trigger: &'a Trigger<K>,
    timetable: &Timetable,
    span: (Timestamp, Timestamp),
    until: Timestamp,
) -> Due<'a, K> {
    let (from, newest) = span;
    let before = |tick: &Timestamp| {
        timetable
            .last_until(tick.checked_sub(SignedDuration::from_nanos(1)).ok()?)
            .filter(|tick| *tick > from)
    };
    let wanted = match schedule.catch_up {
        CatchUp::All if schedule.concurrency != Concurrency::Replace => CATCH_UP_LIMIT,
        CatchUp::Skip if until.duration_since(newest) > PUNCTUAL => 0,
        _ => 1,
    };
    let mut ticks = Vec::new();
    let (mut missed, mut dropped) = (Count::default(), Count::default());
    let mut late = false;
    for (place, tick) in std::iter::successors(Some(newest), before).enumerate() {
        // What is older than one that is too late is too late.
        late = late || too_late(schedule, tick, until);
        let made = has_run(source, trigger, tick);
        if !late && place < wanted {
            ticks.push(Candidate { tick, made });
        } else if !made {
            if late { &mut dropped } else { &mut missed }.add(tick);
            if missed.ticks + dropped.ticks >= MISSED_LIMIT {
                break;
            }
        }
    }
    ticks.reverse();
    let passed = [(missed, PassedBy::Missed), (dropped, PassedBy::Dropped)];
    Due {
        candidates: Candidates { trigger, ticks },
        passed: passed
            .into_iter()
            .filter_map(|(count, by)| count.passed(source, trigger, by))
            .collect(),
    }
}

fn too_late<K>(schedule: &Schedule<K>, tick: Timestamp, until: Timestamp) -> bool {
    schedule.starting_deadline.is_some_and(|deadline| {
        let waits_from = may_start(&schedule.exclusions, &schedule.zone, tick).unwrap_or(Timestamp::MAX);
        until.duration_since(waits_from) > deadline
    })
}

/// Ticks that are only counted.
#[derive(Clone, Copy, Default)]
struct Count {
    ticks: u32,
    newest: Option<Timestamp>,
}

impl Count {
    /// They come the newest first.
    fn add(&mut self, tick: Timestamp) {
        self.ticks += 1;
        self.newest = self.newest.or(Some(tick));
    }

    fn passed<'a, K>(self, source: &'a Source, trigger: &'a Trigger<K>, by: PassedBy) -> Option<Passed<'a, K>> {
        Some(Passed {
            source,
            trigger,
            by,
            ticks: self.ticks,
            newest: self.newest?,
        })
    }
}

/// Decides between the runs in flight and the candidates of all triggers of one source.
pub(super) fn settle<'a, K: Ord>(schedule: &Schedule<K>, source: &'a Source, all: &[Candidates<'a, K>], decision: &mut Decision<'a, K>) {
    let mut open = Vec::new();
    for Candidates { trigger, ticks } in all {
        let room = room(schedule.concurrency, source, trigger, ticks);
        let excess = match room {
            Room::All => 0,
            Room::For { runs, .. } => ticks.iter().filter(|candidate| !candidate.made).count().saturating_sub(runs),
        };
        let mut forbidden = Count::default();
        let mut left = excess;
        for candidate in ticks {
            if left > 0 && !candidate.made {
                left -= 1;
                forbidden.ticks += 1;
                forbidden.newest = Some(candidate.tick);
            } else {
                open.push((*trigger, *candidate));
            }
        }
        if let Room::For { newest, .. } = room {
            let by = PassedBy::Forbidden { running: newest };
            decision.passed.extend(forbidden.passed(source, trigger, by));
        }
    }
    for (trigger, Candidate { tick, .. }) in open.iter().filter(|(_, candidate)| !candidate.made) {
        // Of equals the last is the maximum: reversed, it is the one that the schedule names first.
        let strongest = open
            .iter()
            .rev()
            .filter(|(_, other)| other.tick == *tick)
            .map(|(other, _)| *other)
            .max_by(|a, b| a.kind.cmp(&b.kind));
        if let Some(strongest) = strongest.filter(|strongest| strongest.name != trigger.name) {
            let by = PassedBy::Superseded {
                by: strongest.name.clone(),
            };
            decision.passed.push(Passed {
                source,
                trigger,
                by,
                ticks: 1,
                newest: *tick,
            });
        } else {
            decision.fire.push(Firing {
                source,
                trigger,
                tick: *tick,
                run: run_name(&source.namespace, &schedule.name, &trigger.name, &source.name, *tick),
            });
        }
    }
}

/// For how many runs more there is room beside those in flight.
#[derive(Clone, Copy)]
enum Room {
    All,
    /// `newest` is the tick of the newest run in flight.
    For {
        runs: usize,
        newest: Timestamp,
    },
}

/// Runs of candidates do not count: they were made for this decision, by one who was killed before he could write it down.
fn room<K>(concurrency: Concurrency, source: &Source, trigger: &Trigger<K>, candidates: &[Candidate]) -> Room {
    let mine = source
        .runs
        .iter()
        .filter(|run| run.in_flight && run.trigger == trigger.name.as_str());
    let ticks: Vec<_> = mine
        .map(|run| run.tick)
        .filter(|tick| candidates.iter().all(|candidate| candidate.tick != *tick))
        .collect();
    let Some(newest) = ticks.iter().max().copied() else {
        return Room::All;
    };
    let runs = match concurrency {
        Concurrency::Replace => return Room::All,
        Concurrency::Queue if ticks.len() == 1 => usize::from(candidates.iter().all(|candidate| !candidate.made)),
        Concurrency::Queue | Concurrency::Forbid => 0,
    };
    Room::For { runs, newest }
}

fn has_run<K>(source: &Source, trigger: &Trigger<K>, tick: Timestamp) -> bool {
    source
        .runs
        .iter()
        .any(|run| run.tick == tick && run.trigger == trigger.name.as_str())
}
