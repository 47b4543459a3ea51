//! Seals: a keeper countersigns the manifest of a copy whose objects it has read back. Ed25519 over the 32 bytes of the manifest's SHA-256, so
//! that stock tools can check it, too.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use holdfast_crds::document::{Fact, Record, Sha256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::config::hex;

/// The file with the private key.
pub const KEY_FILE: &str = "seal.pem";
/// What the DER of an Ed25519 public key begins with (RFC 8410); the 32 bytes of the key follow.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Reason `SecretKeyMissing`.
    #[error(
        "read the seal's private key from {path}: {problem}; expected an Ed25519 key in PEM, as openssl genpkey -algorithm ed25519 writes it"
    )]
    PrivateKey { path: String, problem: String },
    /// Reason `InvalidSpec`.
    #[error("found {found:?}, expected a public key of Ed25519: 64 hexadecimal digits, or a PEM file as openssl pkey -pubout writes it")]
    PublicKey { found: String },
}

/// A public key that seals are checked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Of 64 hexadecimal digits, or of a PEM file.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        if let Ok(key) = text.trim().parse() {
            return Ok(key);
        }
        let pem = std::fs::read(text).unwrap_or_default();
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).ok();
        let key = der.as_ref().and_then(|der| der.strip_prefix(&SPKI)?.try_into().ok());
        key.map(Self).ok_or_else(|| SealError::PublicKey {
            found: text.chars().take(100).collect(),
        })
    }
}

impl std::str::FromStr for PublicKey {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        unhex(text).map(Self).ok_or_else(|| SealError::PublicKey {
            found: text.chars().take(100).collect(),
        })
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A private key, which is never shown.
pub struct SealKey(Ed25519KeyPair);

impl SealKey {
    /// Reads `seal.pem` in this directory.
    pub fn read(directory: &Path) -> Result<Self, SealError> {
        let path = directory.join(KEY_FILE);
        let wrong = |problem: String| SealError::PrivateKey {
            path: path.display().to_string(),
            problem,
        };
        let pem = zeroize::Zeroizing::new(std::fs::read(&path).map_err(|error| wrong(error.to_string()))?);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| wrong(error.to_string()))?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self(pair))
    }

    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The seal of a manifest.
    pub fn seal(&self, manifest: Sha256) -> Fact {
        Fact::Seal {
            key: self.public().to_string(),
            signature: hex(self.0.sign(&manifest.0).as_ref()),
        }
    }
}

/// What a copy's records say about its seals.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seals {
    /// The first trusted key that sealed it.
    pub by: Option<PublicKey>,
    /// What is wrong with those that do not verify.
    pub broken: Vec<String>,
}

/// Looks at each seal of a copy with this manifest. One by a key that is not `trusted` counts for nothing: anybody can make a key.
pub fn look<'a>(records: impl IntoIterator<Item = &'a Record>, manifest: Sha256, trusted: &[PublicKey]) -> Seals {
    let mut seals = Seals::default();
    for record in records {
        let Fact::Seal { key, signature } = &record.fact else { continue };
        let parsed = key.parse::<PublicKey>().ok().zip(unhex::<64>(signature));
        match parsed {
            Some((key, signature)) if verifies(key, manifest, &signature) => {
                if seals.by.is_none() && trusted.contains(&key) {
                    seals.by = Some(key);
                }
            }
            _ => seals
                .broken
                .push(format!("the seal {} by key {key} does not verify", record.path())),
        }
    }
    seals
}

fn verifies(key: PublicKey, manifest: Sha256, signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(&manifest.0, signature).is_ok()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0))
        .collect();
    (digits.len() == 2 * N).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use holdfast_crds::document::{Label, RunPath, Ulid};
    use jiff::Timestamp;

    use super::*;

    /// A key as the manual makes it.
    fn key(directory: &Path) -> SealKey {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(directory.join(KEY_FILE))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        SealKey::read(directory).unwrap()
    }

    fn record(fact: Fact) -> Record {
        let run = RunPath::new("shop", "orders", "orders-1").unwrap();
        let at = Timestamp::UNIX_EPOCH;
        Record::new(run, Ulid::new(at, [0; 10]), Label::new("pod", "p").unwrap(), at, None, fact)
    }

    #[test]
    fn a_seal_counts_for_its_manifest_by_a_trusted_key_and_for_nothing_else() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (key(here.path()), key(there.path()));
        let (manifest, other) = (Sha256::of(b"manifest"), Sha256::of(b"other"));
        let trusted = [theirs.public(), ours.public()];
        let seal = record(ours.seal(manifest));
        assert_eq!(look([&seal], manifest, &trusted).by, Some(ours.public()));
        assert_eq!(
            look([&seal], manifest, &[theirs.public()]),
            Seals::default(),
            "whole, but not trusted"
        );
        let moved = look([&seal], other, &trusted);
        assert_eq!((moved.by, moved.broken.len()), (None, 1));
        for forged in [
            Fact::Seal {
                key: theirs.public().to_string(),
                signature: match ours.seal(manifest) {
                    Fact::Seal { signature, .. } => signature,
                    _ => panic!(),
                },
            },
            Fact::Seal {
                key: ours.public().to_string(),
                signature: "00".repeat(64),
            },
            Fact::Seal {
                key: ours.public().to_string(),
                signature: "é".repeat(64),
            },
            Fact::Seal {
                key: String::new(),
                signature: String::new(),
            },
        ] {
            let looked = look([&record(forged), &seal], manifest, &trusted);
            assert_eq!((looked.by, looked.broken.len()), (Some(ours.public()), 1));
        }
    }

    #[test]
    fn keys_are_read_as_openssl_writes_them_and_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path());
        let public = directory.path().join("seal.pub");
        let written = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(directory.path().join(KEY_FILE))
            .arg("-out")
            .arg(&public)
            .output();
        assert!(written.unwrap().status.success());
        assert_eq!(PublicKey::parse(public.to_str().unwrap()).unwrap(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_string()).unwrap(), key.public());
        for wrong in [
            "",
            "abc",
            &"g".repeat(64),
            &"0".repeat(65),
            directory.path().join(KEY_FILE).to_str().unwrap(),
        ] {
            assert!(
                PublicKey::parse(wrong)
                    .unwrap_err()
                    .to_string()
                    .contains("expected a public key of Ed25519")
            );
        }
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "x25519", "-out"])
            .arg(directory.path().join(KEY_FILE))
            .output();
        assert!(made.unwrap().status.success());
        let refused = SealKey::read(directory.path()).err().unwrap().to_string();
        assert!(
            refused.contains("seal.pem: ") && refused.contains("expected an Ed25519 key in PEM"),
            "{refused}"
        );
        assert!(
            SealKey::read(&directory.path().join("none"))
                .err()
                .unwrap()
                .to_string()
                .contains("No such file")
        );
    }
}
