//! Reads how far a Job is: from the caches, and from events only while they are silent.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

use crate::{
    context::{Context, Error},
    job::{JobState, Observation, observe, wants_events},
    queue::Next,
    watch::Key,
};

/// Events that are read about one object. Kubernetes folds repeated ones.
const EVENTS: u32 = 50;
/// How often a Job that does not start is looked at: at first, and after a while.
const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// How far the Job `key` is, and when to look again where no watch would tell.
pub async fn job_state(context: &Context, key: &Key) -> Result<(JobState, Next), Error> {
    let now = context.clock.now();
    let job = context.caches.jobs.get(key);
    let pods = context.caches.pods_of(key);
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
            let quarter = Duration::try_from(age / 4).unwrap_or_default();
            Next::After(quarter.clamp(LOOK.0, LOOK.1))
        }
        Observation::Stopping { until } => Next::After(context.clock.until(*until) + Duration::from_secs(1)),
        Observation::Absent | Observation::Running | Observation::Ended(_) => Next::Change,
    };
    Ok((state, next))
}
