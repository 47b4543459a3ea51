//! The Jobs of a run.

use holdfast_crds::{ATTEMPTS, Action, BackupRun, BackupTask, FrozenRun, Reason, SettleTask, Span, TASK_VERSION, TIMEOUT, Task};
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use super::dereference::Known;
use crate::{
    attempt::{DEADLINE_GRACE, SETTLE_TIMEOUT, at_most},
    context::Context,
    job::{BuildError, JobRequest, build},
};

/// The Job of the newest attempt.
pub fn attempt(context: &Context, run: &BackupRun, known: &Known) -> Result<Job, BuildError> {
    let attempt = run.status.as_ref().and_then(|status| status.attempts.last().cloned());
    let (name, number, not_after) = attempt.map_or_else(Default::default, |attempt| (attempt.job, attempt.number, attempt.not_after));
    let attempted = run.status.as_ref().map_or(&[][..], |status| &status.attempts);
    let action = Action::Backup(BackupTask {
        run: run.name_any(),
        source: run.spec.source.clone(),
        source_uid: known.live.source_uid.clone(),
        spec: known.live.source.clone(),
        type_: run.spec.type_,
        tick: run.spec.tick.clone(),
        schedule: known.frozen.schedule.clone(),
        keep_for: run.spec.kept_for(),
        attempt: number,
        final_: number >= at_most(attempts(run, Some(known)), attempted),
        not_after,
    });
    let seconds = i64::try_from(timeout(run, Some(known)).seconds())
        .unwrap_or(i64::MAX)
        .saturating_add(DEADLINE_GRACE.as_secs());
    job(context, run, &known.live, &name, action, seconds)
}

/// The newest settle Job.
pub fn settle(context: &Context, run: &BackupRun, known: &Known) -> Result<Job, BuildError> {
    let settle = run.status.as_ref().and_then(|status| status.settle.clone()).unwrap_or_default();
    let action = Action::Settle(SettleTask {
        run: run.name_any(),
        source: run.spec.source.clone(),
        tick: run.spec.tick.clone(),
        gives_up: settle.gives_up,
        reason: settle.otherwise.unwrap_or(Reason::Abandoned),
        message: settle.otherwise_message.unwrap_or_default(),
    });
    job(
        context,
        run,
        &known.live,
        &settle.job.unwrap_or_default(),
        action,
        SETTLE_TIMEOUT.as_secs(),
    )
}

/// How often the run is attempted, besides what the cluster takes away.
pub fn attempts(run: &BackupRun, known: Option<&Known>) -> i32 {
    let schedule = known.and_then(|known| known.frozen.schedule.as_ref());
    run.spec.attempts.or(schedule.map(|schedule| schedule.attempts)).unwrap_or(ATTEMPTS)
}

/// The time that an attempt of it has.
pub fn timeout(run: &BackupRun, known: Option<&Known>) -> Span {
    let schedule = known.and_then(|known| known.frozen.schedule.as_ref());
    run.spec.timeout.or(schedule.map(|schedule| schedule.timeout)).unwrap_or(TIMEOUT)
}

fn job(context: &Context, run: &BackupRun, live: &FrozenRun, name: &str, action: Action, timeout: i64) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: run.namespace().unwrap_or_default(),
        store: live.store.clone(),
        action,
    };
    build(&JobRequest {
        name,
        owner: run.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: live.source.job.as_ref(),
        identity_secret: None,
        timeout,
    })
}
