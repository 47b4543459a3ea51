//! Reads how far a Job is: from the caches, and from events only while they are silent.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::ListParams};

use crate::{
    attempt::look_again,
    context::{Context, Error},
    job::{JobState, MANAGED_BY, MANAGER, Observation, observe, wants_events},
    queue::Next,
    watch::Key,
};

/// Events that are read about one object. Kubernetes folds repeated ones.
const EVENTS: u32 = 50;
/// Pods that are read of one Job. It makes one; Kubernetes may make two.
const PODS: u32 = 50;

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What the watches have shown.
    Caches,
    /// What is true now.
    ApiServer,
}

/// Whose Job it must be: a Job of the same name may have been made for an object that is gone, or by somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// UID of the object that the Job works for.
    pub owner: &'a str,
    /// UID of the Job, where it is known: its pods are told by it when it is gone.
    pub job: Option<&'a str>,
}

/// How far the Job `key` is, and when to look again where no watch would tell.
pub async fn job_state(context: &Context, key: &Key) -> Result<(JobState, Next), Error> {
    let job = context.caches.jobs.get(key);
    let pods = context.caches.pods_of(key);
    state(context, key, job, &pods).await
}

/// … of the Job that works for a certain object.
pub async fn job_state_of(context: &Context, key: &Key, whose: Whose<'_>, look: Look) -> Result<(JobState, Next), Error> {
    let (job, mut pods) = match look {
        Look::Caches => (context.caches.jobs.get(key), context.caches.pods_of(key)),
        Look::ApiServer => read(context, key).await?,
    };
    let job = job.filter(|job| controller(&job.metadata) == Some(whose.owner));
    let uids = [job.as_ref().and_then(|job| job.metadata.uid.as_deref()), whose.job];
    pods.retain(|pod| controller(&pod.metadata).is_some_and(|uid| uids.contains(&Some(uid))));
    state(context, key, job, &pods).await
}

/// The Job and its pods as the API server has them.
async fn read(context: &Context, key: &Key) -> Result<(Option<Arc<Job>>, Vec<Arc<Pod>>), Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let job = jobs
        .get_opt(&key.name)
        .await
        .map_err(Error::calling(format!("read the Job {key}")))?;
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let selector = format!("{MANAGED_BY}={MANAGER},batch.kubernetes.io/job-name={}", key.name);
    let pods = pods
        .list(&ListParams::default().labels(&selector).limit(PODS))
        .await
        .map_err(Error::calling(format!("list the pods of the Job {key}")))?;
    Ok((job.map(Arc::new), pods.items.into_iter().map(Arc::new).collect()))
}

/// UID of the object that made this one.
pub fn controller(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.as_ref()?;
    owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

async fn state(context: &Context, key: &Key, job: Option<Arc<Job>>, pods: &[Arc<Pod>]) -> Result<(JobState, Next), Error> {
    let now = context.clock.now();
    let pods: Vec<_> = pods.iter().map(|pod| &**pod).collect();
    let mut events = Vec::new();
    let api: Api<Event> = Api::namespaced(context.client.clone(), &key.namespace);
    for (kind, name, uid) in wants_events(job.as_deref(), &pods, now) {
        let about = format!("involvedObject.kind={kind},involvedObject.name={name},involvedObject.uid={uid}");
        let list = api.list(&ListParams::default().fields(&about).limit(EVENTS)).await;
        events.extend(
            list.map_err(Error::calling(format!("read the events of {kind} {}/{name}", key.namespace)))?
                .items,
        );
    }
    let state = observe(job.as_deref(), &pods, &events, now);
    let next = match &state.observation {
        Observation::Waiting { .. } => {
            let created = job.as_ref().and_then(|job| job.metadata.creation_timestamp.as_ref());
            let age = created.map_or(SignedDuration::ZERO, |created| now.duration_since(created.0));
            Next::After(look_again(age).unsigned_abs())
        }
        Observation::Stopping { until } => Next::After(context.clock.until(*until) + Duration::from_secs(1)),
        Observation::Absent | Observation::Running | Observation::Ended(_) => Next::Change,
    };
    Ok((state, next))
}
