//! RestoreRequest: its attempts one after the other, until its receipt is in the target or cannot come any more.

mod build;
mod dereference;
mod keeper;
mod status;

use std::sync::Arc;

use holdfast_crds::{BackupRun, Reason, RestoreFrom, RestoreRequest, RestoreRequestStatus, StoreKind};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use self::dereference::Known;
use crate::{
    attempt::{Course, Kind, Obstacle, Plan, Rules},
    context::{Context, Error},
    controller::{
        carry_out::{Ended, Work, carry_out, created, refused, tidy},
        history,
        run::whole,
    },
    job::{Purpose, RESTORE},
    queue::{Next, Queue, Reconcile},
    store::key_of,
    watch::{Cache, Caches, Change, Key, ended},
};

/// How long the object of a restore that has ended stays.
const FINISHED_FOR: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The controller of RestoreRequests.
pub struct RestoreController {
    context: Arc<Context>,
}

impl RestoreController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of restores.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    caches.restores.listen({
        let queue = queue.clone();
        move |change| {
            let taken = change.after.as_ref().is_some_and(|request| request.status.is_none());
            if change.beyond_status() || taken {
                queue.add(change.key());
            }
        }
    });
    caches.jobs.listen({
        let queue = queue.clone();
        let weak = Arc::downgrade(caches);
        move |change: &Change<Job>| {
            owner(change, &queue);
            let keeps = |job: &Arc<Job>| Purpose::Keep.is_of(&job.metadata);
            if let Some(caches) = weak.upgrade().filter(|_| change.object().is_some_and(keeps)) {
                keeper::told(&caches, &queue);
            }
        }
    });
    caches.pods.listen({
        let queue = queue.clone();
        move |change| owner(change, &queue)
    });
    // Requests that wait for a run, a store or its keeper.
    caches.runs.listen({
        let (queue, caches) = (queue.clone(), Arc::downgrade(caches));
        move |change| {
            let key = change.key();
            let names = |from: &RestoreFrom| matches!(from, RestoreFrom::Run(run) if run.name == key.name);
            if let Some(caches) = caches.upgrade() {
                waiting(&caches, &key.namespace, names, &queue);
            }
        }
    });
    caches.listen_stores({
        let (queue, caches) = (queue.clone(), Arc::downgrade(caches));
        move |change| {
            let Some(caches) = caches.upgrade() else { return };
            let key = change.key();
            keeper::told(&caches, &queue);
            for namespace in change.namespaces(&caches) {
                let names = |from: &RestoreFrom| matches!(from, RestoreFrom::Store(store) if key_of(&namespace, &store.reference()) == key);
                waiting(&caches, &namespace, names, &queue);
            }
        }
    });
    // A store of the cluster may allow namespaces by their labels.
    caches.namespaces.listen({
        let (queue, caches) = (queue.clone(), Arc::downgrade(caches));
        move |change| {
            let names = |from: &RestoreFrom| matches!(from, RestoreFrom::Store(store) if store.kind == StoreKind::ClusterBackupStore);
            if let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) {
                waiting(&caches, &change.key().name, names, &queue);
            }
        }
    });
}

fn owner<K: kube::Resource>(change: &Change<K>, queue: &Queue) {
    let Some(object) = change.object() else { return };
    if let Some(request) = object.labels().get(RESTORE) {
        queue.add(Key::new(object.namespace().unwrap_or_default(), request.as_str()));
    }
}

/// Requests are few: they are looked through.
fn waiting(caches: &Caches, namespace: &str, names: impl Fn(&RestoreFrom) -> bool, queue: &Queue) {
    for request in caches.restores.in_namespace(namespace) {
        let status = request.status.as_ref();
        let waits = status.is_none_or(|status| status.attempts.is_empty() && !status.phase.ended());
        if waits && names(&request.spec.from) {
            queue.add(Key::of(&*request));
        }
    }
}

impl Reconcile for RestoreController {
    const KIND: &'static str = "RestoreRequest";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(request) = context.caches.restores.get(key) else {
            return Ok(Next::Change);
        };
        if request.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Change);
        }
        let known = dereference::known(&context.caches, &request, run_of(context, &request).await?.as_deref());
        let keeper = known
            .as_ref()
            .ok()
            .filter(|_| !request.spec.cancel)
            .and_then(|known| keeper::at_work(&context.caches, &key.namespace, &known.frozen));
        let work = RestoreWork { known, keeper };
        let (written, next) = Box::pin(carry_out(context, &work, &*request)).await?;
        let course = status::course(&written);
        let ended = Ended {
            name: key.name.as_str(),
            uid: written.metadata.uid.as_deref(),
            course: &course,
        };
        tidy(context, &key.namespace, RESTORE, &[ended]).await?;
        match forgotten_at(&course) {
            Some(at) if at <= context.clock.now() => history::delete(context, &context.caches.restores, &[Arc::new(written)]).await,
            Some(at) => Ok(next.or(Next::After(context.clock.until(at)))),
            None => Ok(next),
        }
    }
}

/// The run whose copy is restored, if it is a run's and not frozen yet. Of one that has ended the cache does not hold enough.
async fn run_of(context: &Context, request: &RestoreRequest) -> Result<Option<Arc<BackupRun>>, Error> {
    let begun = request
        .status
        .as_ref()
        .is_some_and(|status| status.frozen.is_some() || status.phase.ended());
    let RestoreFrom::Run(from) = &request.spec.from else {
        return Ok(None);
    };
    let key = Key::new(request.namespace().unwrap_or_default(), from.name.as_str());
    match context.caches.runs.get(&key).filter(|_| !begun) {
        Some(run) if ended::has_ended(&run) => Ok(whole(context, &key).await?.map(Arc::new)),
        run => Ok(run),
    }
}

/// When the object of a restore that has ended is deleted. Its receipt stays in the target: the same request, made again, does nothing.
fn forgotten_at(course: &Course) -> Option<Timestamp> {
    let ended: Timestamp = course.completion_time.as_ref().filter(|_| course.phase.ended())?.parse().ok()?;
    ended.checked_add(FINISHED_FOR).ok()
}

/// A restore with what it refers to.
struct RestoreWork {
    known: Result<Known, Obstacle>,
    /// The keeper's pass that has to end before the first attempt.
    keeper: Option<Obstacle>,
}

impl Work for RestoreWork {
    type Object = RestoreRequest;

    fn cache(caches: &Caches) -> &Cache<RestoreRequest> {
        &caches.restores
    }

    fn rules<'a>(&self, request: &'a RestoreRequest) -> Rules<'a> {
        Rules {
            name: request.metadata.name.as_deref().unwrap_or_default(),
            kind: Kind::Restore,
            attempts: request.spec.attempts,
            timeout: request.spec.timeout,
            cancel: request.spec.cancel,
            cancelled_by: "cancelled",
            born_cancelled: request.spec.cancel && request.metadata.generation == Some(1),
            created: created(&request.metadata),
            obstacle: self.known.as_ref().err().or(self.keeper.as_ref()).cloned(),
        }
    }

    fn course(&self, request: &RestoreRequest) -> Course {
        status::course(request)
    }

    fn status(&self, request: &RestoreRequest, plan: &Plan, now: Timestamp) -> RestoreRequestStatus {
        status::status(request, self.known.as_ref().ok(), plan, now)
    }

    fn attempt_job(&self, context: &Context, request: &RestoreRequest) -> Result<Job, (Reason, String)> {
        let known = self.known()?;
        // Only now does the status say, for the first attempt, that the copy is in use; those after it find no keeper that does not know.
        let attempts = request.status.as_ref().map_or(&[][..], |status| &status.attempts);
        if let [first] = attempts
            && first.job_uid.is_none()
            && let Some(obstacle) = keeper::at_work(&context.caches, &request.namespace().unwrap_or_default(), &known.frozen)
        {
            return Err((obstacle.reason, obstacle.message));
        }
        build::attempt(context, request, known).map_err(|error| refused(&error))
    }

    fn settle_job(&self, context: &Context, request: &RestoreRequest) -> Result<Job, (Reason, String)> {
        build::settle(context, request, self.known()?).map_err(|error| refused(&error))
    }
}

impl RestoreWork {
    fn known(&self) -> Result<&Known, (Reason, String)> {
        self.known.as_ref().map_err(|obstacle| (obstacle.reason, obstacle.message.clone()))
    }
}

#[cfg(test)]
mod tests;
