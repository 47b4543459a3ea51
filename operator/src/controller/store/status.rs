//! What a store's status says. Pure.

use holdfast_crds::{
    BackupStoreStatus, Class, ConditionType, Finding, ProbeCheck, ProbeReport, ProbeStatus, Reason, conditions, shortened, whole_seconds,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    decide::next_try,
    experience::{Experience, Met},
};
use crate::{
    controller::keep::status::OWN,
    job::{End, JobState, Observation},
    store::Store,
};

/// What of a run's message goes into the store's, in bytes.
const MET_LIMIT: usize = 1_024;
/// The check without which nothing is written to a store.
const CREATE_IF_ABSENT: &str = "CreateIfAbsent";

/// What there is to say.
#[derive(Clone, Debug)]
pub enum Phase<'a> {
    /// A probe of this number is counted, and its Job is made next; perhaps because of what runs met.
    Started {
        number: i64,
        met: Option<&'a Experience>,
    },
    /// Its pod does not start; `reason` is `Pending` on the usual way.
    Waiting {
        reason: Reason,
        message: &'a str,
    },
    Running,
    Finished(&'a End),
    /// The API server does not let the Job exist.
    Refused {
        reason: Reason,
        message: String,
    },
    /// Runs say something else than the last probe.
    Met(&'a Experience),
    /// Another store object has the place.
    Taken(&'a Store),
    /// Nothing new.
    Same,
}

impl<'a> Phase<'a> {
    /// What the state of a probe's Job is worth saying.
    pub fn of(job: &'a JobState) -> Self {
        match &job.observation {
            Observation::Waiting { reason, message } => Self::Waiting { reason: *reason, message },
            Observation::Running => Self::Running,
            Observation::Ended(end) => Self::Finished(end),
            Observation::Absent | Observation::Stopping { .. } => Self::Same,
        }
    }
}

/// Why nothing may be written to a store, if so: it was never tried as far as it matters, or was refused. Other failures may be over by
/// the time that a pod gets there.
pub fn refusal(store: &Store) -> Option<(Reason, String)> {
    let name = store.reference();
    let status = store.status();
    let ready = status.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == "Ready"));
    let refused = [Reason::StoreUnsafe, Reason::StoreForeign, Reason::LocationTaken]
        .into_iter()
        .find(|reason| ready.is_some_and(|ready| ready.reason == reason.as_str()));
    if let Some(reason) = refused {
        let message = ready.map(|ready| ready.message.as_str()).unwrap_or_default();
        return Some((reason, format!("the {name} is not used: {message}")));
    }
    let report = status.and_then(|status| status.probe.as_ref()?.report.as_ref());
    if report.is_some_and(proven) {
        return None;
    }
    let why = ready.map_or_else(String::new, |ready| format!(" ({}: {})", ready.reason, ready.message));
    Some((
        Reason::StoreNotProbed,
        format!("the {name} was not tried successfully yet{why}; ticks of the meantime are caught up by their latest"),
    ))
}

/// Why a store is known to be out of reach, or not to work, now.
pub fn down(store: &Store) -> Option<(Reason, String)> {
    let ready = store.conditions().iter().find(|condition| condition.type_ == "Ready")?;
    let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == ready.reason);
    let reason = reason.unwrap_or(Reason::StoreFailed);
    (ready.status == "False").then(|| (reason, format!("the {} is not ready: {}", store.reference(), ready.message)))
}

/// Why no copy goes to a store now, as the reason of its condition says it. One that was not tried yet is not said to be so.
pub fn unusable(store: &Store) -> Option<Reason> {
    let known = refusal(store).filter(|(reason, _)| *reason != Reason::StoreNotProbed);
    known.or_else(|| down(store)).map(|(reason, _)| reason)
}

/// Whether the conditions say that another store object has the place.
pub fn taken(store: &Store) -> bool {
    let ready = store.conditions().iter().find(|condition| condition.type_ == "Ready");
    ready.is_some_and(|ready| ready.reason == Reason::LocationTaken.as_str())
}

/// Whether the probe came as far as to show that the store creates only what is absent.
fn proven(report: &ProbeReport) -> bool {
    report.checks.iter().any(|check| check.name == CREATE_IF_ABSENT && check.passed)
}

/// The status to be written.
pub fn status(store: &Store, phase: &Phase<'_>, now: Timestamp) -> BackupStoreStatus {
    let before = store.status().cloned().unwrap_or_default();
    let generation = store.generation();
    let probe = probe(before.probe.as_ref(), phase, generation, blocked(&before.conditions).is_some(), now);
    let mut after = BackupStoreStatus {
        observed_generation: generation,
        location: Some(store.location()),
        conditions: before.conditions.clone(),
        probe,
        keeper: before.keeper,
        holds: before.holds,
    };
    if let Some(findings) = findings(store, &after, phase) {
        after.conditions = conditions(&before.conditions, &findings, generation, now);
        // What its keeper says stays.
        let own = |condition: &&Condition| OWN.iter().any(|own| own.as_str() == condition.type_);
        after.conditions.extend(before.conditions.iter().filter(own).cloned());
    }
    after
}

fn probe(before: Option<&ProbeStatus>, phase: &Phase<'_>, generation: Option<i64>, blocked: bool, now: Timestamp) -> Option<ProbeStatus> {
    let known = before.cloned().unwrap_or_default();
    let now = whole_seconds(now).to_string();
    match phase {
        Phase::Started { number, .. } => Some(ProbeStatus {
            number: *number,
            generation: generation.unwrap_or_default(),
            started_at: Some(now),
            finished_at: None,
            ..known
        }),
        Phase::Finished(end) => {
            let found = end.result.as_ref().and_then(|result| result.probe.clone());
            let passed = succeeded(end);
            // A pod that waited for its Secret until its Job's time was over says nothing about the store.
            let waited_in_vain = blocked && end.reason == Reason::DeadlineExceeded;
            let failures = if passed {
                0
            } else if waited_in_vain {
                known.failures.max(1)
            } else {
                known.failures.saturating_add(1)
            };
            Some(ProbeStatus {
                finished_at: Some(now),
                failures,
                report: newer(known.report, found),
                ..known
            })
        }
        Phase::Refused { .. } => Some(ProbeStatus {
            finished_at: Some(now),
            failures: known.failures.saturating_add(1),
            ..known
        }),
        Phase::Met(Experience { met: Met::Success, .. }) => before.map(|_| ProbeStatus { failures: 0, ..known }),
        Phase::Waiting { .. } | Phase::Running | Phase::Met(_) | Phase::Taken(_) | Phase::Same => before.cloned(),
    }
}

/// A probe that did not come as far as an earlier one takes nothing back: a place cannot change, and neither can what it does.
fn newer(known: Option<ProbeReport>, found: Option<ProbeReport>) -> Option<ProbeReport> {
    match (known, found) {
        (Some(known), Some(found)) if proven(&known) && !found.checks.iter().any(|check| check.name == CREATE_IF_ABSENT) => Some(known),
        (Some(known), Some(mut found)) => {
            let of_owner = |check: &ProbeCheck| check.name == "Owner";
            if !found.checks.iter().any(of_owner) {
                found
                    .checks
                    .extend(known.checks.into_iter().find(|check| of_owner(check) && check.passed));
                (found.owner, found.epoch) = (found.owner.or(known.owner), found.epoch.or(known.epoch));
            }
            Some(found)
        }
        (known, found) => found.or(known),
    }
}

/// The conditions; none where they stay as they are.
fn findings(store: &Store, after: &BackupStoreStatus, phase: &Phase<'_>) -> Option<[Finding; 2]> {
    let before = store.status().cloned().unwrap_or_default();
    let tried_before = before
        .probe
        .as_ref()
        .is_some_and(|probe| probe.finished_at.is_some() && store.generation() == Some(probe.generation) || probe.failures > 0);
    let unknown = |reason, message: &str| {
        Some([
            Finding::unknown(ConditionType::Ready, reason, message),
            Finding::new(ConditionType::Stalled, false, reason, ""),
        ])
    };
    match phase {
        // Its runs and its keeper still wait.
        Phase::Started { .. } if taken(store) => unknown(
            Reason::LocationTaken,
            "no other store has the place any more; the store is being tried",
        ),
        Phase::Started { met: Some(experience), .. } | Phase::Met(experience) => met(store, after, experience),
        Phase::Taken(holder) => {
            let message = format!(
                "found {}, the place of the {} {} already, and one place has one store: use that one; or make a new store with a prefix or path of its \
                 own; or delete that one, and this is tried by itself",
                store.location(),
                holder.kind().as_str(),
                holder.key().to_string().trim_start_matches('/'),
            );
            Some(failed(Reason::LocationTaken, message))
        }
        // While it is tried again, what the last probe said stays.
        Phase::Started { .. } if tried_before => None,
        Phase::Started { .. } => unknown(Reason::Pending, "the store is being tried"),
        Phase::Waiting {
            reason: Reason::Pending, ..
        }
        | Phase::Same => None,
        Phase::Running => match blocked(&before.conditions) {
            Some(_) => unknown(Reason::Running, "the store is being tried"),
            None => None,
        },
        Phase::Waiting { reason, message } => Some(failed(*reason, format!("the store cannot be tried: {message}"))),
        Phase::Refused { reason, message } => Some(failed(*reason, format!("{message}{}", again(store, after, None)))),
        Phase::Finished(end) if succeeded(end) => {
            let message = after
                .probe
                .as_ref()
                .and_then(|probe| probe.report.as_ref())
                .map_or_else(String::new, passed);
            Some([
                Finding::new(ConditionType::Ready, true, Reason::StoreReady, message),
                Finding::new(ConditionType::Stalled, false, Reason::StoreReady, ""),
            ])
        }
        Phase::Finished(end) => {
            // The reason for which the pod never started says more than that its time was over.
            let (reason, message) = blocked(&before.conditions)
                .filter(|_| end.reason == Reason::DeadlineExceeded)
                .unwrap_or_else(|| (end.reason, end.message.clone()));
            let message = message.split("; tried again after").next().unwrap_or_default();
            Some(failed(reason, format!("{message}{}", again(store, after, None))))
        }
    }
}

/// What runs say against the last probe. While probes fail, they know better than runs how to go on.
fn met(store: &Store, after: &BackupStoreStatus, experience: &Experience) -> Option<[Finding; 2]> {
    let probe = store.status().and_then(|status| status.probe.as_ref())?;
    if experience.clears(store) {
        let message = format!("the run {} committed a copy at {}", experience.run, experience.at);
        return Some([
            Finding::new(ConditionType::Ready, true, Reason::StoreReady, message),
            Finding::new(ConditionType::Stalled, false, Reason::StoreReady, ""),
        ]);
    }
    let contradiction = experience.contradicts(probe).filter(|_| probe.failures == 0)?;
    let message = shortened(contradiction.message, MET_LIMIT);
    let again = if after.probe.as_ref().is_some_and(|probe| probe.finished_at.is_none()) {
        "; it is tried again now".to_owned()
    } else {
        again(store, after, Some(experience))
    };
    Some(failed(
        contradiction.reason,
        format!("the run {} met: {message}{again}", experience.run),
    ))
}

/// Whether the agent itself says that all is well, in whatever words.
fn succeeded(end: &End) -> bool {
    end.result.is_some() && end.reason.class() == Class::Fine
}

fn failed(reason: Reason, message: String) -> [Finding; 2] {
    let stalled = !matches!(reason.class(), Class::Transient);
    [
        Finding::new(ConditionType::Ready, false, reason, message.clone()),
        Finding::new(
            ConditionType::Stalled,
            stalled,
            reason,
            if stalled { message } else { String::new() },
        ),
    ]
}

fn passed(report: &ProbeReport) -> String {
    let checks: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.passed)
        .map(|check| check.name.as_str())
        .collect();
    format!("the store passed: {}", checks.join(", "))
}

fn again(store: &Store, after: &BackupStoreStatus, met: Option<&Experience>) -> String {
    let then = store.with_status(after.clone());
    next_try(&then, met).map_or_else(String::new, |at| format!("; tried again after {}", whole_seconds(at)))
}

/// Why the pod of the probe could not start, if the conditions say so: reasons 10 to 20 are those of pods that do not start.
fn blocked(conditions: &[Condition]) -> Option<(Reason, String)> {
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "False")?;
    let reason = (10..=20)
        .filter_map(Reason::from_exit_code)
        .find(|reason| reason.as_str() == ready.reason)?;
    Some((reason, ready.message.clone()))
}
