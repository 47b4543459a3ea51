//! Jobs and pods of the model, and how they look to the operator.

use holdfast_crds::{AgentResult, CopySummary, TASK_VERSION};
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::*;
use crate::job::MAIN_CONTAINER;

/// What a Job's process does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Backup { last: bool, not_after: Timestamp },
    Settle { gives_up: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    Unbound,
    Bound,
    Running,
    /// Exit code and termination message.
    Ended(i32, String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SimulatedPod {
    pub name: String,
    pub container: Container,
    pub deleted: Option<Timestamp>,
    /// Its node is gone: what is seen does not change any more, but its process may go on.
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SimulatedJob {
    pub uid: String,
    pub exists: bool,
    pub failed: bool,
    pub work: Work,
    pub pods: Vec<SimulatedPod>,
    pub made: u8,
}

impl SimulatedJob {
    pub fn add_pod(&mut self) {
        self.made += 1;
        let name = format!("{}-{}", self.uid, self.made);
        self.pods.push(SimulatedPod {
            name,
            container: Container::Unbound,
            deleted: None,
            lost: false,
        });
    }
}

impl SimulatedPod {
    /// Whether its process runs or may come to run.
    pub fn alive(&self) -> bool {
        match self.container {
            Container::Unbound => self.deleted.is_none(),
            Container::Bound | Container::Running => true,
            Container::Ended(..) => false,
        }
    }

    pub fn object(&self) -> Pod {
        let state = match &self.container {
            Container::Unbound | Container::Bound => ContainerState {
                waiting: Some(ContainerStateWaiting::default()),
                ..ContainerState::default()
            },
            Container::Running => ContainerState {
                running: Some(ContainerStateRunning::default()),
                ..ContainerState::default()
            },
            Container::Ended(code, message) => ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: *code,
                    message: Some(message.clone()),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            },
        };
        Pod {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                deletion_timestamp: self.deleted.map(Time),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: (self.container != Container::Unbound).then(|| "node".to_owned()),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                container_statuses: Some(vec![ContainerStatus {
                    name: MAIN_CONTAINER.into(),
                    state: Some(state),
                    ..ContainerStatus::default()
                }]),
                ..PodStatus::default()
            }),
        }
    }
}

pub fn word(reason: Reason, closed: bool) -> (i32, String) {
    let copy = matches!(reason, Reason::Succeeded | Reason::AlreadyDone).then(|| CopySummary {
        path: "n/s/run".into(),
        recovery_point: "2026-01-01T00:00:00Z".into(),
        raw_bytes: 1,
        stored_bytes: 1,
        parts: 1,
        databases: 1,
        database_names: Vec::new(),
        tables: 1,
        rows: None,
        structure_checked: true,
        manifest_digest: String::new(),
        version_id: None,
        engine: None,
        notes: Vec::new(),
    });
    let result = AgentResult {
        version: TASK_VERSION,
        reason,
        message: String::new(),
        closed,
        copy,
        probe: None,
        restored: None,
        kept: None,
        copied: None,
    };
    (reason.exit_code().into(), result.to_termination_message())
}
