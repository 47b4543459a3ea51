//! `key`: the run's key, made and sealed in an init container of its own, because a passphrase takes 270 MiB for a second.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use holdfast_crds::{AgentResult, Encryption, Reason};
use zeroize::Zeroizing;

use crate::config::{Invocation, Places};
use crate::pipeline::Sealing;
use crate::pipeline::key::{Opener, Passphrase, Recipient, RunKey, SealTo, seal_key};
use crate::result::{Failure, plain};

/// The file with the run's secret key, in memory between two containers.
const KEY_FILE: &str = "run-key";
/// The file with the same key sealed to the store's recipients or with its passphrase.
const SEALED_FILE: &str = "run-key.age";

/// Make the run's key and seal it to the store's recipients or with its passphrase
///
/// An init container does this where the store has a passphrase, with a memory limit of its own (at least 320 MiB): the key passes to the
/// main container through a directory in memory. By hand `backup` does it itself.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent key --task task.json --identity ./words --key ./run-key --result -
    ./words holds passphrase; ./run-key is a directory in memory, which backup reads by --key.")]
pub struct KeyArgs {
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

/// A run's key and its sealed form. Without encryption there is neither.
pub struct SealedKey {
    /// How parts are encrypted.
    pub sealing: Sealing,
    /// The sealed key and the fingerprints of the recipients (none for a passphrase).
    pub sealed: Option<(Vec<u8>, Recipient, Vec<holdfast_crds::document::Sha256>)>,
}

/// Makes and seals a key into the directory that the main container reads.
pub async fn run(invocation: Arc<Invocation>) -> Result<AgentResult, Failure> {
    let encryption = invocation.task.store.spec.encryption.clone();
    let places = invocation.places.clone();
    let made = tokio::task::spawn_blocking(move || -> Result<bool, Failure> {
        let Some((key, sealed, _)) = make(&encryption, &places)? else {
            return Ok(false);
        };
        write_private(&places.key.join(KEY_FILE), key.to_identity_file().as_bytes())?;
        write_private(&places.key.join(SEALED_FILE), &sealed)?;
        Ok(true)
    });
    let made = made
        .await
        .map_err(|error| Failure::new(Reason::InternalError, format!("seal the run's key: {error}")))??;
    Ok(plain(
        Reason::Succeeded,
        if made {
            "the run's key is sealed"
        } else {
            "the store is not encrypted: there is no key"
        },
    ))
}

type Made = (RunKey, Vec<u8>, Vec<holdfast_crds::document::Sha256>);

fn make(encryption: &Encryption, places: &Places) -> Result<Option<Made>, Failure> {
    let (to, fingerprints) = match encryption {
        Encryption::None(_) => return Ok(None),
        Encryption::Age(age) => {
            let recipients = age
                .recipients
                .iter()
                .map(|text| Recipient::parse(text))
                .collect::<Result<Vec<_>, _>>()?;
            let fingerprints = recipients.iter().map(Recipient::fingerprint).collect();
            (SealTo::Recipients(recipients), fingerprints)
        }
        Encryption::Passphrase(_) => (SealTo::Passphrase(passphrase(&places.identity)?), Vec::new()),
    };
    let key = RunKey::generate();
    let sealed = seal_key(&key, &to)?;
    Ok(Some((key, sealed, fingerprints)))
}

fn passphrase(directory: &Path) -> Result<Passphrase, Failure> {
    Ok(Passphrase::new(&secret_file("the passphrase", &directory.join("passphrase"))?)?)
}

fn secret_file(what: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::new(Reason::SecretKeyMissing, format!("read {what} from {}: {error}", path.display())))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let failed = |error: std::io::Error| {
        Failure::new(
            Reason::VolumeMountFailed,
            format!("write the run's key to {}: {error}", path.display()),
        )
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

/// The key for a backup: the one that the init container left, which is removed, or a fresh one. What is left behind is only public.
pub async fn for_backup(invocation: &Invocation) -> Result<SealedKey, Failure> {
    let encryption = invocation.task.store.spec.encryption.clone();
    let places = invocation.places.clone();
    let work = move || -> Result<SealedKey, Failure> {
        let left = places.key.join(KEY_FILE);
        let made = if left.exists() {
            let key = RunKey::from_identity_file(&secret_file("the run's key", &left)?)?;
            let sealed = std::fs::read(places.key.join(SEALED_FILE))
                .map_err(|error| Failure::new(Reason::InternalError, format!("read the sealed key of the init container: {error}")))?;
            // Only its public half is needed from here on.
            if let Err(error) = std::fs::remove_file(&left) {
                tracing::debug!(%error, "the run's key stays in the pod's memory: the folder is read-only here");
            }
            let fingerprints = match &encryption {
                Encryption::Age(age) => age
                    .recipients
                    .iter()
                    .map(|text| Recipient::parse(text).map(|recipient| recipient.fingerprint()))
                    .collect::<Result<_, _>>()?,
                _ => Vec::new(),
            };
            Some((key, sealed, fingerprints))
        } else {
            make(&encryption, &places)?
        };
        Ok(match made {
            None => SealedKey {
                sealing: Sealing::Nothing,
                sealed: None,
            },
            Some((key, sealed, fingerprints)) => {
                let recipient = key.recipient();
                SealedKey {
                    sealing: Sealing::Age(recipient.clone()),
                    sealed: Some((sealed, recipient, fingerprints)),
                }
            }
        })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Reason::InternalError, format!("seal the run's key: {error}")))?
}

/// What opens copies, from the files of the identity's Secret: `identity`, or `passphrase`.
pub fn opener(directory: &Path) -> Result<Opener, Failure> {
    let identity = directory.join("identity");
    if identity.exists() {
        return Ok(Opener::from_identity_file(&secret_file("the identity", &identity)?)?);
    }
    if directory.join("passphrase").exists() {
        return Ok(Opener::Passphrase(passphrase(directory)?));
    }
    Err(Failure::new(
        Reason::KeyMissing,
        format!(
            "the copy is encrypted and {} holds neither identity nor passphrase: name a Secret with one of these keys in identitySecretName",
            directory.display()
        ),
    ))
}
