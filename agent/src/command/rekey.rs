//! `rekey`: the keys of copies that are there, sealed to other recipients, too.

use std::path::Path;

use clap::Args;
use holdfast_crds::document::{Committed, ObjectPath, RunPath};
use holdfast_crds::{AgentResult, Reason, StoreRole};
use tokio_util::sync::CancellationToken;

use super::copy::{CopyArgs, find, key_of, keys_beside, run_key};
use super::keep::read::records_of;
use crate::pipeline::key::{SealTo, seal_key};
use crate::progress::Progress;
use crate::result::{Failure, plain};
use crate::store::{Created, Store, StorePath};

/// Seal the keys of copies to other recipients, too
///
/// COPY may also be <namespace>/<source>: every copy of the source. Each copy gets one new small object beside its key; no part is read or
/// written, and nothing is replaced: who could open the copy still can. Needs what opens the copies now, and the writer's credentials. A copy that
/// is filled into another store takes the key along that its manifest names: rekey each store.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent rekey shop/orders --store store.yaml --store-secret ./s3 --identity ./key --recipient age1…
    ./s3 holds access_key_id and secret_access_key, ./key holds identity: one file each.")]
pub struct RekeyArgs {
    /// Which copy, or which source
    #[command(flatten)]
    pub copy: CopyArgs,
    /// The age public key to seal to; may be repeated
    #[arg(long, required = true, value_name = "AGE")]
    pub recipient: Vec<String>,
}

/// What became of one copy.
enum Rekeyed {
    Sealed(ObjectPath),
    /// Why it needs no key.
    Left(&'static str),
}

/// Seals the key of each copy that is meant.
pub async fn run(arguments: RekeyArgs, cancel: CancellationToken, progress: Progress) -> Result<AgentResult, Failure> {
    let to = SealTo::recipients(arguments.recipient.iter().map(String::as_str))?;
    let named = &arguments.copy.copy;
    progress.enter("catalogue", named);
    let store = arguments.copy.open(StoreRole::Writer)?;
    let (runs, all) = match named.parse::<RunPath>() {
        Ok(run) => (vec![run], false),
        Err(_) => (runs_of(&store, named).await?, true),
    };
    let (mut sealed, mut failed, mut total) = (0, Vec::new(), runs.len());
    for run in runs {
        if cancel.is_cancelled() {
            return Err(Failure::new(
                Reason::Interrupted,
                format!("asked to stop after {sealed} of {total} copies; who goes on seals those once more, which does no harm"),
            ));
        }
        progress.enter("rekey", &run.to_string());
        match rekey(&store, &run, &arguments.copy.identity, &to).await {
            Ok(Rekeyed::Sealed(object)) => {
                tracing::info!(%run, %object, "sealed");
                sealed += 1;
            }
            Ok(Rekeyed::Left(why)) => tracing::info!(%run, why, "left as it is"),
            // It was given up.
            Err(failure) if all && failure.reason == Reason::CopyNotFound => total -= 1,
            Err(failure) => {
                tracing::error!(%run, error = failure.message, "not sealed");
                failed.push(failure.while_doing(&format!("copy {run}")));
            }
        }
    }
    if total == 0 {
        let message = format!("{} holds no copy of {named}", store.describe());
        return Err(Failure::new(Reason::CopyNotFound, message));
    }
    let told = format!(
        "sealed the keys of {sealed} of {total} runs to {} more recipients",
        arguments.recipient.len()
    );
    let failures = failed.len();
    match failed.into_iter().next() {
        None => Ok(plain(Reason::Succeeded, told)),
        Some(first) => Err(Failure::new(
            first.reason,
            format!("{told}; {failures} failed, the first: {}", first.message),
        )),
    }
}

/// The runs of a source, as `<namespace>/<source>`, that ended in this store.
async fn runs_of(store: &Store, source: &str) -> Result<Vec<RunPath>, Failure> {
    let unknown = || {
        Failure::new(
            Reason::InvalidSpec,
            format!("read COPY: expected <namespace>/<source>/<run> or <namespace>/<source>, found {source:?}"),
        )
    };
    let directory = Some(source).filter(|source| source.split('/').count() == 2);
    let directory: StorePath = directory
        .and_then(|source| format!("catalog/{source}").parse().ok())
        .ok_or_else(unknown)?;
    let mut pages = store.pages(&directory);
    let mut runs = Vec::new();
    while let Some(page) = pages.next().await? {
        for listed in page {
            if let Ok(ObjectPath::Outcome { run }) = listed.path.parse() {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

async fn rekey(store: &Store, run: &RunPath, identity: &Path, to: &SealTo) -> Result<Rekeyed, Failure> {
    let (copy, _): (Committed, _) = find(store, run).await?;
    let Some(named) = copy.manifest().encryption.key() else {
        return Ok(Rekeyed::Left("it is not encrypted"));
    };
    if !records_of(store, run, &["removed", "shredded"]).await?.is_empty() {
        return Ok(Rekeyed::Left("it was removed"));
    }
    let (_, pod) = key_of(named)?;
    let Some(key) = run_key(store, &copy, identity).await? else {
        return Ok(Rekeyed::Left("it is not encrypted"));
    };
    let sealed = seal_key(&key, to)?;
    let mut number = keys_beside(store, &pod).await?.last().copied().unwrap_or(1);
    loop {
        number += 1;
        let object = pod.key(number);
        // Two seals of one key are never alike: what is there is somebody else's.
        if let Created::Ours(_) = store.create(&StorePath::from(&object), sealed.clone().into()).await? {
            return Ok(Rekeyed::Sealed(object));
        }
    }
}
