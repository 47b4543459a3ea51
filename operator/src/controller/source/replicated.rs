//! Whether each copy of a source is in as many stores as is required. Pure.

use std::sync::Arc;

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSourceStatus, ConditionType, Finding, Reason, ReplicaState, Replication, RunInStore, RunPhase,
    replicated,
};
use kube::ResourceExt;

/// How many runs a message names.
const NAMES: usize = 3;

/// `Replicated`, and how many copies stores lack that are to have them; none where no copy goes to several stores.
pub fn judge(status: &BackupSourceStatus, schedules: &[Arc<BackupSchedule>], runs: &[Arc<BackupRun>]) -> Option<(Finding, i64)> {
    let several = schedules.iter().any(|schedule| schedule.spec.stores.len() > 1);
    let mut missing = status.replication.iter().map(|entry| entry.missing).sum::<i64>();
    let mut short = Vec::new();
    let mut any = several || !status.replication.is_empty();
    for run in runs {
        let Some(status) = run.status.as_ref().filter(|status| status.phase == RunPhase::Succeeded) else {
            continue;
        };
        let Some(finding) = replicated(&status.stores, status.required_copies, status.phase) else {
            continue;
        };
        any = true;
        missing += i64::try_from(status.stores.iter().filter(|place| lacks(place)).count()).unwrap_or(i64::MAX);
        if finding.status == Some(false) {
            short.push((status.completion_time.clone(), run.name_any(), finding));
        }
    }
    if !any {
        return None;
    }
    // Times of one form sort as they follow one another: the newest tells why.
    short.sort_by(|a, b| (&b.0, &b.1).cmp(&(&a.0, &a.1)));
    let kind = ConditionType::Replicated;
    let elsewhere = status.replication.iter().find(|entry| entry.missing > 0);
    let finding = match (short.first(), elsewhere) {
        (Some((_, _, worst)), _) => {
            let named: Vec<_> = short
                .iter()
                .take(NAMES)
                .map(|(_, run, finding)| format!("run {run}: {}", finding.message))
                .collect();
            let more = match short.len().saturating_sub(NAMES) {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            Finding::new(kind, false, worst.reason, format!("{}{more}", named.join("; ")))
        }
        (None, Some(entry)) => Finding::new(kind, false, old_reason(entry), old_message(entry)),
        (None, None) => Finding::new(kind, true, Reason::Replicated, "each copy is in as many stores as is required"),
    };
    Some((finding, missing))
}

/// Whether a store is to have the copy, and has it not.
fn lacks(place: &RunInStore) -> bool {
    place.state == ReplicaState::Missing || place.state.is_problem()
}

fn old_reason(entry: &Replication) -> Reason {
    entry
        .reason
        .filter(|reason| reason.exit_code() != 0)
        .unwrap_or(Reason::CopiesMissing)
}

fn old_message(entry: &Replication) -> String {
    let message = entry.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!(
        "{} lacks {} older copies that it is to have{message}; look at status.replication, and at the log of the copy Job",
        entry.reference(),
        entry.missing
    )
}
