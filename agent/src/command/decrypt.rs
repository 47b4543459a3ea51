//! `decrypt`: the raw bytes of a stream, as the engine's tool wrote them.

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::Args;
use holdfast_crds::document::{Committed, Stream};
use holdfast_crds::{AgentResult, Reason};
use tokio_util::sync::CancellationToken;

use super::copy::{CopyArgs, Found};
use crate::pipeline::OpenError;
use crate::progress::Progress;
use crate::result::{Failure, plain};

/// Write a stream of a copy as the engine's own tool wrote it
///
/// The log goes to standard error. What is written is complete only if the exit code is 0: every byte is checked before it is written, but whether
/// all of them came shows at the end.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent decrypt shop/orders/by-hand-1 --store store.yaml --store-secret ./s3 --identity ./key --database orders | pg_restore -d orders
    Without --stream and --database it names the streams of the copy.
    docs/restore-without-holdfast.md does the same with age and zstd alone.")]
pub struct DecryptArgs {
    /// Which copy
    #[command(flatten)]
    pub copy: CopyArgs,
    /// The stream, such as globals
    #[arg(long)]
    pub stream: Option<String>,
    /// The database whose stream is wanted, instead of the stream's name
    #[arg(long, conflicts_with = "stream")]
    pub database: Option<String>,
    /// Where to write; must not exist. By default standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Finds the stream, and writes it.
pub async fn run(arguments: DecryptArgs, cancel: CancellationToken, progress: Progress) -> Result<AgentResult, Failure> {
    progress.enter("register", &arguments.copy.copy);
    let found = arguments.copy.find().await?;
    found.read(write(&found, &arguments, cancel, &progress)).await
}

async fn write(found: &Found, arguments: &DecryptArgs, cancel: CancellationToken, progress: &Progress) -> Result<AgentResult, Failure> {
    let stream = wanted(&found.copy, arguments)?;
    let reader = found.reader(Some(&arguments.copy.identity), cancel, progress).await?;
    let index = reader.index(stream).await?;
    progress.enter("decrypt", stream.name.as_str());
    progress.expect("decrypt", stream.raw.bytes);
    let raw = reader.open(stream, &index).await?;
    let to = arguments
        .output
        .as_ref()
        .map_or_else(|| "standard output".to_owned(), |path| format!("--output {}", path.display()));
    let failed = |error| unwritten(&to, &error);
    let written = match &arguments.output {
        None => raw.copy_to(&mut tokio::io::stdout()).await,
        Some(path) => {
            let mut file = tokio::fs::OpenOptions::new();
            let mut file = file.write(true).create_new(true).open(path).await.map_err(failed)?;
            let written = raw.copy_to(&mut file).await;
            file.sync_all().await.map_err(failed)?;
            written
        }
    };
    let bytes = written.map_err(|error| match error {
        OpenError::Write(error) => failed(error),
        error => error.into(),
    })?;
    Ok(plain(Reason::Succeeded, format!("stream {}: {bytes} bytes", stream.name)))
}

/// What it means that a stream cannot be written.
fn unwritten(to: &str, error: &std::io::Error) -> Failure {
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Reason::ScratchFull,
        ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::PermissionDenied => Reason::InvalidSpec,
        _ => Reason::RestoreFailed,
    };
    Failure::new(reason, format!("write the stream to {to}: {error}"))
}

fn wanted<'a>(copy: &'a Committed, arguments: &DecryptArgs) -> Result<&'a Stream, Failure> {
    let streams = &copy.manifest().streams;
    let found = streams.iter().find(|stream| match (&arguments.stream, &arguments.database) {
        (Some(name), _) => stream.name.as_str() == name,
        (None, Some(database)) => stream.database.as_ref() == Some(database),
        (None, None) => false,
    });
    found.ok_or_else(|| {
        let named: Vec<_> = streams
            .iter()
            .map(|stream| match &stream.database {
                Some(database) => format!("{} (database {database:?}, {} bytes)", stream.name, stream.raw.bytes),
                None => format!("{} ({} bytes)", stream.name, stream.raw.bytes),
            })
            .collect();
        Failure::new(
            Reason::DatabaseNotInCopy,
            format!("name a stream with --stream or --database; the copy holds {}", named.join(", ")),
        )
    })
}
