//! The caches of all kinds that the operator watches, with their indexes.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use futures::{StreamExt, stream::FuturesUnordered};
use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupStore, ClusterBackupSchedule, ClusterBackupStore, ClusterComplianceHold, ComplianceHold,
    CompliancePolicy, DisposalRequest, RestoreRequest, RetentionPreview, RunInStore, ScheduleStore, SourceSelection, StoreKind,
    StoreReference, StoreUse,
};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        batch::v1::Job,
        core::v1::{Namespace, Pod},
    },
};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::{Cache, Key, cache::Packing, drive, ended};
use crate::{config::Namespaces, job};

/// What the chart's admission policies have in common.
const GUARDS: &str = "app.kubernetes.io/component=operator";

/// All caches. Listeners are added before the watches start.
#[derive(Debug)]
pub struct Caches {
    pub sources: Cache<BackupSource>,
    pub stores: Cache<BackupStore>,
    pub schedules: Cache<BackupSchedule>,
    pub runs: Cache<BackupRun>,
    pub restores: Cache<RestoreRequest>,
    pub jobs: Cache<Job>,
    pub pods: Cache<Pod>,
    pub holds: Cache<ComplianceHold>,
    pub disposals: Cache<DisposalRequest>,
    pub previews: Cache<RetentionPreview>,
    /// Of the whole cluster, as those below: they stay empty where only some namespaces are served.
    pub cluster_schedules: Cache<ClusterBackupSchedule>,
    pub cluster_stores: Cache<ClusterBackupStore>,
    pub cluster_holds: Cache<ClusterComplianceHold>,
    pub policies: Cache<CompliancePolicy>,
    pub namespaces: Cache<Namespace>,
    /// The admission policies of Helm's release, and what binds them.
    pub guards: Cache<ValidatingAdmissionPolicy>,
    pub guard_bindings: Cache<ValidatingAdmissionPolicyBinding>,
    /// What the names of the release's admission policies begin with; empty where nobody said.
    pub guard_prefix: String,
    /// Whether the kinds of the cluster are watched.
    pub serves_cluster: bool,
}

impl Caches {
    /// Schedules by the names of sources that they list.
    pub const SCHEDULES_BY_SOURCE: &'static str = "source";
    /// Schedules by the first label (`key=value`) that they select sources by.
    pub const SCHEDULES_BY_LABEL: &'static str = "label";
    /// Schedules by the names of their namespace's stores.
    pub const SCHEDULES_BY_STORE: &'static str = "store";
    /// Of all namespaces, under the namespace "": stores of each kind by their place.
    pub const STORES_BY_PLACE: &'static str = "place";
    /// Sources by their labels (`key=value`).
    pub const SOURCES_BY_LABEL: &'static str = "label";
    /// Runs by their source.
    pub const RUNS_BY_SOURCE: &'static str = "source";
    /// Runs by the schedule of their tick.
    pub const RUNS_BY_SCHEDULE: &'static str = "schedule";
    /// Runs that have not ended, under [`Caches::IN_FLIGHT`].
    pub const RUNS_IN_FLIGHT: &'static str = "phase";
    pub const IN_FLIGHT: &'static str = "in flight";
    /// Runs by hand by the schedule that they name.
    pub const RUNS_FROM_SCHEDULE: &'static str = "from";
    /// Of all namespaces, under the namespace "": schedules by the names of the cluster's stores.
    pub const SCHEDULES_BY_CLUSTER_STORE: &'static str = "cluster store";
    /// … and runs.
    pub const RUNS_BY_CLUSTER_STORE: &'static str = "cluster store";
    /// Runs by the names of their namespace's stores: the primary, or before it is chosen each of them.
    pub const RUNS_BY_STORE: &'static str = "store";
    /// Runs by the names of their namespace's stores that have a copy from another store.
    pub const RUNS_COPIED_TO: &'static str = "copied to";
    /// … and, of all namespaces, by the names of the cluster's stores.
    pub const RUNS_COPIED_TO_CLUSTER_STORE: &'static str = "copied to cluster store";
    /// Jobs and pods by what they work for: `<label>=<name>` of a run, store or restore ([`Caches::owned_by`]).
    pub const BY_OWNER: &'static str = "owner";
    /// Pods by their Job.
    pub const PODS_BY_JOB: &'static str = "job";

    /// Empty caches for watches of these namespaces.
    pub fn new(namespaces: &Namespaces) -> Self {
        let scopes = namespaces.scopes();
        let cluster: &[Option<String>] = if namespaces.all() { &[None] } else { &[] };
        Self {
            sources: Cache::new(&scopes)
                .packed(Packing::JSON)
                .indexed(Self::SOURCES_BY_LABEL, |source: &BackupSource| {
                    source.labels().iter().map(|(key, value)| format!("{key}={value}")).collect()
                }),
            stores: Cache::new(&scopes).indexed_everywhere(Self::STORES_BY_PLACE, |store: &BackupStore| {
                vec![store.spec.place(store.meta().namespace.as_deref().unwrap_or_default())]
            }),
            schedules: Cache::new(&scopes)
                .packed(Packing::JSON)
                .indexed(Self::SCHEDULES_BY_SOURCE, |schedule: &BackupSchedule| {
                    match &schedule.spec.sources {
                        SourceSelection::Names(names) => names.clone(),
                        SourceSelection::MatchLabels(_) => Vec::new(),
                    }
                })
                .indexed(Self::SCHEDULES_BY_LABEL, |schedule: &BackupSchedule| match &schedule.spec.sources {
                    SourceSelection::Names(_) => Vec::new(),
                    SourceSelection::MatchLabels(labels) => labels.iter().take(1).map(|(key, value)| format!("{key}={value}")).collect(),
                })
                .indexed(Self::SCHEDULES_BY_STORE, |schedule: &BackupSchedule| {
                    of_kind(StoreKind::BackupStore, schedule.spec.stores.iter().map(ScheduleStore::reference))
                })
                .indexed_everywhere(Self::SCHEDULES_BY_CLUSTER_STORE, |schedule: &BackupSchedule| {
                    of_kind(
                        StoreKind::ClusterBackupStore,
                        schedule.spec.stores.iter().map(ScheduleStore::reference),
                    )
                }),
            runs: Cache::new(&scopes)
                .packed(ended::PACKING)
                .indexed(Self::RUNS_BY_SOURCE, |run: &BackupRun| vec![run.spec.source.clone()])
                .indexed(Self::RUNS_BY_SCHEDULE, |run: &BackupRun| {
                    run.spec.tick.iter().map(|tick| tick.schedule.clone()).collect()
                })
                .indexed(Self::RUNS_IN_FLIGHT, |run: &BackupRun| {
                    let ended = run.status.as_ref().is_some_and(|status| status.phase.ended());
                    (!ended).then(|| Self::IN_FLIGHT.to_owned()).into_iter().collect()
                })
                .indexed(Self::RUNS_FROM_SCHEDULE, |run: &BackupRun| {
                    run.spec.schedule.iter().map(|schedule| schedule.name.clone()).collect()
                })
                .indexed(Self::RUNS_BY_STORE, |run: &BackupRun| {
                    of_kind(StoreKind::BackupStore, written_to(run).into_iter())
                })
                .indexed_everywhere(Self::RUNS_BY_CLUSTER_STORE, |run: &BackupRun| {
                    of_kind(StoreKind::ClusterBackupStore, written_to(run).into_iter())
                })
                .indexed(Self::RUNS_COPIED_TO, |run: &BackupRun| {
                    of_kind(StoreKind::BackupStore, copied_to(run).into_iter())
                })
                .indexed_everywhere(Self::RUNS_COPIED_TO_CLUSTER_STORE, |run: &BackupRun| {
                    of_kind(StoreKind::ClusterBackupStore, copied_to(run).into_iter())
                }),
            restores: Cache::new(&scopes),
            jobs: Cache::new(&scopes).indexed(Self::BY_OWNER, |job: &Job| owners(job.labels())),
            pods: Cache::new(&scopes).indexed(Self::PODS_BY_JOB, |pod: &Pod| {
                pod.labels().get("batch.kubernetes.io/job-name").into_iter().cloned().collect()
            }),
            holds: Cache::new(&scopes),
            disposals: Cache::new(&scopes),
            previews: Cache::new(&scopes),
            cluster_schedules: Cache::new(cluster),
            cluster_stores: Cache::new(cluster)
                .indexed_everywhere(Self::STORES_BY_PLACE, |store: &ClusterBackupStore| vec![store.spec.place()]),
            cluster_holds: Cache::new(cluster),
            policies: Cache::new(cluster),
            namespaces: Cache::new(cluster),
            guards: Cache::new(cluster),
            guard_bindings: Cache::new(cluster),
            guard_prefix: String::new(),
            serves_cluster: namespaces.all(),
        }
    }

    /// … with what the names of the release's admission policies begin with.
    #[must_use]
    pub fn guarded_by(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.guard_prefix);
        self
    }

    /// Whether the first lists of all kinds are in.
    pub fn ready(&self) -> bool {
        self.sources.ready()
            && self.stores.ready()
            && self.schedules.ready()
            && self.runs.ready()
            && self.restores.ready()
            && self.jobs.ready()
            && self.pods.ready()
            && self.holds.ready()
            && self.disposals.ready()
            && self.previews.ready()
            && self.cluster_schedules.ready()
            && self.cluster_stores.ready()
            && self.cluster_holds.ready()
            && self.policies.ready()
            && self.namespaces.ready()
            && self.guards.ready()
            && self.guard_bindings.ready()
    }

    /// Waits until the first lists of all kinds are in.
    pub async fn wait_ready(&self) {
        self.sources.wait_ready().await;
        self.stores.wait_ready().await;
        self.schedules.wait_ready().await;
        self.runs.wait_ready().await;
        self.restores.wait_ready().await;
        self.jobs.wait_ready().await;
        self.pods.wait_ready().await;
        self.holds.wait_ready().await;
        self.disposals.wait_ready().await;
        self.previews.wait_ready().await;
        self.cluster_schedules.wait_ready().await;
        self.cluster_stores.wait_ready().await;
        self.cluster_holds.wait_ready().await;
        self.policies.wait_ready().await;
        self.namespaces.wait_ready().await;
        self.guards.wait_ready().await;
        self.guard_bindings.wait_ready().await;
    }

    /// The pods of a Job, in order of their names.
    pub fn pods_of(&self, job: &Key) -> Vec<Arc<Pod>> {
        self.pods.by(Self::PODS_BY_JOB, &job.namespace, &job.name)
    }

    /// The value of [`Caches::BY_OWNER`] for a run ([`job::RUN`]), store ([`job::STORE`], [`job::CLUSTER_STORE`]) or restore ([`job::RESTORE`]).
    pub fn owned_by(label: &str, name: &str) -> String {
        format!("{label}={name}")
    }

    /// The sources that a schedule selects, in order of their names, and the names that it lists and that do not exist.
    pub fn selected(&self, schedule: &BackupSchedule) -> (Vec<Arc<BackupSource>>, Vec<String>) {
        let namespace = schedule.namespace().unwrap_or_default();
        match &schedule.spec.sources {
            SourceSelection::Names(names) => {
                let mut missing = Vec::new();
                let mut found = Vec::new();
                for name in names {
                    match self.sources.get(&Key::new(namespace.as_str(), name.as_str())) {
                        Some(source) => found.push(source),
                        None => missing.push(name.clone()),
                    }
                }
                found.sort_by_key(|source| source.name_any());
                (found, missing)
            }
            SourceSelection::MatchLabels(labels) => {
                let first = labels.iter().next().map(|(key, value)| format!("{key}={value}"));
                let candidates = first.map(|label| self.sources.by(Self::SOURCES_BY_LABEL, &namespace, &label));
                let matches = |source: &Arc<BackupSource>| selects(labels, source);
                (candidates.unwrap_or_default().into_iter().filter(matches).collect(), Vec::new())
            }
        }
    }

    /// The schedules that select a source, in order of their names.
    pub fn schedules_of(&self, source: &BackupSource) -> Vec<Arc<BackupSchedule>> {
        let namespace = source.namespace().unwrap_or_default();
        let mut schedules = self.schedules.by(Self::SCHEDULES_BY_SOURCE, &namespace, &source.name_any());
        for (key, value) in source.labels() {
            schedules.extend(self.schedules.by(Self::SCHEDULES_BY_LABEL, &namespace, &format!("{key}={value}")));
        }
        schedules.retain(|schedule| match &schedule.spec.sources {
            SourceSelection::Names(_) => true,
            SourceSelection::MatchLabels(labels) => selects(labels, source),
        });
        schedules.sort_by_key(|schedule| schedule.name_any());
        schedules.dedup_by_key(|schedule| schedule.name_any());
        schedules
    }

    /// Runs all watches into these caches. Returns only if one of them ended, which none should.
    pub async fn drive(&self, client: &Client, namespaces: &Namespaces) {
        let selector = format!("{}={}", job::MANAGED_BY, job::MANAGER);
        let mut watches: FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>> = FuturesUnordered::new();
        for scope in namespaces.scopes() {
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.sources)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.stores)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.schedules)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.runs)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.restores)));
            watches.push(Box::pin(watch(client, scope.clone(), Some(&selector), &self.jobs)));
            watches.push(Box::pin(watch(client, scope.clone(), Some(&selector), &self.pods)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.holds)));
            watches.push(Box::pin(watch(client, scope.clone(), None, &self.disposals)));
            watches.push(Box::pin(watch(client, scope, None, &self.previews)));
        }
        if namespaces.all() {
            watches.push(Box::pin(watch_cluster(client, None, &self.cluster_schedules)));
            watches.push(Box::pin(watch_cluster(client, None, &self.cluster_stores)));
            watches.push(Box::pin(watch_cluster(client, None, &self.cluster_holds)));
            watches.push(Box::pin(watch_cluster(client, None, &self.policies)));
            watches.push(Box::pin(watch_cluster(client, None, &self.namespaces)));
            watches.push(Box::pin(watch_cluster(client, Some(GUARDS), &self.guards)));
            watches.push(Box::pin(watch_cluster(client, Some(GUARDS), &self.guard_bindings)));
        }
        watches.next().await;
    }
}

/// The store that a run writes to, or before it is chosen each of them.
fn written_to(run: &BackupRun) -> Vec<StoreReference> {
    match run.status.as_ref().and_then(|status| status.frozen.as_ref()) {
        Some(frozen) => vec![frozen.store.reference()],
        None => run.spec.stores.clone(),
    }
}

/// The stores that got its copy from another.
fn copied_to(run: &BackupRun) -> Vec<StoreReference> {
    let places = run.status.iter().flat_map(|status| &status.stores);
    let copied = places.filter(|place| place.role == StoreUse::Copy && place.state.is_there());
    copied.map(RunInStore::reference).collect()
}

/// The names of those stores that are of this kind.
fn of_kind(kind: StoreKind, references: impl Iterator<Item = StoreReference>) -> Vec<String> {
    references
        .filter(|reference| reference.kind == kind)
        .map(|reference| reference.name)
        .collect()
}

fn owners(labels: &BTreeMap<String, String>) -> Vec<String> {
    [job::RUN, job::STORE, job::CLUSTER_STORE, job::RESTORE, job::PREVIEW]
        .iter()
        .filter_map(|label| labels.get(*label).map(|name| Caches::owned_by(label, name)))
        .collect()
}

/// Whether a source has all of these labels.
fn selects(labels: &BTreeMap<String, String>, source: &BackupSource) -> bool {
    labels.iter().all(|(key, value)| source.labels().get(key) == Some(value))
}

async fn watch_cluster<K>(client: &Client, selector: Option<&str>, cache: &Cache<K>)
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + DeserializeOwned + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    drive(api, selector, None, cache).await;
}

async fn watch<K>(client: &Client, scope: Option<String>, selector: Option<&str>, cache: &Cache<K>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Send + Sync + 'static,
{
    let api: Api<K> = match &scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    drive(api, selector, scope, cache).await;
}
