//! A copy that is read is not removed meanwhile: a restore begins only where no keeper is at work that may not know of it. Pure.
//!
//! Both sides say first what they are about to do and look then: the restore has its copy in `status.frozen` before it looks for a pass, the
//! keeper's status says that a pass has begun before its Job is told which copies are in use. So at least one of them sees the other.

use holdfast_crds::{Action, CopyState, FrozenRestore, Reason, Task, document::RunPath, layout::TASK_ANNOTATION};
use k8s_openapi::api::batch::v1::Job;

use crate::{
    attempt::Obstacle,
    controller::disposal::keep_disposals,
    queue::Queue,
    watch::{Caches, Key},
};

/// What the restore of this copy has to wait for, if anything: a pass over its store that was built before the restore was known.
pub fn at_work(caches: &Caches, namespace: &str, frozen: &FrozenRestore) -> Option<Obstacle> {
    let reference = frozen.store.reference();
    let store = caches.named_store(namespace, &reference)?;
    let keeper = store.status()?.keeper.as_ref()?;
    if keeper.number == 0 || keeper.finished_at.is_some() || keeper.read_only || !may_go(caches, namespace, frozen, keeper.failures) {
        return None;
    }
    let job = store.keep_job(keeper.number);
    if caches.jobs.get(&job).is_some_and(|job| knows(&job, &frozen.path)) {
        return None;
    }
    let message = format!(
        "the keeper of the {reference} is at work (Job {job}) and may remove the copy {}, which it was not told is to be read; the restore begins \
         when that pass has ended, and the passes after it leave the copy",
        frozen.path
    );
    Some(Obstacle::passing(Reason::KeeperAtWork, message))
}

/// Whether the keeper of this Job was told that the copy is being read, or to remove nothing.
fn knows(job: &Job, path: &str) -> bool {
    let template = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let task = template.and_then(|template| template.annotations.as_ref()?.get(TASK_ANNOTATION));
    let task = task.and_then(|task| serde_json::from_str::<Task>(task).ok());
    matches!(task.map(|task| task.action), Some(Action::Keep(keep)) if keep.untold.is_some() || keep.in_use.iter().any(|copy| copy.to_string() == path))
}

/// Has those looked at that wait for a keeper: a pass has begun, was told something else or has ended.
pub fn told(caches: &Caches, queue: &Queue) {
    for request in caches.restores.all() {
        if request
            .status
            .as_ref()
            .is_some_and(|status| status.reason == Some(Reason::KeeperAtWork))
        {
            queue.add(Key::of(&*request));
        }
    }
}

/// Whether a pass may remove the copy: it was marked a day ago at the latest, so a pass that ended well since then has told of it; or it is
/// disposed of.
fn may_go(caches: &Caches, namespace: &str, frozen: &FrozenRestore, failures: i64) -> bool {
    let Ok(path) = frozen.path.parse::<RunPath>() else { return true };
    if failures > 0 || !keep_disposals(caches, namespace).is_empty() {
        return true;
    }
    let source = caches.sources.get(&Key::new(namespace, path.source.as_str()));
    let status = source.as_ref().and_then(|source| source.status.as_ref());
    let Some(entry) = status.and_then(|status| status.in_store(&frozen.store.reference())) else {
        return true;
    };
    match entry.newest_copies.iter().find(|copy| copy.run == path.run.as_str()) {
        Some(copy) => !matches!(copy.state, CopyState::Kept | CopyState::Held),
        None => entry.marked > 0,
    }
}
