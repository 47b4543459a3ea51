//! Which run objects are more history than is asked for. Copies are not touched by their going.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use holdfast_crds::{BackupRun, Reason, RunHistory, RunPhase};
use jiff::{SignedDuration, Timestamp};

use super::validate::created;

/// A run whose end is unknown is asked about for so long, and its object stays as long.
const SETTLED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What may go now, and when to look again.
pub struct History {
    pub surplus: Vec<Arc<BackupRun>>,
    pub next: Option<Timestamp>,
}

/// Of each source the newest ended runs stay, the newest success among them or not, and failed ones for their time. A run in flight
/// always stays.
pub fn surplus(runs: &[Arc<BackupRun>], limits: &RunHistory, now: Timestamp) -> History {
    let mut by_source: BTreeMap<&str, Vec<&Arc<BackupRun>>> = BTreeMap::new();
    for run in runs {
        if phase(run).ended() {
            by_source.entry(run.spec.source.as_str()).or_default().push(run);
        }
    }
    let mut history = History {
        surplus: Vec::new(),
        next: None,
    };
    let kept = usize::try_from(limits.per_source).unwrap_or(usize::MAX);
    for ended in by_source.values_mut() {
        ended.sort_by_key(|run| Reverse(time(run)));
        let newest_success = ended.iter().position(|run| phase(run) == RunPhase::Succeeded);
        for (index, run) in ended.iter().enumerate().skip(kept) {
            if Some(index) == newest_success {
                continue;
            }
            match stays_until(run, limits) {
                Some(until) if until > now => history.next = Some(history.next.map_or(until, |next| next.min(until))),
                _ => history.surplus.push((*run).clone()),
            }
        }
    }
    history
}

fn stays_until(run: &BackupRun, limits: &RunHistory) -> Option<Timestamp> {
    let status = run.status.as_ref()?;
    let ended = status
        .completion_time
        .as_ref()
        .and_then(|time| time.parse::<Timestamp>().ok())
        .unwrap_or_else(|| created(run));
    let stay = match (status.phase, status.reason) {
        (RunPhase::Failed, Some(Reason::OutcomeUnknown)) => limits.failed_for.signed().max(SETTLED_FOR),
        (RunPhase::Failed, _) => limits.failed_for.signed(),
        _ => return None,
    };
    ended.checked_add(stay).ok()
}

fn phase(run: &BackupRun) -> RunPhase {
    run.status.as_ref().map_or(RunPhase::Pending, |status| status.phase)
}

/// By tick; runs without one by their creation.
pub fn time(run: &BackupRun) -> Timestamp {
    let tick = run.spec.tick.as_ref().and_then(|tick| tick.time.parse().ok());
    tick.unwrap_or_else(|| created(run))
}
