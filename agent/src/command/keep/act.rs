//! What a keeper writes and deletes. Everything goes through here, so that a preview, and a store of another cluster, are only read.

use std::time::Duration;

use holdfast_crds::document::{Fact, HoldFact, HoldRecord, Label, ObjectPath, Record, RunPath, Sha256, SourceFact, SourceRecord, Ulid};
use holdfast_crds::{KEEP_DELETES_FOR, Reason};
use jiff::Timestamp;

use super::inventory::{RunFolder, Versions};
use crate::result::Failure;
use crate::store::{Deleted, OwnerError, Pinned, Store, StoreError, StorePath};

/// So long after its start a keeper deletes: two minutes less than [`KEEP_DELETES_FOR`], for what is under way at the last moment.
const DELETES_FOR: Duration = Duration::from_mins(8);
const _: () = assert!(DELETES_FOR.as_secs() + 120 == KEEP_DELETES_FOR.as_secs());

/// A keeper's hand.
pub struct Hand {
    store: Store,
    /// The same store, with the rights to delete.
    pruner: Store,
    by: Label,
    pinned: Pinned,
    /// The store's clock when the pass began.
    started: Timestamp,
}

/// What came of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Versions that were deleted.
    pub deleted: u64,
    /// The store's lock or hold refuses so many; until then at the latest, where it says so.
    pub refused: u64,
    pub refused_until: Option<Timestamp>,
}

impl Swept {
    /// Whether nothing is left.
    pub fn complete(&self) -> bool {
        self.refused == 0
    }
}

/// Why a keeper stops before it writes or deletes.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The time in which a keeper may delete is over: the next pass goes on.
    #[error("the pass began at {started}; a keeper deletes for at most {limit} s after that, so that a hold placed since cannot be missed")]
    TooLate { started: Timestamp, limit: u64 },
    #[error("the store tells no time, so that nobody can say whether the pass may still delete")]
    NoClock,
}

impl From<ActError> for Failure {
    fn from(error: ActError) -> Self {
        let reason = match &error {
            ActError::Store(error) => error.reason(),
            ActError::Owner(error) => error.reason(),
            ActError::TooLate { .. } => Reason::DeadlineExceeded,
            ActError::NoClock => Reason::StoreUnsafe,
        };
        Self::new(reason, error.to_string())
    }
}

impl Hand {
    pub fn new(store: Store, pruner: Store, by: Label, pinned: Pinned, started: Timestamp) -> Self {
        Self {
            store,
            pruner,
            by,
            pinned,
            started,
        }
    }

    pub fn epoch(&self) -> u64 {
        self.pinned.epoch()
    }

    /// A name for a record, and its time.
    fn name(&self) -> Result<(Ulid, Timestamp), StoreError> {
        Ok((self.store.ulid()?, self.now()))
    }

    /// The store's time, or when the pass began.
    pub fn now(&self) -> Timestamp {
        self.store.now().unwrap_or(self.started)
    }

    /// Writes a record of a run, and reads it back.
    pub async fn record(&self, run: &RunPath, manifest: Option<Sha256>, fact: Fact) -> Result<Record, ActError> {
        let (ulid, at) = self.name()?;
        let record = Record::new(run.clone(), ulid, self.by.clone(), at, manifest, fact);
        self.store.create_record(&record.path(), record.to_bytes()).await?;
        Ok(record)
    }

    /// Writes a record of a source, and reads it back.
    pub async fn source_record(&self, namespace: &Label, source: &Label, fact: SourceFact) -> Result<(), ActError> {
        let (ulid, at) = self.name()?;
        let record = SourceRecord::new(namespace.clone(), source.clone(), ulid, self.by.clone(), at, fact);
        self.store.create_record(&record.path(), record.to_bytes()).await?;
        Ok(())
    }

    /// Writes a record of a hold, and reads it back. Also says when the store took it.
    pub async fn hold_record(&self, hold: &Label, fact: HoldFact) -> Result<(HoldRecord, Option<Timestamp>), ActError> {
        let (ulid, at) = self.name()?;
        let record = HoldRecord::new(hold.clone(), ulid, self.by.clone(), at, fact);
        let there = self.store.create_record(&record.path(), record.to_bytes()).await?;
        Ok((record, there.meta.modified))
    }

    /// That no other cluster took the store over meanwhile.
    pub async fn still_owned(&self) -> Result<(), ActError> {
        Ok(self.store.still_owned(&self.pinned).await?)
    }

    /// Whether the pass may still delete: its epoch is the newest, and it is young enough by the store's clock.
    pub async fn may_delete(&self) -> Result<(), ActError> {
        self.still_owned().await?;
        self.time_left().map(|_| ())
    }

    /// How long the pass may still delete, by the store's clock.
    fn time_left(&self) -> Result<Duration, ActError> {
        let now = self.store.now().ok_or(ActError::NoClock)?;
        let left = DELETES_FOR.checked_sub(now.duration_since(self.started).unsigned_abs());
        left.filter(|left| !left.is_zero()).ok_or_else(|| self.too_late())
    }

    fn too_late(&self) -> ActError {
        ActError::TooLate {
            started: self.started,
            limit: DELETES_FOR.as_secs(),
        }
    }

    /// What deletes, or says that something is deleted: it is not tried again after the pass's time, however long the store was away.
    async fn in_time<T, E: Into<ActError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, ActError> {
        match tokio::time::timeout(self.time_left()?, work).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(self.too_late()),
        }
    }

    /// Writes the record that a copy is no copy any more. From then on it may be deleted by any pass: so this is in time, or not at all.
    pub async fn removed(&self, run: &RunPath, manifest: Option<Sha256>, reason: String, mark: Option<Ulid>) -> Result<(), ActError> {
        self.may_delete().await?;
        let record = self.record(run, manifest, Fact::Removed { reason, mark });
        self.in_time(record).await.map(|_| ())
    }

    /// Closes the register of a run that nobody will finish. False where it holds a copy after all.
    pub async fn abandon(&self, run: &RunPath, reason: Reason, message: &str) -> Result<bool, Failure> {
        let abandonment = holdfast_crds::document::Abandonment {
            reason: reason.to_string(),
            message: message.to_owned(),
        };
        let decided = self.store.abandon(run, &self.by, abandonment, &self.pinned).await;
        match decided {
            Ok(decided) => Ok(decided.outcome.committed().is_none()),
            Err(error) => Err(Failure::new(error.reason(), error.to_string())),
        }
    }

    /// Deletes what a run has beside its register and records: its keys first, then its data. Resumable: what is gone already is fine.
    pub async fn sweep(&self, folder: &RunFolder) -> Result<Swept, ActError> {
        let mut swept = self.shred(folder).await?;
        for (path, versions) in &folder.data {
            self.delete(path, versions, &mut swept).await?;
        }
        Ok(swept)
    }

    /// Deletes the keys of a run: nobody can read its data any more.
    pub async fn shred(&self, folder: &RunFolder) -> Result<Swept, ActError> {
        self.may_delete().await?;
        let keys = folder
            .catalog
            .iter()
            .filter_map(|(path, (object, versions))| matches!(object, ObjectPath::Key { .. }).then_some((path, versions)));
        let mut swept = Swept::default();
        for (path, versions) in keys {
            self.delete(path, versions, &mut swept).await?;
        }
        Ok(swept)
    }

    /// Deletes the register and records of a run that was removed or abandoned long ago. The register goes before the record of its removal
    /// and those that it builds on, so that a crash in between leaves nothing that looks like a copy.
    pub async fn forget(&self, run: &RunPath, folder: &RunFolder) -> Result<Swept, ActError> {
        self.may_delete().await?;
        let mut swept = Swept::default();
        let later = |path: &str| match path {
            path if path.ends_with("-removed.json") => 2,
            path if path.ends_with("-mark.json") || path.ends_with("-shredded.json") => 1,
            _ => 0,
        };
        for turn in 0..3 {
            if !swept.complete() {
                break;
            }
            for (path, (_, versions)) in folder.catalog.iter().filter(|(path, _)| later(path) == turn) {
                self.delete(path, versions, &mut swept).await?;
            }
            if turn == 0 {
                self.delete(&run.outcome().to_string(), &folder.outcome, &mut swept).await?;
            }
        }
        Ok(swept)
    }

    /// Deletes these objects of a run.
    pub async fn delete_all(&self, paths: &[String], folder: &RunFolder) -> Result<Swept, ActError> {
        self.may_delete().await?;
        let mut swept = Swept::default();
        for path in paths {
            let catalog = || folder.catalog.get(path).map(|(_, versions)| versions);
            if let Some(versions) = folder.data.get(path).or_else(catalog) {
                self.delete(path, versions, &mut swept).await?;
            }
        }
        Ok(swept)
    }

    /// Deletes every version of an object.
    async fn delete(&self, path: &str, versions: &Versions, swept: &mut Swept) -> Result<(), ActError> {
        let place: StorePath = path.parse().map_err(StoreError::from)?;
        for lying in &versions.0 {
            match self.in_time(self.pruner.delete_version(&place, lying.version.as_deref())).await? {
                Deleted::Gone => swept.deleted += 1,
                Deleted::Refused(lock) => {
                    swept.refused += 1;
                    swept.refused_until = swept.refused_until.max(lock.until());
                }
            }
        }
        Ok(())
    }
}
