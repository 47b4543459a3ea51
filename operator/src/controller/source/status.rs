//! What a source's status says, from its schedules and runs. Pure.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupSourceStatus, CompliancePolicy, ConditionType, CopyReference, Finding, Reason, RunPhase,
    RunReference, conditions,
};
use holdfast_policy::protection::{Evidence, Protection, plausible};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{catalogue, objective, replicated};
use crate::controller::{
    compliance::judge as compliance,
    schedule::{created, shown},
};
use crate::store::Store;

/// A status, and after how much time it would say something else although nothing happened.
pub struct Judged {
    pub status: BackupSourceStatus,
    pub changes_after: Option<SignedDuration>,
}

/// What a source is measured by.
pub struct Known {
    /// The schedules that select it.
    pub schedules: Vec<Arc<BackupSchedule>>,
    /// The stores that those name, where they exist.
    pub stores: Vec<Store>,
    /// Those of its runs that exist as objects.
    pub runs: Vec<Arc<BackupRun>>,
    /// The compliance policies that select its namespace.
    pub policies: Vec<Arc<CompliancePolicy>>,
}

/// Judges a source.
pub fn judge(source: &BackupSource, known: &Known, now: Timestamp) -> Judged {
    let Known { schedules, runs, .. } = known;
    let before = source.status.clone().unwrap_or_default();
    let Copies {
        newest,
        implausible,
        unproven,
    } = copies(source, &before, runs, now);
    let last_run = last_run(before.last_run.clone(), runs);
    let rpo = objective::rpo(source, schedules, now);
    let next_ticks = objective::next_ticks(source, schedules, now);
    let protection = Protection::of(
        &Evidence {
            created: created(source),
            newest: newest.as_ref().and_then(recovery_point),
            implausible: implausible.as_ref().and_then(recovery_point),
            rpo,
        },
        now,
    );
    let replicated = replicated::judge(&before, schedules, runs);
    let asks = known.policies.iter().any(|policy| policy.spec.ceiling.retention.is_some());
    let compliant = compliance::judge(
        &known.policies,
        &compliance::Known {
            schedules,
            stores: &known.stores,
            firing: next_ticks
                .iter()
                .filter(|ticks| !ticks.at.is_empty())
                .map(|ticks| ticks.schedule.clone())
                .collect(),
            intervals: if asks {
                objective::intervals(source, schedules, now)
            } else {
                BTreeMap::new()
            },
            catalogue: &before.stores,
            unreplicated: replicated.as_ref().and_then(|(finding, _)| since(finding, &before.conditions, now)),
            created: created(source),
            rpo,
            newest: newest.as_ref().and_then(recovery_point),
            now,
        },
    );
    let mut findings = vec![
        ready(implausible.as_ref()),
        match &source.spec.retire {
            Some(retire) => Finding::unknown(
                ConditionType::Protected,
                Reason::Retired,
                format!("retired by {}: {}", retire.by, retire.reason),
            ),
            None => protected(&protection, newest.as_ref(), unproven.as_ref(), rpo, schedules),
        },
        last_run_succeeded(last_run.as_ref()),
    ];
    findings.extend(catalogue::intact(&before));
    let missing_copies = replicated.as_ref().map(|(_, missing)| *missing);
    findings.extend(replicated.map(|(finding, _)| finding));
    findings.extend(compliance::finding(&known.policies, &compliant));
    let status = BackupSourceStatus {
        observed_generation: source.metadata.generation,
        conditions: conditions(&before.conditions, &findings, source.metadata.generation, now),
        newest_copy: newest,
        implausible_copy: implausible,
        unproven_copy: unproven,
        copies: (!before.stores.is_empty()).then(|| before.stores.iter().map(|entry| entry.copies).sum()),
        stores: before.stores,
        replication: before.replication,
        missing_copies,
        last_run,
        next_tick: next_ticks.iter().filter_map(|ticks| ticks.at.first()).min().cloned(),
        next_ticks,
        rpo_seconds: rpo.map(|rpo| rpo.as_secs()),
        floors_missed: compliant.missed,
    };
    Judged {
        status,
        changes_after: [protection.changes_after(now), compliant.changes].into_iter().flatten().min(),
    }
}

/// Since when a condition is false that is found to be.
fn since(finding: &Finding, before: &[Condition], now: Timestamp) -> Option<Timestamp> {
    let before = before.iter().find(|condition| condition.type_ == finding.kind.as_str());
    let since = before
        .filter(|condition| condition.status == "False")
        .map(|condition| condition.last_transition_time.0);
    (finding.status == Some(false)).then(|| since.unwrap_or(now))
}

/// What is known of the copies of a source.
struct Copies {
    newest: Option<CopyReference>,
    implausible: Option<CopyReference>,
    unproven: Option<CopyReference>,
}

/// The good copy with the newest recovery point that was ever seen (objects of runs go, copies stay); the one that cannot be believed, as
/// long as its run is there or there is no other; and a newer one that is not proven.
fn copies(source: &BackupSource, before: &BackupSourceStatus, runs: &[Arc<BackupRun>], now: Timestamp) -> Copies {
    let (good, unproven): (Vec<_>, Vec<_>) = made(runs, now).partition(|(_, _, checked)| *checked);
    let good = good.into_iter().map(|(copy, then, _)| (copy, then));
    let known = before.newest_copy.iter().map(|copy| (copy.clone(), now));
    let read = catalogue::newest(source, before).into_iter().map(|copy| (copy, now));
    let (believed, doubted): (Vec<_>, Vec<_>) = known
        .chain(good)
        .filter(|(copy, _)| !catalogue::is_gone(copy, before))
        .chain(read)
        .filter_map(|(copy, then)| Some((recovery_point(&copy)?, copy, then)))
        .partition(|(point, _, then)| plausible(*point, *then));
    let (believed, doubted) = (newest(believed), newest(doubted));
    let known = before.unproven_copy.iter().map(|copy| (copy.clone(), now));
    let unproven = unproven.into_iter().map(|(copy, then, _)| (copy, then));
    let unproven = known
        .chain(unproven)
        .filter_map(|(copy, then)| Some((recovery_point(&copy)?, copy, then)))
        .filter(|(point, _, then)| plausible(*point, *then) && believed.as_ref().is_none_or(|(newest, ..)| point > newest));
    let unproven = newest(unproven.collect()).map(|(_, copy, _)| copy);
    let believed = believed.map(|(_, copy, _)| copy);
    let doubted = doubted.map(|(_, copy, _)| copy);
    let remembered = before.implausible_copy.clone().filter(|_| believed.is_none());
    Copies {
        newest: believed,
        implausible: doubted.or(remembered),
        unproven,
    }
}

/// A copy with its recovery point and the time at which that is to be believed.
type Dated = (Timestamp, CopyReference, Timestamp);

/// That with the newest recovery point.
fn newest(copies: Vec<Dated>) -> Option<Dated> {
    copies.into_iter().reduce(|held, next| if next.0 > held.0 { next } else { held })
}

/// The copies that these runs made, each with the time by which its run had ended, and whether its structure was checked.
fn made(runs: &[Arc<BackupRun>], now: Timestamp) -> impl Iterator<Item = (CopyReference, Timestamp, bool)> {
    runs.iter().filter_map(move |run| {
        let status = run.status.as_ref().filter(|status| status.phase == RunPhase::Succeeded)?;
        let copy = status.copy.as_ref()?;
        let ended = status.completion_time.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
        let checked = copy.structure_checked;
        let copy = CopyReference {
            run: run.name_any(),
            store_kind: run.store().map(|store| store.kind).unwrap_or_default(),
            store: run.store().map(|store| store.name).unwrap_or_default(),
            path: copy.path.clone(),
            recovery_point: copy.recovery_point.clone(),
            stored_bytes: copy.stored_bytes,
            committed_at: status.completion_time.clone(),
        };
        Some((copy, ended.map_or(now, |ended| ended.min(now)), checked))
    })
}

fn recovery_point(copy: &CopyReference) -> Option<Timestamp> {
    copy.recovery_point.parse().ok()
}

/// The run that succeeded or failed last, of those that were ever seen. Who cancels a run says nothing about copies.
fn last_run(known: Option<RunReference>, runs: &[Arc<BackupRun>]) -> Option<RunReference> {
    let ended = runs.iter().filter_map(|run| {
        let status = run.status.as_ref()?;
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
        .filter(|run| matches!(run.phase, RunPhase::Succeeded | RunPhase::Failed))
        .filter_map(|run| Some((run.completion_time.parse::<Timestamp>().ok()?, run)))
        // Of the same time the later in the list counts: the same run may say more than it did.
        .reduce(|held, next| if next.0 >= held.0 { next } else { held })
        .map(|(_, run)| run)
}

fn ready(implausible: Option<&CopyReference>) -> Finding {
    let (reason, message) = match implausible {
        Some(copy) => (
            Reason::ClockWasWrong,
            format!(
                "the copy of run {} says that it is of {}, which was in the future when it was made: a clock was wrong, and it does not count",
                copy.run, copy.recovery_point
            ),
        ),
        None => (Reason::Accepted, "the source is accepted".to_owned()),
    };
    Finding::new(ConditionType::Ready, true, reason, message)
}

fn protected(
    protection: &Protection,
    newest: Option<&CopyReference>,
    unproven: Option<&CopyReference>,
    rpo: Option<SignedDuration>,
    schedules: &[Arc<BackupSchedule>],
) -> Finding {
    let say = |status, reason, message: String| {
        let Some(copy) = unproven else {
            return Finding::new(ConditionType::Protected, status, reason, message);
        };
        let message = format!(
            "{message}; the copy of {} (run {}) does not count: its structure could not be checked",
            copy.recovery_point, copy.run
        );
        // It would have made the difference, were it good.
        let reason = if matches!(reason, Reason::NeverCopied | Reason::CopyTooOld) {
            Reason::CopyUnproven
        } else {
            reason
        };
        Finding::new(ConditionType::Protected, status, reason, message)
    };
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
                "the only copy says that it is of {}, which was in the future when it was made: a clock was wrong",
                shown(*recovery_point)
            ),
        ),
    }
}

fn last_run_succeeded(last: Option<&RunReference>) -> Finding {
    let kind = ConditionType::LastRunSucceeded;
    let Some(run) = last else {
        return Finding::unknown(kind, Reason::Pending, "no run has succeeded or failed yet");
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
