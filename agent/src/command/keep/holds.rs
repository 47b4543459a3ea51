//! Holds as the store knows them: records of placing and releasing, and what of the task is not recorded yet.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::document::{DocumentError, Fact, HoldFact, HoldRecord, Label, ObjectPath, Record, Sha256, Ulid};
use holdfast_crds::{HoldReport, KeepHold, KeepRelease, Reason, hold_digest};
use holdfast_policy::hold::{self, Candidate};
use jiff::Timestamp;

use super::act::{ActError, Hand};
use super::report::Report;
use crate::result::shorten;
use crate::store::{ObjectVersion, Store, StoreError, StorePath};

/// The largest record of a hold, in bytes: it may name a thousand runs.
const LIMIT: u64 = 512 << 10;

/// Every hold that the store knows.
#[derive(Debug, Default)]
pub struct Holds {
    pub records: BTreeMap<Label, Vec<HoldRecord>>,
    /// A record that cannot be read: what it holds is not known, so nothing may be removed.
    pub unreadable: Vec<String>,
    /// When the store took the newest placing of each.
    placed_at: BTreeMap<Label, Timestamp>,
    /// What the listing showed, to notice that another hold came.
    listed: Vec<ObjectVersion>,
}

async fn list(store: &Store) -> Result<Vec<ObjectVersion>, StoreError> {
    let directory: StorePath = "holds".parse()?;
    let mut pages = store.list_versions(&directory);
    let mut all = Vec::new();
    while let Some(page) = pages.next().await? {
        all.extend(page);
    }
    Ok(all)
}

impl Holds {
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let listed = list(store).await?;
        let mut holds = Self::default();
        // Stores list the newest version of an object first: the last is the one that was written first.
        for versions in listed.chunk_by(|a, b| a.path == b.path) {
            let Some(first) = versions.iter().rev().find(|version| !version.is_delete_marker) else {
                holds.unreadable.push(format!("{} was deleted", versions[0].path));
                continue;
            };
            match read_record(store, first).await? {
                Ok(record) => holds.add(record, first.modified),
                Err(problem) => holds.unreadable.push(problem),
            }
        }
        for records in holds.records.values_mut() {
            records.sort_by(|a, b| a.ulid.cmp(&b.ulid));
        }
        holds.listed = listed;
        Ok(holds)
    }

    fn add(&mut self, record: HoldRecord, landed: Option<Timestamp>) {
        if matches!(record.fact, HoldFact::Place { .. }) {
            // By whichever clock is later: a hold that is said to be in force too late harms nobody.
            let landed = landed.map_or(record.at, |landed| landed.max(record.at));
            let newest = self.placed_at.entry(record.hold.clone()).or_insert(landed);
            *newest = landed.max(*newest);
        }
        self.records.entry(record.hold.clone()).or_default().push(record);
    }

    /// Reads again if anything was written since; says whether it was.
    pub async fn refresh(&mut self, store: &Store) -> Result<bool, StoreError> {
        let changed = list(store).await? != self.listed;
        if changed {
            *self = Self::read(store).await?;
        }
        Ok(changed)
    }

    /// The holds in force at `now` that name the copy, or named it once. Where the records of a hold are gone, what it held stays held.
    pub fn of(&self, copy: &Candidate<'_>, records: &[Record], now: Timestamp) -> Vec<Label> {
        let mut holds: BTreeSet<Label> = records.iter().filter_map(held_by).cloned().collect();
        holds.retain(|hold| self.records.get(hold).is_none_or(|records| hold::in_force(records, now)));
        let naming = self
            .records
            .iter()
            .filter(|(_, records)| hold::in_force(records, now) && hold::any_names(records, copy));
        holds.extend(naming.map(|(id, _)| id.clone()));
        holds.into_iter().collect()
    }

    /// The holds in force that named the copy at `then`, by what was recorded until then.
    pub fn of_then(&self, copy: &Candidate<'_>, records: &[Record], then: Timestamp) -> Vec<Label> {
        let records: Vec<_> = records.iter().filter(|record| record.at <= then).cloned().collect();
        let mut holds = self.of(copy, &records, then);
        holds.retain(|hold| {
            let until_then = |records: &Vec<HoldRecord>| records.iter().filter(|record| record.at <= then).cloned().collect::<Vec<_>>();
            let recorded = self.records.get(hold).map(until_then);
            recorded.is_none_or(|recorded| {
                hold::in_force(&recorded, then)
                    && (hold::any_names(&recorded, copy) || records.iter().any(|record| held_by(record) == Some(hold)))
            })
        });
        holds
    }

    /// Records what the task's holds say and the store does not know yet.
    pub async fn record(&mut self, hand: &Hand, wanted: &[KeepHold]) -> Result<(), ActError> {
        for hold in wanted {
            let records = self.records.get(&hold.id).map_or(&[][..], Vec::as_slice);
            for fact in hold::to_record(records, placing(hold), hold.release.as_ref().map(releasing), hand.now()) {
                let (record, landed) = hand.hold_record(&hold.id, fact).await?;
                self.add(record, landed);
            }
        }
        Ok(())
    }

    /// Takes the task's holds for recorded, where nothing is written.
    pub fn suppose(&mut self, wanted: &[KeepHold], by: &Label, now: Timestamp) {
        for hold in wanted {
            let records = self.records.entry(hold.id.clone()).or_default();
            for fact in hold::to_record(records, placing(hold), hold.release.as_ref().map(releasing), now) {
                records.push(HoldRecord::new(hold.id.clone(), Ulid::new(now, [0; 10]), by.clone(), now, fact));
            }
        }
    }

    /// Tells how each hold stands: first those of the task, then those that only the store knows and that are in force.
    pub fn report(&self, wanted: &[KeepHold], counts: &BTreeMap<Label, Held>, now: Timestamp, report: &mut Report) {
        for problem in &self.unreadable {
            report.finding(
                Reason::Tampered,
                Some("holds".to_owned()),
                format!("{problem}; nothing is removed while it cannot be read"),
            );
        }
        let told: BTreeMap<&Label, &KeepHold> = wanted.iter().map(|hold| (&hold.id, hold)).collect();
        let (ours, others): (Vec<_>, Vec<_>) = self.records.iter().partition(|(id, _)| told.contains_key(id));
        let others = others.into_iter().filter(|(_, records)| hold::in_force(records, now));
        for (id, records) in ours.into_iter().chain(others) {
            let named = records.iter().rev().find_map(|record| match &record.fact {
                HoldFact::Place { namespace, name, .. } => Some((namespace.clone(), name.clone())),
                HoldFact::Release { .. } => None,
            });
            let (namespace, name) = named.unwrap_or((None, id.to_string()));
            let held = counts.get(id).cloned().unwrap_or_default();
            let released_at = hold::released_at(records);
            // Then what it held can be let go of.
            if let Some(ends) = hold::ends_at(records).filter(|ends| now < *ends && held.copies > 0) {
                report.again(ends);
            }
            let problem = (released_at.is_none_or(|at| now < at) && held.legal_holds < held.copies)
                .then(|| held.problem.clone())
                .flatten();
            let release = told.get(id).and_then(|hold| hold.release.as_ref());
            let refused = release
                .filter(|_| released_at.is_none())
                .and_then(|release| hold::refuses(records, &release.released_by));
            report.hold(HoldReport {
                id: id.to_string(),
                namespace,
                name,
                told: told.get(id).map(|hold| hold.digest()).or_else(|| last_placed(id, records)),
                recorded: true,
                recorded_at: self.placed_at.get(id).map(ToString::to_string),
                released_at: released_at.map(|at| at.to_string()),
                refused: refused.map(|why| shorten(&why, 256)),
                copies: held.copies,
                legal_holds: held.legal_holds,
                problem,
            });
        }
    }
}

/// [`KeepHold::digest`] of the hold as it was last placed.
fn last_placed(id: &Label, records: &[HoldRecord]) -> Option<Sha256> {
    records.iter().rev().find_map(|record| match &record.fact {
        HoldFact::Place { scope, until, .. } => Some(hold_digest(id, scope, *until)),
        HoldFact::Release { .. } => None,
    })
}

/// The hold that a record of a run speaks of.
pub fn held_by(record: &Record) -> Option<&Label> {
    match &record.fact {
        Fact::Held { hold } => Some(hold),
        _ => None,
    }
}

/// What a hold holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub copies: i64,
    pub legal_holds: i64,
    pub problem: Option<String>,
}

async fn read_record(store: &Store, version: &ObjectVersion) -> Result<Result<HoldRecord, String>, StoreError> {
    let object: ObjectPath = match version.path.parse() {
        Ok(object @ ObjectPath::Hold { .. }) => object,
        _ => return Ok(Err(format!("{} is no record of a hold", version.path))),
    };
    let path = StorePath::from(&object);
    let mut problem = String::new();
    // What cannot be understood is read once more: a bit may have flipped on the way.
    for _ in 0..2 {
        let read = store.read_version(&path, version.version.as_deref(), LIMIT).await?;
        let Some(held) = read else {
            return Ok(Err(format!("{path} was listed and is not there")));
        };
        match HoldRecord::from_bytes(&object, &held.bytes) {
            Ok(record) => return Ok(Ok(record)),
            Err(error @ DocumentError::NewerVersion { .. }) => return Ok(Err(format!("{path}: {error}"))),
            Err(error) => problem = format!("{path}: {error}"),
        }
    }
    Ok(Err(problem))
}

fn placing(hold: &KeepHold) -> HoldFact {
    HoldFact::Place {
        namespace: hold.namespace.clone(),
        name: hold.name.clone(),
        placed_by: hold.placed_by.clone(),
        release_by: hold.release_by,
        cool_off: hold.cool_off,
        reason: hold.reason.clone(),
        scope: hold.scope.clone(),
        until: hold.until,
    }
}

fn releasing(release: &KeepRelease) -> HoldFact {
    HoldFact::Release {
        released_by: release.released_by.clone(),
        reason: release.reason.clone(),
        effective_at: release.effective_at,
    }
}
