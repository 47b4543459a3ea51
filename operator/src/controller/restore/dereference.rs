//! What a restore works on: frozen with its first attempt, but for the names of Secrets.

use holdfast_crds::{
    AgeEncryption, BackupRun, Encryption, FrozenRestore, FrozenStore, PassphraseEncryption, Reason, ReplicaState, RestoreFrom,
    RestoreRequest, RunInStore, StoreReference, document::RunPath,
};
use kube::ResourceExt;

use crate::{
    attempt::Obstacle,
    controller::{run::store_secrets, store::down},
    store::Unusable,
    watch::Caches,
};

/// What a restore works on, and how its copy is opened now.
pub struct Known {
    pub frozen: FrozenRestore,
    /// The store with the names of Secrets as the live object has them now.
    pub store: FrozenStore,
    /// The Secret that opens the copy; none where it is not encrypted.
    pub identity_secret: Option<String>,
}

/// What a restore works on, or what is in the way. `run` is the one that it names, if it names one and is not frozen.
pub fn known(caches: &Caches, request: &RestoreRequest, run: Option<&BackupRun>) -> Result<Known, Obstacle> {
    let namespace = request.namespace().unwrap_or_default();
    let frozen = match request.status.as_ref().and_then(|status| status.frozen.clone()) {
        Some(frozen) => frozen,
        None => freeze(caches, &namespace, &request.spec.from, run)?,
    };
    // Whoever wrote it: a status, too, is but what somebody wrote.
    if !is_of(&frozen.path, &namespace) {
        return Err(foreign("status.frozen.path", &frozen.path, &namespace));
    }
    let mut store = frozen.store.clone();
    let live = caches.named_store(&namespace, &store.reference());
    if let Some(live) = live.filter(|live| live.uid() == Some(store.uid.as_str())) {
        store_secrets(&mut store.spec, &live.frozen().spec);
    }
    let identity_secret = identity_secret(request, &store)?;
    Ok(Known {
        frozen,
        store,
        identity_secret,
    })
}

/// The Secret that opens the copy.
fn identity_secret(request: &RestoreRequest, store: &FrozenStore) -> Result<Option<String>, Obstacle> {
    let said = request.spec.identity_secret_name.clone();
    match &store.spec.encryption {
        Encryption::None(_) => Ok(None),
        Encryption::Passphrase(PassphraseEncryption { secret_name }) => Ok(said.or_else(|| Some(secret_name.clone()))),
        Encryption::Age(AgeEncryption { identity_secret_name, .. }) => match said.or_else(|| identity_secret_name.clone()) {
            Some(name) => Ok(Some(name)),
            None => Err(Obstacle::hopeless(
                Reason::KeyMissing,
                format!(
                    "spec.identitySecretName: the copies of the {} are encrypted and no identity is named, neither here nor in \
                     the store's spec.encryption.age.identitySecretName; make a new request that names a Secret with the key identity",
                    store.reference()
                ),
            )),
        },
    }
}

fn freeze(caches: &Caches, namespace: &str, from: &RestoreFrom, run: Option<&BackupRun>) -> Result<FrozenRestore, Obstacle> {
    match from {
        RestoreFrom::Store(from) => {
            let reference = from.reference();
            let store = caches
                .store(namespace, &reference)
                .map_err(|Unusable { reason, message }| Obstacle::passing(reason, format!("spec.from.store: {message}")))?;
            if !is_of(&from.path, namespace) {
                return Err(foreign("spec.from.store.path", &from.path, namespace));
            }
            Ok(FrozenRestore {
                store: store.frozen(),
                path: from.path.clone(),
                manifest_digest: None,
                version_id: None,
            })
        }
        RestoreFrom::Run(from) => {
            let run = run.ok_or_else(|| {
                Obstacle::passing(
                    Reason::RunNotFound,
                    format!(
                        "spec.from.run.name: there is no BackupRun {} in this namespace; a copy whose run is gone is named by spec.from.store",
                        from.name
                    ),
                )
            })?;
            of_run(caches, run, from.store.as_ref())
        }
    }
}

/// Whether the copy at this path is of that namespace. Stores are shared by namespaces, and a restore reads with the store's rights.
fn is_of(path: &str, namespace: &str) -> bool {
    path.parse::<RunPath>().is_ok_and(|path| path.namespace.as_str() == namespace)
}

fn foreign(field: &str, path: &str, namespace: &str) -> Obstacle {
    let message = format!(
        "{field}: found {path}, expected {namespace}/<source>/<run id>, a copy of this namespace; make a new request in the namespace that the \
         copy is of"
    );
    Obstacle::hopeless(Reason::InvalidSpec, message)
}

fn of_run(caches: &Caches, run: &BackupRun, wanted: Option<&StoreReference>) -> Result<FrozenRestore, Obstacle> {
    let name = run.name_any();
    let status = run.status.clone().unwrap_or_default();
    let (Some(copy), Some(frozen)) = (status.copy, status.frozen) else {
        // An unknown outcome may still become known.
        let over = status.phase.ended() && status.reason != Some(Reason::OutcomeUnknown);
        return Err(if over {
            let message = format!(
                "spec.from.run.name: the BackupRun {name} ended as {} and has no copy; name another",
                status.phase.as_str()
            );
            Obstacle::hopeless(Reason::RunHasNoCopy, message)
        } else {
            Obstacle::passing(
                Reason::RunHasNoCopy,
                format!("waiting for the BackupRun {name}, which has no copy yet"),
            )
        });
    };
    let namespace = run.namespace().unwrap_or_default();
    if !is_of(&copy.path, &namespace) {
        return Err(foreign(
            &format!("status.copy.path of the BackupRun {name}"),
            &copy.path,
            &namespace,
        ));
    }
    let primary = frozen.store.reference();
    let chosen = match wanted {
        Some(wanted) => wanted.clone(),
        None => readable(caches, &namespace, &primary, &status.stores),
    };
    let pinned = FrozenRestore {
        store: frozen.store,
        path: copy.path,
        manifest_digest: Some(copy.manifest_digest),
        version_id: copy.version_id,
    };
    if chosen == primary {
        return Ok(pinned);
    }
    let place = status.stores.iter().find(|place| place.reference() == chosen);
    let Some(place) = place.filter(|place| place.state.is_there()) else {
        let have = status
            .stores
            .iter()
            .filter(|place| place.state.is_there())
            .map(|place| place.reference().to_string());
        let have: Vec<_> = have.collect();
        let message = format!(
            "spec.from.run.store: found {chosen}, which does not have the copy of the BackupRun {name}; it is in {}",
            if have.is_empty() { primary.to_string() } else { have.join(", ") }
        );
        // It may still be copied there.
        let comes = place.is_some_and(|place| place.state == ReplicaState::Missing);
        return Err(if comes {
            Obstacle::passing(Reason::RunHasNoCopy, message)
        } else {
            Obstacle::hopeless(Reason::RunHasNoCopy, message)
        });
    };
    let store = caches.store(&namespace, &chosen);
    let store = store.map_err(|Unusable { reason, message }| Obstacle::passing(reason, format!("spec.from.run.store: {message}")))?;
    Ok(FrozenRestore {
        store: store.frozen(),
        version_id: place.version_id.clone(),
        ..pinned
    })
}

/// The store that a run's copy is read from: the primary, or where that is gone or not ready another that has it and is.
fn readable(caches: &Caches, namespace: &str, primary: &StoreReference, places: &[RunInStore]) -> StoreReference {
    let ready = |store: &StoreReference| caches.store(namespace, store).is_ok_and(|store| down(&store).is_none());
    if ready(primary) {
        return primary.clone();
    }
    let mut others = places.iter().filter(|place| place.state.is_there()).map(RunInStore::reference);
    others.find(ready).unwrap_or_else(|| primary.clone())
}
