//! The store's own locks and legal holds: what is known of them, and what is set.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_crds::CopyReport;
use holdfast_crds::document::{Fact, Label, ObjectPath, Record};
use holdfast_policy::retention::{CopyFacts, SourceFacts, SourcePlan, Verdict};
use jiff::{SignedDuration, Timestamp};

use super::Pass;
use super::act::{ActError, Hand};
use super::inventory::{RunFolder, SourceFolder};
use super::read::Run;
use super::source::all_read;
use crate::store::{Lock, Locked, Store, StoreError, StorePath};

/// How many locks are read or set at once.
const PARALLEL: usize = 8;
/// So many objects of copies of which no record tells the lock are looked at in one pass, and those of one copy more; the next pass goes on.
pub(super) const ASKED: usize = 10_000;

impl Pass<'_> {
    /// The locks of copies that may be removed now: the others need none read.
    pub(super) async fn read_locks(
        &self,
        folder: &SourceFolder,
        facts: &mut SourceFacts,
        disposed: &HashSet<Label>,
    ) -> Result<(), StoreError> {
        if !self.locks {
            return Ok(());
        }
        let now = facts.now;
        let due = |copy: &&mut CopyFacts| disposed.contains(&copy.run) || copy.mark.as_ref().is_some_and(|mark| mark.not_before <= now);
        for copy in facts.copies.iter_mut().filter(due) {
            let Some(run) = folder.runs.get(&copy.run) else { continue };
            let locks = locks_of(self.store, &lockable(run)).await?;
            copy.locked_until = locks.iter().filter_map(Lock::until).max();
            copy.legal_hold = locks.iter().any(|lock| lock.legal_hold);
        }
        Ok(())
    }

    /// Makes the store itself hold what is kept and held: the register, the keys and the data, in the versions that count. What a lock was set
    /// to when an object was written is not presumed, for that may have been long before the commit, or without a lock: until a record tells
    /// the copy's lock, its objects are asked. Gives what it recorded.
    #[allow(clippy::too_many_arguments, reason = "all of it is what one copy's locks depend on")]
    pub(super) async fn lock(
        &mut self,
        hand: &Hand,
        lying: &RunFolder,
        run: &Run,
        copy: &CopyFacts,
        verdict: &Verdict,
        plan: &SourcePlan,
        disposed: &HashSet<Label>,
        set: &mut Vec<Record>,
    ) -> Result<(), ActError> {
        let outcome = lying.outcome.first();
        let outcome = outcome.map(|first| (StorePath::from(&run.path.outcome()), first.version.clone()));
        let objects: Vec<_> = outcome.into_iter().chain(lockable(lying)).collect();
        // What is to be disposed of waits for the locks that it has, and gets no longer ones.
        let write_lock = self.store.backend().write_lock().filter(|_| !disposed.contains(&copy.run));
        let wanted = write_lock.and_then(|short| {
            let length = SignedDuration::try_from(short.length).unwrap_or(SignedDuration::MAX);
            wanted(copy, verdict, plan, self.lock_time, length)
        });
        if let Some(until) = self.missing_lock(hand, run, copy, &objects, wanted, set).await? {
            each(self.store, &objects, Set::Lock(until)).await?;
            set.push(hand.record(&run.path, Some(copy.manifest), Fact::Locked { until }).await?);
        }
        // What cannot be read may be the hold that is in force: then none is lifted.
        let held = !copy.holds.is_empty();
        if held != legal_hold(run) && (held || all_read(plan)) {
            each(self.store, &objects, Set::LegalHold(held)).await?;
            set.push(hand.record(&run.path, Some(copy.manifest), Fact::LegalHold { on: held }).await?);
        }
        Ok(())
    }

    /// How many copies stay without a lock in the store.
    pub(super) fn unlocked(&self, plan: &SourcePlan, reports: &[CopyReport]) -> u64 {
        let locked = |report: &&CopyReport| {
            let until = report.locked_until.as_deref().and_then(|until| until.parse::<Timestamp>().ok());
            until.is_some_and(|until| self.lock_time <= until)
        };
        let locked: HashSet<_> = reports.iter().filter(locked).map(|report| report.run.as_str()).collect();
        let stay = plan.verdicts.iter().filter(|verdict| verdict.stays());
        stay.filter(|verdict| !locked.contains(verdict.run.as_str())).count() as u64
    }

    /// Until when the copy has to be locked, where it is not locked for long enough.
    async fn missing_lock(
        &mut self,
        hand: &Hand,
        run: &Run,
        copy: &CopyFacts,
        objects: &[(StorePath, Option<String>)],
        wanted: Option<Wanted>,
        set: &mut Vec<Record>,
    ) -> Result<Option<Timestamp>, ActError> {
        let Some(wanted) = wanted else { return Ok(None) };
        if let Some(known) = known_lock(run) {
            return Ok((known < wanted.at_least).then_some(wanted.until));
        }
        if self.asked >= ASKED {
            self.report.again(self.now);
            self.report
                .note("the locks of some copies are not known yet; the next pass goes on asking for them");
            return Ok(None);
        }
        self.asked += objects.len();
        // The lock that ends first; none, no lock, is less than any.
        let least = locks_of(self.store, objects).await?.iter().map(Lock::until).min().flatten();
        if let Some(until) = least.filter(|least| *least >= wanted.at_least) {
            set.push(hand.record(&run.path, Some(copy.manifest), Fact::Locked { until }).await?);
            return Ok(None);
        }
        Ok(Some(wanted.until))
    }
}

/// What lock a copy has to have.
struct Wanted {
    /// A lock that ends before this is extended …
    at_least: Timestamp,
    /// … until then.
    until: Timestamp,
}

/// None where nothing is to be locked. `now` is the later of the clocks: a lock must not end too early.
fn wanted(copy: &CopyFacts, verdict: &Verdict, plan: &SourcePlan, now: Timestamp, length: SignedDuration) -> Option<Wanted> {
    let granted = plan
        .retain
        .iter()
        .filter(|(name, _, _)| *name == copy.run)
        .map(|(_, _, until)| *until);
    let retained = copy.retain_until().into_iter().chain(granted).max().filter(|until| now < *until);
    // What stays without a known end is locked for a while, again and again, from half of that time on.
    let endless = verdict.stays() && verdict.until().is_none();
    let later = |by| now.checked_add(by).unwrap_or(Timestamp::MAX);
    let of = |short: SignedDuration| retained.into_iter().chain(endless.then(|| later(short))).max();
    Some(Wanted {
        at_least: of(length / 2)?,
        until: of(length)?,
    })
}

/// The locks of objects. What is missing is told as such, and has none.
async fn locks_of(store: &Store, objects: &[(StorePath, Option<String>)]) -> Result<Vec<Lock>, StoreError> {
    let reads = objects.iter().cloned().map(|(path, version)| {
        let store = store.clone();
        async move {
            match store.lock_of(&path, version.as_deref()).await {
                Err(StoreError::NotFound { .. }) => Ok(None),
                read => read.map(Some),
            }
        }
    });
    let reads: Vec<_> = reads.collect();
    let locks: Vec<Option<Lock>> = stream::iter(reads).buffer_unordered(PARALLEL).try_collect().await?;
    Ok(locks.into_iter().flatten().collect())
}

/// The objects of a run that carry locks, in the versions that count.
fn lockable(run: &RunFolder) -> Vec<(StorePath, Option<String>)> {
    let keys = run
        .catalog
        .iter()
        .filter(|(_, (object, _))| matches!(object, ObjectPath::Key { .. }));
    let objects = keys.map(|(path, (_, versions))| (path, versions)).chain(&run.data);
    objects
        .filter_map(|(path, versions)| Some((path.parse().ok()?, versions.first()?.version.clone())))
        .collect()
}

/// Until when the store locks the copy, as it was read back; none where no pass has.
pub(super) fn known_lock(run: &Run) -> Option<Timestamp> {
    let recorded = run.records.iter().filter_map(|record| match record.fact {
        Fact::Locked { until } => Some(until),
        _ => None,
    });
    recorded.max()
}

/// Whether the store's legal hold is set on the copy, by the newest record.
pub(super) fn legal_hold(run: &Run) -> bool {
    let words = run.records.iter().filter_map(|record| match record.fact {
        Fact::LegalHold { on } => Some((&record.ulid, on)),
        _ => None,
    });
    words.max_by_key(|(ulid, _)| (*ulid).clone()).is_some_and(|(_, on)| on)
}

/// What is set on each object of a copy.
#[derive(Clone, Copy)]
enum Set {
    Lock(Timestamp),
    LegalHold(bool),
}

async fn each(store: &Store, objects: &[(StorePath, Option<String>)], set: Set) -> Result<(), StoreError> {
    let each = objects.iter().cloned().map(|(path, version)| {
        let store = store.clone();
        async move {
            let done = match set {
                Set::Lock(until) => store.extend_lock(&path, version.as_deref(), until).await?,
                Set::LegalHold(on) => store.set_legal_hold(&path, version.as_deref(), on).await?,
            };
            // What is missing is told as such, and needs no lock.
            match done {
                Locked::Held(_) | Locked::NotFound => Ok(()),
            }
        }
    });
    let futures: Vec<_> = each.collect();
    stream::iter(futures).buffer_unordered(PARALLEL).try_collect().await
}
