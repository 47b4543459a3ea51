//! What is true of a Job, from the Job, its pods and, where they are silent, the events about them.

use holdfast_crds::{AgentResult, Class, Reason, shortened};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};

use super::refusal;

mod pod;

use pod::{PodState, pod_state};

/// Events are asked for once a pod is missing or pending for this long.
const SILENT_FOR: SignedDuration = SignedDuration::from_secs(10);
/// What of Kubernetes' or the agent's text goes into a message, in bytes.
const TEXT_LIMIT: usize = 800;

/// How far a Job is.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// There is neither the Job nor a pod of it.
    Absent,
    /// No pod's main container has started: `reason` is `Pending` on the usual way, else what is in the way.
    Waiting {
        reason: Reason,
        message: String,
    },
    Running,
    /// The Job or its pods are being deleted and have not all ended; by then they have, or are lost.
    Stopping {
        until: Timestamp,
    },
    Ended(End),
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub reason: Reason,
    pub message: String,
    /// The agent's own word. Without it the end is in doubt, unless no container ran.
    pub result: Option<AgentResult>,
    /// Whether a main container started, or may have.
    pub ran: bool,
}

impl End {
    /// Why it failed, where no result of its work is there. `otherwise` says so for one that ended well all the same.
    pub fn without(&self, otherwise: &str) -> (Reason, String) {
        if self.reason.class() == Class::Fine {
            (Reason::AgentCrashed, otherwise.to_owned())
        } else {
            (self.reason, self.message.clone())
        }
    }
}

/// A Job by name.
#[derive(Clone, Debug, PartialEq)]
pub struct JobState {
    /// UID of the Job, where it exists.
    pub uid: Option<String>,
    /// Whether the Job exists and is not being deleted.
    pub live: bool,
    /// Whether its container may have started before we hear of it: a pod is bound to a node, the Job has counted one that is gone, or
    /// there is no pod and nothing says why.
    pub bound: bool,
    pub observation: Observation,
}

impl JobState {
    /// No Job, no pod.
    pub const ABSENT: Self = Self {
        uid: None,
        live: false,
        bound: false,
        observation: Observation::Absent,
    };
}

/// What is true of the Job `job` with these `pods`, given the `events` that [`wants_events`] asked for. Pure.
pub fn observe(job: Option<&Job>, pods: &[&Pod], events: &[Event], now: Timestamp) -> JobState {
    let observation = if pods.is_empty() {
        without_pods(job, events)
    } else {
        let states = pods.iter().map(|pod| pod_state(pod, job, events, now)).collect();
        explained(combined(states), job)
    };
    let silent = matches!(
        observation,
        Observation::Waiting {
            reason: Reason::Pending,
            ..
        }
    );
    let bound = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    JobState {
        uid: job.and_then(|job| job.metadata.uid.clone()),
        live: job.is_some_and(|job| job.metadata.deletion_timestamp.is_none()),
        bound: pods.iter().any(bound) || job.and_then(finished).is_some() || (pods.is_empty() && silent),
        observation,
    }
}

/// The objects whose events would say why nothing starts: kind, name and UID.
pub fn wants_events(job: Option<&Job>, pods: &[&Pod], now: Timestamp) -> Vec<(&'static str, String, String)> {
    let silent = |created: Option<Timestamp>| created.is_some_and(|created| now.duration_since(created) >= SILENT_FOR);
    let about = |kind, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        (silent(meta.creation_timestamp.as_ref().map(|time| time.0)))
            .then(|| Some((kind, meta.name.clone()?, meta.uid.clone()?)))
            .flatten()
    };
    if pods.is_empty() {
        return job
            .filter(|job| finished(job).is_none() && job.metadata.deletion_timestamp.is_none())
            .and_then(|job| about("Job", &job.metadata))
            .into_iter()
            .collect();
    }
    pods.iter()
        .filter(|pod| {
            pod.metadata.deletion_timestamp.is_none()
                && matches!(
                    pod_state(pod, job, &[], now),
                    PodState::Waiting {
                        reason: Reason::Pending,
                        ..
                    }
                )
        })
        .filter_map(|pod| about("Pod", &pod.metadata))
        .collect()
}

/// Why the Job ended, by its own conditions; none while it is at work.
fn finished(job: &Job) -> Option<&str> {
    let status = job.status.as_ref()?;
    let condition = status.conditions.iter().flatten().find(|condition| {
        condition.status == "True"
            && matches!(
                condition.type_.as_str(),
                "Complete" | "Failed" | "FailureTarget" | "SuccessCriteriaMet"
            )
    });
    match condition {
        Some(condition) => Some(condition.reason.as_deref().unwrap_or(condition.type_.as_str())),
        None if status.failed.unwrap_or(0) > 0 || status.succeeded.unwrap_or(0) > 0 => Some("Counted"),
        None => None,
    }
}

/// Whether nothing of the Job runs or will, while the log of what it did is still there: it is counted, or about to be.
pub fn has_ended(job: &Job, pods: &[&Pod]) -> bool {
    let over = |pod: &&Pod| pod::is_over(pod) && pod.metadata.deletion_timestamp.is_none();
    finished(job).is_some() || (!pods.is_empty() && pods.iter().all(over))
}

fn without_pods(job: Option<&Job>, events: &[Event]) -> Observation {
    let Some(job) = job else { return Observation::Absent };
    let doubt = |reason, message: &str| {
        Observation::Ended(End {
            reason,
            message: message.to_owned(),
            result: None,
            ran: true,
        })
    };
    match finished(job) {
        Some("DeadlineExceeded") => doubt(Reason::DeadlineExceeded, "the Job's time was over and its pod is gone"),
        Some("CompletionsReached" | "Complete" | "SuccessCriteriaMet") => doubt(
            Reason::AgentCrashed,
            "the Job is complete, but its pod was removed before its result was read",
        ),
        Some(_) => doubt(Reason::PodDeleted, "the pod is gone and its result was never read"),
        None if job.metadata.deletion_timestamp.is_some() => doubt(Reason::JobDeleted, "somebody deleted the Job"),
        None if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) => Observation::Waiting {
            reason: Reason::Pending,
            message: "somebody suspended the Job; set its spec.suspend to false".to_owned(),
        },
        None => latest(events, job.metadata.uid.as_deref()).unwrap_or_else(|| Observation::Waiting {
            reason: Reason::Pending,
            message: "waiting for the Job's pod".to_owned(),
        }),
    }
}

/// What the newest telling event about the object says.
fn latest(events: &[Event], uid: Option<&str>) -> Option<Observation> {
    waiting_by_event(events, uid).map(|(reason, message)| Observation::Waiting { reason, message })
}

fn waiting_by_event(events: &[Event], uid: Option<&str>) -> Option<(Reason, String)> {
    let time = |event: &Event| {
        let series = event
            .series
            .as_ref()
            .and_then(|series| series.last_observed_time.as_ref())
            .map(|time| time.0);
        series
            .or(event.last_timestamp.as_ref().map(|time| time.0))
            .or(event.event_time.as_ref().map(|time| time.0))
    };
    events
        .iter()
        .filter(|event| event.involved_object.uid.as_deref() == uid)
        .filter_map(|event| Some((time(event), refusal::of_event(event)?, event)))
        .max_by_key(|(time, ..)| *time)
        .map(|(_, reason, event)| (reason, said(reason, event.message.as_deref().unwrap_or_default())))
}

/// What Kubernetes said, and what to do.
fn said(reason: Reason, text: &str) -> String {
    let text = text.trim();
    format!("{}; {}", shortened(text, TEXT_LIMIT), refusal::next_step(reason))
}

fn combined(states: Vec<PodState>) -> Observation {
    let mut ends = Vec::new();
    let mut waiting = None;
    let mut running = false;
    let mut stopping: Option<Timestamp> = None;
    for state in states {
        match state {
            PodState::Ended(end) => ends.push(end),
            PodState::Waiting { reason, message } => waiting = Some(Observation::Waiting { reason, message }),
            PodState::Running => running = true,
            PodState::Stopping { until } => stopping = Some(stopping.map_or(until, |other| other.max(until))),
        }
    }
    // Kubernetes may start two pods for one Job. Success of one decides; else the other may still succeed; else a doubt
    // about one is a doubt about all.
    let succeeded = |end: &End| end.result.as_ref().is_some_and(|result| result.reason.class() == Class::Fine);
    let rank = |end: &End| match (succeeded(end), &end.result, end.ran) {
        (true, ..) => 0,
        (_, None, true) => 1,
        (_, Some(result), _) if result.closed => 2,
        (_, Some(_), _) => 3,
        (_, None, false) => 4,
    };
    ends.sort_by_key(rank);
    let ran = ends.iter().any(|end| end.ran);
    let first = ends.into_iter().next().map(|end| End { ran, ..end });
    match first {
        Some(end) if succeeded(&end) => Observation::Ended(end),
        _ if running => Observation::Running,
        _ if stopping.is_some() => stopping.map_or(Observation::Absent, |until| Observation::Stopping { until }),
        Some(end) if waiting.is_none() => Observation::Ended(end),
        _ => waiting.unwrap_or(Observation::Absent),
    }
}

/// An end by a signal or without a word is explained by what happened to the Job.
fn explained(observation: Observation, job: Option<&Job>) -> Observation {
    let Observation::Ended(mut end) = observation else {
        return observation;
    };
    if matches!(end.reason, Reason::Interrupted | Reason::PodDeleted | Reason::AgentCrashed) {
        let cause = match job {
            None => Some((Reason::JobDeleted, "somebody deleted the Job")),
            Some(job) if job.metadata.deletion_timestamp.is_some() => Some((Reason::JobDeleted, "somebody deleted the Job")),
            Some(job) if finished(job) == Some("DeadlineExceeded") => Some((Reason::DeadlineExceeded, "the Job's time was over")),
            Some(_) => None,
        };
        if let Some((reason, message)) = cause {
            end.reason = reason;
            end.message = format!("{message}; {}", end.message);
        }
    }
    Observation::Ended(end)
}

#[cfg(test)]
mod tests;
