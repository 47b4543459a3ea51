//! What is done next about a store. Pure.

use holdfast_crds::ProbeStatus;
use holdfast_policy::backoff::Backoff;
use jiff::Timestamp;

use super::{experience::Experience, status::taken};
use crate::{
    job::{End, JobState, Observation},
    store::Store,
};

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Count a new probe, then make its Job.
    Start,
    /// Make the Job of the probe that is counted.
    Make,
    /// A probe is on its way.
    Watch,
    /// A probe has ended.
    Finish(End),
    /// Nothing now.
    Rest,
}

/// Decides. `job` is the state of the Job of the probe that is counted and not finished; `met` is what runs say last.
pub fn decide(store: &Store, job: Option<&JobState>, met: Option<&Experience>, now: Timestamp) -> Step {
    let probe = store.status().and_then(|status| status.probe.as_ref());
    let Some(probe) = probe.filter(|probe| probe.number > 0) else {
        return Step::Start;
    };
    if let Some(job) = job {
        return match &job.observation {
            // Counted and never made, or deleted since: it does no harm to try (again).
            Observation::Absent => Step::Make,
            Observation::Ended(end) if !job.live && end.result.is_none() => Step::Make,
            Observation::Ended(end) => Step::Finish(end.clone()),
            Observation::Waiting { .. } | Observation::Running | Observation::Stopping { .. } => Step::Watch,
        };
    }
    // Where another store had the place until now, it is not known what lies there.
    if changed(store, probe) || taken(store) {
        return Step::Start;
    }
    match next_try(store, met) {
        Some(at) if at <= now => Step::Start,
        _ => Step::Rest,
    }
}

/// Whether the specification is another than the probe was made for.
fn changed(store: &Store, probe: &ProbeStatus) -> bool {
    store.generation().is_some_and(|generation| generation != probe.generation)
}

/// When a finished probe is to be repeated: at once for another specification, with back-off after a failure or where runs met one since,
/// else never.
pub fn next_try(store: &Store, met: Option<&Experience>) -> Option<Timestamp> {
    let probe = store.status()?.probe.as_ref()?;
    let finished: Timestamp = probe.finished_at.as_ref()?.parse().ok()?;
    if changed(store, probe) {
        return Some(finished);
    }
    let name = store.key().to_string();
    let failures = u32::try_from(probe.failures).unwrap_or(u32::MAX);
    // A probe that passes is no answer to runs that go on failing: their number sets the pace.
    let failures = match (failures, met.and_then(|met| met.contradicts(probe))) {
        (0, None) => return None,
        (0, Some(contradiction)) => contradiction.times,
        (failures, _) => failures,
    };
    finished.checked_add(Backoff::PROBE.delay(failures, &name)).ok()
}
