//! What a source's status says of the copy Jobs that fill a store.

use holdfast_crds::{
    BackupSource, BackupSourceStatus, Class, CopyPass, REPLICATIONS, Reason, Replication, StoreReference, shortened, whole_seconds,
};
use jiff::Timestamp;

use crate::{
    context::{Context, Error},
    job::End,
};

/// The longest message, in bytes, as the schema has it.
const MESSAGE: usize = 1_024;
/// The most stores that were looked at, as the schema has it.
const LOOKED_AT: usize = 16;

/// What there is to say.
pub enum Said<'a> {
    /// A Job is counted, and made next.
    Started {
        number: i64,
        from: StoreReference,
        all: bool,
        told: String,
    },
    /// It cannot begin, or its pod does not start.
    Waits { reason: Reason, message: String },
    /// It was counted, and is not needed any more.
    Dropped,
    /// It ended before its end, or could not be made.
    Failed { reason: Reason, message: String, bytes: i64 },
    /// It ended, and looked at all that it was to look at.
    Passed {
        end: &'a End,
        pass: &'a CopyPass,
        /// Copies that are lacking of which there is no object, where it looked at all.
        elsewhere: Option<i64>,
    },
}

/// Writes it, where it says something else than before.
pub async fn write(context: &Context, source: &BackupSource, store: &StoreReference, said: &Said<'_>) -> Result<BackupSource, Error> {
    let status = with(source, store, said, context.clock.now());
    context.report.status(&context.caches.sources, source, &status).await
}

/// Takes out what is said of a store that is to have nothing of the source any more.
pub async fn forget(context: &Context, source: &BackupSource, store: &StoreReference) -> Result<(), Error> {
    let Some(mut status) = source.status.clone() else { return Ok(()) };
    status.replication.retain(|entry| entry.reference() != *store);
    context.report.status(&context.caches.sources, source, &status).await?;
    Ok(())
}

fn with(source: &BackupSource, store: &StoreReference, said: &Said<'_>, now: Timestamp) -> BackupSourceStatus {
    let mut status = source.status.clone().unwrap_or_default();
    let place = status.replication.iter().position(|entry| entry.reference() == *store);
    let before = place.map_or_else(
        || Replication {
            name: store.name.clone(),
            kind: store.kind,
            ..Replication::default()
        },
        |place| status.replication[place].clone(),
    );
    let after = said.after(before, now);
    match place {
        Some(place) => status.replication[place] = after,
        None if status.replication.len() < REPLICATIONS => status.replication.push(after),
        None => {}
    }
    status.replication.sort_by_key(Replication::reference);
    status
}

/// What was looked at, unless something is in the way: it may last longer than the objects of runs that are missed meanwhile, and then all
/// that the store is to have is looked at once more.
fn kept(entry: &Replication, reason: Reason) -> Vec<StoreReference> {
    if reason.class() == Class::Fine {
        entry.looked_at.clone()
    } else {
        Vec::new()
    }
}

impl Said<'_> {
    fn after(&self, mut entry: Replication, now: Timestamp) -> Replication {
        let now = || Some(whole_seconds(now).to_string());
        let short = |message: &str| (!message.is_empty()).then(|| shortened(message, MESSAGE));
        match self {
            Self::Started { number, from, all, told } => Replication {
                number: *number,
                from: Some(from.clone()),
                all: *all,
                looked_at: if entry.told == *told { entry.looked_at } else { Vec::new() },
                told: told.clone(),
                started_at: now(),
                finished_at: None,
                reason: Some(Reason::Running),
                message: None,
                ..entry
            },
            Self::Waits { reason, message } => Replication {
                looked_at: kept(&entry, *reason),
                reason: Some(*reason),
                message: short(message),
                ..entry
            },
            Self::Dropped => Replication {
                finished_at: now(),
                reason: None,
                message: None,
                ..entry
            },
            Self::Failed { reason, message, bytes } => Replication {
                // What got further is not held back for what failed before.
                failures: if *bytes > 0 { 1 } else { entry.failures.saturating_add(1) },
                looked_at: kept(&entry, *reason),
                finished_at: now(),
                reason: Some(*reason),
                message: short(message),
                bytes: *bytes,
                ..entry
            },
            Self::Passed { end, pass, elsewhere } => {
                if let (true, Some(from)) = (entry.all, entry.from.clone())
                    && entry.looked_at.len() < LOOKED_AT
                    && !entry.looked_at.contains(&from)
                {
                    entry.looked_at.push(from);
                }
                Replication {
                    failures: 0,
                    finished_at: now(),
                    reason: Some(end.reason),
                    message: short(&end.message),
                    missing: elsewhere.unwrap_or(entry.missing),
                    bytes: pass.bytes,
                    ..entry
                }
            }
        }
    }
}
