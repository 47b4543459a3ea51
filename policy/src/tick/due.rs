//! Which ticks are due, and what becomes of those that are not fired (rules T3 to T7).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    candidates::{Due, due, settle},
    cron::{Expression, Seed},
    exclusion::{Exclusion, may_start},
    timetable::Timetable,
    zone::Zone,
};
use crate::name::Label;

/// How far clocks may be apart: a watermark further ahead than this is wrong.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Ticks that are missed or dropped are counted up to here, the newest first, for each source and trigger: a clock that jumps by decades
/// costs no more than an outage.
pub const MISSED_LIMIT: u32 = 1000;

/// With [`CatchUp::Skip`], a tick that nobody acted on for longer than this was missed.
pub const PUNCTUAL: SignedDuration = SignedDuration::from_mins(5);

/// So many missed ticks are made up for with [`CatchUp::All`].
pub const CATCH_UP_LIMIT: usize = 10;

/// A trigger of a schedule. `K` is the type of its copies; the greatest is the strongest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger<K> {
    pub name: Label,
    pub kind: K,
    pub expression: Expression,
}

/// What a schedule says about time. Its triggers have different names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule<K> {
    pub name: Label,
    pub created: Timestamp,
    pub zone: Zone,
    pub suspended: bool,
    pub triggers: Vec<Trigger<K>>,
    pub catch_up: CatchUp,
    /// How long after its time a tick may still be fired; its time is the end of the exclusion that it lies in.
    pub starting_deadline: Option<SignedDuration>,
    pub concurrency: Concurrency,
    pub exclusions: Vec<Exclusion>,
}

/// What becomes of ticks that could not be fired in time: nobody was there, or they lie in an exclusion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// They are missed.
    Skip,
    /// The newest is fired.
    #[default]
    Latest,
    /// The newest [`CATCH_UP_LIMIT`] are fired; they run one after the other.
    All,
}

/// What becomes of a tick while a run of an earlier tick of its trigger for the source is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// It gets no run.
    #[default]
    Forbid,
    /// Its run is made and waits, if none waits yet.
    Queue,
    /// Its run is made, and the earlier one is cancelled. Of several ticks only the newest is fired, whatever [`CatchUp`] says.
    Replace,
}

/// A source that the schedule selects, with the runs of this schedule for it that exist as objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub namespace: Label,
    pub name: Label,
    pub created: Timestamp,
    pub runs: Vec<SeenRun>,
    /// Names of triggers whose type its engine lacks: for it they have no ticks.
    pub lacks: Vec<Label>,
}

/// A run that a tick of the schedule made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRun {
    /// Name of the trigger.
    pub trigger: String,
    pub tick: Timestamp,
    pub in_flight: bool,
}

/// What a schedule remembers in its status. Empty for a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// By the name of the trigger.
    pub watermarks: BTreeMap<String, Watermark>,
    /// It was suspended when its status was written.
    pub suspended: bool,
}

/// How far a trigger has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Every tick at or before it has its run made, skipped or dropped.
    pub at: Timestamp,
    /// Cron and zone that it was made with, as in `0 2 * * * Europe/Zurich`. When they change, nothing of the past is fired.
    pub expression: String,
}

/// What is to be done. All ticks up to the time of the decision are in it once: fired, passed, or with a run that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a, K> {
    /// Runs to be made, by source and then by trigger.
    pub fire: Vec<Firing<'a, K>>,
    /// Ticks that get no run, to be counted.
    pub passed: Vec<Passed<'a, K>>,
    /// To be written, if it differs from what was given, when the runs are made or refused for good. An error that may go away is retried
    /// before: the same decision is then made again, and makes the same runs.
    pub progress: Progress,
    /// What was wrong with the clock.
    pub ahead: Vec<WatermarkAhead>,
    /// When the next tick of any trigger for any source may be fired: its minute, or the end of the exclusion that it lies in. None while
    /// suspended.
    pub next_tick: Option<Timestamp>,
    /// After how much time to decide again. Not a time of day, as the clock may be wrong.
    pub wake_after: Option<SignedDuration>,
}

/// A run to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing<'a, K> {
    pub source: &'a Source,
    pub trigger: &'a Trigger<K>,
    pub tick: Timestamp,
    /// Name of the run.
    pub run: String,
}

/// Ticks that get no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed<'a, K> {
    pub source: &'a Source,
    pub trigger: &'a Trigger<K>,
    pub by: PassedBy,
    /// How many; [`MISSED_LIMIT`] stands for as many or more.
    pub ticks: u32,
    /// The newest of them.
    pub newest: Timestamp,
}

/// Why a tick gets no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedBy {
    /// Nothing could act on it in time, and [`CatchUp`] does not make up for it.
    Missed,
    /// It is later than `starting_deadline` allows.
    Dropped,
    /// Runs of earlier ticks of the trigger for the source are in flight, the newest of them this one ([`Concurrency`]).
    Forbidden { running: Timestamp },
    /// A trigger of a stronger type, or of the same type and named before it, has the same tick.
    Superseded { by: Label },
}

/// A watermark that lay in the future (a clock was wrong when it was written) and is set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkAhead {
    /// Name of the trigger.
    pub trigger: String,
    /// Where it was.
    pub watermark: Timestamp,
    /// Where it is now.
    pub set_to: Timestamp,
}

/// Decides which ticks are due at the time `until`, which is the API server's.
///
/// For each source, ticks count from the latest of the watermark, its creation and the schedule's. A trigger that is new in a schedule, or
/// whose cron or zone changed, and a schedule that was suspended, begin now. While an exclusion lasts nothing is decided: what is due
/// waits for its end.
pub fn decide<'a, K: Ord>(schedule: &'a Schedule<K>, sources: &'a [Source], progress: &Progress, until: Timestamp) -> Decision<'a, K> {
    let mut decision = Decision {
        fire: Vec::new(),
        passed: Vec::new(),
        progress: Progress {
            watermarks: BTreeMap::new(),
            suspended: schedule.suspended,
        },
        ahead: Vec::new(),
        next_tick: None,
        wake_after: None,
    };
    if schedule.suspended {
        // Not moved with time, so that a suspended schedule writes nothing; its end sets them to then.
        decision.progress.watermarks.clone_from(&progress.watermarks);
        return decision;
    }
    let free = may_start(&schedule.exclusions, &schedule.zone, until);
    let excluded = free != Some(until);
    let mut begins: Vec<_> = schedule
        .triggers
        .iter()
        .map(|trigger| begin(schedule, trigger, progress, until, &mut decision.ahead))
        .collect();
    for source in sources {
        let seed = Seed::of_source(source.namespace.as_str(), source.name.as_str());
        let mut all = Vec::new();
        let mine = schedule.triggers.iter().zip(&mut begins);
        for (trigger, begin) in mine.filter(|(trigger, _)| !source.lacks.contains(&trigger.name)) {
            let timetable = Timetable::new(trigger.expression.resolve(&seed), schedule.zone.clone());
            let from = begin.from.max(source.created).max(schedule.created);
            let newest = timetable.last_until(until).filter(|tick| *tick > from);
            let mut next = timetable.next_after(from.max(until));
            if let Some(newest) = newest.filter(|_| !excluded) {
                begin.handled = begin.handled.max(Some(newest));
                let Due { candidates, passed } = due(schedule, source, trigger, &timetable, (from, newest), until);
                decision.passed.extend(passed);
                all.push(candidates);
            } else if newest.is_some() {
                next = free;
            }
            let next = next.and_then(|next| may_start(&schedule.exclusions, &schedule.zone, next));
            decision.next_tick = [decision.next_tick, next].into_iter().flatten().min();
        }
        settle(schedule, source, &all, &mut decision);
    }
    decision.wake_after = decision.next_tick.map(|next| next.duration_since(until));
    for (trigger, begin) in schedule.triggers.iter().zip(begins) {
        let at = if excluded {
            begin.from
        } else {
            begin.handled.max(begin.watermark).unwrap_or(until)
        };
        let watermark = Watermark {
            at,
            expression: trigger.rule(&schedule.zone),
        };
        decision.progress.watermarks.insert(trigger.name.to_string(), watermark);
    }
    decision
}

impl<K> Trigger<K> {
    fn rule(&self, zone: &Zone) -> String {
        format!("{} {zone}", self.expression)
    }
}

/// From when a trigger's ticks count.
struct Begin {
    from: Timestamp,
    /// The watermark that is kept until a tick moves it.
    watermark: Option<Timestamp>,
    /// The newest tick of any source that is decided now.
    handled: Option<Timestamp>,
}

fn begin<K>(schedule: &Schedule<K>, trigger: &Trigger<K>, progress: &Progress, until: Timestamp, ahead: &mut Vec<WatermarkAhead>) -> Begin {
    let now = Begin {
        from: until,
        watermark: Some(until),
        handled: None,
    };
    if progress.suspended {
        return now;
    }
    match progress.watermarks.get(trigger.name.as_str()) {
        // A new schedule: since its creation, if nothing looked at it before.
        None if progress.watermarks.is_empty() => Begin {
            from: schedule.created,
            ..now
        },
        None => now,
        Some(watermark) if watermark.at > later(until, TOLERANCE) => {
            let trigger = trigger.name.to_string();
            ahead.push(WatermarkAhead {
                trigger,
                watermark: watermark.at,
                set_to: until,
            });
            now
        }
        Some(watermark) if watermark.expression != trigger.rule(&schedule.zone) => now,
        Some(watermark) => Begin {
            from: watermark.at,
            watermark: Some(watermark.at),
            handled: None,
        },
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
