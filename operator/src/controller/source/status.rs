//! What a source's status says, from its schedules and runs. Pure.

use std::sync::Arc;

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupSourceStatus, ConditionType, CopyReference, Finding, Reason, RunPhase, RunReference,
    conditions,
};
use holdfast_policy::protection::{Evidence, Protection};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::objective;
use crate::controller::schedule::{created, shown};

/// A status, and after how much time it would say something else although nothing happened.
pub struct Judged {
    pub status: BackupSourceStatus,
    pub changes_after: Option<SignedDuration>,
}

/// Judges a source. `schedules` select it; `runs` are those of it that exist as objects.
pub fn judge(source: &BackupSource, schedules: &[Arc<BackupSchedule>], runs: &[Arc<BackupRun>], now: Timestamp) -> Judged {
    let before = source.status.clone().unwrap_or_default();
    let (namespace, name) = (source.namespace().unwrap_or_default(), source.name_any());
    let newest_copy = newest_copy(before.newest_copy, runs);
    let last_run = last_run(before.last_run, runs);
    let rpo = objective::rpo(&namespace, &name, schedules, now);
    let next_ticks = objective::next_ticks(&namespace, &name, schedules, now);
    let protection = Protection::of(
        &Evidence {
            created: created(source),
            newest: newest_copy.as_ref().and_then(|copy| copy.recovery_point.parse().ok()),
            rpo,
        },
        now,
    );
    let findings = [
        Finding::new(ConditionType::Ready, true, Reason::Accepted, "the source is accepted"),
        protected(&protection, newest_copy.as_ref(), rpo, schedules),
        last_run_succeeded(last_run.as_ref()),
    ];
    let status = BackupSourceStatus {
        observed_generation: source.metadata.generation,
        conditions: conditions(&before.conditions, &findings, source.metadata.generation, now),
        newest_copy,
        last_run,
        next_tick: next_ticks.iter().filter_map(|ticks| ticks.at.first()).min().cloned(),
        next_ticks,
        rpo_seconds: rpo.map(|rpo| rpo.as_secs()),
    };
    Judged {
        status,
        changes_after: protection.changes_after(now),
    }
}

/// The copy with the newest recovery point that was ever seen: objects of runs go, copies stay.
fn newest_copy(known: Option<CopyReference>, runs: &[Arc<BackupRun>]) -> Option<CopyReference> {
    let copies = runs.iter().filter_map(|run| {
        let status = run.status.as_ref().filter(|status| status.phase == RunPhase::Succeeded)?;
        let copy = status.copy.as_ref()?;
        Some(CopyReference {
            run: run.name_any(),
            store: run.spec.stores.first().map(|store| store.name.clone()).unwrap_or_default(),
            path: copy.path.clone(),
            recovery_point: copy.recovery_point.clone(),
            stored_bytes: copy.stored_bytes,
        })
    });
    known
        .into_iter()
        .chain(copies)
        .filter_map(|copy| Some((copy.recovery_point.parse::<Timestamp>().ok()?, copy)))
        .reduce(|held, next| if next.0 > held.0 { next } else { held })
        .map(|(_, copy)| copy)
}

/// The run that ended last, of those that were ever seen.
fn last_run(known: Option<RunReference>, runs: &[Arc<BackupRun>]) -> Option<RunReference> {
    let ended = runs.iter().filter_map(|run| {
        let status = run.status.as_ref().filter(|status| status.phase.ended())?;
        Some(RunReference {
            name: run.name_any(),
            type_: run.spec.type_,
            phase: status.phase,
            reason: status.reason.unwrap_or(Reason::InternalError),
            completion_time: status.completion_time.clone()?,
        })
    });
    known
        .into_iter()
        .chain(ended)
        .filter_map(|run| Some((run.completion_time.parse::<Timestamp>().ok()?, run)))
        // Of the same time the later in the list counts: the same run may say more than it did.
        .reduce(|held, next| if next.0 >= held.0 { next } else { held })
        .map(|(_, run)| run)
}

fn protected(
    protection: &Protection,
    newest: Option<&CopyReference>,
    rpo: Option<SignedDuration>,
    schedules: &[Arc<BackupSchedule>],
) -> Finding {
    let say = |status, reason, message: String| Finding::new(ConditionType::Protected, status, reason, message);
    let objective = rpo.map(person).unwrap_or_default();
    let copy = newest.map_or_else(String::new, |copy| {
        format!("the newest copy is of {} (run {})", copy.recovery_point, copy.run)
    });
    let suspended = if !schedules.is_empty() && schedules.iter().all(|schedule| schedule.spec.suspend) {
        "; all its schedules are suspended"
    } else {
        ""
    };
    match protection {
        Protection::Protected { until } => say(
            true,
            Reason::Protected,
            format!("{copy} and young enough until {} (objective {objective}){suspended}", shown(*until)),
        ),
        Protection::Awaited { until } => say(
            false,
            Reason::NeverCopied,
            format!(
                "there is no copy yet; the first is expected by {} (objective {objective}){suspended}",
                shown(*until)
            ),
        ),
        Protection::NeverCopied { since } => say(
            false,
            Reason::NeverCopied,
            format!(
                "there is no copy, and there should be one since {} (objective {objective}){suspended}; look at the runs of this source",
                shown(*since)
            ),
        ),
        Protection::TooOld { since } => say(
            false,
            Reason::CopyTooOld,
            format!(
                "{copy} and too old since {} (objective {objective}){suspended}; look at the runs of this source",
                shown(*since)
            ),
        ),
        Protection::Unscheduled => say(
            false,
            Reason::NotScheduled,
            if copy.is_empty() {
                "no BackupSchedule of this namespace selects this source; make one, or give the source the labels of one".to_owned()
            } else {
                format!("no BackupSchedule of this namespace selects this source; {copy}")
            },
        ),
        Protection::Implausible { recovery_point } => say(
            false,
            Reason::ClockWasWrong,
            format!(
                "the newest copy says that it is of {}, which is in the future: a clock was wrong when it was made",
                shown(*recovery_point)
            ),
        ),
    }
}

fn last_run_succeeded(last: Option<&RunReference>) -> Finding {
    let kind = ConditionType::LastRunSucceeded;
    let Some(run) = last else {
        return Finding::unknown(kind, Reason::Pending, "no run has ended yet");
    };
    let message = format!(
        "{} ended {} with {} ({})",
        run.name,
        run.completion_time,
        run.reason,
        run.reason.meaning()
    );
    match run.phase {
        RunPhase::Succeeded => Finding::new(kind, true, run.reason, message),
        _ => Finding::new(kind, false, run.reason, message),
    }
}

/// `25h`, `90m`: the largest unit that loses nothing.
fn person(span: SignedDuration) -> String {
    holdfast_crds::Span::from_seconds(span.as_secs().unsigned_abs()).to_string()
}
