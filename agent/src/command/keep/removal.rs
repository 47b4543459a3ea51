//! Whether the record that a copy was removed is one of a keeper. Whoever may write to the store could leave one, and what it names is
//! deleted without any further delay: so it counts only where all that leads to a removal is there, and no hold stood against it.

use holdfast_crds::KeepTask;
use holdfast_crds::document::{Fact, ObjectPath, Record, RunPath};
use holdfast_policy::hold::Candidate;
use jiff::Timestamp;

use super::disposal;
use super::disposing::is_approved;
use super::holds::Holds;
use super::inventory::RunFolder;
use super::read::{Copy, Run, State, is_removal};

/// Whether keys or data of the run are there.
pub fn left(folder: &RunFolder) -> bool {
    folder.data.values().any(|versions| !versions.0.is_empty()) || has_keys(folder)
}

/// Whether keys of the run are there.
pub fn has_keys(folder: &RunFolder) -> bool {
    folder.catalog.values().any(|(object, _)| matches!(object, ObjectPath::Key { .. }))
}

/// What holds ask of the copy. `place` is the run's path as text.
pub fn candidate<'a>(run: &'a RunPath, place: &'a str, copy: &Copy) -> Candidate<'a> {
    Candidate {
        namespace: run.namespace.as_str(),
        source: run.source.as_str(),
        run: place,
        recovery_point: copy.recovery_point,
    }
}

/// Whether what is left of a removed copy may go now: not while a hold names it, or one that cannot be read may.
pub fn may_sweep(run: &Run, holds: &Holds, now: Timestamp) -> bool {
    let State::Copy(copy) = &run.state else { return true };
    let place = run.path.to_string();
    holds.unreadable.is_empty() && holds.of(&candidate(&run.path, &place, copy), &run.records, now).is_empty()
}

/// Why no record of a removal of the run is believed. None where one is, and where there is none.
pub fn forged(run: &Run, folder: &RunFolder, holds: &Holds, task: &KeepTask, now: Timestamp) -> Option<String> {
    // What is missing may be what cannot be read; nothing of the run is touched then.
    if run.unreadable.is_some() {
        return None;
    }
    let mut why = None;
    for record in run.records.iter().filter(|record| is_removal(record)) {
        let problem = problem(record, run, folder, holds, task, now)?;
        why.get_or_insert(format!(
            "{} says that the copy was removed, but {problem}: no keeper wrote it, and the copy stays; find out who did",
            record.path()
        ));
    }
    why
}

fn problem(record: &Record, run: &Run, folder: &RunFolder, holds: &Holds, task: &KeepTask, now: Timestamp) -> Option<String> {
    let copy = match &run.state {
        State::Copy(copy) => copy,
        State::Open if left(folder) => return Some("there was no copy yet".to_owned()),
        State::Open | State::Abandoned { .. } | State::Unreadable { .. } => return None,
    };
    let place = run.path.to_string();
    let candidate = candidate(&run.path, &place, copy);
    let Fact::Removed { reason, mark } = &record.fact else {
        return None;
    };
    let lacks = if let Some(ulid) = mark {
        let withdrawn = run.records.iter().any(
            |other| matches!(&other.fact, Fact::Unmark { mark, .. } if mark == ulid && (other.ulid < record.ulid || other.at < record.at)),
        );
        let not_before = run.records.iter().find_map(|other| match &other.fact {
            Fact::Mark { not_before, .. } if other.ulid == *ulid => Some(*not_before),
            _ => None,
        });
        match not_before {
            None => Some(format!("the mark {ulid} that it names is not there")),
            Some(_) if withdrawn => Some(format!("the mark {ulid} that it names was withdrawn")),
            Some(not_before) if not_before > record.at.min(now) => Some(format!("its mark was not due before {not_before}")),
            Some(_) => None,
        }
    } else {
        let shredded = run.records.iter().find_map(|other| match &other.fact {
            Fact::Shredded { disposal, .. } if *reason == disposal::removal_reason(disposal) => Some(disposal),
            _ => None,
        });
        match shredded {
            None => Some("it names neither a mark nor a disposal whose record is there".to_owned()),
            // Once all of it is gone nobody has to remember the request.
            Some(disposal) if left(folder) && !is_approved(task, disposal, &candidate) => {
                Some(format!("there is no approved request {disposal} that names it"))
            }
            Some(_) => None,
        }
    };
    lacks.or_else(|| {
        let held = holds.of_then(&candidate, &run.records, record.at);
        held.first().map(|hold| format!("{hold} held it then"))
    })
}
