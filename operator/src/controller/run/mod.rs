//! BackupRun: its attempts one after the other, until the store's register says how it ended.

mod adopt;
mod build;
mod dereference;
mod limits;
mod status;
mod turn;

use std::sync::Arc;

use holdfast_crds::{BackupRun, BackupRunStatus, Reason};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt};

use self::dereference::Known;
pub use self::{
    dereference::store_secrets,
    limits::{Turns, counts},
    status::with_stores,
};
use crate::{
    attempt::{Course, Kind, Obstacle, Plan, Rules},
    context::{Context, Error},
    controller::carry_out::{Ended, Work, carry_out, created, refused, tidy},
    job::RUN,
    queue::{Next, Queue, Reconcile},
    watch::{Cache, Caches, Change, Key, ended},
};

/// The controller of BackupRuns.
pub struct RunController {
    context: Arc<Context>,
    turns: Turns,
}

impl RunController {
    /// `turns` are those that [`triggers`] got.
    pub fn new(context: Arc<Context>, turns: Turns) -> Self {
        Self { context, turns }
    }

    /// What a run that nothing else keeps from beginning waits for, and when to look again.
    fn turn(&self, run: &BackupRun) -> (Option<Obstacle>, Next) {
        let (caches, clock) = (&self.context.caches, &self.context.clock);
        let now = clock.now();
        if let Some(obstacle) = turn::queued(caches, run) {
            return (Some(obstacle), Next::Change);
        }
        if let Some((obstacle, end)) = turn::excluded(caches, run, now) {
            return (Some(obstacle), Next::After(clock.until(end)));
        }
        match self.turns.ask(caches, run, now) {
            Ok(()) => (None, Next::Change),
            Err((obstacle, again)) => (Some(obstacle), again),
        }
    }
}

/// Connects the caches with the queue of runs.
pub fn triggers(context: &Context, turns: &Turns, queue: &Queue) {
    let caches = &context.caches;
    let add = |queue: &Queue| {
        let queue = queue.clone();
        move |key: Key| queue.add(key)
    };
    caches.runs.listen({
        let add = add(queue);
        move |change| {
            // Who takes a status away is answered with a new one.
            let taken = change.after.as_ref().is_some_and(|run| run.status.is_none());
            let settled = change.after.as_ref().is_some_and(|run| ended::is_settled(run));
            if (change.beyond_status() || taken) && !settled {
                add(change.key());
            }
        }
    });
    caches.jobs.listen({
        let add = add(queue);
        move |change| owner(change, &add)
    });
    caches.pods.listen({
        let add = add(queue);
        move |change| owner(change, &add)
    });
    // Runs that wait for the one before them, are replaced by a new one, or wait for their turn.
    caches.runs.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        let (turns, clock) = (turns.clone(), context.clock.clone());
        move |change| {
            let Some(caches) = caches.upgrade() else { return };
            let in_flight = |run: &Option<Arc<BackupRun>>| run.as_ref().is_some_and(|run| turn::in_flight(run));
            let moved = in_flight(&change.before) != in_flight(&change.after);
            if let Some(run) = change.object().filter(|_| moved) {
                for other in turn::others(&caches, run) {
                    add(Key::of(&*other));
                }
            }
            let counts = |run: &Option<Arc<BackupRun>>| run.as_ref().is_some_and(|run| limits::counts(run));
            if counts(&change.before) && !counts(&change.after) {
                for namespace in change.object().map(|run| limits::neighbours(&caches, run)).unwrap_or_default() {
                    turns.next(&caches, &namespace, clock.now()).into_iter().for_each(&add);
                }
            }
        }
    });
    // Runs that wait for a source, a store or a schedule.
    caches.sources.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade() {
                let key = change.key();
                waiting(caches.runs.each_by(Caches::RUNS_BY_SOURCE, &key.namespace, &key.name), &add);
            }
        }
    });
    caches.listen_stores({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade() {
                waiting(change.runs(&caches), &add);
                for schedule in caches.schedules_by_store(&change.key()) {
                    waiting(from_schedule(&caches, &Key::of(&*schedule)), &add);
                }
            }
        }
    });
    // A store of the cluster may allow namespaces by their labels.
    caches.namespaces.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) {
                let runs = caches.runs.each_by(Caches::RUNS_IN_FLIGHT, &change.key().name, Caches::IN_FLIGHT);
                waiting(runs, &add);
            }
        }
    });
    caches.schedules.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade().filter(|_| change.beyond_status()) {
                waiting(from_schedule(&caches, &change.key()), &add);
            }
        }
    });
}

fn owner<K: kube::Resource>(change: &Change<K>, add: &impl Fn(Key)) {
    let Some(object) = change.object() else { return };
    if let Some(run) = object.labels().get(RUN) {
        add(Key::new(object.namespace().unwrap_or_default(), run.as_str()));
    }
}

/// The runs by hand that name a schedule.
fn from_schedule(caches: &Caches, schedule: &Key) -> impl Iterator<Item = Arc<BackupRun>> + use<> {
    caches.runs.each_by(Caches::RUNS_FROM_SCHEDULE, &schedule.namespace, &schedule.name)
}

fn waiting(runs: impl Iterator<Item = Arc<BackupRun>>, add: &impl Fn(Key)) {
    for run in runs {
        if run
            .status
            .as_ref()
            .is_none_or(|status| status.attempts.is_empty() && !status.phase.ended())
        {
            add(Key::of(&*run));
        }
    }
}

impl Reconcile for RunController {
    const KIND: &'static str = "BackupRun";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(mut run) = context.caches.runs.get(key) else {
            return Ok(Next::Change);
        };
        if run.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Change);
        }
        if ended::is_settled(&run) {
            tidy_source(context, &run).await?;
            return Ok(Next::Change);
        }
        if ended::has_ended(&run) {
            // The cache holds little of it, and its status is to be written again.
            match whole(context, key).await? {
                Some(read) => run = Arc::new(read),
                None => return Ok(Next::Change),
            }
        }
        let mut work = RunWork {
            known: dereference::known(&context.caches, &run),
            lost: adopt::lost(&context.caches, &run),
            replaced: turn::replaced(&context.caches, &run),
            queued: None,
        };
        let mut again = Next::Change;
        if work.may_begin(&run) {
            (work.queued, again) = self.turn(&run);
        } else {
            self.turns.release(key);
        }
        let (written, next) = Box::pin(carry_out(context, &work, &*run)).await?;
        tidy_source(context, &written).await?;
        Ok(next.or(again))
    }
}

/// A run with all that the API server has of it.
pub async fn whole(context: &Context, key: &Key) -> Result<Option<BackupRun>, Error> {
    let api: Api<BackupRun> = Api::namespaced(context.client.clone(), &key.namespace);
    api.get_opt(&key.name).await.map_err(Error::calling(format!("read the run {key}")))
}

/// A run with what it refers to.
struct RunWork {
    known: Result<Known, Obstacle>,
    /// What its Jobs tell of it, where its status does not.
    lost: Option<Course>,
    /// That a newer run takes its place.
    replaced: Option<String>,
    /// Whom it waits for.
    queued: Option<Obstacle>,
}

impl Work for RunWork {
    type Object = BackupRun;

    fn cache(caches: &Caches) -> &Cache<BackupRun> {
        &caches.runs
    }

    fn rules<'a>(&'a self, run: &'a BackupRun) -> Rules<'a> {
        Rules {
            name: run.metadata.name.as_deref().unwrap_or_default(),
            kind: Kind::Run,
            attempts: build::attempts(run, self.known.as_ref().ok()),
            timeout: build::timeout(run, self.known.as_ref().ok()),
            cancel: run.spec.cancel || self.replaced.is_some(),
            cancelled_by: self.replaced.as_deref().unwrap_or("cancelled"),
            born_cancelled: run.spec.cancel && run.metadata.generation == Some(1),
            created: created(&run.metadata),
            obstacle: self.known.as_ref().err().or(self.queued.as_ref()).cloned(),
        }
    }

    fn course(&self, run: &BackupRun) -> Course {
        let course = status::course(run);
        match &self.lost {
            Some(lost) if course.attempts.is_empty() && course.settle.is_none() => lost.clone(),
            _ => course,
        }
    }

    fn status(&self, run: &BackupRun, plan: &Plan, now: Timestamp) -> BackupRunStatus {
        status::status(run, self.known.as_ref().ok(), plan, now)
    }

    fn attempt_job(&self, context: &Context, run: &BackupRun) -> Result<Job, (Reason, String)> {
        build::attempt(context, run, self.known()?).map_err(|error| refused(&error))
    }

    fn settle_job(&self, context: &Context, run: &BackupRun) -> Result<Job, (Reason, String)> {
        build::settle(context, run, self.known()?).map_err(|error| refused(&error))
    }
}

impl RunWork {
    /// Whether the first attempt is what comes next.
    fn may_begin(&self, run: &BackupRun) -> bool {
        let course = self.course(run);
        let at_rest = course.attempts.is_empty() && course.settle.is_none() && !course.phase.ended();
        at_rest && self.known.is_ok() && !run.spec.cancel && self.replaced.is_none()
    }

    fn known(&self) -> Result<&Known, (Reason, String)> {
        self.known.as_ref().map_err(|obstacle| (obstacle.reason, obstacle.message.clone()))
    }
}

/// Removes the Jobs of what has ended for this source. The last attempt that failed stays for its log.
async fn tidy_source(context: &Context, run: &BackupRun) -> Result<(), Error> {
    let namespace = run.namespace().unwrap_or_default();
    let own = Caches::owned_by(RUN, &run.name_any());
    if context.caches.jobs.by(Caches::BY_OWNER, &namespace, &own).is_empty() {
        return Ok(());
    }
    let runs = context.caches.runs.by(Caches::RUNS_BY_SOURCE, &namespace, &run.spec.source);
    let courses: Vec<_> = runs.iter().map(|run| status::course(run)).collect();
    let ended: Vec<_> = runs
        .iter()
        .zip(&courses)
        .map(|(run, course)| Ended {
            name: run.metadata.name.as_deref().unwrap_or_default(),
            uid: run.metadata.uid.as_deref(),
            course,
        })
        .collect();
    tidy(context, &namespace, RUN, &ended).await
}

#[cfg(test)]
mod tests;
