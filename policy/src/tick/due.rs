//! Which ticks are due, and what becomes of those that are not fired (rules T3, T4, T6, T7).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    cron::{Expression, Seed},
    timetable::Timetable,
    zone::Zone,
};
use crate::name::{Label, run_name};

/// How far clocks may be apart: a tick further ahead of the API server's `Date` is not fired, a watermark further ahead is wrong.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Missed ticks are counted up to here, for each source and trigger: a clock that jumps by decades costs no more than an outage.
pub const MISSED_LIMIT: u32 = 1000;

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
}

/// A source that the schedule selects, with the runs of this schedule for it that exist as objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub namespace: Label,
    pub name: Label,
    pub created: Timestamp,
    pub runs: Vec<SeenRun>,
}

/// A run that a tick of the schedule made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRun {
    /// Name of the trigger.
    pub trigger: String,
    pub tick: Timestamp,
    pub in_flight: bool,
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// By our own clock.
    pub now: Timestamp,
    /// By the API server: the `Date` of its last answer plus what passed since then (monotonic). None before the first answer.
    pub server: Option<Timestamp>,
}

impl Clock {
    /// Up to when ticks are due: the later of both clocks, but at most [`TOLERANCE`] ahead of the API server.
    pub fn until(&self) -> Timestamp {
        self.server
            .map_or(self.now, |server| self.now.clamp(server, later(server, TOLERANCE)))
    }
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

/// What is to be done. All ticks up to [`Clock::until`] are in it once: fired, passed, or with a run that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a, K> {
    /// Runs to be made, by source and then by trigger.
    pub fire: Vec<Firing<'a, K>>,
    /// Ticks that get no run, to be counted.
    pub passed: Vec<Passed<'a, K>>,
    /// To be written, if it differs from what was given, when the runs are made or refused for good. An error that may go away is retried
    /// before: the same decision is then made again, and makes the same runs.
    pub progress: Progress,
    /// What is wrong with the clocks.
    pub clock: Vec<ClockFinding>,
    /// The next tick of any trigger for any source; none while suspended.
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
    /// Nothing could act on it in time, and a newer one is fired instead (catch-up `Latest`).
    Missed,
    /// The run of an earlier tick of the trigger for the source is in flight (`concurrencyPolicy: Forbid`).
    Forbidden { running: Timestamp },
    /// A trigger of a stronger type, or of the same type and named before it, has the same tick.
    Superseded { by: Label },
}

/// What is wrong with a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockFinding {
    /// Our clock and the API server's are more than [`TOLERANCE`] apart.
    Skew { now: Timestamp, server: Timestamp },
    /// A watermark lay in the future (a clock was wrong when it was written) and is set back.
    WatermarkAhead {
        trigger: String,
        watermark: Timestamp,
        set_to: Timestamp,
    },
}

/// Decides which ticks are due.
///
/// For each source, ticks count from the latest of the watermark, its creation and the schedule's. Of several the newest is fired and
/// the others were missed. A trigger that is new in a schedule, or whose cron or zone changed, and a schedule that was suspended, begin now.
pub fn decide<'a, K: Ord>(schedule: &'a Schedule<K>, sources: &'a [Source], progress: &Progress, clock: Clock) -> Decision<'a, K> {
    let until = clock.until();
    let mut decision = Decision {
        fire: Vec::new(),
        passed: Vec::new(),
        progress: Progress {
            watermarks: BTreeMap::new(),
            suspended: schedule.suspended,
        },
        clock: skew(clock).into_iter().collect(),
        next_tick: None,
        wake_after: None,
    };
    if schedule.suspended {
        // Not moved with time, so that a suspended schedule writes nothing; its end sets them to then.
        decision.progress.watermarks.clone_from(&progress.watermarks);
        return decision;
    }
    let mut begins: Vec<_> = schedule
        .triggers
        .iter()
        .map(|trigger| begin(schedule, trigger, progress, until, &mut decision.clock))
        .collect();
    for source in sources {
        let seed = Seed::of_source(source.namespace.as_str(), source.name.as_str());
        let mut due = Vec::new();
        for (trigger, begin) in schedule.triggers.iter().zip(&mut begins) {
            let timetable = Timetable::new(trigger.expression.resolve(&seed), schedule.zone.clone());
            let from = begin.from.max(source.created).max(schedule.created);
            if let Some(tick) = timetable.last_until(until).filter(|tick| *tick > from) {
                begin.handled = begin.handled.max(Some(tick));
                due.push(Due {
                    trigger,
                    tick,
                    made: run_of(source, trigger, tick).is_some(),
                });
                decision.passed.extend(missed(&timetable, source, trigger, from, tick));
            }
            let next = timetable.next_after(from.max(until));
            decision.next_tick = [decision.next_tick, next].into_iter().flatten().min();
        }
        settle(schedule, source, due, &mut decision);
    }
    decision.wake_after = decision.next_tick.map(|next| next.duration_since(until));
    for (trigger, begin) in schedule.triggers.iter().zip(begins) {
        let at = begin.handled.max(begin.watermark).unwrap_or(until);
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

fn begin<K>(schedule: &Schedule<K>, trigger: &Trigger<K>, progress: &Progress, until: Timestamp, clock: &mut Vec<ClockFinding>) -> Begin {
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
            clock.push(ClockFinding::WatermarkAhead {
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

/// The newest tick of a trigger for one source.
struct Due<'a, K> {
    trigger: &'a Trigger<K>,
    tick: Timestamp,
    /// Its run exists.
    made: bool,
}

/// Decides between the triggers of one source.
fn settle<'a, K: Ord>(schedule: &Schedule<K>, source: &'a Source, mut due: Vec<Due<'a, K>>, decision: &mut Decision<'a, K>) {
    due.retain(|Due { trigger, tick, made }| {
        let running = source.runs.iter().find(|run| run.in_flight && run.trigger == trigger.name.as_str());
        let Some(running) = running.filter(|_| !made) else { return true };
        let by = PassedBy::Forbidden { running: running.tick };
        decision.passed.push(Passed {
            source,
            trigger,
            by,
            ticks: 1,
            newest: *tick,
        });
        false
    });
    for Due { trigger, tick, made } in &due {
        if *made {
            continue;
        }
        // Of equals the last is the maximum: reversed, it is the one that the schedule names first.
        let strongest = due
            .iter()
            .rev()
            .filter(|other| other.tick == *tick)
            .map(|other| other.trigger)
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
            let run = run_name(&source.namespace, &schedule.name, &trigger.name, &source.name, *tick);
            decision.fire.push(Firing {
                source,
                trigger,
                tick: *tick,
                run,
            });
        }
    }
}

/// The ticks after `from` and before `newest` that have no run.
fn missed<'a, K>(
    timetable: &Timetable,
    source: &'a Source,
    trigger: &'a Trigger<K>,
    from: Timestamp,
    newest: Timestamp,
) -> Option<Passed<'a, K>> {
    let before = |tick: &Timestamp| {
        timetable
            .last_until(tick.checked_sub(SignedDuration::from_nanos(1)).ok()?)
            .filter(|tick| *tick > from)
    };
    let limit = MISSED_LIMIT as usize;
    let earlier = std::iter::successors(before(&newest), before).filter(|tick| run_of(source, trigger, *tick).is_none());
    let mut missed = earlier.take(limit);
    let newest = missed.next()?;
    let ticks = missed.fold(1, |ticks, _| ticks + 1);
    Some(Passed {
        source,
        trigger,
        by: PassedBy::Missed,
        ticks,
        newest,
    })
}

fn run_of<'a, K>(source: &'a Source, trigger: &Trigger<K>, tick: Timestamp) -> Option<&'a SeenRun> {
    source
        .runs
        .iter()
        .find(|run| run.tick == tick && run.trigger == trigger.name.as_str())
}

fn skew(clock: Clock) -> Option<ClockFinding> {
    let server = clock.server.filter(|server| server.duration_since(clock.now).abs() > TOLERANCE)?;
    Some(ClockFinding::Skew { now: clock.now, server })
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
