//! Whether a copy is still whole: by what the store says, by every stored byte, or by everything that a restore would read.

use futures::{StreamExt, stream};
use holdfast_crds::document::{Committed, Stream, StreamKind};

use super::{check::StreamCheck, index::Index, open::CopyReader, open::OpenError};

/// HEAD requests under way at once.
const HEADS: usize = 8;
/// Damaged objects that are remembered by name.
const NAMED: usize = 100;

/// How much of a copy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every object is there with its size, and with its checksum where the store tells one.
    Manifest,
    /// Every object's bytes are read, and have its SHA-256.
    Digest,
    /// Every stream is decrypted, decompressed, and whole in its engine's own terms. Needs the key.
    Decode,
}

/// What was looked at, and what was found damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// What is wrong with each damaged object, at most a hundred.
    pub damages: Vec<String>,
    /// How many objects or streams are damaged.
    pub damaged: u64,
}

impl Report {
    fn damage(&mut self, problem: &dyn std::fmt::Display) {
        self.damaged += 1;
        if self.damages.len() < NAMED {
            self.damages.push(problem.to_string());
        }
    }

    /// A damaged copy is a finding; that it could not be looked at is an error.
    fn note(&mut self, result: Result<(), OpenError>) -> Result<(), OpenError> {
        match result {
            Err(error @ OpenError::Corrupt { .. }) => {
                self.damage(&error);
                Ok(())
            }
            other => other,
        }
    }
}

/// Looks at a copy. `check_of` gives the structure check for a kind of stream; what it knows nothing of is decoded without one.
pub async fn verify(
    reader: &CopyReader,
    copy: &Committed,
    level: Level,
    check_of: impl Fn(&StreamKind) -> Option<Box<dyn StreamCheck>>,
) -> Result<Report, OpenError> {
    // The key too: without it the copy is lost.
    let objects = copy.stored();
    let mut report = Report {
        objects: objects.len() as u64,
        bytes: objects.iter().map(|object| object.bytes).sum(),
        ..Report::default()
    };
    let heads: Vec<_> = objects
        .iter()
        .map(|object| reader.check_head(&object.path, object.bytes, object.sha256))
        .collect();
    let mut heads = stream::iter(heads).buffered(HEADS);
    while let Some(result) = heads.next().await {
        report.note(result)?;
    }
    if report.damaged > 0 || level == Level::Manifest {
        return Ok(report);
    }
    for object in objects {
        // Decoding reads parts and indices, and compares their digests as well.
        let decoded = level == Level::Decode && copy.manifest().encryption.key() != Some(&object.path);
        if !decoded {
            report.note(reader.check_digest(&object.path, object.bytes, object.sha256).await)?;
        }
    }
    if level == Level::Decode {
        for stream in &copy.manifest().streams {
            let decoded = decode(reader, stream, check_of(&stream.kind)).await;
            report.note(decoded)?;
        }
    }
    Ok(report)
}

async fn decode(reader: &CopyReader, stream: &Stream, check: Option<Box<dyn StreamCheck>>) -> Result<(), OpenError> {
    let corrupt = |problem: String| OpenError::Corrupt {
        object: format!("stream {}", stream.name),
        problem,
    };
    let index = reader.index(stream).await?;
    let mut raw = reader.open(stream, &index).await?;
    let Some(mut check) = check else {
        while raw.next().await?.is_some() {}
        return Ok(());
    };
    let mut borders = Vec::new();
    while let Some(bytes) = raw.next().await? {
        borders.clear();
        check.feed(&bytes, &mut borders).map_err(|error| corrupt(error.to_string()))?;
    }
    let checked = check.finish().map_err(|error| corrupt(error.to_string()))?;
    if Index::new(index.frames.clone(), checked.entries).entries == index.entries {
        Ok(())
    } else {
        Err(corrupt("its entries are not those of its index".to_owned()))
    }
}
