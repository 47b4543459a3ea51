//! Disposals: copies that go before their time, for erasure duties. Keys first, so that nobody can read them any more, then the data. Rule R13.

use std::collections::{BTreeMap, HashSet};

use holdfast_crds::document::{Fact, Label, Sha256};
use holdfast_crds::{DisposalReport, KeepDisposal, Reason};
use holdfast_policy::hold::{self, Candidate};
use holdfast_policy::retention::{CopyFacts, SourceFacts};
use jiff::SignedDuration;

use super::Pass;
use super::act::ActError;
use super::inventory::SourceFolder;
use super::read::{Run, State};
use crate::result::{Failure, shorten};

/// A copy that is in use is looked at again after this.
const IN_USE: SignedDuration = SignedDuration::from_hours(1);
/// How a record of a removal begins that a disposal asked for.
const BY_DISPOSAL: &str = "disposal ";

/// `<namespace>/<name>` of the request.
fn name_of(disposal: &KeepDisposal) -> String {
    format!("{}/{}", disposal.namespace, disposal.name)
}

/// Whether the request, which reaches no further than its namespace, names the copy.
pub fn names(disposal: &KeepDisposal, folder: &SourceFolder, run: &str, copy: &super::read::Copy) -> bool {
    let candidate = Candidate {
        namespace: folder.namespace.as_str(),
        source: folder.source.as_str(),
        run,
        recovery_point: copy.recovery_point,
    };
    disposal.namespace == folder.namespace.as_str() && hold::names(&disposal.scope, &candidate)
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
    pub(super) fn disposed(&self, folder: &SourceFolder, runs: &[Run]) -> HashSet<Label> {
        let named = runs.iter().filter(|run| match &run.state {
            State::Copy(copy) => self
                .task
                .disposals
                .iter()
                .any(|disposal| names(disposal, folder, &run.path.to_string(), copy)),
            _ => false,
        });
        named.map(|run| run.path.run.clone()).collect()
    }

    /// Carries out what disposals say about the source, and counts what is left of it.
    pub(super) async fn dispose(&mut self, folder: &SourceFolder, runs: &[Run], facts: &SourceFacts) -> Result<HashSet<Label>, Failure> {
        let mut gone = HashSet::new();
        if self.task.disposals.is_empty() {
            return Ok(gone);
        }
        let copies: BTreeMap<_, _> = facts.copies.iter().map(|copy| (&copy.run, copy)).collect();
        let named = self.disposed(folder, runs);
        let going: HashSet<Sha256> = facts
            .copies
            .iter()
            .filter(|copy| named.contains(&copy.run))
            .map(|copy| copy.manifest)
            .collect();
        for disposal in &self.task.disposals {
            let name = name_of(disposal);
            let mut report = self.disposals.remove(&name).unwrap_or_else(|| DisposalReport {
                namespace: disposal.namespace.clone(),
                name: disposal.name.clone(),
                left: 0,
                shredded: 0,
                removed: 0,
                deferred: 0,
                problem: None,
            });
            for run in runs {
                let State::Copy(copy) = &run.state else { continue };
                if !names(disposal, folder, &run.path.to_string(), copy) {
                    continue;
                }
                if run.removed().is_some() || gone.contains(&run.path.run) {
                    report.removed += 1;
                    continue;
                }
                let Some(known) = copies.get(&run.path.run) else { continue };
                let shredded = run.records.iter().any(|record| matches!(record.fact, Fact::Shredded { .. }));
                let problem = facts.problems.first().cloned().or_else(|| deferred(known, facts, &going));
                if let Some(problem) = problem {
                    // Not before each lock that is known has ended, and not at once where somebody reads.
                    let reading = known.reading_until.or_else(|| known.in_use.then(|| facts.now + IN_USE));
                    if known.holds.is_empty()
                        && let Some(at) = known.locked_until.into_iter().chain(reading).max().filter(|at| *at >= facts.now)
                    {
                        // At the very moment of its end a lock still holds.
                        self.report.again(at + SignedDuration::from_secs(1));
                    }
                    report.left += 1;
                    report.deferred += 1;
                    report.shredded += i64::from(shredded);
                    report.problem.get_or_insert(shorten(&problem, 256));
                    continue;
                }
                match self.destroy(folder, run, known, disposal, shredded).await {
                    Ok(true) => {
                        report.removed += 1;
                        gone.insert(run.path.run.clone());
                    }
                    Ok(false) => report.left += 1,
                    Err(ActError::TooLate { .. }) => {
                        report.left += 1;
                        self.report.again(self.now);
                        self.report
                            .note("the time in which a pass may delete was over; the next pass goes on");
                    }
                    Err(ActError::Store(error)) => {
                        report.left += 1;
                        self.report
                            .finding(Reason::DeleteRefused, Some(run.path.to_string()), error.to_string());
                        report.problem.get_or_insert(shorten(&error.to_string(), 256));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.disposals.insert(name, report);
        }
        Ok(gone)
    }

    /// Records who asked for what, destroys the keys, then removes the data. False where this pass only reads.
    async fn destroy(
        &mut self,
        folder: &SourceFolder,
        run: &Run,
        copy: &CopyFacts,
        disposal: &KeepDisposal,
        shredded: bool,
    ) -> Result<bool, ActError> {
        let (Some(hand), true) = (self.hand.clone(), self.acts) else {
            return Ok(false);
        };
        let Some(lying) = folder.runs.get(&run.path.run) else {
            return Ok(false);
        };
        // A hold that came meanwhile is seen by the next pass: until its records are read back it says that it is not yet effective.
        if self.holds.refresh(self.store).await? {
            return Ok(false);
        }
        hand.may_delete().await?;
        let name = name_of(disposal);
        if !shredded {
            let basis = format!(
                "{}; requested by {}, approved by {}",
                disposal.basis, disposal.requested_by, disposal.approved_by
            );
            let fact = Fact::Shredded {
                disposal: name.clone(),
                basis,
            };
            hand.record(&run.path, Some(copy.manifest), fact).await?;
        }
        hand.shred(lying).await?;
        let fact = Fact::Removed {
            reason: format!("{BY_DISPOSAL}{name}"),
            mark: None,
        };
        hand.record(&run.path, Some(copy.manifest), fact).await?;
        tracing::info!(run = %run.path, disposal = name, "disposed of");
        let swept = hand.sweep(lying).await?;
        if !swept.complete() {
            self.report.note(
                "the store's locks keep objects of copies that were disposed of; their keys are gone, they are deleted when the locks end",
            );
        }
        Ok(true)
    }
}
