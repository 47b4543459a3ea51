//! The Jobs of a restore.

use holdfast_crds::{Action, RestoreRequest, RestoreTask, TASK_VERSION, Task};
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use super::dereference::Known;
use crate::{
    attempt::{DEADLINE_GRACE, SETTLE_TIMEOUT},
    context::Context,
    job::{BuildError, JobRequest, build},
};

/// The Job of the newest attempt.
pub fn attempt(context: &Context, request: &RestoreRequest, known: &Known) -> Result<Job, BuildError> {
    let seconds = i64::try_from(request.spec.timeout.seconds())
        .unwrap_or(i64::MAX)
        .saturating_add(DEADLINE_GRACE.as_secs());
    let attempt = request.status.as_ref().and_then(|status| status.attempts.last());
    let name = attempt.map(|attempt| attempt.job.clone()).unwrap_or_default();
    job(context, request, known, &name, Action::Restore(task(request, known)), seconds)
}

/// The newest settle Job: it asks the target for the receipt.
pub fn settle(context: &Context, request: &RestoreRequest, known: &Known) -> Result<Job, BuildError> {
    let settle = request.status.as_ref().and_then(|status| status.settle.as_ref());
    let name = settle.and_then(|settle| settle.job.clone()).unwrap_or_default();
    let action = Action::SettleRestore(task(request, known));
    job(context, request, known, &name, action, SETTLE_TIMEOUT.as_secs())
}

fn task(request: &RestoreRequest, known: &Known) -> RestoreTask {
    let attempt = request.status.as_ref().and_then(|status| status.attempts.last());
    let (number, not_after) = attempt.map_or_else(Default::default, |attempt| (attempt.number, attempt.not_after.clone()));
    let (namespace, name) = (request.namespace().unwrap_or_default(), request.name_any());
    let spec = &request.spec;
    RestoreTask {
        digest: spec.digest(&namespace, &name).to_string(),
        request: name,
        path: known.frozen.path.clone(),
        manifest_digest: known.frozen.manifest_digest.clone(),
        version_id: known.frozen.version_id.clone(),
        to: spec.to.clone(),
        select: spec.select.clone().unwrap_or_default(),
        missing_roles: spec.missing_roles,
        post_restore: spec.post_restore.clone(),
        attempt: number,
        not_after,
    }
}

fn job(context: &Context, request: &RestoreRequest, known: &Known, name: &str, action: Action, timeout: i64) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: request.namespace().unwrap_or_default(),
        store: known.store.clone(),
        action,
    };
    build(&JobRequest {
        name,
        owner: request.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: request.spec.job.as_ref(),
        identity_secret: known.identity_secret.as_deref(),
        timeout,
    })
}
