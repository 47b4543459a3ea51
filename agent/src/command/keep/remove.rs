//! Removing what a plan removes. Each copy is decided on once more right before, from its records and the holds as they are then: somebody
//! may have begun to read it, withdrawn its mark, or placed a hold since the source was read.

use std::collections::{BTreeMap, HashSet};

use holdfast_crds::Reason;
use holdfast_crds::document::Label;
use holdfast_policy::retention::{Next, SourceFacts, SourcePlan, plan};

use super::act::{ActError, Swept};
use super::inventory::{self, RunFolder, SourceFolder};
use super::read::{self, State};
use super::source::Documents;
use super::{Pass, removal};
use crate::result::Failure;
use crate::store::StoreError;

impl Pass<'_> {
    /// Removes what the plan removes: first the record that says so, then keys, then data. Which went. Afterwards documents, facts and
    /// plan are those that were decided from last.
    pub(super) async fn remove(
        &mut self,
        folder: &SourceFolder,
        documents: &mut Documents,
        facts: &mut SourceFacts,
        plan: &mut SourcePlan,
    ) -> Result<HashSet<Label>, Failure> {
        let mut gone = HashSet::new();
        let Some(hand) = self.hand.clone() else { return Ok(gone) };
        for name in plan.remove.clone() {
            let Some(lying) = folder.runs.get(&name) else { continue };
            match self.read_again(folder, lying, documents, &name).await {
                Ok(true) => self.decide_again(folder, documents, facts, plan, &gone),
                Ok(false) => {}
                Err(error) => {
                    let message = format!("{error}; nothing more of the source is removed in this pass");
                    self.report.finding(Reason::CatalogueUnreadable, Some(folder.name()), message);
                    break;
                }
            }
            let verdict = plan.verdicts.iter().find(|verdict| verdict.run == name);
            let Some(Next::Remove(mark)) = verdict.map(|verdict| verdict.next.clone()) else {
                continue;
            };
            let manifest = documents
                .runs
                .iter()
                .find(|run| run.path.run == name)
                .and_then(|run| match &run.state {
                    State::Copy(copy) => Some(copy.manifest_digest),
                    _ => None,
                });
            let path = folder.run_path(&name);
            match hand.removed(&path, manifest, "retention".to_owned(), Some(mark)).await {
                Ok(()) => {}
                Err(ActError::TooLate { .. }) => {
                    self.report.out_of_time(&self.at, self.now);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            tracing::info!(run = %path, "removed: nothing keeps it");
            gone.insert(name);
            let swept = hand.sweep(lying).await;
            self.swept(swept)?;
        }
        Ok(gone)
    }

    /// Reads holds and the run's records again; says whether anything was written since.
    async fn read_again(
        &mut self,
        folder: &SourceFolder,
        lying: &RunFolder,
        documents: &mut Documents,
        name: &Label,
    ) -> Result<bool, StoreError> {
        let held = self.holds.refresh(self.store).await?;
        let path = folder.run_path(name);
        let now = inventory::catalogue_of(self.store, &path).await?;
        if now.catalog == lying.catalog && now.outcome == lying.outcome {
            return Ok(held);
        }
        let lying = RunFolder {
            data: lying.data.clone(),
            ..now
        };
        let mut again = read::read_run(self.store, path, &lying, true).await?;
        again.forged = removal::forged(&again, &lying, &self.holds, self.task, self.now);
        if let Some(run) = documents.runs.iter_mut().find(|run| run.path.run == *name) {
            *run = again;
        }
        Ok(true)
    }

    /// The plan once more; what went already stays removed in it.
    fn decide_again(
        &self,
        folder: &SourceFolder,
        documents: &Documents,
        facts: &mut SourceFacts,
        decided: &mut SourcePlan,
        gone: &HashSet<Label>,
    ) {
        let mut again = self.gathered(folder, documents).facts();
        let locks: BTreeMap<_, _> = facts
            .copies
            .iter()
            .map(|copy| (&copy.run, (copy.locked_until, copy.legal_hold)))
            .collect();
        for copy in &mut again.copies {
            (copy.locked_until, copy.legal_hold) = locks.get(&copy.run).copied().unwrap_or_default();
        }
        let known = facts.problems.iter().filter(|problem| !again.problems.contains(problem));
        let known: Vec<_> = known.cloned().collect();
        again.problems.extend(known);
        let mut left = again.clone();
        left.copies.retain(|copy| !gone.contains(&copy.run));
        left.copies_before = left.copies_before.map(|before| before.saturating_sub(gone.len() as u64));
        let mut plan = plan(&left);
        let went = decided.verdicts.iter().filter(|verdict| gone.contains(&verdict.run));
        plan.verdicts.extend(went.cloned());
        let order: BTreeMap<_, _> = again.copies.iter().map(|copy| (copy.run.clone(), copy.order().0)).collect();
        plan.verdicts.retain(|verdict| order.contains_key(&verdict.run));
        plan.verdicts.sort_by_key(|verdict| (order[&verdict.run], verdict.run.clone()));
        (*facts, *decided) = (again, plan);
    }

    pub(super) fn swept(&mut self, swept: Result<Swept, ActError>) -> Result<(), Failure> {
        match swept {
            Ok(swept) if swept.complete() => Ok(()),
            Ok(_) => {
                self.report
                    .note("the store's locks keep objects of removed copies; they are deleted when the locks end");
                Ok(())
            }
            Err(ActError::TooLate { .. }) => {
                self.report.out_of_time(&self.at, self.now);
                Ok(())
            }
            // One object that cannot be deleted stops nothing else.
            Err(ActError::Store(error)) => {
                self.report.finding(Reason::DeleteRefused, None, error.to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
