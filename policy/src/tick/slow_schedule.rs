//! The rules of schedules again, as plainly as can be: ticks and exclusions are looked up minute by minute, and each rule is said in its
//! own words. The properties compare it with the real code, tick by tick.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex},
};

use jiff::{Timestamp, ToSpan, civil::Time, tz::TimeZoneDatabase};

use super::{slow::SlowCron, *};

/// Windows of an exclusion as the model knows them: days of the week on which they begin (Sunday is 0), from, to, dates.
pub type Window = (&'static [u8], &'static str, &'static str, Option<(&'static str, &'static str)>);

/// Schedules exclude one of these.
pub const EXCLUSIONS: [&[Window]; 5] = [
    &[],
    &[(&[1, 2, 3, 4, 5], "08:00", "18:00", None)],
    &[(&[], "22:00", "02:30", None), (&[0], "02:15", "02:45", None)],
    &[(&[], "01:00", "04:00", None), (&[6], "00:00", "24:00", None)],
    &[
        (&[], "00:00", "24:00", Some(("2026-10-20", "2026-11-15"))),
        (&[3], "12:00", "12:00", Some(("2028-01-01", "2028-06-30"))),
    ],
];

/// What becomes of a tick: source, trigger, tick (the newest), what, how many.
pub type Outcome = (String, String, Timestamp, &'static str, u32);

const MINUTE: i64 = 60;
/// Minutes that are looked at together. Whatever a case does, it can only ask for so many of them as its crons and zones have.
const CHUNK: i64 = 32 * 24 * 60;
/// How far the model looks for a next tick.
pub const HORIZON: i64 = 2 * CHUNK;

type Chunks<T> = LazyLock<Mutex<HashMap<(String, String, i64), Arc<Vec<T>>>>>;
static TICKS: Chunks<Timestamp> = LazyLock::new(Mutex::default);
static EXCLUDED: Chunks<bool> = LazyLock::new(Mutex::default);

fn chunk<T>(chunks: &Chunks<T>, key: (String, String, i64), make: impl FnOnce() -> Vec<T>) -> Arc<Vec<T>> {
    let mut chunks = chunks.lock().unwrap();
    // A property that asks for all of time takes all of the memory.
    assert!(chunks.len() < 10_000, "the model asks for more than it should");
    chunks.entry(key).or_insert_with(|| Arc::new(make())).clone()
}

fn instant(minute: i64) -> Timestamp {
    Timestamp::from_second(minute * MINUTE).unwrap()
}

fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(MINUTE)
}

/// The ticks of an expanded cron in `(from, to]`.
pub fn ticks(cron: &str, zone: &str, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let mut found = Vec::new();
    for place in minute_of(from).div_euclid(CHUNK)..=minute_of(to).div_euclid(CHUNK) {
        let ticks = chunk(&TICKS, (cron.to_owned(), zone.to_owned(), place), || {
            let ticks = SlowCron::new(cron).ticks(zone, instant(place * CHUNK - 1), instant((place + 1) * CHUNK - 1));
            ticks.into_iter().collect()
        });
        found.extend(ticks.iter().copied().filter(|tick| *tick > from && *tick <= to));
    }
    found
}

/// Minute by minute from the beginning of a chunk: whether the clock on the wall shows a time within the windows.
fn excluded(exclusions: usize, zone: &str, place: i64) -> Arc<Vec<bool>> {
    chunk(&EXCLUDED, (exclusions.to_string(), zone.to_owned(), place), || {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        let shown = (place * CHUNK..(place + 1) * CHUNK).map(|minute| zone.to_datetime(instant(minute)));
        shown
            .map(|local| EXCLUSIONS[exclusions].iter().any(|window| within(window, local)))
            .collect()
    })
}

fn within((days, from, to, dates): &Window, local: jiff::civil::DateTime) -> bool {
    let begins = |back: i64| {
        let day = local.date() - back.days();
        let weekday = u8::try_from(day.weekday().to_sunday_zero_offset()).unwrap();
        let date = day.to_string();
        (days.is_empty() || days.contains(&weekday)) && dates.is_none_or(|(from, to)| *from <= *date && *date <= *to)
    };
    let from: Time = from.parse().unwrap();
    if *to == "24:00" {
        return begins(0) && local.time() >= from;
    }
    let to: Time = to.parse().unwrap();
    if from < to {
        begins(0) && local.time() >= from && local.time() < to
    } else {
        (begins(0) && local.time() >= from) || (begins(1) && local.time() < to)
    }
}

/// The first time from `at` on that is not excluded.
pub fn free(exclusions: usize, zone: &str, at: Timestamp) -> Timestamp {
    if EXCLUSIONS[exclusions].is_empty() {
        return at;
    }
    let begin = minute_of(at);
    let mut minute = begin;
    loop {
        let place = minute.div_euclid(CHUNK);
        let chunk = excluded(exclusions, zone, place);
        let rest = &chunk[usize::try_from(minute.rem_euclid(CHUNK)).unwrap()..];
        match rest.iter().position(|excluded| !excluded) {
            Some(0) if minute == begin => return at,
            Some(later) => return instant(minute + i64::try_from(later).unwrap()),
            None => minute = (place + 1) * CHUNK,
        }
    }
}

/// What the model remembers of a trigger.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub handled: Timestamp,
    pub rule: (String, String),
}

/// What a schedule remembers, by the model.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub marks: BTreeMap<String, Mark>,
    pub suspended: bool,
}

/// What the rules say.
pub struct Expected {
    pub outcomes: BTreeSet<Outcome>,
    pub marks: BTreeMap<String, Mark>,
    /// How many watermarks lay in the future.
    pub set_back: usize,
    /// When the next tick may be fired, if that is within [`HORIZON`].
    pub next: Option<Timestamp>,
}

pub fn expect<K: Ord>(schedule: &Schedule<K>, exclusions: usize, sources: &[Source], memory: &Memory, until: Timestamp) -> Expected {
    let mut expected = Expected {
        outcomes: BTreeSet::new(),
        marks: memory.marks.clone(),
        set_back: 0,
        next: None,
    };
    if schedule.suspended {
        return expected;
    }
    let zone = schedule.zone.name();
    let waits = free(exclusions, zone, until) > until;
    let mut begins = Vec::new();
    expected.marks.clear();
    for trigger in &schedule.triggers {
        let rule = (trigger.expression.to_string(), zone.to_owned());
        let mark = memory.marks.get(trigger.name.as_str());
        let ahead = mark.is_some_and(|mark| mark.handled > until + 5.minutes());
        let (begin, handled) = match mark {
            _ if memory.suspended => (until, until),
            None if memory.marks.is_empty() => (schedule.created, if waits { schedule.created } else { until }),
            None => (until, until),
            Some(_) if ahead => {
                expected.set_back += 1;
                (until, until)
            }
            Some(mark) if mark.rule != rule => (until, until),
            Some(mark) => (mark.handled, mark.handled),
        };
        begins.push(begin);
        expected.marks.insert(trigger.name.to_string(), Mark { handled, rule });
    }
    for source in sources {
        one_source(schedule, exclusions, source, &begins, until, waits, &mut expected);
    }
    expected
}

fn one_source<K: Ord>(
    schedule: &Schedule<K>,
    exclusions: usize,
    source: &Source,
    begins: &[Timestamp],
    until: Timestamp,
    waits: bool,
    expected: &mut Expected,
) {
    let zone = schedule.zone.name();
    let seed = Seed::of_source(source.namespace.as_str(), source.name.as_str());
    let name = source.name.to_string();
    let has_run = |trigger: &str, tick: Timestamp| source.runs.iter().any(|run| run.trigger == trigger && run.tick == tick);
    // By trigger: those of its ticks that are to run, made or not.
    let mut runs: Vec<(usize, Timestamp)> = Vec::new();
    for (place, trigger) in schedule.triggers.iter().enumerate() {
        let mine = trigger.name.to_string();
        if source.lacks.iter().any(|lacked| lacked.as_str() == mine) {
            continue;
        }
        let cron = trigger.expression.expanded(&seed);
        let begin = begins[place].max(schedule.created).max(source.created);
        let due = ticks(&cron, zone, begin, until.max(begin));
        let from = until.max(begin);
        let mut next = ticks(&cron, zone, from, from + (HORIZON * MINUTE).seconds()).first().copied();
        if waits && !due.is_empty() {
            next = Some(until);
        }
        let next = next.map(|next| free(exclusions, zone, next));
        expected.next = [expected.next, next].into_iter().flatten().min();
        let Some(newest) = due.last().copied().filter(|_| !waits) else {
            continue;
        };
        let mark = expected.marks.get_mut(&mine).unwrap();
        mark.handled = mark.handled.max(newest);

        let late = |tick: Timestamp| {
            let deadline = schedule.starting_deadline;
            deadline.is_some_and(|deadline| until > free(exclusions, zone, tick) + deadline)
        };
        let most = match (schedule.catch_up, schedule.concurrency) {
            (CatchUp::Skip, _) if newest + 5.minutes() < until => 0,
            (CatchUp::All, Concurrency::Forbid | Concurrency::Queue) => 10,
            _ => 1,
        };
        let chosen: Vec<_> = due.iter().copied().rev().take(most).filter(|tick| !late(*tick)).collect();
        let others = due
            .iter()
            .copied()
            .rev()
            .filter(|tick| !chosen.contains(tick) && !has_run(&mine, *tick));
        let (dropped, missed): (Vec<_>, Vec<_>) = others.take(1_000).partition(|tick| late(*tick));
        for (what, ticks) in [("dropped", dropped), ("missed", missed)] {
            if let Some(newest) = ticks.first() {
                let count = u32::try_from(ticks.len()).unwrap();
                expected.outcomes.insert((name.clone(), mine.clone(), *newest, what, count));
            }
        }
        // Runs in flight that this look did not choose.
        let others = source
            .runs
            .iter()
            .filter(|run| run.trigger == mine && run.in_flight && !chosen.contains(&run.tick));
        let room = match (schedule.concurrency, others.count()) {
            (_, 0) | (Concurrency::Replace, _) => usize::MAX,
            (Concurrency::Queue, 1) => 1,
            _ => 0,
        };
        let made = chosen.iter().filter(|tick| has_run(&mine, **tick)).count();
        let mut unmade: Vec<_> = chosen.iter().copied().filter(|tick| !has_run(&mine, *tick)).collect();
        let forbidden = unmade.split_off(room.saturating_sub(if room == 1 { made } else { 0 }).min(unmade.len()));
        if let Some(newest) = forbidden.first() {
            let count = u32::try_from(forbidden.len()).unwrap();
            expected.outcomes.insert((name.clone(), mine.clone(), *newest, "forbidden", count));
        }
        runs.extend(
            chosen
                .into_iter()
                .filter(|tick| !forbidden.contains(tick))
                .map(|tick| (place, tick)),
        );
    }
    for (place, tick) in &runs {
        let mine = &schedule.triggers[*place];
        if has_run(mine.name.as_str(), *tick) {
            continue;
        }
        let beaten = runs.iter().any(|(other, at)| {
            let kind = &schedule.triggers[*other].kind;
            at == tick && (*kind > mine.kind || (*kind == mine.kind && other < place))
        });
        let what = if beaten { "superseded" } else { "fire" };
        expected.outcomes.insert((name.clone(), mine.name.to_string(), *tick, what, 1));
    }
}
