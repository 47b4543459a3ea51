//! What a restore works on: frozen with its first attempt, but for the names of Secrets.

use holdfast_crds::{
    AgeEncryption, BackupRun, Encryption, FrozenRestore, FrozenStore, PassphraseEncryption, Reason, RestoreFrom, RestoreRequest,
};
use kube::ResourceExt;

use crate::{attempt::Obstacle, controller::run::store_secrets, store::Unusable, watch::Caches};

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
            if from.path.split('/').next() != Some(namespace) {
                return Err(Obstacle::hopeless(
                    Reason::InvalidSpec,
                    format!(
                        "spec.from.store.path: found {}, expected a path that begins with this namespace, {namespace}/; make the request in the \
                         namespace that the copy is of",
                        from.path
                    ),
                ));
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
            of_run(run)
        }
    }
}

fn of_run(run: &BackupRun) -> Result<FrozenRestore, Obstacle> {
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
    Ok(FrozenRestore {
        store: frozen.store,
        path: copy.path,
        manifest_digest: Some(copy.manifest_digest),
        version_id: copy.version_id,
    })
}
