//! Which objects of ended runs are more history than is asked for, and how such objects are deleted. Copies are not touched by their going.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use holdfast_crds::{BackupRun, BackupRunStatus, Reason, ReplicaState, RunHistory, RunInStore, RunPhase};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource,
    api::{DeleteParams, Preconditions},
};
use serde::de::DeserializeOwned;

use super::schedule::created;
use crate::{
    context::{Context, Error, chain},
    queue::Next,
    watch::{Cache, Key},
};

/// Calls at once.
const AT_ONCE: usize = 8;
/// Objects deleted in one go; the rest follows.
const DELETIONS: usize = 100;

/// A run whose end is unknown is asked about for so long, and its object stays as long.
const SETTLED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What may go now, and when to look again.
pub struct History {
    pub surplus: Vec<Arc<BackupRun>>,
    pub next: Option<Timestamp>,
}

impl History {
    pub fn again(&self, context: &Context) -> Next {
        self.next.map_or(Next::Change, |at| Next::After(context.clock.until(at)))
    }
}

/// Of each source the newest ended runs stay, the newest success among them or not, and failed ones for their time, as do those whose
/// copy a store still lacks, and those that `linger` names. A run in flight always stays.
pub fn surplus(runs: &[Arc<BackupRun>], limits: &RunHistory, linger: impl Fn(&BackupRun) -> bool, now: Timestamp) -> History {
    let mut by_source: BTreeMap<&str, Vec<&Arc<BackupRun>>> = BTreeMap::new();
    for run in runs {
        if phase(run).ended() {
            by_source.entry(run.spec.source.as_str()).or_default().push(run);
        }
    }
    let mut history = History {
        surplus: Vec::new(),
        next: None,
    };
    let kept = usize::try_from(limits.per_source).unwrap_or(usize::MAX);
    for ended in by_source.values_mut() {
        ended.sort_by_key(|run| Reverse(time(run)));
        let newest_success = ended.iter().position(|run| phase(run) == RunPhase::Succeeded);
        for (index, run) in ended.iter().enumerate().skip(kept) {
            if Some(index) == newest_success {
                continue;
            }
            match stays_until(run, limits, linger(run)) {
                Some(until) if until > now => history.next = Some(history.next.map_or(until, |next| next.min(until))),
                _ => history.surplus.push((*run).clone()),
            }
        }
    }
    history
}

fn stays_until(run: &BackupRun, limits: &RunHistory, lingers: bool) -> Option<Timestamp> {
    let status = run.status.as_ref()?;
    let ended = status
        .completion_time
        .as_ref()
        .and_then(|time| time.parse::<Timestamp>().ok())
        .unwrap_or_else(|| created(run));
    let stay = match (status.phase, status.reason) {
        (RunPhase::Failed, Some(Reason::OutcomeUnknown)) => limits.failed_for.signed().max(SETTLED_FOR),
        (RunPhase::Failed, _) => limits.failed_for.signed(),
        // What a store lacks is known from its object.
        _ if lingers || lacking(status) => limits.failed_for.signed(),
        _ => return None,
    };
    ended.checked_add(stay).ok()
}

/// Whether a store is still to get the copy from another.
fn lacking(status: &BackupRunStatus) -> bool {
    let awaited = |place: &RunInStore| place.state == ReplicaState::Missing;
    status.phase == RunPhase::Succeeded && status.stores.iter().any(awaited)
}

fn phase(run: &BackupRun) -> RunPhase {
    run.status.as_ref().map_or(RunPhase::Pending, |status| status.phase)
}

/// By tick; runs without one by their creation.
pub fn time(run: &BackupRun) -> Timestamp {
    let tick = run.spec.tick.as_ref().and_then(|tick| tick.time.parse().ok());
    tick.unwrap_or_else(|| created(run))
}

/// Deletes objects that nobody changed meanwhile. What is left over asks to be called again.
pub async fn delete<K>(context: &Context, cache: &Cache<K>, objects: &[Arc<K>]) -> Result<Next, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let now = &objects[..objects.len().min(DELETIONS)];
    let calls = now.iter().cloned().map(|object| async move {
        let (key, meta) = (Key::of(&*object), object.meta());
        let api: Api<K> = Api::namespaced(context.client.clone(), &key.namespace);
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        });
        let outcome = api
            .delete(&key.name, &parameters)
            .await
            .map_err(Error::calling(format!("delete the old {} {key}", K::kind(&()))));
        match outcome {
            Ok(_) => cache.deleted(&key, meta.uid.as_deref()),
            Err(error) if error.is_not_found() => cache.deleted(&key, meta.uid.as_deref()),
            // It changed meanwhile: it is judged again.
            Err(error) if error.is_conflict() => tracing::debug!(object = %key, error = chain(&error), "an old object changed"),
            Err(error) => return Err(error),
        }
        Ok(())
    });
    let outcomes: Vec<Result<(), Error>> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().collect::<Result<Vec<()>, Error>>()?;
    Ok(if objects.len() > now.len() {
        Next::After(Duration::from_secs(1))
    } else {
        Next::Change
    })
}

#[cfg(test)]
pub mod tests;
