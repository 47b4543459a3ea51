//! What a schedule's status says, from what was found and done. Pure.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupScheduleStatus, BackupSource, BackupType, ConditionType, FailingSource, Finding, Reason, RunPhase,
    TriggerStatus, conditions,
};
use holdfast_policy::tick::{
    CatchUp, Decision, Passed, PassedBy, Progress, Schedule, Seed, Timetable, Watermark, WatermarkAhead, may_start,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{
    apply::Made,
    shown,
    validate::{Invalid, Plan},
};
use crate::controller::history::time;

/// How many failing sources are listed.
const FAILING_LIMIT: usize = 10;
/// How many names a message lists.
const NAMES_LIMIT: usize = 5;

/// Why a schedule makes no runs at all now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: Reason,
    pub message: String,
}

/// What one reconciliation found and did.
pub struct Found<'a> {
    pub sources: &'a [Arc<BackupSource>],
    pub missing: &'a [String],
    pub without: Option<&'a (Reason, String)>,
    pub runs: &'a [Arc<BackupRun>],
    pub obstacle: Option<&'a Obstacle>,
    pub decision: Option<&'a Decision<'a, BackupType>>,
    pub made: &'a Made,
}

/// What stands in the way of every run: an invalid specification, or that no store may be written to.
pub fn obstacle(plan: &Result<Plan, Invalid>, writable: &Result<(), (Reason, String)>) -> Option<Obstacle> {
    if let Err(invalid) = plan {
        return Some(Obstacle {
            reason: Reason::InvalidSpec,
            message: invalid.to_string(),
        });
    }
    let (reason, message) = writable.as_ref().err()?;
    Some(Obstacle {
        reason: *reason,
        message: format!("spec.stores: {message}"),
    })
}

/// What the status remembers, as `decide` takes it. A watermark that cannot be read begins anew.
pub fn progress(status: Option<&BackupScheduleStatus>) -> Progress {
    let Some(status) = status else { return Progress::default() };
    let watermarks = status.triggers.iter().filter_map(|trigger| {
        let watermark = Watermark {
            at: trigger.watermark.parse().ok()?,
            expression: trigger.expression.clone(),
        };
        Some((trigger.name.clone(), watermark))
    });
    Progress {
        watermarks: watermarks.collect(),
        suspended: status.suspended_since.is_some(),
    }
}

/// The status to be written.
pub fn status(schedule: &BackupSchedule, found: &Found<'_>, now: Timestamp) -> BackupScheduleStatus {
    let before = schedule.status.clone().unwrap_or_default();
    let failing = failing(found);
    let moves = moves(found);
    let findings = [
        ready(schedule, found, &before, moves),
        stalled(found),
        last_run_succeeded(found, &failing, &before.conditions),
    ];
    let mut listed = failing;
    listed.truncate(FAILING_LIMIT);
    BackupScheduleStatus {
        observed_generation: schedule.metadata.generation,
        conditions: conditions(&before.conditions, &findings, schedule.metadata.generation, now),
        sources: i64::try_from(found.sources.len()).unwrap_or(i64::MAX),
        next_tick: found.decision.and_then(|decision| decision.next_tick).map(shown),
        triggers: match found.decision.filter(|_| moves) {
            Some(decision) => triggers(&before, decision, found),
            None => before.triggers.clone(),
        },
        suspended_since: schedule
            .spec
            .suspend
            .then(|| before.suspended_since.clone().unwrap_or_else(|| shown(now))),
        failing: listed,
    }
}

/// Whether the watermarks may move: nothing that is due waits for an obstacle to go away or for another try.
fn moves(found: &Found<'_>) -> bool {
    let due = found.decision.is_some_and(|decision| !decision.fire.is_empty());
    found.decision.is_some() && found.made.failed.is_none() && !(due && found.obstacle.is_some())
}

fn triggers(before: &BackupScheduleStatus, decision: &Decision<'_, BackupType>, found: &Found<'_>) -> Vec<TriggerStatus> {
    let marks = decision.progress.watermarks.iter().map(|(name, watermark)| {
        let old = before.triggers.iter().find(|trigger| trigger.name == *name);
        let known = old.cloned().unwrap_or_default();
        let count = |of: fn(&PassedBy) -> bool| -> i64 {
            let mine = decision
                .passed
                .iter()
                .filter(|passed| passed.trigger.name.as_str() == name && of(&passed.by));
            mine.map(|passed| i64::from(passed.ticks)).sum()
        };
        let refused = found.made.refused.iter().filter(|refusal| refusal.trigger == *name).count();
        TriggerStatus {
            name: name.clone(),
            watermark: shown(watermark.at),
            expression: watermark.expression.clone(),
            fired: known.fired + fired(name, old, watermark, found.runs),
            skipped: known.skipped + count(|by| matches!(by, PassedBy::Forbidden { .. } | PassedBy::Superseded { .. })),
            missed: known.missed + count(|by| matches!(by, PassedBy::Missed)) + i64::try_from(refused).unwrap_or(0),
            dropped: known.dropped + count(|by| matches!(by, PassedBy::Dropped)),
        }
    });
    marks.collect()
}

/// Runs that exist for ticks after the old watermark, up to the new. Counted by what exists, so that a crash between the runs and the
/// status loses none.
fn fired(trigger: &str, old: Option<&TriggerStatus>, new: &Watermark, runs: &[Arc<BackupRun>]) -> i64 {
    let from = old.and_then(|old| old.watermark.parse::<Timestamp>().ok());
    let ticks = runs.iter().filter_map(|run| {
        let tick = run.spec.tick.as_ref().filter(|tick| tick.trigger == trigger)?;
        tick.time.parse::<Timestamp>().ok()
    });
    let counted = ticks.filter(|tick| from.is_none_or(|from| *tick > from) && *tick <= new.at).count();
    i64::try_from(counted).unwrap_or(i64::MAX)
}

fn ready(schedule: &BackupSchedule, found: &Found<'_>, before: &BackupScheduleStatus, moves: bool) -> Finding {
    let say = |status, reason, message: String| Finding::new(ConditionType::Ready, status, reason, message);
    if let Some(obstacle) = found.obstacle {
        return say(false, obstacle.reason, obstacle.message.clone());
    }
    if !found.missing.is_empty() {
        let message = format!(
            "spec.sources.names: {} not in this namespace; create them, or remove the names. The other sources have their runs",
            listed(found.missing.iter().map(String::as_str), "does", "do")
        );
        return say(false, Reason::SourceNotFound, message);
    }
    if found.sources.is_empty() {
        let message =
            "spec.sources: no source of this namespace has these labels, so that nothing is protected; label one, or correct the labels";
        return say(false, Reason::NoSources, message.to_owned());
    }
    if let Some((reason, message)) = found.without {
        let message = format!("spec.stores: {message}. Runs write to the others meanwhile, and this one lacks their copies");
        return say(false, *reason, message);
    }
    if let Some(message) = lacking(schedule, found.sources) {
        return say(false, Reason::TypeUnsupported, message);
    }
    if let Some(refusal) = found.made.refused.first() {
        let more = found.made.refused.len() - 1;
        let message = if more == 0 {
            refusal.message.clone()
        } else {
            format!("{} (and {more} more)", refusal.message)
        };
        return say(false, refusal.reason, message);
    }
    if let Some(error) = &found.made.failed {
        let message = format!("runs could not be made and are tried again: {}", crate::context::chain(error));
        return say(true, Reason::BackingOff, message);
    }
    if schedule.spec.suspend {
        return say(
            true,
            Reason::Suspended,
            "no runs are made until spec.suspend is false; ticks until then are not caught up".to_owned(),
        );
    }
    if let Some(ahead) = found.decision.and_then(|decision| decision.ahead.first()) {
        return say(true, Reason::ClockWasWrong, set_back(ahead));
    }
    // What was refused or wrong stays visible until a tick shows that it is over.
    let ticked = moves && found.decision.is_some_and(|decision| !decision.fire.is_empty());
    let held = before.conditions.iter().find(|condition| {
        let reasons = [Reason::ClockWasWrong, Reason::NameTaken, Reason::AdmissionRefused];
        condition.type_ == "Ready" && reasons.iter().any(|reason| reason.as_str() == condition.reason)
    });
    if let Some(held) = held.filter(|_| !ticked && before.observed_generation == schedule.metadata.generation)
        && let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == held.reason)
    {
        return say(held.status == "True", *reason, held.message.clone());
    }
    let message = match found.decision.and_then(|decision| decision.next_tick) {
        Some(_) => format!("makes the runs of {}", counted(found.sources.len())),
        None => "no tick comes any more".to_owned(),
    };
    say(true, Reason::Accepted, message)
}

/// The first trigger whose type some engines lack, and the sources that therefore have no runs of it.
fn lacking(schedule: &BackupSchedule, sources: &[Arc<BackupSource>]) -> Option<String> {
    schedule.spec.triggers.iter().find_map(|trigger| {
        let lacks = |source: &&Arc<BackupSource>| source.spec.lacks(trigger.type_).is_some();
        let why = sources.iter().find(lacks)?.spec.lacks(trigger.type_)?;
        let names: Vec<_> = sources.iter().filter(lacks).map(|source| source.name_any()).collect();
        Some(format!(
            "spec.triggers[{}].type: {why}; {} no runs of it; use another type, or select other sources. The other triggers have their runs",
            trigger.name,
            listed(names.iter().map(String::as_str), "has", "have")
        ))
    })
}

fn counted(sources: usize) -> String {
    match sources {
        1 => "1 source".to_owned(),
        more => format!("{more} sources"),
    }
}

/// Stalled is what only a person can change and what stops all runs; a store that is not probed yet is only waited for.
fn stalled(found: &Found<'_>) -> Finding {
    match found.obstacle {
        Some(obstacle) if obstacle.reason != Reason::StoreNotProbed => {
            Finding::new(ConditionType::Stalled, true, obstacle.reason, obstacle.message.clone())
        }
        _ => Finding::new(ConditionType::Stalled, false, Reason::Accepted, ""),
    }
}

/// Of each source the newest ended run that was not cancelled.
fn newest_ended<'a>(found: &Found<'a>) -> BTreeMap<&'a str, &'a Arc<BackupRun>> {
    let mut newest: BTreeMap<&str, &Arc<BackupRun>> = BTreeMap::new();
    let selected: std::collections::BTreeSet<String> = found.sources.iter().map(|source| source.name_any()).collect();
    for run in found.runs {
        let phase = run.status.as_ref().map(|status| status.phase);
        if !matches!(phase, Some(RunPhase::Succeeded | RunPhase::Failed)) || !selected.contains(&run.spec.source) {
            continue;
        }
        let held = newest.entry(run.spec.source.as_str()).or_insert(run);
        if time(run) > time(held) {
            *held = run;
        }
    }
    newest
}

/// The sources whose newest ended run failed, in order of their names.
fn failing(found: &Found<'_>) -> Vec<FailingSource> {
    let failed = newest_ended(found).into_iter().filter_map(|(source, run)| {
        let status = run.status.as_ref().filter(|status| status.phase == RunPhase::Failed)?;
        Some(FailingSource {
            source: source.to_owned(),
            run: run.name_any(),
            reason: status.reason.unwrap_or(Reason::InternalError),
        })
    });
    failed.collect()
}

fn last_run_succeeded(found: &Found<'_>, failing: &[FailingSource], before: &[Condition]) -> Finding {
    let kind = ConditionType::LastRunSucceeded;
    if let Some(first) = failing.first() {
        let message = format!(
            "the newest run of {} failed: {} with {} ({})",
            listed(failing.iter().map(|failing| failing.source.as_str()), "", ""),
            first.run,
            first.reason,
            first.reason.meaning()
        );
        return Finding::new(kind, false, first.reason, message);
    }
    let ended = newest_ended(found).len();
    if ended > 0 {
        return Finding::new(
            kind,
            true,
            Reason::Succeeded,
            format!("the newest run of {} succeeded", counted(ended)),
        );
    }
    // Objects of runs are history and may be deleted; what they said stays.
    let held = before
        .iter()
        .find(|condition| condition.type_ == kind.as_str() && condition.status != "Unknown");
    let reason = held.and_then(|held| Reason::ALL.iter().find(|reason| reason.as_str() == held.reason));
    match (held, reason) {
        (Some(held), Some(reason)) => Finding::new(kind, held.status == "True", *reason, held.message.clone()),
        _ => Finding::unknown(kind, Reason::Pending, "no run has succeeded or failed yet"),
    }
}

/// `a, b and 3 more do`
fn listed<'a>(names: impl Iterator<Item = &'a str>, one: &str, many: &str) -> String {
    let names: Vec<&str> = names.collect();
    let verb = if names.len() == 1 { one } else { many };
    let shown = names.iter().take(NAMES_LIMIT).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES_LIMIT);
    let text = if more == 0 { shown } else { format!("{shown} and {more} more") };
    if verb.is_empty() { text } else { format!("{text} {verb}") }
}

/// What is told once about ticks without a run and about clocks: of a run that is long in flight, the first tick that it costs.
pub fn notes<K>(decision: &Decision<'_, K>, schedule: &Schedule<K>) -> Vec<(Reason, String)> {
    let mut notes: Vec<_> = decision
        .ahead
        .iter()
        .map(|ahead| (Reason::ClockWasWrong, set_back(ahead)))
        .collect();
    let of = |by: fn(&PassedBy) -> bool| decision.passed.iter().filter(move |passed| by(&passed.by));
    // Those that an exclusion costs are as they should be.
    let free = |passed: &&Passed<'_, K>| may_start(&schedule.exclusions, &schedule.zone, passed.newest) == Some(passed.newest);
    let missed: Vec<_> = of(|by| matches!(by, PassedBy::Missed)).filter(free).collect();
    let rest = match schedule.catch_up {
        CatchUp::Skip => "none is made up for (catchUp: Skip)",
        CatchUp::Latest => "the newest tick is made up for",
        CatchUp::All => "the ten newest are made up for",
    };
    if let Some(note) = told(&missed, &format!("passed while nothing could act on them; {rest}")) {
        notes.push((Reason::TicksMissed, note));
    }
    let dropped: Vec<_> = of(|by| matches!(by, PassedBy::Dropped)).collect();
    if let Some(note) = told(&dropped, "came later than startingDeadline allows, and got no run") {
        notes.push((Reason::TicksDropped, note));
    }
    let first = |passed: &&Passed<'_, K>| match passed.by {
        PassedBy::Forbidden { running } => {
            let seed = Seed::of_source(passed.source.namespace.as_str(), passed.source.name.as_str());
            let timetable = Timetable::new(passed.trigger.expression.resolve(&seed), schedule.zone.clone());
            timetable.next_after(running) == Some(passed.newest)
        }
        _ => false,
    };
    let forbidden: Vec<_> = decision.passed.iter().filter(first).collect();
    if let Some(note) = told(&forbidden, "skipped, because the run before is still in flight") {
        notes.push((Reason::RunInFlight, note));
    }
    notes
}

fn told<K>(passed: &[&Passed<'_, K>], what: &str) -> Option<String> {
    let newest = passed.iter().max_by_key(|passed| passed.newest)?;
    let ticks: u64 = passed.iter().map(|passed| u64::from(passed.ticks)).sum();
    let mut sources: Vec<&str> = passed.iter().map(|passed| passed.source.name.as_str()).collect();
    sources.dedup();
    let plural = if ticks == 1 { "tick" } else { "ticks" };
    Some(format!(
        "{ticks} {plural} of {} {what}; the newest was {}",
        listed(sources.into_iter(), "", ""),
        shown(newest.newest)
    ))
}

fn set_back(ahead: &WatermarkAhead) -> String {
    format!(
        "the watermark of trigger {} was {}, which is in the future: a clock was wrong; it was set back to {}, and no run is made twice",
        ahead.trigger,
        shown(ahead.watermark),
        shown(ahead.set_to)
    )
}
