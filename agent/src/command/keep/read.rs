//! What became of a run, as its register and records say.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_crds::document::{
    Acceptance, Checked, Committed, Decision, DocumentError, Fact, Label, Manifest, ObjectPath, Outcome, Record, RunPath, ScheduleName,
    Sha256, SourceFact, SourceRecord, StoredObject,
};
use holdfast_crds::{Reason, Retention, Said};
use jiff::{SignedDuration, Timestamp};

use super::inventory::{RunFolder, SourceFolder, Versions};
use super::report::Report;
use crate::store::{Store, StoreError, StorePath, digest};

/// The largest record, in bytes.
const RECORD_LIMIT: u64 = 64 << 10;
/// The largest outcome, in bytes.
const OUTCOME_LIMIT: u64 = holdfast_crds::document::MAX_DOCUMENT_BYTES as u64;
/// How far the clocks of those who make ticks and of stores may be apart.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// How many problems of one copy are told.
const PROBLEMS: usize = 3;
/// How many objects of a copy are asked for at once.
const ASKED: usize = 8;

/// A run of the store.
#[derive(Debug)]
pub struct Run {
    pub path: RunPath,
    pub state: State,
    pub records: Vec<Record>,
    /// A record that cannot be read: nothing of the run is touched.
    pub unreadable: Option<String>,
    /// Why its record of a removal is not believed: then the copy is still one.
    pub forged: Option<String>,
}

/// What became of it.
#[derive(Debug)]
pub enum State {
    /// Nothing was decided.
    Open,
    Copy(Box<Copy>),
    Abandoned {
        at: Timestamp,
    },
    /// Its register cannot be read.
    Unreadable {
        reason: Reason,
        problem: String,
    },
}

/// A committed copy, without what only restores need.
#[derive(Debug)]
pub struct Copy {
    pub committed_at: Timestamp,
    pub outcome_digest: Sha256,
    pub manifest_digest: Sha256,
    pub kind: String,
    pub tick: Option<Timestamp>,
    pub recovery_point: Timestamp,
    pub not_after: Timestamp,
    pub schedule: Option<ScheduleName>,
    pub keep_until: Option<Timestamp>,
    pub parents: Vec<Sha256>,
    pub server: Option<String>,
    pub bytes: u64,
    pub pod: Label,
    pub encrypted: bool,
    /// Why it is not good; empty where it is.
    pub problems: Vec<String>,
}

/// What the records of a source say.
#[derive(Debug, Default)]
pub struct SourceWords {
    /// The last rules of each schedule.
    pub policies: Vec<RecordedRules>,
    /// Whether its protection ended on purpose: the newest word.
    pub retired: Option<Said>,
    pub accepted: Vec<Acceptance>,
    /// Records that cannot be read: the last word may be among them.
    pub unreadable: Vec<String>,
}

/// The rules of a schedule, as they were recorded.
#[derive(Debug)]
pub struct RecordedRules {
    pub schedule: ScheduleName,
    pub time_zone: String,
    pub retention: Retention,
    pub since: Timestamp,
    pub interval_seconds: Option<u64>,
}

/// A document at its first version. None where it vanished since it was listed.
async fn document(store: &Store, path: &str, versions: &Versions, limit: u64) -> Result<Option<bytes::Bytes>, StoreError> {
    let Some(first) = versions.first() else { return Ok(None) };
    let held = store
        .read_version(&path.parse::<StorePath>()?, first.version.as_deref(), limit)
        .await?;
    Ok(held.map(|held| held.bytes))
}

/// Reads with `decode`, once more where what came cannot be understood: a bit may have flipped on the way.
async fn decoded<T>(
    store: &Store,
    path: &str,
    versions: &Versions,
    limit: u64,
    decode: impl Fn(&[u8]) -> Result<T, DocumentError>,
) -> Result<Option<Result<(T, Sha256), DocumentError>>, StoreError> {
    let mut again = true;
    loop {
        let Some(bytes) = document(store, path, versions, limit).await? else {
            return Ok(None);
        };
        match decode(&bytes) {
            Ok(value) => return Ok(Some(Ok((value, digest::of(&bytes))))),
            Err(_) if again => again = false,
            Err(error) => return Ok(Some(Err(error))),
        }
    }
}

/// Reads every run of a source, so many at once.
///
/// # Errors
/// What the store did not hand out: then nothing about the source can be relied on.
pub async fn runs(store: &Store, folder: &SourceFolder, parallel: usize) -> Result<Vec<Run>, StoreError> {
    let reads: Vec<_> = folder
        .runs
        .iter()
        .map(|(name, run)| read_run(store, folder.run_path(name), run, folder.data_listed))
        .collect();
    stream::iter(reads).buffered(parallel).try_collect().await
}

pub async fn read_run(store: &Store, path: RunPath, folder: &RunFolder, data_listed: bool) -> Result<Run, StoreError> {
    let mut records = Vec::new();
    let mut unreadable = None;
    for (name, (object, versions)) in &folder.catalog {
        if !matches!(object, ObjectPath::Record { .. }) {
            continue;
        }
        match decoded(store, name, versions, RECORD_LIMIT, |bytes| Record::from_bytes(object, bytes)).await? {
            Some(Ok((record, _))) => records.push(record),
            Some(Err(error)) => unreadable = Some(format!("{name}: {error}")),
            None => unreadable = Some(format!("{name} was listed and is not there")),
        }
    }
    let place = path.outcome().to_string();
    let state = match decoded(store, &place, &folder.outcome, OUTCOME_LIMIT, |bytes| {
        Outcome::from_bytes(&path, bytes)
    })
    .await?
    {
        // Records are written of copies alone, and the last to go is the one of a removal.
        None if folder.outcome.0.is_empty() && !records.is_empty() && !records.iter().any(is_removal) => State::Unreadable {
            reason: Reason::Tampered,
            problem: format!(
                "{place} is not there, but records of its copy are; put it back, or remove what the run has below catalog/ and data/"
            ),
        },
        None if folder.outcome.0.is_empty() => State::Open,
        None => State::Unreadable {
            reason: Reason::Tampered,
            problem: format!("{place} was deleted"),
        },
        Some(Err(error)) => State::Unreadable {
            reason: match error {
                DocumentError::NewerVersion { .. } => Reason::FormatUnknown,
                _ => Reason::Tampered,
            },
            problem: error.to_string(),
        },
        Some(Ok((outcome, outcome_digest))) => match &outcome.decision {
            Decision::Abandoned(_) if records.iter().any(of_a_copy) && !records.iter().any(is_removal) => State::Unreadable {
                reason: Reason::Tampered,
                problem: format!("{place} says that the run was given up, but records of its copy are there; put the copy's outcome back"),
            },
            Decision::Abandoned(_) => State::Abandoned { at: outcome.at },
            Decision::Committed(committed) => {
                let mut copy = copy(&outcome, committed, outcome_digest, folder);
                if data_listed {
                    copy.problems.extend(missing(store, committed.stored(), folder).await?);
                }
                State::Copy(Box::new(copy))
            }
        },
    };
    Ok(Run {
        path,
        state,
        records,
        unreadable,
        forged: None,
    })
}

fn copy(outcome: &Outcome, committed: &Committed, outcome_digest: Sha256, folder: &RunFolder) -> Copy {
    let manifest = committed.manifest();
    let written = folder.outcome.first().and_then(|first| first.modified);
    let committed_at = written.unwrap_or(outcome.at);
    let mut problems = Vec::new();
    let unchecked: Vec<_> = manifest
        .streams
        .iter()
        .filter(|stream| stream.checked != Checked::Structure)
        .map(|stream| stream.name.to_string())
        .collect();
    if !unchecked.is_empty() {
        problems.push(format!("the structure of {} was not checked", unchecked.join(", ")));
    }
    if let Some(tick) = manifest
        .run
        .tick
        .filter(|tick| tick.duration_since(committed_at.min(outcome.at)) > CLOCK_TOLERANCE)
    {
        problems.push(format!(
            "it was written at {committed_at}, before its own tick {tick}: it is not of this run"
        ));
    }
    Copy {
        committed_at,
        outcome_digest,
        manifest_digest: committed.manifest_sha256(),
        kind: manifest.copy_type.clone(),
        tick: manifest.run.tick,
        recovery_point: manifest.recovery_point,
        not_after: manifest.not_after,
        schedule: manifest.schedule.as_ref().map(|schedule| ScheduleName {
            namespace: schedule.namespace.clone(),
            name: schedule.name.clone(),
        }),
        keep_until: keep_until(manifest),
        parents: manifest.parents.iter().map(|parent| parent.manifest_sha256).collect(),
        server: manifest.server.system_identifier.clone(),
        bytes: committed.stored().iter().map(|object| object.bytes).sum(),
        pod: manifest.run.pod.clone(),
        encrypted: !manifest.encryption.is_none(),
        problems,
    }
}

/// Until when a copy that was made by hand is kept.
fn keep_until(manifest: &Manifest) -> Option<Timestamp> {
    let keep_for = manifest.run.keep_for?;
    manifest.recovery_point.checked_add(keep_for.signed()).ok()
}

/// The objects of a copy that are not there as they were stored, the first few of them.
///
/// The two listings are of different moments: a run that commits between them has an outcome, and parts that were not listed. So what was not
/// listed is asked for.
async fn missing(store: &Store, stored: &[StoredObject], folder: &RunFolder) -> Result<Vec<String>, StoreError> {
    let unlike: Vec<_> = stored.iter().filter_map(|object| Some((object, unlike(object, folder)?))).collect();
    let asked: Vec<_> = unlike
        .into_iter()
        .map(|(object, unlike)| confirmed(store, object, unlike))
        .collect();
    let problems = stream::iter(asked)
        .buffered(ASKED)
        .try_filter_map(|problem| std::future::ready(Ok(problem)));
    problems.take(PROBLEMS).try_collect().await
}

async fn confirmed(store: &Store, object: &StoredObject, unlike: Unlike) -> Result<Option<String>, StoreError> {
    let there = !unlike.listed && is_there(store, object).await?;
    Ok((!there).then_some(unlike.problem))
}

/// How an object differs from what was stored.
struct Unlike {
    problem: String,
    listed: bool,
}

fn unlike(object: &StoredObject, folder: &RunFolder) -> Option<Unlike> {
    let unlike = |problem: &str, listed| {
        Some(Unlike {
            problem: format!("{} {problem}", object.path),
            listed,
        })
    };
    let there = folder
        .data
        .get(&object.path)
        .or_else(|| folder.catalog.get(&object.path).map(|(_, versions)| versions));
    let Some(versions) = there else {
        return unlike("is missing", false);
    };
    let wanted = match &object.version_id {
        Some(id) => versions.0.iter().find(|lying| !lying.marker && lying.version.as_ref() == Some(id)),
        None => versions.first(),
    };
    match wanted {
        None => unlike("is not there in the version that was written", false),
        Some(lying) if lying.size != object.bytes => unlike(&format!("has {} bytes, {} were stored", lying.size, object.bytes), true),
        Some(_) => None,
    }
}

/// Whether the object is there now, as it was stored. Who may not ask goes by what was listed.
async fn is_there(store: &Store, object: &StoredObject) -> Result<bool, StoreError> {
    match store.head(&object.path.parse::<StorePath>()?).await {
        Ok(Some(found)) => Ok(found.size == object.bytes && (object.version_id.is_none() || found.version == object.version_id)),
        Ok(None) | Err(StoreError::Denied { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The bytes of a run's records whose names end in one of these words, in the order of their names; none of one that went meanwhile.
pub async fn records_of(store: &Store, run: &RunPath, words: &[&str]) -> Result<Vec<(ObjectPath, Option<Bytes>)>, StoreError> {
    let directory: StorePath = format!("catalog/{run}").parse()?;
    let mut pages = store.pages(&directory);
    let mut records = Vec::new();
    while let Some(page) = pages.next().await? {
        for listed in page {
            let Ok(object) = listed.path.parse::<ObjectPath>() else { continue };
            let wanted = matches!(&object, ObjectPath::Record { run: of, what, .. } if of == run && words.contains(&what.as_str()));
            if wanted {
                let held = store.read(&StorePath::from(&object), RECORD_LIMIT).await?;
                records.push((object, held.map(|held| held.bytes)));
            }
        }
    }
    Ok(records)
}

/// Reads the records of a source.
pub async fn words(store: &Store, folder: &SourceFolder, report: &mut Report) -> Result<SourceWords, StoreError> {
    let mut records = Vec::new();
    let mut words = SourceWords::default();
    for (path, (object, versions)) in &folder.records {
        let problem = match decoded(store, path, versions, RECORD_LIMIT, |bytes| SourceRecord::from_bytes(object, bytes)).await? {
            Some(Ok((record, _))) => {
                records.push(record);
                continue;
            }
            Some(Err(error)) => format!("{path}: {error}"),
            None => format!("{path} was deleted"),
        };
        report.finding(Reason::Tampered, Some(folder.name()), problem.clone());
        words.unreadable.push(problem);
    }
    // ULIDs sort as their times do.
    records.sort_by(|a, b| a.ulid.cmp(&b.ulid));
    for record in records {
        match record.fact {
            SourceFact::Policy {
                schedule,
                time_zone,
                retention,
                interval_seconds,
            } => {
                // Another interval makes no other rules of them.
                let same =
                    |known: &&RecordedRules| known.schedule == schedule && known.time_zone == time_zone && known.retention == retention;
                let since = words.policies.iter().find(same).map_or(record.at, |known| known.since);
                words.policies.retain(|known| known.schedule != schedule);
                words.policies.push(RecordedRules {
                    schedule,
                    time_zone,
                    retention,
                    since,
                    interval_seconds,
                });
            }
            SourceFact::Accepted { what, .. } => words.accepted.push(what),
            SourceFact::Retired { who, why } => words.retired = Some(Said { who, why }),
            SourceFact::Unretired { .. } => words.retired = None,
        }
    }
    Ok(words)
}

impl Run {
    /// The record that says that the copy is no copy any more, unless it is not believed.
    pub fn removed(&self) -> Option<&Record> {
        let believed = self.forged.is_none();
        self.records.iter().find(|record| believed && is_removal(record))
    }
}

/// Whether it was written of a copy: none is of a run that was given up.
fn of_a_copy(record: &Record) -> bool {
    record.manifest_sha256.is_some()
}

pub fn is_removal(record: &Record) -> bool {
    matches!(record.fact, Fact::Removed { .. })
}
