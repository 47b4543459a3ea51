//! The Job of a probe.

use holdfast_crds::{Action, BackupStore, FrozenStore, ProbeTask, StoreKind, TASK_VERSION, Task, whole_seconds};
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use crate::{
    context::Context,
    job::{BuildError, JobRequest, build},
};

/// The time that a probe has, in seconds.
const TIMEOUT: i64 = 300;

/// The Job `name` that tries `store`.
pub fn job(context: &Context, store: &BackupStore, name: &str) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: store.namespace().unwrap_or_default(),
        store: FrozenStore {
            kind: StoreKind::BackupStore,
            name: store.name_any(),
            uid: store.uid().unwrap_or_default(),
            spec: store.spec.clone(),
        },
        action: Action::Probe(ProbeTask {
            now: whole_seconds(context.clock.now()).to_string(),
        }),
    };
    build(&JobRequest {
        name,
        owner: store.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: store.spec.job.as_ref(),
        identity_secret: None,
        timeout: TIMEOUT,
    })
}
