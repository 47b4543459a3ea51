//! BackupRun: its attempts one after the other, until the store's register says how it ended.

mod build;
mod dereference;
mod status;

use std::sync::Arc;

use holdfast_crds::{BackupRun, Reason};
use kube::ResourceExt;

use self::dereference::Known;
use crate::{
    attempt::{Act, Course, Kind, Plan, Rules, Sight, decide},
    context::{Context, Error},
    controller::jobs,
    job::{JobState, PURPOSE, Purpose, RUN},
    observation::job_state,
    queue::{Next, Queue, Reconcile},
    watch::{Caches, Change, Key},
};

/// The controller of BackupRuns.
pub struct RunController {
    context: Arc<Context>,
}

impl RunController {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// Connects the caches with the queue of runs.
pub fn triggers(caches: &Arc<Caches>, queue: &Queue) {
    let add = |queue: &Queue| {
        let queue = queue.clone();
        move |key: Key| queue.add(key)
    };
    caches.runs.listen({
        let add = add(queue);
        move |change| {
            if change.beyond_status() {
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
    // Runs that wait for a source or a store.
    caches.sources.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade() {
                let key = change.key();
                waiting(&caches.runs.by(Caches::RUNS_BY_SOURCE, &key.namespace, &key.name), &add);
            }
        }
    });
    caches.stores.listen({
        let (add, caches) = (add(queue), Arc::downgrade(caches));
        move |change| {
            if let Some(caches) = caches.upgrade() {
                let key = change.key();
                waiting(&caches.runs.by(Caches::RUNS_BY_STORE, &key.namespace, &key.name), &add);
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

fn waiting(runs: &[Arc<BackupRun>], add: &impl Fn(Key)) {
    for run in runs {
        if run
            .status
            .as_ref()
            .is_none_or(|status| status.attempts.is_empty() && !status.phase.ended())
        {
            add(Key::of(&**run));
        }
    }
}

impl Reconcile for RunController {
    const KIND: &'static str = "BackupRun";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(run) = context.caches.runs.get(key) else {
            return Ok(Next::Change);
        };
        if run.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Change);
        }
        let known = dereference::known(&context.caches, &run);
        let course = status::course(&run);
        let (sight, look) = sight(context, &run.namespace().unwrap_or_default(), &course).await?;
        let rules = rules(&run, &known);

        let plan = decide(&course, &rules, &sight);
        let mut written = self.report(&run, &known, &plan).await?;
        let mut again = plan.again;
        if let Some(act) = &plan.act
            && let Some(refused) = self.act(&written, &known, act).await?
        {
            // The refusal is said; whether and when to try again is decided with it.
            let sight = Sight {
                refused: Some(refused),
                ..sight
            };
            let plan = decide(&status::course(&written), &rules, &sight);
            written = self.report(&written, &known, &plan).await?;
            again = plan.again;
        }
        self.tidy(&written).await?;
        let again = again.map_or(Next::Change, |at| Next::After(context.clock.until(at)));
        Ok(again.or(look))
    }
}

/// How far the newest attempt and the newest settle Job are, where that matters.
async fn sight(context: &Context, namespace: &str, course: &Course) -> Result<(Sight, Next), Error> {
    let mut look = Next::Change;
    let mut state = JobState::ABSENT;
    if let Some(attempt) = course.attempts.last().filter(|attempt| attempt.finished_at.is_none()) {
        let (seen, next) = job_state(context, &Key::new(namespace, attempt.job.as_str())).await?;
        (state, look) = (seen, look.or(next));
    }
    let mut settle = JobState::ABSENT;
    let asked = course.settle.as_ref().filter(|settle| settle.finished_at.is_none());
    if let Some(job) = asked.and_then(|settle| settle.job.as_deref()) {
        let (seen, next) = job_state(context, &Key::new(namespace, job)).await?;
        (settle, look) = (seen, look.or(next));
    }
    let sight = Sight {
        attempt: state,
        settle,
        // A pod may be bound to a node between our look and the deletion: what cannot be ruled out is settled.
        deleted_unbound: false,
        refused: None,
        now: context.clock.now(),
    };
    Ok((sight, look))
}

fn rules<'a>(run: &'a BackupRun, known: &Result<Known, (Reason, String)>) -> Rules<'a> {
    let created = run
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0);
    Rules {
        name: run.metadata.name.as_deref().unwrap_or_default(),
        kind: Kind::Run,
        attempts: run.spec.attempts,
        timeout: run.spec.timeout,
        cancel: run.spec.cancel,
        born_cancelled: run.spec.cancel && run.metadata.generation == Some(1),
        created,
        obstacle: known.as_ref().err().cloned(),
    }
}

impl RunController {
    async fn report(&self, run: &BackupRun, known: &Result<Known, (Reason, String)>, plan: &Plan) -> Result<BackupRun, Error> {
        let context = &*self.context;
        let before = run.status.clone().unwrap_or_default();
        let after = status::status(run, known.as_ref().ok(), plan, context.clock.now());
        let written = context.report.status(&context.caches.runs, run, &after).await?;
        context.report.transitions(&written, &before.conditions, &after.conditions).await;
        Ok(written)
    }

    /// Does what was decided. A refusal by the API server is given back.
    async fn act(&self, run: &BackupRun, known: &Result<Known, (Reason, String)>, act: &Act) -> Result<Option<(Reason, String)>, Error> {
        let context = &*self.context;
        if let Act::Delete { job, uid } = act {
            let key = Key::new(run.namespace().unwrap_or_default(), job.as_str());
            jobs::delete(context, &key, uid.as_deref()).await?;
            return Ok(None);
        }
        let known = match known {
            Ok(known) => known,
            Err(obstacle) => return Ok(Some(obstacle.clone())),
        };
        let built = match act {
            Act::CreateAttempt => build::attempt(context, run, known),
            Act::CreateSettle => build::settle(context, run, known),
            Act::Delete { .. } => return Ok(None),
        };
        match built {
            Ok(job) => Ok(jobs::create(context, job).await?.err()),
            Err(error) => Ok(Some((Reason::InvalidSpec, error.to_string()))),
        }
    }

    /// Removes the Jobs of a run that has ended. The last one of a source that failed stays for its log.
    async fn tidy(&self, run: &BackupRun) -> Result<(), Error> {
        let status = run.status.clone().unwrap_or_default();
        if !status.phase.ended() {
            return Ok(());
        }
        let context = &*self.context;
        let namespace = run.namespace().unwrap_or_default();
        let of_run = |name: &str| context.caches.jobs.by(Caches::BY_OWNER, &namespace, &Caches::owned_by(RUN, name));
        let failed = status.phase == holdfast_crds::RunPhase::Failed;
        let mut keep = Vec::new();
        if failed && let Some(attempt) = status.attempts.last() {
            keep.push(Key::new(namespace.as_str(), attempt.job.as_str()));
        }
        if let Some(settle) = status.settle.filter(|settle| settle.finished_at.is_none()) {
            keep.extend(settle.job.map(|job| Key::new(namespace.as_str(), job)));
        }
        let own = of_run(&run.name_any());
        if failed && own.iter().any(|job| keep.contains(&Key::of(&**job))) {
            let ended = |other: &&Arc<BackupRun>| {
                let older = |other: &BackupRun| other.metadata.creation_timestamp <= run.metadata.creation_timestamp;
                other.metadata.uid != run.metadata.uid && older(other) && other.status.as_ref().is_some_and(|status| status.phase.ended())
            };
            let others = context.caches.runs.by(Caches::RUNS_BY_SOURCE, &namespace, &run.spec.source);
            for other in others.iter().filter(ended) {
                let backups: Vec<_> = of_run(&other.name_any())
                    .into_iter()
                    .filter(|job| job.labels().get(PURPOSE).is_some_and(|purpose| purpose == Purpose::Backup.as_str()))
                    .collect();
                jobs::remove(context, &backups, &[]).await?;
            }
        }
        jobs::remove(context, &own, &keep).await
    }
}
