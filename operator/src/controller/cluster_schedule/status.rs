//! What the status of a cluster-wide schedule says. Pure.

use holdfast_crds::{
    BackupSchedule, ClusterBackupSchedule, ClusterBackupScheduleStatus, ConditionType, Finding, NamespaceProblem, Reason, conditions,
    shortened,
};
use jiff::Timestamp;
use kube::ResourceExt;

use super::apply::Made;

/// How many namespaces are listed.
const LIMIT: usize = 10;
/// How long a problem's message may be.
const MESSAGE_LIMIT: usize = 512;

pub fn status(schedule: &ClusterBackupSchedule, wanted: &[BackupSchedule], made: &Made, now: Timestamp) -> ClusterBackupScheduleStatus {
    let before = schedule.status.clone().unwrap_or_default();
    let mut problems = made.problems.clone();
    problems.extend(made.schedules.iter().filter_map(|child| problem(child)));
    problems.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    let ready = ready(schedule, wanted, made, &problems);
    let generation = schedule.metadata.generation;
    let sources = made.schedules.iter().filter_map(|child| child.status.as_ref());
    ClusterBackupScheduleStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, &[ready], generation, now),
        namespaces: i64::try_from(made.schedules.len()).unwrap_or(i64::MAX),
        sources: sources.map(|status| status.sources).sum(),
        problems: problems.into_iter().take(LIMIT).collect(),
    }
}

/// What keeps a namespace's schedule from working. One that was just made has not been looked at yet.
fn problem(child: &BackupSchedule) -> Option<NamespaceProblem> {
    let conditions = &child.status.as_ref()?.conditions;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "False")?;
    let reason = Reason::ALL.iter().find(|reason| reason.as_str() == ready.reason)?;
    Some(NamespaceProblem {
        namespace: child.namespace().unwrap_or_default(),
        reason: *reason,
        message: shortened(&ready.message, MESSAGE_LIMIT),
    })
}

fn ready(schedule: &ClusterBackupSchedule, wanted: &[BackupSchedule], made: &Made, problems: &[NamespaceProblem]) -> Finding {
    let say = |status, reason, message: String| Finding::new(ConditionType::Ready, status, reason, message);
    if let Some(first) = problems.first() {
        let more = match problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} namespaces more)"),
        };
        return say(
            false,
            first.reason,
            format!("namespace {}: {}{more}", first.namespace, first.message),
        );
    }
    if wanted.is_empty() {
        let message = "spec.namespaceSelector: no namespace with these labels has a source that spec.schedule.sources selects; label namespaces and sources, or correct the labels";
        return say(false, Reason::NoSources, message.to_owned());
    }
    if let Some(error) = &made.failed {
        let message = format!(
            "schedules could not be written and are tried again: {}",
            crate::context::chain(error)
        );
        return say(true, Reason::BackingOff, message);
    }
    if schedule.spec.schedule.suspend {
        return say(
            true,
            Reason::Suspended,
            "no runs are made until spec.schedule.suspend is false".to_owned(),
        );
    }
    let count = wanted.len();
    let noun = if count == 1 { "namespace" } else { "namespaces" };
    say(true, Reason::Accepted, format!("has its schedule in {count} {noun}"))
}
