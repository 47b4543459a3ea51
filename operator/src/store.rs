//! A store of either kind, as controllers see it: what differs between the kinds is here, and nowhere else.

use std::{collections::BTreeSet, sync::Arc};

use holdfast_crds::{
    Action, AllowedNamespaces, BackupRun, BackupSchedule, BackupStore, BackupStoreStatus, ClusterBackupStore, FrozenStore, JobTemplate,
    Reason, StoreKind, StoreReference, TASK_VERSION, Task,
};
use holdfast_policy::name::{JobPurpose, job_name};
use k8s_openapi::{
    api::batch::v1::Job,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt};

use crate::{
    context::{Context, Error},
    job::{self, BuildError, JobRequest, Purpose},
    watch::{Caches, Change, Key},
};

/// A store of either kind.
#[derive(Clone, Debug)]
pub enum Store {
    /// Of a namespace.
    Own(Arc<BackupStore>),
    /// Of the cluster.
    Cluster(Arc<ClusterBackupStore>),
}

impl From<BackupStore> for Store {
    fn from(store: BackupStore) -> Self {
        Self::Own(Arc::new(store))
    }
}

impl From<ClusterBackupStore> for Store {
    fn from(store: ClusterBackupStore) -> Self {
        Self::Cluster(Arc::new(store))
    }
}

impl Store {
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Own(store) => store.meta(),
            Self::Cluster(store) => store.meta(),
        }
    }

    pub fn kind(&self) -> StoreKind {
        match self {
            Self::Own(_) => StoreKind::BackupStore,
            Self::Cluster(_) => StoreKind::ClusterBackupStore,
        }
    }

    pub fn name(&self) -> String {
        self.meta().name.clone().unwrap_or_default()
    }

    /// Its key in the queues of both kinds: one of the cluster has no namespace.
    pub fn key(&self) -> Key {
        Key::new(self.meta().namespace.clone().unwrap_or_default(), self.name())
    }

    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name(),
            kind: self.kind(),
        }
    }

    /// Its name as places and other objects show it: `<namespace>/<name>`, or `ClusterBackupStore/<name>`.
    pub fn full_name(&self) -> String {
        let Key { namespace, name } = self.key();
        match self {
            Self::Own(_) => format!("{namespace}/{name}"),
            Self::Cluster(_) => format!("{}/{name}", self.kind().as_str()),
        }
    }

    pub fn uid(&self) -> Option<&str> {
        self.meta().uid.as_deref()
    }

    pub fn generation(&self) -> Option<i64> {
        self.meta().generation
    }

    pub fn status(&self) -> Option<&BackupStoreStatus> {
        match self {
            Self::Own(store) => store.status.as_ref(),
            Self::Cluster(store) => store.status.as_ref(),
        }
    }

    pub fn conditions(&self) -> &[Condition] {
        self.status().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }

    /// The store as it would be with this status.
    #[must_use]
    pub fn with_status(&self, status: BackupStoreStatus) -> Self {
        let mut with = self.clone();
        match &mut with {
            Self::Own(store) => Arc::make_mut(store).status = Some(status),
            Self::Cluster(store) => Arc::make_mut(store).status = Some(status),
        }
        with
    }

    /// The place in one line.
    pub fn location(&self) -> String {
        match self {
            Self::Own(store) => store.spec.location(),
            Self::Cluster(store) => store.spec.for_maintenance().location(),
        }
    }

    /// Equal for stores of the same place, see [`holdfast_crds::BackupStoreSpec::place`].
    pub fn place(&self) -> String {
        match self {
            Self::Own(store) => store.spec.place(store.meta().namespace.as_deref().unwrap_or_default()),
            Self::Cluster(store) => store.spec.place(),
        }
    }

    /// How many runs are at work at once.
    pub fn max_concurrent_runs(&self) -> usize {
        let most = match self {
            Self::Own(store) => store.spec.max_concurrent_runs,
            Self::Cluster(store) => store.spec.max_concurrent_runs,
        };
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// As runs and restores of a namespace work with it.
    pub fn frozen(&self) -> FrozenStore {
        FrozenStore {
            name: self.name(),
            kind: self.kind(),
            uid: self.uid().unwrap_or_default().to_owned(),
            spec: match self {
                Self::Own(store) => store.spec.clone(),
                Self::Cluster(store) => store.spec.for_tenants(),
            },
        }
    }

    /// As its own Jobs, probe and keeper, work with it.
    pub fn maintained(&self) -> FrozenStore {
        FrozenStore {
            spec: match self {
                Self::Own(store) => store.spec.clone(),
                Self::Cluster(store) => store.spec.for_maintenance(),
            },
            ..self.frozen()
        }
    }

    /// How the pods of its own Jobs are shaped.
    pub fn template(&self) -> Option<&JobTemplate> {
        match self {
            Self::Own(store) => store.spec.job.as_ref(),
            Self::Cluster(store) => store.spec.maintenance.job.as_ref().or(store.spec.job.as_ref()),
        }
    }

    /// The namespace of its own Jobs.
    pub fn workplace(&self) -> String {
        match self {
            Self::Own(store) => store.namespace().unwrap_or_default(),
            Self::Cluster(store) => store.spec.maintenance.namespace.clone(),
        }
    }

    /// The owner of its own Jobs.
    pub fn owner(&self) -> OwnerReference {
        let owner = match self {
            Self::Own(store) => store.controller_owner_ref(&()),
            Self::Cluster(store) => store.controller_owner_ref(&()),
        };
        owner.unwrap_or_default()
    }

    /// The Job of one of its probes.
    pub fn probe_job(&self, number: i64) -> Key {
        let purpose = match self {
            Self::Own(_) => JobPurpose::Probe,
            Self::Cluster(_) => JobPurpose::ClusterProbe,
        };
        self.job(purpose, number)
    }

    /// The Job of a pass of its keeper.
    pub fn keep_job(&self, number: i64) -> Key {
        let purpose = match self {
            Self::Own(_) => JobPurpose::Keep,
            Self::Cluster(_) => JobPurpose::ClusterKeep,
        };
        self.job(purpose, number)
    }

    fn job(&self, purpose: JobPurpose, number: i64) -> Key {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        Key::new(self.workplace(), job_name(&self.name(), purpose, number))
    }

    /// The Job `name` of its own that does this in so many seconds.
    pub fn build(&self, context: &Context, name: &str, action: Action, timeout: i64) -> Result<Job, BuildError> {
        let task = Task {
            version: TASK_VERSION,
            cluster: context.cluster.clone(),
            namespace: self.workplace(),
            store: self.maintained(),
            action,
        };
        job::build(&JobRequest {
            name,
            owner: self.owner(),
            task: &task,
            agent_image: &context.image,
            template: self.template(),
            identity_secret: None,
            timeout,
        })
    }

    /// The Jobs of this purpose that work for it.
    pub fn jobs(&self, caches: &Caches, purpose: Purpose) -> Vec<Arc<Job>> {
        let label = job::store_label(self.kind());
        let mut jobs = caches
            .jobs
            .by(Caches::BY_OWNER, &self.workplace(), &Caches::owned_by(label, &self.name()));
        jobs.retain(|job| purpose.is_of(&job.metadata));
        jobs
    }

    /// The runs whose copies go to it, one after the other.
    pub fn runs(&self, caches: &Caches) -> impl Iterator<Item = Arc<BackupRun>> + use<> {
        let Key { namespace, name } = self.key();
        match self {
            Self::Own(_) => caches.runs.each_by(Caches::RUNS_BY_STORE, &namespace, &name),
            Self::Cluster(_) => caches.runs.each_by(Caches::RUNS_BY_CLUSTER_STORE, "", &name),
        }
    }

    /// The runs whose copies it got from another store.
    pub fn runs_copied(&self, caches: &Caches) -> impl Iterator<Item = Arc<BackupRun>> + use<> {
        let Key { namespace, name } = self.key();
        match self {
            Self::Own(_) => caches.runs.each_by(Caches::RUNS_COPIED_TO, &namespace, &name),
            Self::Cluster(_) => caches.runs.each_by(Caches::RUNS_COPIED_TO_CLUSTER_STORE, "", &name),
        }
    }

    /// The schedules that name it.
    pub fn schedules(&self, caches: &Caches) -> Vec<Arc<BackupSchedule>> {
        caches.schedules_by_store(&self.key())
    }

    /// Which namespaces may use it, for one of the cluster.
    pub fn allowed_namespaces(&self) -> Option<AllowedNamespaces> {
        match self {
            Self::Own(_) => None,
            Self::Cluster(store) => Some(store.spec.allowed_namespaces.clone()),
        }
    }

    /// Whether objects of a namespace may name it.
    pub fn allows(&self, caches: &Caches, namespace: &str) -> bool {
        match self {
            Self::Own(store) => store.metadata.namespace.as_deref() == Some(namespace),
            Self::Cluster(store) => {
                let object = caches.namespaces.get(&Key::new("", namespace));
                let labels = object.as_ref().map(|object| object.labels());
                store.spec.allowed_namespaces.allow(namespace, labels)
            }
        }
    }

    /// The namespaces whose copies it has or may get, as far as that is known: those that are allowed, those with a schedule that names it, and those of
    /// which its keeper told that have no objects here.
    pub fn namespaces(&self, caches: &Caches) -> BTreeSet<String> {
        let Self::Cluster(_) = self else {
            return self.meta().namespace.iter().cloned().collect();
        };
        let named = caches.namespaces.keys().into_iter().map(|key| key.name);
        let mut all: BTreeSet<String> = named.filter(|name| self.allows(caches, name)).collect();
        all.extend(self.schedules(caches).iter().filter_map(|schedule| schedule.namespace()));
        if let Some(keeper) = self.status().and_then(|status| status.keeper.as_ref()) {
            all.extend(keeper.vanished.iter().map(|gone| gone.namespace.clone()));
            all.extend(keeper.unknown.iter().map(|source| source.namespace.clone()));
        }
        all
    }

    /// Whether a namespace is one of [`Store::namespaces`].
    fn concerns(&self, caches: &Caches, namespace: &str) -> bool {
        let reference = self.reference();
        let named = |schedule: &Arc<BackupSchedule>| schedule.spec.stores.iter().any(|store| store.reference() == reference);
        let keeper = self.status().and_then(|status| status.keeper.as_ref());
        let told = keeper.is_some_and(|keeper| {
            keeper.vanished.iter().any(|gone| gone.namespace == namespace)
                || keeper.unknown.iter().any(|source| source.namespace == namespace)
        });
        told || self.allows(caches, namespace) || caches.schedules.in_namespace(namespace).iter().any(named)
    }

    /// Writes its status, with an Event for each transition, and gives the store as it is then.
    pub async fn report(&self, context: &Context, after: &BackupStoreStatus) -> Result<Self, Error> {
        let (report, caches) = (&context.report, &context.caches);
        let before = self.conditions();
        match self {
            Self::Own(store) => {
                let written = report.status(&caches.stores, &**store, after).await?;
                report.transitions(&written, before, &after.conditions).await;
                Ok(written.into())
            }
            Self::Cluster(store) => {
                let written = report.cluster_status(&caches.cluster_stores, &**store, after).await?;
                report.transitions(&written, before, &after.conditions).await;
                Ok(written.into())
            }
        }
    }
}

/// How a store of either kind changed. One of the two is there.
#[derive(Debug)]
pub struct StoreChange {
    pub before: Option<Store>,
    pub after: Option<Store>,
    /// See [`Change::beyond_status`].
    pub beyond_status: bool,
}

impl StoreChange {
    /// The key of the store: one of the cluster has no namespace.
    pub fn key(&self) -> Key {
        let store = self.after.as_ref().or(self.before.as_ref());
        store.map_or_else(|| Key::new("", ""), Store::key)
    }

    /// Whether this says something else of the store than before.
    pub fn differs<T: PartialEq>(&self, of: impl Fn(Option<&Store>) -> T) -> bool {
        of(self.before.as_ref()) != of(self.after.as_ref())
    }

    /// The runs whose copies go to it.
    pub fn runs(&self, caches: &Caches) -> impl Iterator<Item = Arc<BackupRun>> + use<> {
        let store = self.after.as_ref().or(self.before.as_ref());
        store.map(|store| store.runs(caches)).into_iter().flatten()
    }

    /// The namespaces that may have to do with the store, before or after.
    pub fn namespaces(&self, caches: &Caches) -> BTreeSet<String> {
        let stores = self.before.iter().chain(&self.after);
        stores.flat_map(|store| store.namespaces(caches)).collect()
    }
}

/// Why an object cannot use the store that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub reason: Reason,
    pub message: String,
}

impl Caches {
    /// A store by its key: one without a namespace is the cluster's.
    pub fn store_at(&self, key: &Key) -> Option<Store> {
        if key.namespace.is_empty() {
            self.cluster_stores.get(key).map(Store::Cluster)
        } else {
            self.stores.get(key).map(Store::Own)
        }
    }

    /// The store that an object of this namespace names, whether it may use it or not.
    pub fn named_store(&self, namespace: &str, reference: &StoreReference) -> Option<Store> {
        self.store_at(&key_of(namespace, reference))
    }

    /// The store that an object of this namespace names and may use.
    pub fn store(&self, namespace: &str, reference: &StoreReference) -> Result<Store, Unusable> {
        let store = self.served_store(namespace, reference)?;
        if !store.allows(self, namespace) {
            let message = format!(
                "{reference} does not allow the namespace {namespace}; name another store, or have it added to spec.allowedNamespaces of the store"
            );
            return Err(Unusable {
                reason: Reason::StoreNotAllowed,
                message,
            });
        }
        Ok(store)
    }

    /// … for what is done in the namespace of the store's own Jobs alone, whatever the store allows others.
    pub fn store_kept_in(&self, namespace: &str, reference: &StoreReference) -> Result<Store, Unusable> {
        let store = self.served_store(namespace, reference)?;
        let workplace = store.workplace();
        if workplace != namespace {
            let message = format!(
                "found {reference} in namespace {namespace}, but what it holds is told in its maintenance namespace {workplace} alone, because it is \
                 of many namespaces; make this object there"
            );
            return Err(Unusable {
                reason: Reason::StoreNotAllowed,
                message,
            });
        }
        Ok(store)
    }

    /// The store that an object of this namespace names, if this operator serves it.
    fn served_store(&self, namespace: &str, reference: &StoreReference) -> Result<Store, Unusable> {
        let unusable = |reason, message| Err(Unusable { reason, message });
        if reference.kind == StoreKind::ClusterBackupStore && !self.serves_cluster {
            let message =
                format!("{reference} is a store of the cluster, and this operator serves some namespaces only; name a BackupStore");
            return unusable(Reason::StoreNotFound, message);
        }
        let Some(store) = self.named_store(namespace, reference) else {
            let place = match reference.kind {
                StoreKind::BackupStore => " in this namespace",
                StoreKind::ClusterBackupStore => "",
            };
            return unusable(
                Reason::StoreNotFound,
                format!("there is no {reference}{place}; create it, or name another"),
            );
        };
        Ok(store)
    }

    /// Calls `listener` at each change of a store of either kind from now on. It must not block, and may read any cache.
    pub fn listen_stores(&self, listener: impl Fn(&StoreChange) + Send + Sync + 'static) {
        let listener = Arc::new(listener);
        self.stores.listen({
            let listener = listener.clone();
            move |change: &Change<BackupStore>| {
                listener(&StoreChange {
                    before: change.before.clone().map(Store::Own),
                    after: change.after.clone().map(Store::Own),
                    beyond_status: change.beyond_status(),
                });
            }
        });
        self.cluster_stores.listen(move |change: &Change<ClusterBackupStore>| {
            listener(&StoreChange {
                before: change.before.clone().map(Store::Cluster),
                after: change.after.clone().map(Store::Cluster),
                beyond_status: change.beyond_status(),
            });
        });
    }

    /// All stores of both kinds.
    pub fn every_store(&self) -> Vec<Store> {
        let own = self.stores.all().into_iter().map(Store::Own);
        own.chain(self.cluster_stores.all().into_iter().map(Store::Cluster)).collect()
    }

    /// The stores of both kinds that are for this place ([`Store::place`]).
    pub fn stores_at(&self, place: &str) -> Vec<Store> {
        let own = self.stores.each_by(Self::STORES_BY_PLACE, "", place).map(Store::Own);
        let cluster = self.cluster_stores.each_by(Self::STORES_BY_PLACE, "", place);
        own.chain(cluster.map(Store::Cluster)).collect()
    }

    /// The stores that have or may get copies of a namespace.
    pub fn stores_of(&self, namespace: &str) -> Vec<Store> {
        let own = self.stores.in_namespace(namespace).into_iter().map(Store::Own);
        let cluster = self.cluster_stores.all().into_iter().map(Store::Cluster);
        let cluster = cluster.filter(|store| store.concerns(self, namespace));
        own.chain(cluster).collect()
    }

    /// Whether a namespace does not exist (any more).
    pub fn vanished(&self, namespace: &str) -> bool {
        self.serves_cluster && self.namespaces.get(&Key::new("", namespace)).is_none()
    }

    /// The stores that a hold of the cluster on copies of a namespace is to reach: one that vanished may have left copies in each store of the cluster,
    /// and what keepers tell of that is of their last pass, and not of all.
    pub fn stores_to_hold(&self, namespace: &str) -> Vec<Store> {
        let mut stores = self.stores_of(namespace);
        if self.vanished(namespace) {
            stores.extend(self.cluster_stores.all().into_iter().map(Store::Cluster));
        }
        stores
    }

    /// The schedules that name the store of this key.
    pub fn schedules_by_store(&self, store: &Key) -> Vec<Arc<BackupSchedule>> {
        let index = if store.namespace.is_empty() {
            Self::SCHEDULES_BY_CLUSTER_STORE
        } else {
            Self::SCHEDULES_BY_STORE
        };
        self.schedules.by(index, &store.namespace, &store.name)
    }
}

/// The key of the store that a Job, or a pod of one, works for.
pub fn store_of(meta: &ObjectMeta) -> Option<Key> {
    let labels = meta.labels.as_ref()?;
    let own = labels
        .get(job::STORE)
        .map(|name| Key::new(meta.namespace.clone().unwrap_or_default(), name.as_str()));
    own.or_else(|| labels.get(job::CLUSTER_STORE).map(|name| Key::new("", name.as_str())))
}

/// The key of the store that an object of this namespace names.
pub fn key_of(namespace: &str, reference: &StoreReference) -> Key {
    let namespace = match reference.kind {
        StoreKind::BackupStore => namespace,
        StoreKind::ClusterBackupStore => "",
    };
    Key::new(namespace, reference.name.as_str())
}
