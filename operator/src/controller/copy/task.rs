//! What a copy Job is told, from the caches, and its Job. Pure.

use holdfast_crds::{Action, BackupSource, COPY_RUNS, CopyTask, FrozenStore, TASK_VERSION, TIMEOUT, Task, document::Label, whole_seconds};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use super::target::Target;
use crate::{
    attempt::DEADLINE_GRACE,
    context::Context,
    controller::{compliance::keep_floors, disposal::keep_disposals},
    job::{BuildError, JobRequest, build},
    watch::Caches,
};

/// The store that is filled, and the one that is read.
pub struct Stores {
    pub filled: FrozenStore,
    pub read: FrozenStore,
}

/// What the Job is told: all that the store is to have, or the runs that it lacks and that the other has. None if it lacks none.
pub fn task(
    caches: &Caches,
    source: &BackupSource,
    target: &Target,
    Stores { filled, read }: Stores,
    all: bool,
    now: Timestamp,
) -> Option<(FrozenStore, CopyTask)> {
    let namespace = source.namespace()?;
    let from = read.reference();
    let lacking = target.lacking.iter().filter(|lacking| !all && lacking.from.contains(&from));
    let runs: Vec<_> = lacking
        .filter_map(|lacking| Label::new("run", lacking.run.as_str()).ok())
        .take(COPY_RUNS)
        .collect();
    if !all && runs.is_empty() {
        return None;
    }
    let task = CopyTask {
        source: Label::new("source", source.name_any()).ok()?,
        from: read,
        // Runs that are named are wanted, whatever schedules say.
        types: if all { target.types.clone() } else { Vec::new() },
        runs,
        schedules: target.schedules.clone(),
        floors: keep_floors(caches, &[&namespace]),
        disposals: keep_disposals(caches, &namespace),
        preview: false,
        now: whole_seconds(now).to_string(),
        not_after: whole_seconds(now.checked_add(TIMEOUT.signed()).unwrap_or(Timestamp::MAX)).to_string(),
        namespace: Label::new("namespace", namespace).ok()?,
    };
    Some((filled, task))
}

/// The Job `name`.
pub fn job(context: &Context, source: &BackupSource, name: &str, (store, task): (FrozenStore, CopyTask)) -> Result<Job, BuildError> {
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace: source.namespace().unwrap_or_default(),
        store,
        action: Action::Copy(Box::new(task)),
    };
    build(&JobRequest {
        name,
        owner: source.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: None,
        identity_secret: None,
        timeout: i64::try_from(TIMEOUT.seconds())
            .unwrap_or(i64::MAX)
            .saturating_add(DEADLINE_GRACE.as_secs()),
    })
}
