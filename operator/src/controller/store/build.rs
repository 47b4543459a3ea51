//! The Job of a probe.

use holdfast_crds::{Action, ProbeTask, TASK_VERSION, Task, whole_seconds};
use k8s_openapi::api::batch::v1::Job;

use crate::{
    context::Context,
    job::{BuildError, JobRequest, build},
    store::Store,
};

/// The time that a probe has, in seconds.
const TIMEOUT: i64 = 300;

/// The Job `name` that tries `store`.
pub fn job(context: &Context, store: &Store, name: &str) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: store.workplace(),
        store: store.maintained(),
        action: Action::Probe(ProbeTask {
            now: whole_seconds(context.clock.now()).to_string(),
        }),
    };
    build(&JobRequest {
        name,
        owner: store.owner(),
        task: &task,
        agent_image: &context.image,
        template: store.template(),
        identity_secret: None,
        timeout: TIMEOUT,
    })
}
