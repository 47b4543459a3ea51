//! Copies that disposals are not done with, as they are shown: what is destroyed on purpose is nothing to look into.

use std::collections::BTreeMap;

use holdfast_crds::document::{Fact, Label};
use holdfast_crds::{CopyReport, CopyState, KeepTask};
use holdfast_policy::hold::Candidate;
use jiff::Timestamp;

use super::disposal::{name_of, names};
use super::inventory::{RunFolder, SourceFolder};
use super::lock::known_lock;
use super::read::{Copy, Run, State};
use super::removal;
use crate::result::{count, shorten};

/// Whether the task has an approved request of this name that names the copy. A preview by hand is told of none: it goes by the records.
pub fn is_approved(task: &KeepTask, disposal: &str, copy: &Candidate<'_>) -> bool {
    let by_hand = task.preview.as_ref().is_some_and(|preview| preview.request.is_none());
    by_hand || task.disposals.iter().any(|known| name_of(known) == disposal && names(known, copy))
}

/// The disposal that began to destroy the copy, by the record of it. One that nobody approved is none.
pub fn begun<'a>(run: &'a Run, copy: &Copy, task: &KeepTask) -> Option<&'a str> {
    let mut shredded = run.records.iter().filter_map(|record| match &record.fact {
        Fact::Shredded { disposal, .. } => Some(disposal.as_str()),
        _ => None,
    });
    // Nearly no copy has such a record, and a pass asks this of each.
    shredded.find(|disposal| is_approved(task, disposal, &removal::candidate(&run.path, &run.path.to_string(), copy)))
}

/// How far a disposal is with a copy.
struct Underway {
    /// Whether its keys were asked to go.
    begun: bool,
    /// Whether they are gone: nobody can read it any more.
    shredded: bool,
    why: String,
}

/// What disposals are not done with.
#[derive(Default)]
pub struct Disposing(BTreeMap<Label, Underway>);

impl Disposing {
    /// What was begun, as records and listing say.
    pub fn begun(folder: &SourceFolder, runs: &[Run], task: &KeepTask, now: Timestamp) -> Self {
        let mut disposing = Self::default();
        for run in runs {
            let (State::Copy(copy), Some(lying)) = (&run.state, folder.runs.get(&run.path.run)) else {
                continue;
            };
            if let Some(disposal) = begun(run, copy, task).filter(|_| run.removed().is_none() || removal::left(lying)) {
                disposing.waits(run, copy, disposal, removal::has_keys(lying), &waiting(run, lying, now), task);
            }
        }
        disposing
    }

    /// A disposal waits with the copy because of `problem`.
    pub fn waits(&mut self, run: &Run, copy: &Copy, disposal: &str, keys_left: bool, problem: &str, task: &KeepTask) {
        let begun = begun(run, copy, task).is_some();
        let underway = Underway {
            begun,
            shredded: begun && copy.encrypted && !keys_left,
            why: shorten(&format!("disposal {disposal}: {problem}"), 256),
        };
        self.0.insert(run.path.run.clone(), underway);
    }

    /// Nothing is left of the copy.
    pub fn gone(&mut self, run: &Label) {
        self.0.remove(run);
    }

    /// Whether a disposal is destroying the copy.
    pub fn destroys(&self, run: &Label) -> bool {
        self.0.get(run).is_some_and(|underway| underway.begun)
    }

    pub fn is_shredded(&self, run: &Label) -> bool {
        self.0.get(run).is_some_and(|underway| underway.shredded)
    }

    /// Tells it in the reports of the copies. Those that are shredded are told of also when they are no copies any more.
    pub fn show(&self, runs: &[Run], reports: &mut Vec<CopyReport>) {
        for run in runs {
            let (State::Copy(copy), Some(underway)) = (&run.state, self.0.get(&run.path.run)) else {
                continue;
            };
            let known = reports.iter_mut().find(|report| report.run == run.path.run.as_str());
            match known {
                Some(report) => {
                    report.why.clone_from(&underway.why);
                    if underway.shredded {
                        report.state = CopyState::Shredded;
                    }
                }
                None if underway.shredded => reports.push(report(run, copy, underway)),
                None => {}
            }
        }
        let ticks = runs.iter().filter_map(|run| match &run.state {
            State::Copy(copy) => Some((run.path.run.as_str(), copy.tick.unwrap_or(copy.committed_at))),
            _ => None,
        });
        let ticks: BTreeMap<_, _> = ticks.collect();
        reports.sort_by_key(|report| (ticks.get(report.run.as_str()).copied(), report.run.clone()));
    }
}

/// What of the copy is there yet, and why.
pub fn waiting(run: &Run, lying: &RunFolder, now: Timestamp) -> String {
    let what = if removal::has_keys(lying) { "its keys" } else { "its data" };
    match known_lock(run).filter(|until| now <= *until) {
        Some(until) => format!("the store locks {what} until {until}"),
        None => format!("not all of {what} was deleted yet"),
    }
}

/// The report of what is no copy any more.
fn report(run: &Run, copy: &Copy, underway: &Underway) -> CopyReport {
    CopyReport {
        run: run.path.run.to_string(),
        type_: copy.kind.clone(),
        recovery_point: copy.recovery_point.to_string(),
        bytes: count(copy.bytes),
        state: CopyState::Shredded,
        in_force: None,
        sealed: false,
        kept_until: None,
        locked_until: known_lock(run).map(|until| until.to_string()),
        why: underway.why.clone(),
        manifest_digest: Some(copy.manifest_digest.to_string()),
    }
}
