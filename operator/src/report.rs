//! How the operator says what it found: status by server-side apply, and one Event per transition.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use holdfast_crds::{Class, ConditionType, Reason, shortened};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::object::HasStatus,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    clock::ServerClock,
    context::{Error, chain},
    watch::{Cache, Key},
};

/// The field manager of all that the operator writes.
pub const MANAGER: &str = "holdfast-operator";
/// The longest note of an Event, in bytes.
const NOTE_LIMIT: usize = 1_024;

/// Writes status and Events.
#[derive(Clone)]
pub struct Report {
    client: Client,
    clock: ServerClock,
    /// Name of this pod.
    instance: String,
    /// Events told so far, so that two of one moment have two names.
    told: Arc<AtomicU32>,
}

impl Report {
    pub fn new(client: Client, clock: ServerClock, instance: impl Into<String>) -> Self {
        Self {
            client,
            clock,
            instance: instance.into(),
            told: Arc::default(),
        }
    }

    /// Writes the status of `object` if it differs from what `object` says, and gives the object as it is then.
    ///
    /// It is written only onto the very state that it was decided on (UID and resource version): who came in between wins, and the
    /// caller is called again ([`Error::is_conflict`]). The cache holds the new state when this returns.
    pub async fn status<K>(&self, cache: &Cache<K>, object: &K, status: &K::Status) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + HasStatus
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        K::Status: Serialize + PartialEq,
    {
        let api = Api::namespaced(self.client.clone(), &Key::of(object).namespace);
        write(api, cache, object, status).await
    }

    /// As [`Report::status`], for a kind without namespaces.
    pub async fn cluster_status<K>(&self, cache: &Cache<K>, object: &K, status: &K::Status) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + HasStatus + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::Status: Serialize + PartialEq,
    {
        write(Api::all(self.client.clone()), cache, object, status).await
    }

    /// One Event for each condition whose status or reason differs from `before`.
    pub async fn transitions<K>(&self, object: &K, before: &[Condition], after: &[Condition])
    where
        K: Resource<DynamicType = ()>,
    {
        for condition in changed(before, after) {
            let reason = Reason::ALL.iter().find(|reason| reason.as_str() == condition.reason);
            if let Some(reason) = reason {
                self.event(object, *reason, &condition.type_, &condition.message).await;
            }
        }
    }

    /// One Event about an object. `action` is what was done or found, in one word. Events are help, not state: a failure is only logged.
    pub async fn event<K>(&self, object: &K, reason: Reason, action: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let now = self.clock.now();
        let key = Key::of(object);
        // Events have a namespace; those of the cluster's kinds are in `default`.
        let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
        let number = i128::from(self.told.fetch_add(1, Ordering::Relaxed));
        let event = Event {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(format!("{}.{:x}", key.name, now.as_nanosecond() + number)),
                ..ObjectMeta::default()
            },
            action: Some(action.to_owned()),
            reason: Some(reason.as_str().to_owned()),
            note: Some(shortened(note, NOTE_LIMIT)),
            type_: Some(if reason.class() == Class::Fine { "Normal" } else { "Warning" }.to_owned()),
            event_time: Some(MicroTime(now)),
            regarding: Some(object.object_ref(&())),
            reporting_controller: Some("holdfast.dev/operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let kind = K::kind(&());
        tracing::info!(kind = %kind, object = %key, reason = reason.as_str(), action, note, "transition");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(object = %key, error = chain(&error), "an event could not be written");
        }
    }
}

async fn write<K>(api: Api<K>, cache: &Cache<K>, object: &K, status: &K::Status) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + HasStatus + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::Status: Serialize + PartialEq,
{
    if object.status() == Some(status) {
        return Ok(object.clone());
    }
    let key = Key::of(object);
    let body = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": key.name, "uid": object.meta().uid, "resourceVersion": object.meta().resource_version},
        "status": status,
    });
    let doing = || Error::calling(format!("write the status of {} {key}", K::kind(&())));
    let mut written = api
        .patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))
        .await
        .map_err(doing())?;
    if written.status() != Some(status) {
        // What is left out of an apply stays where somebody else has written it; read back it would be taken for our own word.
        let whole = replacing(&written, status).map_err(doing())?;
        written = api
            .patch_status(&key.name, &PatchParams::apply(MANAGER), &whole)
            .await
            .map_err(doing())?;
    }
    written.managed_fields_mut().clear();
    written.meta_mut().managed_fields = None;
    cache.wrote(written.clone());
    Ok(written)
}

/// A patch that puts `status` in the place of all that `object` has as its status, unless somebody came in between.
fn replacing<K: Resource<DynamicType = ()>>(object: &K, status: &impl Serialize) -> kube::Result<Patch<()>> {
    let operations = serde_json::json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": object.meta().resource_version},
        {"op": "replace", "path": "/status", "value": status},
    ]);
    let operations = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    Ok(Patch::Json(operations))
}

/// The conditions of `after` that say something new: another status or reason than in `before`, or other findings of a keeper. `Stalled` repeats what
/// `Ready` says, and what is still unknown is no news.
fn changed<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let new = |condition: &&Condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        let silent = condition.type_ == ConditionType::Stalled.as_str() || (old.is_none() && condition.status == "Unknown");
        let found = condition.type_ == ConditionType::Intact.as_str() && condition.status == "False";
        let news =
            |old: &Condition| old.status != condition.status || old.reason != condition.reason || found && old.message != condition.message;
        !silent && old.is_none_or(news)
    };
    after.iter().filter(new).collect()
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
