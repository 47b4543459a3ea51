//! `verify`: whether a copy is still whole.

use std::path::Path;

use clap::{Args, ValueEnum};
use holdfast_crds::document::{Record, StreamKind};
use holdfast_crds::{AgentResult, Reason};
use tokio_util::sync::CancellationToken;

use super::copy::{CopyArgs, Found};
use super::keep::read::records_of;
use crate::engine::postgresql::check::{ArchiveCheck, GlobalsCheck};
use crate::pipeline::check::StreamCheck;
use crate::pipeline::{self, Level, Report};
use crate::progress::Progress;
use crate::result::{Failure, plain};
use crate::seal::{PublicKey, look};

/// Check that a copy is still whole
///
/// Nothing is written. A damaged copy ends with reason CopyCorrupt; each damaged object is named in the log.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent verify shop/orders/orders-hourly-20261120t2200z-abcd2345 --store store.yaml --store-secret ./s3 --level decode --identity ./key
    ./s3 holds access_key_id and secret_access_key, ./key holds identity: one file each.")]
pub struct VerifyArgs {
    /// Which copy
    #[command(flatten)]
    pub copy: CopyArgs,
    /// How closely to look
    #[arg(long, value_enum, default_value_t = LevelArg::Digest)]
    pub level: LevelArg,
    /// Demand a seal by this public key (64 hexadecimal digits, or a PEM file); of several, by one of them
    #[arg(long, value_name = "PUB")]
    pub seal_key: Vec<String>,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// Every object is there with its size, and its checksum where the store tells one
    Manifest,
    /// Every stored byte is read: SHA-256 of every object
    Digest,
    /// Everything a restore reads: decrypted, decompressed, every archive whole. Needs the key
    Decode,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Manifest => Self::Manifest,
            LevelArg::Digest => Self::Digest,
            LevelArg::Decode => Self::Decode,
        }
    }
}

/// Finds the copy, and looks at it.
pub async fn run(arguments: VerifyArgs, cancel: CancellationToken, progress: Progress) -> Result<AgentResult, Failure> {
    let VerifyArgs { copy, level, seal_key } = arguments;
    let keys = seal_key.iter().map(|key| PublicKey::parse(key));
    let keys: Vec<_> = keys
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(Reason::InvalidSpec, format!("--seal-key: {error}")))?;
    progress.enter("register", &copy.copy);
    let found = copy.find().await?;
    if !keys.is_empty() {
        sealed(&found, &keys).await?;
    }
    found.read(look_at(&found, level, &copy.identity, cancel, &progress)).await
}

/// Looks at a copy that was found.
pub(super) async fn look_at(
    found: &Found,
    level: LevelArg,
    identity: &Path,
    cancel: CancellationToken,
    progress: &Progress,
) -> Result<AgentResult, Failure> {
    let manifest = found.copy.manifest();
    let reader = found
        .reader((level == LevelArg::Decode).then_some(identity), cancel, progress)
        .await?;
    progress.enter("verify", manifest.run.name.as_str());
    match level {
        LevelArg::Manifest => {}
        LevelArg::Digest => progress.expect("verify", found.copy.stored().iter().map(|object| object.bytes).sum()),
        LevelArg::Decode => progress.expect("verify", manifest.streams.iter().map(|stream| stream.raw.bytes).sum()),
    }
    let report = pipeline::verify(&reader, &found.copy, level.into(), check_of).await?;
    result(&report, level)
}

/// That the copy has a seal by one of these keys, and none that does not verify.
pub(super) async fn sealed(found: &Found, keys: &[PublicKey]) -> Result<(), Failure> {
    let read = records_of(&found.store, &found.run, &["seal"]).await?;
    let records = read
        .into_iter()
        .filter_map(|(place, bytes)| Some(Record::from_bytes(&place, &bytes?)));
    let records: Vec<_> = records.collect::<Result<_, _>>()?;
    let seals = look(&records, found.copy.manifest_sha256(), keys);
    if let Some(broken) = seals.broken.first() {
        return Err(Failure::new(Reason::Tampered, broken.clone()));
    }
    match seals.by {
        Some(key) => {
            tracing::info!(%key, "sealed");
            Ok(())
        }
        None => Err(Failure::new(
            Reason::Unsealed,
            format!("the copy has {} seals, and none by a key that --seal-key names", records.len()),
        )),
    }
}

/// The structure check for a kind of stream that this version knows.
pub fn check_of(kind: &StreamKind) -> Option<Box<dyn StreamCheck>> {
    match kind {
        StreamKind::PostgresqlArchive => Some(Box::new(ArchiveCheck::new().0)),
        StreamKind::PostgresqlGlobals => Some(Box::new(GlobalsCheck::default())),
        StreamKind::Other(_) => None,
    }
}

fn result(report: &Report, level: LevelArg) -> Result<AgentResult, Failure> {
    for damage in &report.damages {
        tracing::error!(damage, "damaged");
    }
    let Report {
        objects,
        bytes,
        damaged,
        damages,
    } = report;
    match damages.first() {
        None => Ok(plain(
            Reason::Succeeded,
            format!("whole at level {level:?}: {objects} objects, {bytes} bytes"),
        )),
        Some(first) => Err(Failure::new(
            Reason::CopyCorrupt,
            format!("{damaged} of {objects} objects are damaged; the first: {first}"),
        )),
    }
}
