//! Disposals: copies that go before their time, for erasure duties. Keys first, so that nobody can read them any more, then the data. Rule R13.

use std::collections::{BTreeMap, HashSet};

use holdfast_crds::document::{Fact, Label, Record, RunPath, Sha256};
use holdfast_crds::{DisposalReport, KeepDisposal, KeepTask, Reason};
use holdfast_policy::hold::{self, Candidate};
use holdfast_policy::retention::{CopyFacts, SourceFacts};
use jiff::SignedDuration;

use super::Pass;
use super::act::{ActError, Swept};
use super::disposing::{Disposing, waiting};
use super::inventory::{RunFolder, SourceFolder};
use super::read::{Run, State};
use super::removal;
use crate::result::{Failure, shorten};
use crate::store::StoreError;

/// A copy that is in use is looked at again after this.
const IN_USE: SignedDuration = SignedDuration::from_hours(1);

/// The reason in the record of a removal that a disposal, `<namespace>/<name>`, asked for.
pub fn removal_reason(disposal: &str) -> String {
    format!("disposal {disposal}")
}

/// `<namespace>/<name>` of the request.
pub fn name_of(disposal: &KeepDisposal) -> String {
    format!("{}/{}", disposal.namespace, disposal.name)
}

/// Whether the request, which reaches no further than its namespace, names the copy.
pub fn names(disposal: &KeepDisposal, copy: &Candidate<'_>) -> bool {
    disposal.namespace == copy.namespace && hold::names(&disposal.scope, copy)
}

/// Why the copy cannot go yet.
fn deferred(copy: &CopyFacts, facts: &SourceFacts, going: &HashSet<Sha256>) -> Option<String> {
    if let Some(hold) = copy.holds.first() {
        return Some(format!("{} is held by {hold}", copy.run));
    }
    if copy.legal_hold {
        return Some(format!("{} is under legal hold in the store", copy.run));
    }
    if let Some(until) = copy.locked_until.filter(|until| facts.now <= *until) {
        return Some(format!("{} is locked by the store until {until}", copy.run));
    }
    if copy.in_use || copy.reading_until.is_some_and(|until| facts.now < until) {
        return Some(format!("{} is in use", copy.run));
    }
    let child = facts
        .copies
        .iter()
        .find(|other| other.parents.contains(&copy.manifest) && !going.contains(&other.manifest));
    child.map(|child| format!("{} is needed by {}, which stays; name that too", copy.run, child.run))
}

impl Pass<'_> {
    /// The copies of the source that a disposal names: their locks must be known.
    pub(super) fn disposed(&self, runs: &[Run]) -> HashSet<Label> {
        let named = runs.iter().filter(|run| match &run.state {
            State::Copy(copy) => {
                let place = run.path.to_string();
                let candidate = removal::candidate(&run.path, &place, copy);
                self.task.disposals.iter().any(|disposal| names(disposal, &candidate))
            }
            _ => false,
        });
        named.map(|run| run.path.run.clone()).collect()
    }

    /// The reports of all requests that the keeper was told of, before any source is looked at.
    pub(super) fn unstarted(task: &KeepTask) -> BTreeMap<String, DisposalReport> {
        let reports = task.disposals.iter().map(|disposal| {
            let report = DisposalReport {
                namespace: disposal.namespace.clone(),
                name: disposal.name.clone(),
                told: Some(disposal.digest()),
                ..DisposalReport::default()
            };
            (name_of(disposal), report)
        });
        reports.collect()
    }

    /// A source that cannot be read may have copies that disposals name.
    pub(super) fn unread(&mut self, folder: &SourceFolder, problem: &str) {
        for disposal in self.task.disposals.iter().filter(|disposal| may_name(disposal, folder, None)) {
            let report = self.disposals.entry(name_of(disposal)).or_default();
            report.left += 1;
            report
                .problem
                .get_or_insert(shorten(&format!("{} cannot be read: {problem}", folder.name()), 256));
        }
    }

    /// Carries out what disposals say about the source, and counts what is left of it. The runs that are no copies any more, and what the
    /// disposals are not done with.
    pub(super) async fn dispose(
        &mut self,
        folder: &SourceFolder,
        runs: &mut [Run],
        facts: &SourceFacts,
    ) -> Result<(HashSet<Label>, Disposing), Failure> {
        let mut gone = HashSet::new();
        let mut disposing = Disposing::begun(folder, runs, self.task, self.now);
        if self.task.disposals.is_empty() {
            return Ok((gone, disposing));
        }
        let copies: BTreeMap<_, _> = facts.copies.iter().map(|copy| (&copy.run, copy)).collect();
        let named = self.disposed(runs);
        let going: HashSet<Sha256> = facts
            .copies
            .iter()
            .filter(|copy| named.contains(&copy.run))
            .map(|copy| copy.manifest)
            .collect();
        for disposal in &self.task.disposals {
            let name = name_of(disposal);
            let mut report = self.disposals.remove(&name).unwrap_or_default();
            for run in runs.iter_mut() {
                let copy = match &run.state {
                    State::Copy(copy) => copy,
                    State::Unreadable { problem, .. } if may_name(disposal, folder, Some(run)) => {
                        report.left += 1;
                        report.problem.get_or_insert(shorten(problem, 256));
                        continue;
                    }
                    _ => continue,
                };
                let place = run.path.to_string();
                if !names(disposal, &removal::candidate(&run.path, &place, copy)) {
                    continue;
                }
                let lying = folder.runs.get(&run.path.run);
                let went = match copies.get(&run.path.run) {
                    // Another request took it in this pass: the next one sees what is left.
                    _ if gone.contains(&run.path.run) => Went::NotYet,
                    // Removed before, by retention or by this: gone is what is not there any more.
                    None => match lying.filter(|lying| removal::left(lying)) {
                        Some(lying) => Went::Waits(format!("it was removed, and {}", waiting(run, lying, self.now))),
                        None => Went::Gone,
                    },
                    Some(known) => match facts
                        .problems
                        .first()
                        .or(self.task.untold.as_ref())
                        .cloned()
                        .or_else(|| deferred(known, facts, &going))
                    {
                        Some(problem) => {
                            // Not before each lock that is known has ended, and not at once where somebody reads.
                            let reading = known.reading_until.or_else(|| known.in_use.then(|| facts.now + IN_USE));
                            if known.holds.is_empty()
                                && let Some(at) = known.locked_until.into_iter().chain(reading).max().filter(|at| *at >= facts.now)
                            {
                                // At the very moment of its end a lock still holds.
                                self.report.again(at + SignedDuration::from_secs(1));
                            }
                            Went::Waits(problem)
                        }
                        None => self.destroyed(lying, &run.path, &mut run.records, known, disposal).await?,
                    },
                };
                if matches!(went, Went::Gone | Went::Removed(_)) {
                    gone.insert(run.path.run.clone());
                }
                let keys_left = !matches!(went, Went::Removed(_)) && lying.is_some_and(removal::has_keys);
                match &went {
                    Went::Gone => disposing.gone(&run.path.run),
                    Went::NotYet => {}
                    Went::Failed(problem) | Went::Waits(problem) | Went::Removed(problem) => {
                        disposing.waits(run, copy, &name, keys_left, problem, self.task);
                    }
                }
                match went {
                    Went::Gone => report.removed += 1,
                    Went::NotYet => report.left += 1,
                    Went::Failed(problem) => {
                        report.left += 1;
                        report.problem.get_or_insert(shorten(&problem, 256));
                    }
                    Went::Waits(problem) | Went::Removed(problem) => {
                        report.left += 1;
                        report.deferred += 1;
                        report.shredded += i64::from(disposing.is_shredded(&run.path.run));
                        report.problem.get_or_insert(shorten(&format!("{place}: {problem}"), 256));
                    }
                }
            }
            self.disposals.insert(name, report);
        }
        Ok((gone, disposing))
    }

    /// Destroys a copy. What the store refuses is an answer.
    async fn destroyed(
        &mut self,
        lying: Option<&RunFolder>,
        run: &RunPath,
        records: &mut Vec<Record>,
        copy: &CopyFacts,
        disposal: &KeepDisposal,
    ) -> Result<Went, Failure> {
        let Some(lying) = lying else { return Ok(Went::NotYet) };
        match self.destroy(lying, run, records, copy, disposal).await {
            Ok(went) => Ok(went),
            Err(ActError::TooLate { .. }) => {
                self.report.out_of_time(&self.at, self.now);
                Ok(Went::NotYet)
            }
            Err(ActError::Store(error)) => Ok(Went::Failed(self.delete_refused(run, &error))),
            Err(error) => Err(error.into()),
        }
    }

    fn delete_refused(&mut self, run: &RunPath, error: &StoreError) -> String {
        let error = error.to_string();
        self.report.finding(Reason::DeleteRefused, Some(run.to_string()), error.clone());
        error
    }

    /// Records who asked for what, destroys the keys, then removes the data. Only where all keys are gone the copy counts as removed.
    async fn destroy(
        &mut self,
        lying: &RunFolder,
        run: &RunPath,
        records: &mut Vec<Record>,
        copy: &CopyFacts,
        disposal: &KeepDisposal,
    ) -> Result<Went, ActError> {
        let (Some(hand), true) = (self.hand.clone(), self.acts) else {
            return Ok(Went::NotYet);
        };
        // A hold that came meanwhile is seen by the next pass: until its records are read back it says that it is not yet effective.
        if self.holds.refresh(self.store).await? {
            return Ok(Went::NotYet);
        }
        hand.may_delete().await?;
        let name = name_of(disposal);
        let recorded = |record: &Record| matches!(&record.fact, Fact::Shredded { disposal, .. } if *disposal == name);
        if !records.iter().any(recorded) {
            let basis = format!(
                "{}; requested by {}, approved by {}",
                disposal.basis, disposal.requested_by, disposal.approved_by
            );
            let fact = Fact::Shredded {
                disposal: name.clone(),
                basis,
            };
            records.push(hand.record(run, Some(copy.manifest), fact).await?);
        }
        let keys = hand.shred(lying).await?;
        if !keys.complete() {
            return Ok(Went::Waits(refused("its keys", &keys)));
        }
        hand.removed(run, Some(copy.manifest), removal_reason(&name), None).await?;
        tracing::info!(run = %run, disposal = name, "disposed of");
        let swept = match hand.sweep(lying).await {
            // It is no copy any more, whatever becomes of its data.
            Err(ActError::Store(error)) => return Ok(Went::Removed(self.delete_refused(run, &error))),
            swept => swept?,
        };
        if swept.complete() {
            return Ok(Went::Gone);
        }
        self.report.note(
            "the store's locks keep objects of copies that were disposed of; their keys are gone, they are deleted when the locks end",
        );
        Ok(Went::Removed(refused("its data", &swept)))
    }
}

/// What became of a copy that is to be disposed of.
enum Went {
    /// Nothing of it is there.
    Gone,
    /// It is no copy any more, and the store keeps some of its data.
    Removed(String),
    /// A hold, a lock or another copy stands against it.
    Waits(String),
    /// The store failed.
    Failed(String),
    /// This pass does not do it.
    NotYet,
}

fn refused(what: &str, swept: &Swept) -> String {
    let until = swept.refused_until.map_or_else(String::new, |until| format!(" until {until}"));
    format!("the store does not let {what} go{until} ({} objects)", swept.refused)
}

/// Whether the request may name copies of a source that cannot be read, or of this run of it.
fn may_name(disposal: &KeepDisposal, folder: &SourceFolder, run: Option<&Run>) -> bool {
    let of_source = disposal.namespace == folder.namespace.as_str()
        && disposal
            .scope
            .sources
            .as_ref()
            .is_none_or(|sources| sources.contains(&folder.name()));
    let inside = format!("{}/", folder.name());
    of_source
        && disposal.scope.runs.as_ref().is_none_or(|runs| match run {
            Some(run) => runs.contains(&run.path.to_string()),
            None => runs.iter().any(|named| named.starts_with(&inside)),
        })
}
