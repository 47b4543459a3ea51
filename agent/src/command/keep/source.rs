//! One source: what was read is decided on, recorded, and carried out.

use std::collections::{BTreeMap, HashSet};

use holdfast_crds::document::{Acceptance, Fact, Label, Record};
use holdfast_crds::{Blocked, CopyReport, CopyState, Reason, SourceReport};
use holdfast_policy::retention::{CopyFacts, Next, SourceFacts, SourcePlan, Verdict, loss_digest, plan};

use super::act::{ActError, Swept};
use super::disposing::Disposing;
use super::facts::{self, Gathered};
use super::holds::held_by;
use super::inventory::SourceFolder;
use super::leftover::Leftover;
use super::lock::{known_lock, legal_hold};
use super::read::{self, Run, SourceWords, State};
use super::{Pass, leftover, removal};
use crate::result::{Failure, count, shorten};
use crate::store::StoreError;

/// How many copies of a source are told one by one.
const TOLD: usize = 10;
/// How many documents are read at once.
const DOCUMENTS: usize = 16;

/// What a source's documents say.
pub(super) struct Documents {
    pub runs: Vec<Run>,
    pub words: SourceWords,
}

impl Pass<'_> {
    /// Looks after one source. A source that cannot be read stops nothing but itself.
    pub(super) async fn source(&mut self, folder: SourceFolder) -> Result<(), Failure> {
        self.seen.insert(folder.name());
        self.at = folder.name();
        self.altered(&folder);
        let mut documents = match self.read(&folder).await {
            Ok(documents) => documents,
            Err(error) => {
                let message = format!("{error}; nothing of the source is recorded or removed in this pass");
                self.stands_still(&folder.namespace, &folder.source, Reason::CatalogueUnreadable, &message, true);
                self.unread(&folder, &error.to_string());
                return Ok(());
            }
        };
        if let Some(preview) = &self.task.preview {
            self.preview(preview, &folder, &documents);
            return Ok(());
        }
        let mut facts = self.gathered(&folder, &documents).facts();
        // Those that came while the pass went on are counted by the next.
        let began = self.began;
        let found = facts.copies.iter().filter(|copy| copy.committed_at <= began).count() as u64;
        facts.problems.extend(self.locks_unknown.clone());
        let disposed = self.disposed(&documents.runs);
        if let Err(error) = self.read_locks(&folder, &mut facts, &disposed).await {
            facts.problems.push(format!("the store's locks cannot be read: {error}"));
        }
        let mut plan = plan(&facts);
        let mut removed = HashSet::new();
        if self.acts {
            for record in self.record(&folder, &documents, &facts, &plan, &disposed).await? {
                // What was set now holds or lets go now, and not only when the next pass has read it.
                if let (Fact::LegalHold { on }, Some(copy)) =
                    (&record.fact, facts.copies.iter_mut().find(|copy| copy.run == record.run_key.run))
                {
                    copy.legal_hold = *on;
                }
                if let Some(run) = documents.runs.iter_mut().find(|run| run.path == record.run_key) {
                    run.records.push(record);
                }
            }
            removed = self.remove(&folder, &mut documents, &mut facts, &mut plan).await?;
        }
        let (gone, disposing) = self.dispose(&folder, &mut documents.runs, &facts).await?;
        for copy in facts.copies.iter_mut().filter(|copy| disposing.destroys(&copy.run)) {
            copy.problem.get_or_insert_with(|| "a disposal destroys it".to_owned());
        }
        let left = |run: &Label| !gone.contains(run) && !removed.contains(run);
        facts.copies.retain(|copy| left(&copy.run));
        plan.verdicts.retain(|verdict| left(&verdict.run));
        if self.acts {
            self.clear(&folder, &documents.runs, all_read(&plan)).await?;
        }
        let mut reports = copy_reports(&facts, &plan);
        disposing.show(&documents.runs, &mut reports);
        let runs: BTreeMap<_, _> = documents.runs.iter().map(|run| (run.path.run.as_str(), run)).collect();
        for report in reports.iter_mut().filter(|report| report.locked_until.is_none()) {
            let known = runs.get(report.run.as_str()).and_then(|run| known_lock(run));
            report.locked_until = known.map(|until| until.to_string());
        }
        self.seals.look(&folder, &documents.runs, &mut reports, &mut self.report);
        self.amiss(&folder, &facts, &plan, &disposing);
        self.tell(&folder, &documents, &facts, &plan, (removed.len() as u64, found), &reports);
        Ok(())
    }

    /// Tells that nothing is known, or nothing left, of a source.
    fn stands_still(&mut self, namespace: &Label, source: &Label, reason: Reason, message: &str, unread: bool) {
        let message = shorten(message, 512);
        self.report.finding(reason, Some(format!("{namespace}/{source}")), message.clone());
        self.report.source(SourceReport {
            namespace: namespace.to_string(),
            source: source.to_string(),
            unread,
            blocked: Some(Blocked { reason, message }),
            ..SourceReport::default()
        });
    }

    /// Sources of which copies have to be here, and of which nothing at all was listed.
    pub(super) fn vanished(&mut self) {
        for told in &self.task.sources {
            let name = format!("{}/{}", told.namespace, told.source);
            let Some(copies) = told.copies.filter(|copies| *copies > 0 && !self.seen.contains(&name)) else {
                continue;
            };
            let set = loss_digest(copies, told.copies_as_of, std::iter::empty());
            let message = format!(
                "{copies} copies have to be here, nothing is there now; find out who removed them. If they are lost, say so with spec.accept: [{{loss: {{set: {set}}}, by: your user name, reason: why}}]"
            );
            let accepted = told.accepted.iter().any(|accepted| accepted.what == Acceptance::Loss { set });
            if !accepted {
                self.stands_still(&told.namespace, &told.source, Reason::CopiesMissing, &message, false);
            }
        }
    }

    async fn read(&mut self, folder: &SourceFolder) -> Result<Documents, StoreError> {
        self.holds.refresh(self.store).await?;
        let mut runs = read::runs(self.store, folder, DOCUMENTS).await?;
        for run in &mut runs {
            if let Some(lying) = folder.runs.get(&run.path.run) {
                run.forged = removal::forged(run, lying, &self.holds, self.task, self.now);
            }
        }
        let words = read::words(self.store, folder, &mut self.report).await?;
        Ok(Documents { runs, words })
    }

    pub(super) fn gathered<'a>(&'a self, folder: &'a SourceFolder, documents: &'a Documents) -> Gathered<'a> {
        Gathered {
            folder,
            runs: &documents.runs,
            words: &documents.words,
            holds: &self.holds,
            task: self.task,
            now: self.now,
        }
    }

    /// Tells of what somebody wrote or deleted under names that are written once, and of names that nothing here writes.
    fn altered(&mut self, folder: &SourceFolder) {
        for path in &folder.foreign {
            self.report.finding(
                Reason::ForeignObject,
                Some(folder.name()),
                format!("{path} is nothing that Holdfast writes; it is left alone"),
            );
        }
        for (name, run) in &folder.runs {
            let outcome = (folder.run_path(name).outcome().to_string(), &run.outcome);
            let catalog = run.catalog.iter().map(|(path, (_, versions))| (path.clone(), versions));
            let data = run.data.iter().map(|(path, versions)| (path.clone(), versions));
            for (path, versions) in std::iter::once(outcome)
                .chain(catalog)
                .chain(data)
                .filter(|(_, versions)| versions.altered())
            {
                let how = if versions.0.last().is_some_and(|lying| lying.marker) {
                    "deleted"
                } else {
                    "overwritten"
                };
                let kept = if versions.first().is_some() {
                    "; its first version is what counts"
                } else {
                    ""
                };
                self.report.finding(
                    Reason::Tampered,
                    Some(folder.run_path(name).to_string()),
                    format!("{path} was {how} after it had been written{kept}; find out who did that"),
                );
            }
        }
    }

    /// Writes what the plan says about copies that stay, and marks those that do not. Gives what it recorded of the store's own locks and holds.
    async fn record(
        &mut self,
        folder: &SourceFolder,
        documents: &Documents,
        facts: &SourceFacts,
        plan: &SourcePlan,
        disposed: &HashSet<Label>,
    ) -> Result<Vec<Record>, Failure> {
        let Some(hand) = self.hand.clone() else { return Ok(Vec::new()) };
        let gathered = self.gathered(folder, documents);
        let policies = facts::unrecorded(self.task, &documents.words, &facts.copies);
        for fact in policies.into_iter().chain(facts::unspoken(gathered.told(), &documents.words)) {
            hand.source_record(&folder.namespace, &folder.source, fact).await?;
        }
        let runs: BTreeMap<_, _> = documents.runs.iter().map(|run| (&run.path.run, run)).collect();
        let copies: BTreeMap<_, _> = facts.copies.iter().map(|copy| (&copy.run, copy)).collect();
        for (name, copy) in &copies {
            for hold in copy
                .holds
                .iter()
                .filter(|hold| !runs[*name].records.iter().any(|record| held_by(record) == Some(*hold)))
            {
                let fact = Fact::Held { hold: hold.clone() };
                hand.record(&folder.run_path(name), Some(copy.manifest), fact).await?;
            }
        }
        for (name, rule, until) in &plan.retain {
            let fact = Fact::Retain {
                until: *until,
                rule: rule.clone(),
            };
            hand.record(&folder.run_path(name), Some(copies[name].manifest), fact).await?;
        }
        for verdict in &plan.verdicts {
            let fact = match &verdict.next {
                Next::Unmark(mark) => Fact::Unmark {
                    mark: mark.clone(),
                    reason: shorten(&verdict.why(), 512),
                },
                Next::Mark { not_before } => Fact::Mark {
                    reason: verdict.why(),
                    input: plan.input,
                    not_before: *not_before,
                },
                Next::Stay | Next::Wait | Next::Remove(_) => continue,
            };
            hand.record(&folder.run_path(&verdict.run), Some(copies[&verdict.run].manifest), fact)
                .await?;
        }
        let mut set = Vec::new();
        if self.locks {
            let mut refused: Option<(usize, String)> = None;
            for verdict in &plan.verdicts {
                let (copy, run) = (copies[&verdict.run], runs[&verdict.run]);
                let Some(lying) = folder.runs.get(&verdict.run) else { continue };
                if let Err(error) = self.lock(&hand, lying, run, copy, verdict, plan, disposed, &mut set).await {
                    let ActError::Store(error) = error else { return Err(error.into()) };
                    for hold in &copy.holds {
                        let held = self.held.entry(hold.clone()).or_default();
                        held.problem.get_or_insert(shorten(&error.to_string(), 256));
                    }
                    refused.get_or_insert((0, error.to_string())).0 += 1;
                }
            }
            if let Some((copies, error)) = refused {
                let message =
                    format!("locks or legal holds of {copies} copies cannot be set: {error}; only Holdfast keeps them until they are");
                self.report.finding(Reason::LockRefused, Some(folder.name()), message);
            }
        }
        Ok(set)
    }

    async fn clear(&mut self, folder: &SourceFolder, runs: &[Run], all_read: bool) -> Result<(), Failure> {
        let disposed = self.disposed(runs);
        for run in runs {
            let Some(lying) = folder.runs.get(&run.path.run) else { continue };
            let in_flight = self.task.in_use.contains(&run.path);
            let Some(hand) = self.hand.clone() else { return Ok(()) };
            let wanted = match leftover::leftover(run, lying, self.now, in_flight, all_read) {
                Leftover::Sweep if !removal::may_sweep(run, &self.holds, self.now) => continue,
                wanted => wanted,
            };
            let last = matches!(wanted, Leftover::Sweep) && disposed.contains(&run.path.run);
            let swept = leftover::clear(&hand, run, lying, wanted).await?;
            if last && swept.as_ref().is_ok_and(Swept::complete) {
                // The next pass finds that nothing is left, and says so to who waits for it.
                self.report.again(self.now);
            }
            self.swept(swept)?;
        }
        Ok(())
    }

    /// Tells of copies that are not good, other than by a disposal, and that they are of another server than before.
    pub(super) fn amiss(&mut self, folder: &SourceFolder, facts: &SourceFacts, plan: &SourcePlan, disposing: &Disposing) {
        if let Some(identity) = &plan.identity {
            self.report.finding(Reason::IdentityChanged, Some(folder.name()), identity.clone());
        }
        for copy in facts.copies.iter().filter(|copy| !disposing.destroys(&copy.run)) {
            if let Some(problem) = &copy.problem {
                let place = folder.run_path(&copy.run).to_string();
                self.report
                    .finding(Reason::CopyCorrupt, Some(place), format!("the copy is not good: {problem}"));
            }
        }
    }

    /// Tells what is known of the source now. None where it has nothing.
    pub(super) fn tell(
        &mut self,
        folder: &SourceFolder,
        documents: &Documents,
        facts: &SourceFacts,
        plan: &SourcePlan,
        (removed, found): (u64, u64),
        reports: &[CopyReport],
    ) -> Option<SourceReport> {
        for copy in &facts.copies {
            for hold in &copy.holds {
                let held = self.held.entry(hold.clone()).or_default();
                held.copies += 1;
                let run = documents.runs.iter().find(|run| run.path.run == copy.run);
                held.legal_holds += i64::from(run.is_some_and(legal_hold));
            }
        }
        for run in &documents.runs {
            if let Some(forged) = &run.forged {
                self.report.finding(Reason::Tampered, Some(run.path.to_string()), forged.clone());
            }
            if let State::Unreadable { reason, problem } = &run.state {
                self.report.finding(*reason, Some(run.path.to_string()), problem.clone());
            }
        }
        if reports.is_empty()
            && documents.runs.iter().all(|run| !matches!(run.state, State::Copy(_)))
            && removed == 0
            && plan.blocked.is_none()
        {
            return None;
        }
        let good: Vec<_> = facts
            .copies
            .iter()
            .filter(|copy| copy.is_good())
            .map(|copy| copy.recovery_point)
            .collect();
        let state = |wanted: &[CopyState]| count(reports.iter().filter(|report| wanted.contains(&report.state)).count() as u64);
        let unlocked = if self.locks && self.store.backend().write_lock().is_some() {
            self.unlocked(plan, reports)
        } else {
            0
        };
        let full_and_good = facts
            .copies
            .iter()
            .filter(|copy| copy.is_good() && copy.copy_type == holdfast_policy::retention::CopyType::Full);
        let report = SourceReport {
            namespace: folder.namespace.to_string(),
            source: folder.source.to_string(),
            unread: false,
            uncompared: facts.copies_before.is_none() && (self.task.cut.sources || self.task.cut.counted),
            found: count(found),
            copies: count(facts.copies.len() as u64),
            good: count(full_and_good.count() as u64),
            bytes: count(facts.copies.iter().map(|copy| copy.bytes).sum()),
            sealed: count(reports.iter().filter(|report| report.sealed).count() as u64),
            held: count(facts.copies.iter().filter(|copy| !copy.holds.is_empty()).count() as u64),
            unlocked: count(unlocked),
            marked: state(&[CopyState::Marked]),
            removed: count(removed),
            newest: good.iter().max().map(ToString::to_string),
            oldest: good.iter().min().map(ToString::to_string),
            blocked: plan.blocked.clone(),
            newest_copies: reports.iter().rev().take(TOLD).cloned().collect(),
            empty_slots: plan.empty_slots.iter().take(TOLD).cloned().collect(),
        };
        self.report.source(report.clone());
        Some(report)
    }
}

/// Whether what the plan was made from is all there is of the source.
pub(super) fn all_read(plan: &SourcePlan) -> bool {
    let reason = plan.blocked.as_ref().map(|blocked| blocked.reason);
    !matches!(
        reason,
        Some(Reason::CatalogueUnreadable | Reason::CopiesMissing | Reason::KeeperTaskTooLarge)
    )
}

/// What becomes of each copy, by order of the copies.
pub(super) fn copy_reports(facts: &SourceFacts, plan: &SourcePlan) -> Vec<CopyReport> {
    let copies: BTreeMap<_, _> = facts.copies.iter().map(|copy| (&copy.run, copy)).collect();
    plan.verdicts
        .iter()
        .map(|verdict| copy_report(copies[&verdict.run], verdict))
        .collect()
}

fn copy_report(copy: &CopyFacts, verdict: &Verdict) -> CopyReport {
    let state = match &verdict.next {
        Next::Remove(_) => CopyState::Removing,
        Next::Mark { .. } | Next::Wait => CopyState::Marked,
        Next::Stay | Next::Unmark(_) if !copy.holds.is_empty() => CopyState::Held,
        Next::Stay | Next::Unmark(_) if !copy.is_good() => CopyState::NotGood,
        Next::Stay | Next::Unmark(_) => CopyState::Kept,
    };
    CopyReport {
        run: copy.run.to_string(),
        type_: format!("{:?}", copy.copy_type),
        recovery_point: copy.recovery_point.to_string(),
        bytes: count(copy.bytes),
        state,
        in_force: None,
        sealed: false,
        kept_until: verdict.at_least_until().map(|until| until.to_string()),
        locked_until: copy.locked_until.map(|until| until.to_string()),
        why: shorten(&verdict.why(), 256),
        manifest_digest: Some(copy.manifest.to_string()),
    }
}
