//! Carries out what [`crate::attempt`] decides, the same way for runs and restores: looks at the Jobs, writes the status, then acts.

pub mod status;

use std::sync::Arc;

use holdfast_crds::{Reason, RunPhase};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, core::object::HasStatus};
use serde::{Serialize, de::DeserializeOwned};

use super::jobs;
use crate::{
    attempt::{Act, Course, Plan, Rules, Sight, decide},
    context::{Context, Error},
    job::{BuildError, JobState, Observation, Purpose, has_ended},
    observation::{Look, Whose, controller, job_state_of},
    queue::Next,
    watch::{Cache, Caches, Key},
};

/// A run or a restore, with what it refers to.
pub trait Work: Send + Sync {
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus<Status: Serialize + PartialEq + Send + Sync>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static;

    fn cache(caches: &Caches) -> &Cache<Self::Object>;
    fn rules<'a>(&'a self, object: &'a Self::Object) -> Rules<'a>;
    fn course(&self, object: &Self::Object) -> Course;
    fn status(&self, object: &Self::Object, plan: &Plan, now: Timestamp) -> <Self::Object as HasStatus>::Status;
    /// The Job of the newest attempt, or why there can be none.
    fn attempt_job(&self, context: &Context, object: &Self::Object) -> Result<Job, (Reason, String)>;
    /// The newest settle Job, or why there can be none.
    fn settle_job(&self, context: &Context, object: &Self::Object) -> Result<Job, (Reason, String)>;
}

/// One step: what was decided is written, then done. Gives the object as it is then, and when to come again.
pub async fn carry_out<W: Work>(context: &Context, work: &W, object: &W::Object) -> Result<(W::Object, Next), Error> {
    let rules = work.rules(object);
    let course = work.course(object);
    let (mut sight, mut look) = sight(context, object, &course, Look::Caches).await?;
    let mut plan = decide(&course, &rules, &sight);
    // Caches lag behind one another: what has consequences is looked at again where it is true.
    if doubtful(&course, &sight) || matches!(plan.act, Some(Act::Delete { .. })) {
        (sight, look) = self::sight(context, object, &course, Look::ApiServer).await?;
        plan = decide(&course, &rules, &sight);
    }
    let mut written = report(context, work, object, &plan).await?;
    let after = match &plan.act {
        None => None,
        Some(act) => act_on(context, work, &written, &course, &sight, act).await?,
    };
    if let Some(sight) = after {
        let found = plan.found.take();
        let next = decide(&work.course(&written), &rules, &sight);
        plan = Plan {
            found: next.found.or(found),
            ..next
        };
        written = report(context, work, &written, &plan).await?;
    }
    let again = plan.again.map_or(Next::Change, |at| Next::After(context.clock.until(at)));
    Ok((written, again.or(look)))
}

/// Whether what is seen would end an attempt without the agent's word.
fn doubtful(course: &Course, sight: &Sight) -> bool {
    // Of an attempt that has just begun the status does not say yet that its Job was seen.
    let counted = course.phase == RunPhase::Pending && course.reason == Some(Reason::Pending);
    let made = course
        .attempts
        .last()
        .is_some_and(|attempt| attempt.finished_at.is_none() && (counted || attempt.job_uid.is_some()));
    let silent = |state: &JobState| matches!(&state.observation, Observation::Ended(end) if end.result.is_none());
    (made && sight.attempt.observation == Observation::Absent) || silent(&sight.attempt) || silent(&sight.settle)
}

/// How far the newest attempt and the newest settle Job are, where that matters.
async fn sight<K>(context: &Context, object: &K, course: &Course, how: Look) -> Result<(Sight, Next), Error>
where
    K: Resource<DynamicType = ()>,
{
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    let owner = object.meta().uid.as_deref().unwrap_or_default();
    let mut look = Next::Change;
    let mut states = [JobState::ABSENT, JobState::ABSENT];
    let attempt = course.attempts.last().filter(|attempt| attempt.finished_at.is_none());
    let settle = course.settle.as_ref().filter(|settle| settle.finished_at.is_none());
    let wanted = [
        attempt.map(|attempt| (attempt.job.as_str(), attempt.job_uid.as_deref())),
        settle.and_then(|settle| Some((settle.job.as_deref()?, None))),
    ];
    for (state, wanted) in states.iter_mut().zip(wanted) {
        if let Some((name, job)) = wanted {
            let whose = Whose { owner, job };
            let (seen, next) = job_state_of(context, &Key::new(namespace.as_str(), name), whose, how).await?;
            (*state, look) = (seen, look.or(next));
        }
    }
    let [attempt, settle] = states;
    let sight = Sight {
        attempt,
        settle,
        deleted_unbound: false,
        refused: None,
        now: context.clock.now(),
    };
    Ok((sight, look))
}

/// Writes the status, and one Event where phase or reason are other than before.
async fn report<W: Work>(context: &Context, work: &W, object: &W::Object, plan: &Plan) -> Result<W::Object, Error> {
    let before = work.course(object);
    let status = work.status(object, plan, context.clock.now());
    let written = context.report.status(W::cache(&context.caches), object, &status).await?;
    let Course {
        phase, reason, message, ..
    } = &plan.course;
    if let Some(reason) = reason
        && (before.phase, before.reason) != (*phase, Some(*reason))
    {
        let note = message.as_deref().unwrap_or_default();
        context.report.event(&written, *reason, phase.as_str(), note).await;
    }
    Ok(written)
}

/// Does what was decided. Some sight if it showed something that is to be decided on at once.
async fn act_on<W: Work>(
    context: &Context,
    work: &W,
    object: &W::Object,
    before: &Course,
    seen: &Sight,
    act: &Act,
) -> Result<Option<Sight>, Error> {
    let job = match act {
        Act::CreateAttempt => work.attempt_job(context, object),
        Act::CreateSettle => work.settle_job(context, object),
        Act::Delete { job, uid } => {
            let key = Key::new(object.meta().namespace.clone().unwrap_or_default(), job.as_str());
            jobs::delete(context, &key, uid.as_deref()).await?;
            let attempt = before.attempts.last();
            let unbound = attempt.is_some_and(|attempt| attempt.job == *job && !attempt.ran) && !seen.attempt.bound;
            if !unbound {
                return Ok(None);
            }
            let (sight, _) = sight(context, object, &work.course(object), Look::ApiServer).await?;
            return Ok(Some(Sight {
                deleted_unbound: true,
                ..sight
            }));
        }
    };
    let refused = match job {
        Ok(job) => jobs::create(context, job).await?.err(),
        Err(refused) => Some(refused),
    };
    Ok(refused.map(|refused| Sight {
        refused: Some(refused),
        ..seen.clone()
    }))
}

/// When an object was made.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Why no Job can be built, as the API server's refusals are told.
pub fn refused(error: &BuildError) -> (Reason, String) {
    (Reason::InvalidSpec, error.to_string())
}

/// What [`tidy`] needs to know of a run or restore.
pub struct Ended<'a> {
    pub name: &'a str,
    pub uid: Option<&'a str>,
    pub course: &'a Course,
}

/// Removes the Jobs of these runs of one source (or of one restore) whose end is known. Of their attempts that failed, the one that
/// ended last stays for its log, unless its Job could still start something: then its pod is lost, and its log with it.
pub async fn tidy(context: &Context, namespace: &str, label: &str, ended: &[Ended<'_>]) -> Result<(), Error> {
    let mut failed: Option<(&str, Key)> = None;
    let mut surplus: Vec<Arc<Job>> = Vec::new();
    for Ended { name, uid, course } in ended {
        for job in context.caches.jobs.by(Caches::BY_OWNER, namespace, &Caches::owned_by(label, name)) {
            if *uid != controller(&job.metadata) || job.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let key = Key::of(&*job);
            if [Purpose::Settle, Purpose::SettleRestore]
                .iter()
                .any(|purpose| purpose.is_of(&job.metadata))
            {
                let at_work = |settle: &holdfast_crds::Settle| settle.finished_at.is_none() && settle.job.as_ref() == Some(&key.name);
                if !course.settle.as_ref().is_some_and(at_work) {
                    surplus.push(job);
                }
                continue;
            }
            let Some(attempt) = course.attempts.iter().find(|attempt| attempt.job == key.name) else {
                continue;
            };
            let Some(finished) = attempt.finished_at.as_deref() else { continue };
            let succeeded = course.phase == RunPhase::Succeeded && course.attempts.last() == Some(attempt);
            // Times of one form sort as they follow one another.
            let newest = failed.as_ref().is_none_or(|(before, _)| *before <= finished);
            let pods = context.caches.pods_of(&key);
            let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
            if !succeeded && newest && has_ended(&job, &pods) {
                failed = Some((finished, key));
            }
            surplus.push(job);
        }
    }
    let keep: Vec<Key> = failed.into_iter().map(|(_, key)| key).collect();
    jobs::remove(context, &surplus, &keep).await
}

#[cfg(test)]
pub(super) mod tests;
