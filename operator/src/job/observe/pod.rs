//! How far one pod is, by its own status and, where that is silent, the events about it.

use holdfast_crds::{AgentResult, Class, Reason, TASK_VERSION, shortened};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod},
};

use super::{End, TEXT_LIMIT, said, waiting_by_event};
use crate::job::{MAIN_CONTAINER, refusal};

/// A pod that is deleted and does not end this long after its grace is not going to be heard of: its node is gone.
const LOST_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// How far one pod is.
pub enum PodState {
    Waiting { reason: Reason, message: String },
    Running,
    Stopping { until: Timestamp },
    Ended(End),
}

/// How far `pod` of `job` is, given the `events` about it.
pub fn pod_state(pod: &Pod, job: Option<&Job>, events: &[Event], now: Timestamp) -> PodState {
    let status = pod.status.as_ref();
    let main = container(status.and_then(|status| status.container_statuses.as_deref()), MAIN_CONTAINER);
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let over = matches!(phase, "Succeeded" | "Failed");
    if let Some(terminated) = main.and_then(terminated) {
        return PodState::Ended(main_ended(pod, terminated));
    }
    let started = main
        .and_then(|main| main.state.as_ref())
        .is_some_and(|state| state.running.is_some())
        || phase == "Unknown";
    if over {
        return PodState::Ended(over_without_word(pod, started));
    }
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        let until = deletion.0.saturating_add(LOST_AFTER).unwrap_or(Timestamp::MAX);
        return if now < until {
            PodState::Stopping { until }
        } else {
            let (reason, message) = disruption(pod).unwrap_or((
                Reason::NodeLost,
                "the pod was deleted and its node does not say that it ended".to_owned(),
            ));
            // Nobody can say whether it started since its node was last heard of.
            let ran = started || pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            PodState::Ended(End {
                reason,
                message,
                result: None,
                ran,
            })
        };
    }
    if started {
        return PodState::Running;
    }
    let (reason, message) = waiting(pod, events).unwrap_or_else(|| {
        let text = match job {
            Some(_) if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) => "the pod starts",
            _ => "waiting for a node for the pod",
        };
        (Reason::Pending, text.to_owned())
    });
    PodState::Waiting { reason, message }
}

/// Whether nothing of the pod runs or will. The kubelet tells of a container's end a moment before it tells of the pod's, and no container
/// of ours is started again.
pub fn is_over(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let main = container(status.and_then(|status| status.container_statuses.as_deref()), MAIN_CONTAINER);
    matches!(phase, Some("Succeeded" | "Failed")) || main.and_then(terminated).is_some()
}

fn container<'a>(statuses: Option<&'a [ContainerStatus]>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.unwrap_or_default().iter().find(|status| status.name == name)
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref().and_then(|state| state.terminated.as_ref())
}

/// Why a pod that has no node, or has one but starts no container, does not go on.
fn waiting(pod: &Pod, events: &[Event]) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let held_up = statuses
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|container| container.state.as_ref().and_then(|state: &ContainerState| state.waiting.as_ref()))
        .find_map(|waiting| {
            let message = waiting.message.as_deref().unwrap_or_default();
            let reason = refusal::of_waiting(waiting.reason.as_deref().unwrap_or_default(), message)?;
            Some((reason, said(reason, message)))
        });
    let unscheduled = || {
        let condition = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        let message = condition.message.as_deref().unwrap_or_default();
        let reason = refusal::of_scheduling(message);
        (condition.reason.as_deref() == Some("Unschedulable")).then(|| (reason, said(reason, message)))
    };
    held_up
        .or_else(unscheduled)
        .or_else(|| waiting_by_event(events, pod.metadata.uid.as_deref()))
}

/// What took the pod away, by its condition `DisruptionTarget` and its own reason.
fn disruption(pod: &Pod) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let text = |fallback: &str, message: &Option<String>| {
        shortened(message.as_deref().filter(|text| !text.is_empty()).unwrap_or(fallback), TEXT_LIMIT)
    };
    match status.reason.as_deref() {
        Some("Evicted") => return Some((Reason::Evicted, text("the kubelet evicted the pod", &status.message))),
        Some("DeadlineExceeded") => return Some((Reason::DeadlineExceeded, text("the pod's time was over", &status.message))),
        Some("NodeLost") => return Some((Reason::NodeLost, text("the pod's node is gone", &status.message))),
        Some("Terminated" | "NodeShutdown" | "Shutdown" | "Preempting") => {
            return Some((Reason::Interrupted, text("the node shuts down", &status.message)));
        }
        Some("OutOfcpu" | "OutOfmemory" | "OutOfpods" | "NodeAffinity" | "UnexpectedAdmissionError") => {
            return Some((Reason::Evicted, text("the node refused the pod", &status.message)));
        }
        _ => {}
    }
    let target = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")?;
    Some(match target.reason.as_deref() {
        Some("DeletionByTaintManager" | "DeletionByPodGC") => (Reason::NodeLost, text("the pod's node is gone", &target.message)),
        Some("TerminationByKubelet") => (Reason::Evicted, text("the kubelet ended the pod", &target.message)),
        _ => (Reason::Interrupted, text("the pod was evicted or preempted", &target.message)),
    })
}

/// A pod that is over without a word of its main container.
fn over_without_word(pod: &Pod, started: bool) -> End {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
    let failed = statuses
        .unwrap_or_default()
        .iter()
        .find_map(|status| terminated(status).filter(|end| end.exit_code != 0).map(|end| (status, end)));
    if let Some((status, terminated)) = failed
        && !started
    {
        let end = ended(terminated, pod);
        return End {
            message: format!("init container {}: {}", status.name, end.message),
            ran: false,
            // What an init container says is about the pod's start, never about the register.
            result: None,
            ..end
        };
    }
    let (reason, message) = disruption(pod).unwrap_or((
        if pod.metadata.deletion_timestamp.is_some() {
            Reason::PodDeleted
        } else {
            Reason::AgentCrashed
        },
        "the pod ended and its main container says nothing".to_owned(),
    ));
    End {
        reason,
        message,
        result: None,
        ran: started,
    }
}

fn main_ended(pod: &Pod, terminated: &ContainerStateTerminated) -> End {
    let never_started = matches!(terminated.reason.as_deref(), Some("StartError" | "ContainerCannotRun"));
    if never_started {
        let text = terminated.message.as_deref().unwrap_or_default();
        return End {
            reason: Reason::ContainerStartFailed,
            message: said(Reason::ContainerStartFailed, text),
            result: None,
            ran: false,
        };
    }
    ended(terminated, pod)
}

const MEMORY: &str = "the container needed more memory than its limit; raise job.resources.limits.memory";

/// What a container that ran left behind.
fn ended(terminated: &ContainerStateTerminated, pod: &Pod) -> End {
    let out_of_memory = terminated.reason.as_deref() == Some("OOMKilled");
    let doubt = |reason, message: String| End {
        reason,
        message,
        result: None,
        ran: true,
    };
    match read_result(terminated) {
        Ok(result) => {
            let said = if result.message.is_empty() {
                result.reason.meaning().to_owned()
            } else {
                shortened(&result.message, 1_024)
            };
            // The kernel ended a tool, and the agent could only say that the tool failed.
            let (reason, message) = if out_of_memory && result.reason.class() != Class::Fine {
                (Reason::OutOfMemory, format!("{MEMORY}: {said}"))
            } else {
                (result.reason, said)
            };
            End {
                reason,
                message,
                result: Some(result),
                ran: true,
            }
        }
        Err(_) if out_of_memory => doubt(Reason::OutOfMemory, MEMORY.to_owned()),
        Err(found) => match disruption(pod) {
            Some((reason, message)) => doubt(reason, message),
            None if pod.metadata.deletion_timestamp.is_some() => doubt(Reason::PodDeleted, "somebody deleted the pod".to_owned()),
            None => doubt(Reason::AgentCrashed, found),
        },
    }
}

/// The agent's result, if it can be believed: JSON of the version we know, whose reason is what the process exited with.
fn read_result(terminated: &ContainerStateTerminated) -> Result<AgentResult, String> {
    let code = terminated.exit_code;
    let text = terminated.message.as_deref().unwrap_or_default().trim();
    let shown = || shortened(text, 200);
    if text.is_empty() {
        return Err(format!(
            "the container ended with exit code {code} and left no result; its log says more"
        ));
    }
    let result: AgentResult = serde_json::from_str(text).map_err(|error| {
        format!(
            "the container ended with exit code {code} and its result cannot be read ({error}): {}",
            shown()
        )
    })?;
    if result.version != TASK_VERSION {
        return Err(format!(
            "the agent speaks version {} of the result, expected {TASK_VERSION}; operator and agent must be of one release",
            result.version
        ));
    }
    if i32::from(result.reason.exit_code()) != code {
        return Err(format!(
            "the container ended with exit code {code}, but its result says {}: {}",
            result.reason,
            shown()
        ));
    }
    Ok(result)
}
