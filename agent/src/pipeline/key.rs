//! Keys: each pod has a fresh age key for its parts, whose secret lies in the store sealed to the store's recipients or with its passphrase.

use std::{io::Read, iter};

use age::{
    DecryptError, Decryptor, Encryptor,
    secrecy::{ExposeSecret, SecretString},
    x25519,
};
use holdfast_crds::{Reason, document::Sha256};
use zeroize::Zeroizing;

/// scrypt's work for a passphrase as a power of two: age's own default of about a second, which takes 270 MiB of memory.
const PASSPHRASE_WORK: u8 = 18;
/// The most work that a sealed key may ask for: 1 GiB of memory.
const PASSPHRASE_WORK_LIMIT: u8 = 20;
/// A sealed key is a few hundred bytes for each recipient.
pub const MAX_SEALED_KEY_BYTES: usize = 64 << 10;

/// Why a key cannot be made, read or opened. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read recipient {found:?}: {problem}; expected an age public key such as age1… from age-keygen")]
    Recipient { found: String, problem: &'static str },
    #[error("seal the run's key: the store names no recipient; expected at least one age public key")]
    NoRecipients,
    #[error("seal the run's key: {0}")]
    Seal(String),
    #[error("read the identity: {problem}; expected lines with AGE-SECRET-KEY-1… as age-keygen writes them (comments begin with #)")]
    Identity { problem: String },
    #[error("read the passphrase: it is empty; expected one line of text")]
    EmptyPassphrase,
    /// Reason `WrongKey`.
    #[error(
        "open the copy's key: it is sealed to none of the {identities} keys that were given ({given}); give the identity of one of the recipients of this copy"
    )]
    WrongIdentity { identities: usize, given: String },
    /// Reason `WrongKey`.
    #[error("open the copy's key: the passphrase is not the one it was sealed with")]
    WrongPassphrase,
    /// Reason `WrongKey`.
    #[error("open the copy's key: it is sealed {sealed}, but {given} was given")]
    OtherKind { sealed: &'static str, given: &'static str },
    /// Reason `WrongKey`: the sealed key opened, but is another run's.
    #[error("open the copy's key: it belongs to {found}, the copy's parts are encrypted to {expected}; the key object was replaced")]
    OtherRun { found: String, expected: String },
    #[error("open the copy's key: the sealed key is damaged: {problem}")]
    Damaged { problem: String },
    #[error("open the copy's key: its passphrase asks for 2^{required} of work, expected at most 2^{PASSPHRASE_WORK_LIMIT}")]
    ExcessiveWork { required: u8 },
}

impl KeyError {
    /// For conditions, exit code and runbook.
    pub fn reason(&self) -> Reason {
        match self {
            Self::WrongIdentity { .. } | Self::WrongPassphrase | Self::OtherKind { .. } | Self::OtherRun { .. } => Reason::WrongKey,
            Self::Recipient { .. } | Self::NoRecipients => Reason::InvalidSpec,
            Self::Identity { .. } | Self::EmptyPassphrase => Reason::SecretKeyMissing,
            Self::Damaged { .. } | Self::ExcessiveWork { .. } => Reason::CopyCorrupt,
            Self::Seal(_) => Reason::InternalError,
        }
    }

    /// Whether another key would help.
    pub fn is_wrong_key(&self) -> bool {
        matches!(
            self,
            Self::WrongIdentity { .. } | Self::WrongPassphrase | Self::OtherKind { .. } | Self::OtherRun { .. }
        )
    }
}

/// A public key to which a run's key is sealed.
#[derive(Clone)]
pub struct Recipient(x25519::Recipient);

impl Recipient {
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        // What was given may be a secret key by mistake: it is never repeated.
        let shown = || {
            if text.starts_with("age1") {
                text.chars().take(80).collect()
            } else {
                "text that does not begin with age1".to_owned()
            }
        };
        text.trim()
            .parse()
            .map(Self)
            .map_err(|problem| KeyError::Recipient { found: shown(), problem })
    }

    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        &self.0
    }

    /// SHA-256 of its text: what manifests hold.
    pub fn fingerprint(&self) -> Sha256 {
        Sha256::of(self.0.to_string().as_bytes())
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A pod's own key. Its secret is zeroised when it is dropped.
#[derive(Clone)]
pub struct RunKey(x25519::Identity);

impl RunKey {
    /// A fresh one.
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// To what the run's parts are encrypted.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    pub(super) fn identity(&self) -> &x25519::Identity {
        &self.0
    }

    /// The text of an identity file, as `age -d -i` takes it: for a file in memory only.
    pub fn to_identity_file(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", self.0.to_string().expose_secret()))
    }

    /// Reads what [`RunKey::to_identity_file`] wrote.
    pub fn from_identity_file(text: &str) -> Result<Self, KeyError> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let line = line.ok_or_else(|| KeyError::Identity {
            problem: "it is empty".to_owned(),
        })?;
        line.parse().map(Self).map_err(|problem| KeyError::Identity {
            problem: problem.to_owned(),
        })
    }
}

/// A store's passphrase. Zeroised when it is dropped.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// The text without the line end that editors leave.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            Err(KeyError::EmptyPassphrase)
        } else {
            Ok(Self(SecretString::from(text.to_owned())))
        }
    }
}

/// To whom a run's key is sealed.
pub enum SealTo {
    Recipients(Vec<Recipient>),
    /// Takes 270 MiB of memory and a second: done by a step of its own.
    Passphrase(Passphrase),
}

impl SealTo {
    pub fn recipients<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        texts
            .into_iter()
            .map(Recipient::parse)
            .collect::<Result<_, _>>()
            .map(Self::Recipients)
    }
}

/// What opens a sealed key.
pub enum Opener {
    /// One or several identities.
    Identities(Vec<x25519::Identity>),
    Passphrase(Passphrase),
}

impl Opener {
    /// Reads an identity file as `age-keygen` writes it.
    pub fn from_identity_file(text: &str) -> Result<Self, KeyError> {
        let identities = text
            .lines()
            .map(str::trim)
            .enumerate()
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(number, line)| {
                line.parse().map_err(|problem| KeyError::Identity {
                    problem: format!("line {}: {problem}", number + 1),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if identities.is_empty() {
            Err(KeyError::Identity {
                problem: "it holds no key".to_owned(),
            })
        } else {
            Ok(Self::Identities(identities))
        }
    }
}

/// Seals a run's key: an age file whose content is an identity file, opened by stock `age -d -i mine`.
pub fn seal_key(key: &RunKey, to: &SealTo) -> Result<Vec<u8>, KeyError> {
    let failed = |error: &dyn std::fmt::Display| KeyError::Seal(error.to_string());
    let encryptor = match to {
        SealTo::Recipients(recipients) if recipients.is_empty() => return Err(KeyError::NoRecipients),
        SealTo::Recipients(recipients) => {
            Encryptor::with_recipients(recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient))
        }
        SealTo::Passphrase(passphrase) => {
            let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
            recipient.set_work_factor(PASSPHRASE_WORK);
            Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient))
        }
    };
    let mut writer = encryptor
        .map_err(|error| failed(&error))?
        .wrap_output(Vec::new())
        .map_err(|error| failed(&error))?;
    std::io::Write::write_all(&mut writer, key.to_identity_file().as_bytes()).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))
}

/// Opens a sealed key. `expected` is the recipient to which the manifest says the parts are encrypted.
pub fn open_key(sealed: &[u8], with: &Opener, expected: &str) -> Result<RunKey, KeyError> {
    let decryptor = Decryptor::new_buffered(sealed).map_err(|error| KeyError::Damaged {
        problem: error.to_string(),
    })?;
    let by_passphrase = decryptor.is_scrypt();
    let opened = match with {
        Opener::Identities(_) if by_passphrase => {
            return Err(KeyError::OtherKind {
                sealed: "with a passphrase",
                given: "an identity",
            });
        }
        Opener::Passphrase(_) if !by_passphrase => {
            return Err(KeyError::OtherKind {
                sealed: "to recipients",
                given: "a passphrase",
            });
        }
        Opener::Identities(identities) => decryptor.decrypt(identities.iter().map(|identity| identity as &dyn age::Identity)),
        Opener::Passphrase(passphrase) => {
            let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
            identity.set_max_work_factor(PASSPHRASE_WORK_LIMIT);
            decryptor.decrypt(iter::once(&identity as &dyn age::Identity))
        }
    };
    let reader = opened.map_err(|error| match (error, with) {
        (DecryptError::NoMatchingKeys, Opener::Identities(identities)) => KeyError::WrongIdentity {
            identities: identities.len(),
            given: identities
                .iter()
                .map(|identity| identity.to_public().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        },
        (DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys, Opener::Passphrase(_)) => {
            KeyError::WrongPassphrase
        }
        (DecryptError::ExcessiveWork { required, .. }, _) => KeyError::ExcessiveWork { required },
        (error, _) => KeyError::Damaged {
            problem: error.to_string(),
        },
    })?;
    let mut text = Zeroizing::new(String::with_capacity(256));
    reader
        .take(MAX_SEALED_KEY_BYTES as u64)
        .read_to_string(&mut text)
        .map_err(|error| KeyError::Damaged {
            problem: error.to_string(),
        })?;
    let key = RunKey::from_identity_file(&text).map_err(|_| KeyError::Damaged {
        problem: "it holds no identity".to_owned(),
    })?;
    let found = key.recipient().to_string();
    if found == expected {
        Ok(key)
    } else {
        Err(KeyError::OtherRun {
            found,
            expected: expected.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> (Opener, Recipient) {
        let identity = x25519::Identity::generate();
        let recipient = Recipient(identity.to_public());
        (Opener::Identities(vec![identity]), recipient)
    }

    #[test]
    fn each_recipient_opens_a_sealed_key_and_nobody_else() {
        let key = RunKey::generate();
        let expected = key.recipient().to_string();
        let (first, one) = identity();
        let (second, two) = identity();
        let (stranger, _) = identity();
        let sealed = seal_key(&key, &SealTo::Recipients(vec![one, two])).unwrap();
        for opener in [&first, &second] {
            assert_eq!(open_key(&sealed, opener, &expected).unwrap().recipient().to_string(), expected);
        }
        let error = open_key(&sealed, &stranger, &expected).err().unwrap();
        assert!(error.is_wrong_key() && error.to_string().contains("age1"), "{error}");
        let error = open_key(&sealed, &Opener::Passphrase(Passphrase::new("x").unwrap()), &expected)
            .err()
            .unwrap();
        assert!(error.is_wrong_key(), "{error}");
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed() {
        let key = RunKey::generate();
        let expected = key.recipient().to_string();
        let sealed = seal_key(&key, &SealTo::Passphrase(Passphrase::new("correct horse\n").unwrap())).unwrap();
        assert!(open_key(&sealed, &Opener::Passphrase(Passphrase::new("correct horse").unwrap()), &expected).is_ok());
        let error = open_key(&sealed, &Opener::Passphrase(Passphrase::new("battery staple").unwrap()), &expected)
            .err()
            .unwrap();
        assert!(matches!(error, KeyError::WrongPassphrase), "{error}");
        assert!(open_key(&sealed, &identity().0, &expected).err().unwrap().is_wrong_key());
    }

    #[test]
    fn every_damaged_byte_of_a_sealed_key_is_noticed() {
        let key = RunKey::generate();
        let (opener, recipient) = identity();
        let sealed = seal_key(&key, &SealTo::Recipients(vec![recipient])).unwrap();
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert!(
                open_key(&damaged, &opener, &key.recipient().to_string()).is_err(),
                "byte {position}"
            );
        }
        for length in 0..sealed.len() {
            assert!(
                open_key(&sealed[..length], &opener, &key.recipient().to_string()).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn another_runs_key_is_refused() {
        let (opener, recipient) = identity();
        let sealed = seal_key(&RunKey::generate(), &SealTo::Recipients(vec![recipient])).unwrap();
        let error = open_key(&sealed, &opener, &RunKey::generate().recipient().to_string())
            .err()
            .unwrap();
        assert!(matches!(error, KeyError::OtherRun { .. }), "{error}");
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let secret = RunKey::generate();
        let text = secret.to_identity_file();
        let message = Recipient::parse(&text).err().unwrap().to_string();
        assert!(!message.contains(text.trim()), "{message}");
        assert!(Recipient::parse("age1xyz").is_err());
        assert!(Opener::from_identity_file("# comment\n\n").is_err());
        assert!(Opener::from_identity_file(&format!("# created: today\n{}", *text)).is_ok());
        let message = Opener::from_identity_file("AGE-SECRET-KEY-1QQ\n").err().unwrap().to_string();
        assert!(message.contains("line 1") && !message.contains("KEY-1QQ"), "{message}");
        assert!(matches!(Passphrase::new("\n"), Err(KeyError::EmptyPassphrase)));
        assert!(matches!(
            seal_key(&secret, &SealTo::Recipients(vec![])),
            Err(KeyError::NoRecipients)
        ));
    }
}
