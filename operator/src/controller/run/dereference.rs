//! What a run works on: frozen with its first attempt, but for the names of Secrets.

use std::sync::Arc;

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupSourceSpec, BackupStoreSpec, Encryption, FrozenRun, FrozenSchedule, Reason,
    StoreReference,
};
use kube::ResourceExt;

use super::adopt;
use crate::{
    attempt::Obstacle,
    controller::stores::choose,
    watch::{Caches, Key},
};

/// What a run works on, and the same with the names of Secrets as the live objects have them now.
pub struct Known {
    pub frozen: FrozenRun,
    pub live: FrozenRun,
    /// The stores that the copy goes to, the primary first.
    pub stores: Vec<StoreReference>,
    /// How many of them must have it; none: all.
    pub required_copies: Option<i32>,
}

/// What a run works on, or what is in the way.
pub fn known(caches: &Caches, run: &BackupRun) -> Result<Known, Obstacle> {
    let namespace = run.namespace().unwrap_or_default();
    let source = caches.sources.get(&Key::new(namespace.as_str(), run.spec.source.as_str()));
    let frozen = match run.status.as_ref().and_then(|status| status.frozen.clone()) {
        Some(frozen) => frozen,
        None => match adopt::frozen(caches, run) {
            Some(frozen) => frozen,
            None => freeze(caches, &namespace, run, source.as_deref())?,
        },
    };
    let store = caches.named_store(&namespace, &frozen.store.reference());
    let mut live = frozen.clone();
    if let Some(source) = source.filter(|source| source.uid().as_deref() == Some(frozen.source_uid.as_str())) {
        source_secrets(&mut live.source, &source.spec);
    }
    if let Some(store) = store.filter(|store| store.uid() == Some(frozen.store.uid.as_str())) {
        store_secrets(&mut live.store.spec, &store.frozen().spec);
    }
    let schedule = run.spec.schedule.as_ref();
    let schedule = schedule.and_then(|named| caches.schedules.get(&Key::new(namespace, named.name.as_str())));
    let (mut stores, required_copies) = places(run, schedule.as_deref());
    let primary = frozen.store.reference();
    stores.retain(|store| *store != primary);
    stores.insert(0, primary);
    Ok(Known {
        frozen,
        live,
        stores,
        required_copies,
    })
}

/// The stores that a run names, itself or by its schedule, and how many of them must have its copy.
pub fn places(run: &BackupRun, schedule: Option<&BackupSchedule>) -> (Vec<StoreReference>, Option<i32>) {
    match schedule {
        Some(schedule) => schedule.spec.stores_for(run.spec.type_),
        None => (run.spec.stores.clone(), run.spec.required_copies),
    }
}

fn freeze(caches: &Caches, namespace: &str, run: &BackupRun, source: Option<&BackupSource>) -> Result<FrozenRun, Obstacle> {
    let schedule = match &run.spec.schedule {
        Some(named) => Some(schedule(caches, namespace, &named.name)?),
        None => None,
    };
    let name = &run.spec.source;
    let source = source.ok_or_else(|| {
        let message = format!("spec.source: there is no BackupSource {name} in this namespace; create it, or delete this run");
        Obstacle::passing(Reason::SourceNotFound, message)
    })?;
    if let Some(why) = source.spec.lacks(run.spec.type_) {
        let message = format!("spec.type: {why}; make a run of that type, with another name");
        return Err(Obstacle::hopeless(Reason::TypeUnsupported, message));
    }
    let (stores, _) = places(run, schedule.as_deref());
    if let (Some(schedule), true) = (&schedule, stores.is_empty()) {
        let message = format!(
            "spec.type: found {}, which no store of the schedule {} takes (spec.stores[].types); make a run of another type, or name stores",
            run.spec.type_,
            schedule.name_any()
        );
        return Err(Obstacle::hopeless(Reason::InvalidSpec, message));
    }
    let store = choose(caches, namespace, &stores)
        .map_err(|(reason, message)| Obstacle::passing(reason, format!("spec.stores: {message}, or delete this run")))?;
    Ok(FrozenRun {
        source_uid: source.uid().unwrap_or_default(),
        source: source.spec.clone(),
        store,
        schedule: schedule.map(|schedule| FrozenSchedule {
            name: schedule.name_any(),
            generation: schedule.metadata.generation.unwrap_or_default(),
            policy_digest: Some(schedule.spec.policy_digest().to_string()),
            attempts: schedule.spec.attempts,
            timeout: schedule.spec.timeout,
        }),
    })
}

fn schedule(caches: &Caches, namespace: &str, name: &str) -> Result<Arc<BackupSchedule>, Obstacle> {
    caches.schedules.get(&Key::new(namespace, name)).ok_or_else(|| {
        let message = format!("spec.schedule: there is no BackupSchedule {name} in this namespace; create it, or delete this run");
        Obstacle::passing(Reason::ScheduleNotFound, message)
    })
}

/// Takes over the names of Secrets: they may be renamed while a run is in flight, as a rotation does.
fn source_secrets(frozen: &mut BackupSourceSpec, live: &BackupSourceSpec) {
    if let (Some(frozen), Some(live)) = (&mut frozen.postgresql, &live.postgresql) {
        frozen.server.credentials.clone_from(&live.server.credentials);
        frozen.server.tls.ca_secret_name.clone_from(&live.server.tls.ca_secret_name);
        let certificate = &live.server.tls.client_certificate_secret_name;
        frozen.server.tls.client_certificate_secret_name.clone_from(certificate);
    }
    if let (Some(frozen), Some(live)) = (&mut frozen.job, &live.job) {
        frozen.image_pull_secrets.clone_from(&live.image_pull_secrets);
    }
}

/// … and those of a store.
pub fn store_secrets(frozen: &mut BackupStoreSpec, live: &BackupStoreSpec) {
    frozen.credentials.clone_from(&live.credentials);
    if let (Some(frozen), Some(live)) = (&mut frozen.s3, &live.s3) {
        frozen.ca_secret_name.clone_from(&live.ca_secret_name);
    }
    match (&mut frozen.encryption, &live.encryption) {
        (Encryption::Age(frozen), Encryption::Age(live)) => frozen.identity_secret_name.clone_from(&live.identity_secret_name),
        (Encryption::Passphrase(frozen), Encryption::Passphrase(live)) => frozen.clone_from(live),
        _ => {}
    }
    if let (Some(frozen), Some(live)) = (&mut frozen.job, &live.job) {
        frozen.image_pull_secrets.clone_from(&live.image_pull_secrets);
    }
}
