//! What runs met in a store. Pure.

use std::sync::Arc;

use holdfast_crds::{BackupRun, ProbeStatus, Reason, RunPhase, StoreKind};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{attempt::read, store::Store};

/// The newest word of runs about a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Experience {
    pub run: String,
    /// When the run began, and when it met this.
    pub began: Timestamp,
    pub at: Timestamp,
    pub met: Met,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Met {
    /// A copy was committed.
    Success,
    /// An attempt failed because of the store, the last of so many since a run succeeded.
    Failure { reason: Reason, message: String, times: u32 },
}

/// A failure that no probe has looked into yet.
pub struct Contradiction<'a> {
    pub reason: Reason,
    pub message: &'a str,
    pub times: u32,
}

/// What all runs that use a store of this kind say of it last.
pub fn newest(kind: StoreKind, runs: impl Iterator<Item = Arc<BackupRun>>) -> Option<Experience> {
    let mut success: Option<Experience> = None;
    let mut failures = Vec::new();
    for met in runs.flat_map(|run| of(&run)) {
        match met.met {
            Met::Failure { reason, .. } if kind == StoreKind::ClusterBackupStore && of_a_tenant(reason) => {}
            Met::Failure { .. } => failures.push(met),
            Met::Success if success.as_ref().is_none_or(|held| held.at < met.at) => success = Some(met),
            Met::Success => {}
        }
    }
    failures.retain(|failure| success.as_ref().is_none_or(|success| failure.at > success.at));
    let count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
    let mut newest = failures.into_iter().max_by_key(|failure| failure.at);
    if let Some(Experience {
        met: Met::Failure { times, .. },
        ..
    }) = &mut newest
    {
        *times = count;
    }
    newest.or(success)
}

/// Whether one namespace may meet this in a store of the cluster while others do not: its credentials, its CA, its way to the endpoint.
const fn of_a_tenant(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::StoreAccessDenied | Reason::StoreTlsFailed | Reason::StoreUnreachable | Reason::BucketNotFound
    )
}

/// What one run says: each attempt that failed because of the store, and its success.
pub fn of(run: &BackupRun) -> Vec<Experience> {
    let Some(status) = &run.status else { return Vec::new() };
    let began = read(status.start_time.as_deref());
    let say = |at: &str, met| Experience {
        run: run.name_any(),
        began,
        at: read(Some(at)),
        met,
    };
    let failed = status.attempts.iter().filter_map(|attempt| {
        let reason = attempt.reason.filter(|reason| reason.is_about_the_store())?;
        let message = attempt.message.clone().unwrap_or_default();
        let failure = Met::Failure { reason, message, times: 1 };
        Some(say(attempt.finished_at.as_deref()?, failure))
    });
    let succeeded = status.completion_time.as_deref().filter(|_| status.phase == RunPhase::Succeeded);
    failed.chain(succeeded.map(|at| say(at, Met::Success))).collect()
}

impl Experience {
    /// The failure that asks for a new probe: one that was met after the last probe began.
    pub fn contradicts(&self, probe: &ProbeStatus) -> Option<Contradiction<'_>> {
        match &self.met {
            Met::Failure { reason, message, times } if self.at > read(probe.started_at.as_deref()) => Some(Contradiction {
                reason: *reason,
                message,
                times: *times,
            }),
            _ => None,
        }
    }

    /// Whether it shows that the store works although the conditions say otherwise: a run that began after the last probe did, so that
    /// both are about the same specification.
    pub fn clears(&self, store: &Store) -> bool {
        let Some(status) = store.status() else { return false };
        let Some(probe) = status.probe.as_ref().filter(|probe| probe.finished_at.is_some()) else {
            return false;
        };
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        !ready
            && self.met == Met::Success
            && store.generation() == Some(probe.generation)
            && self.began >= read(probe.started_at.as_deref())
            && self.at > read(probe.finished_at.as_deref())
    }
}
