//! Copies by their path in a store: how every command that reads one finds and opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use holdfast_crds::document::{Committed, Decision, ObjectPath, PodPath, RunPath};
use holdfast_crds::{BackupStore, Reason, StoreRole};
use tokio_util::sync::CancellationToken;

use super::{key, removed};
use crate::config::{random_hex, read_document};
use crate::pipeline::CopyReader;
use crate::pipeline::key::{MAX_SEALED_KEY_BYTES, Opener, RunKey, open_key};
use crate::pipeline::pool::{Pool, control_group_memory_limit};
use crate::progress::Progress;
use crate::result::Failure;
use crate::store::register::Decided;
use crate::store::{DEFAULT_PARALLEL, Patience, Store, StoreError, StoreFiles, StorePath, Usage, connect};

/// So many key objects of a copy are tried.
const MOST_KEYS: usize = 64;

/// Which copy, in which store, with which key: for commands by hand.
#[derive(Debug, Clone, Args)]
pub struct CopyArgs {
    /// The copy, as the source's status shows it: <namespace>/<source>/<run>
    #[arg(value_name = "COPY")]
    pub copy: String,
    /// Manifest of the BackupStore, as kubectl applies it
    #[arg(long, value_name = "FILE")]
    pub store: PathBuf,
    /// Directory with `access_key_id`, `secret_access_key` and, if there is one, `session_token` of the store
    #[arg(long, value_name = "DIR", default_value = "store-secret", help_heading = "Files")]
    pub store_secret: PathBuf,
    /// Directory with `ca.crt` of the store's endpoint
    #[arg(long, value_name = "DIR", default_value = "store-ca", help_heading = "Files")]
    pub store_ca: PathBuf,
    /// Directory with `token` for a web identity
    #[arg(long, value_name = "DIR", default_value = "store-token", help_heading = "Files")]
    pub store_token: PathBuf,
    /// Root of a volume store
    #[arg(long, value_name = "DIR", default_value = "store-volume", help_heading = "Files")]
    pub store_volume: PathBuf,
    /// Directory with `identity` (as age-keygen writes it) or `passphrase`
    #[arg(long, value_name = "DIR", default_value = "identity", help_heading = "Files")]
    pub identity: PathBuf,
}

/// A copy that was found in its store.
pub struct Found {
    /// Where it lies.
    pub store: Store,
    /// What it is the copy of.
    pub run: RunPath,
    /// What it is.
    pub copy: Committed,
}

impl CopyArgs {
    /// Opens the store and reads the copy's outcome.
    pub async fn find(&self) -> Result<Found, Failure> {
        let run = self.copy.parse().map_err(|error| {
            Failure::new(
                Reason::InvalidSpec,
                format!("read COPY: {error}; expected <namespace>/<source>/<run>, as the source's status shows it"),
            )
        })?;
        let store = self.open(StoreRole::Reader)?;
        match find(&store, &run).await {
            Ok((copy, _)) => Ok(Found { store, run, copy }),
            Err(failure) => Err(removed::explained(&store, &run, failure).await),
        }
    }

    /// Opens the store, with the credentials of this role; S3 is not asked yet.
    pub fn open(&self, role: StoreRole) -> Result<Store, Failure> {
        let manifest: BackupStore = read_document("the BackupStore", &self.store)?;
        let files = StoreFiles {
            secret: self.store_secret.clone(),
            ca: self.store_ca.clone(),
            token: self.store_token.clone(),
            volume: self.store_volume.clone(),
        };
        let usage = Usage {
            patience: Patience::RUN,
            parallel: DEFAULT_PARALLEL,
            session: format!("by-hand-{}", random_hex()),
            created: None,
            role,
        };
        Ok(connect(&manifest.spec, &files, usage)?)
    }
}

impl Found {
    /// Does this with the copy. What cannot be read because it was removed says so.
    pub async fn read<T>(&self, reading: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match reading.await {
            Ok(read) => Ok(read),
            Err(failure) => Err(removed::explained(&self.store, &self.run, failure).await),
        }
    }

    /// Opens the copy's key, where it has one and it is wanted: a wrong one says so before anything is read.
    pub async fn reader(&self, identity: Option<&Path>, cancel: CancellationToken, progress: &Progress) -> Result<CopyReader, Failure> {
        let key = match identity {
            Some(identity) => run_key(&self.store, &self.copy, identity).await?,
            None => None,
        };
        let pool = Pool::for_memory_limit(control_group_memory_limit(), 1);
        Ok(CopyReader::new(
            self.store.clone(),
            &self.copy,
            key,
            pool,
            cancel,
            progress.counters(),
        ))
    }
}

/// The copy of a run, out of the register, and the version of the object that holds it. One that was written before its own tick is nobody's copy.
pub async fn find(store: &Store, run: &RunPath) -> Result<(Committed, Option<String>), Failure> {
    let missing = || Failure::new(Reason::CopyNotFound, format!("{} holds no copy at {run}", store.describe()));
    let decided = store.outcome(run).await?.ok_or_else(missing)?;
    let tick = decided.outcome.committed().and_then(|copy| copy.manifest().run.tick);
    let Decided { outcome, version, .. } = decided.adopt(tick)?;
    match outcome.decision {
        Decision::Committed(copy) => Ok((*copy, version)),
        Decision::Abandoned(abandonment) => {
            let message = format!(
                "run {run} was given up and has no copy: {}: {}",
                abandonment.reason, abandonment.message
            );
            Err(Failure::new(Reason::CopyNotFound, message))
        }
    }
}

/// Opens the copy's key with what lies in the identity's directory: the key object that the manifest names, else one that `rekey` added beside it.
/// `None` for a copy that is not encrypted.
pub async fn run_key(store: &Store, copy: &Committed, identity: &Path) -> Result<Option<RunKey>, Failure> {
    let encryption = &copy.manifest().encryption;
    let (Some(path), Some(recipient)) = (encryption.key(), encryption.public_recipient()) else {
        return Ok(None);
    };
    let with = Arc::new(key::opener(identity)?);
    let (named, pod) = key_of(path)?;
    let stays_shut = |failure: &Failure| matches!(failure.reason, Reason::WrongKey | Reason::CopyCorrupt);
    let stored = copy.stored().iter().find(|object| object.path == path);
    let version = stored.and_then(|object| object.version_id.as_deref());
    let failure = match open_one(store, &named, version, &with, recipient).await {
        Err(failure) if stays_shut(&failure) => failure,
        opened => return opened.map(Some),
    };
    // Whatever lies there opens nothing but this copy's key: one that is another's is refused.
    let others = keys_beside(store, &pod).await?;
    for number in others.into_iter().rev().take(MOST_KEYS) {
        let object = pod.key(number);
        if object == named {
            continue;
        }
        match open_one(store, &object, None, &with, recipient).await {
            Ok(key) => {
                tracing::info!(%object, "this key object opens the copy");
                return Ok(Some(key));
            }
            Err(other) if stays_shut(&other) => {}
            Err(other) => return Err(other),
        }
    }
    Err(failure)
}

/// The key object that a manifest names, and the pod that it is of.
pub(super) fn key_of(path: &str) -> Result<(ObjectPath, PodPath), Failure> {
    match path.parse() {
        Ok(ObjectPath::Key { pod, number }) => Ok((pod.key(number), pod)),
        _ => Err(Failure::new(
            Reason::CopyCorrupt,
            format!("read the manifest: {path:?} is not the place of a key"),
        )),
    }
}

/// The numbers of the pod's key objects, in order.
pub(super) async fn keys_beside(store: &Store, pod: &PodPath) -> Result<Vec<u32>, StoreError> {
    let mut pages = store.pages(&format!("catalog/{}", pod.run).parse()?);
    let mut numbers = Vec::new();
    while let Some(page) = pages.next().await? {
        numbers.extend(page.iter().filter_map(|object| match object.path.parse() {
            Ok(ObjectPath::Key { pod: of, number }) if of == *pod => Some(number),
            _ => None,
        }));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

async fn open_one(
    store: &Store,
    object: &ObjectPath,
    version: Option<&str>,
    with: &Arc<Opener>,
    recipient: &str,
) -> Result<RunKey, Failure> {
    let at = StorePath::from(object);
    let sealed = store.read_version(&at, version, MAX_SEALED_KEY_BYTES as u64).await?;
    let sealed = sealed.ok_or_else(|| Failure::new(Reason::CopyCorrupt, format!("the copy's key {object} is not there")))?;
    let (with, recipient) = (Arc::clone(with), recipient.to_owned());
    // A passphrase takes a second of work.
    let opened = tokio::task::spawn_blocking(move || open_key(&sealed.bytes, &with, &recipient));
    Ok(opened
        .await
        .map_err(|error| Failure::new(Reason::InternalError, format!("open the copy's key: {error}")))??)
}

#[cfg(test)]
mod tests;
