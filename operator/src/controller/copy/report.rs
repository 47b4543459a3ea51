//! What a copy Job's report says of runs: the lines in their status.

use std::{collections::HashMap, sync::Arc};

use holdfast_crds::{
    BackupRun, BackupSource, CopyLine, Reason, ReplicaState, RunInStore, StoreReference, StoreUse, shortened, whole_seconds,
};
use jiff::Timestamp;
use kube::ResourceExt;

use super::target::committed;
use crate::{
    context::{Context, Error},
    controller::run::{whole, with_stores},
    watch::{Caches, Key},
};

/// The longest message of a line, in bytes, as the schema has it.
const MESSAGE: usize = 512;
/// The most lines of a run, as the schema has it.
const PLACES: usize = 16;

/// Why nothing was brought, for the runs that the store lacks and of which the report says nothing.
pub type Otherwise<'a> = Option<(Reason, &'a str)>;

/// Writes into the status of the source's runs what the store has of them, where that says something else, and one Event where a run
/// becomes replicated, or no longer is. Killed between two of them it does the rest at the next call.
pub async fn write(
    context: &Context,
    source: &BackupSource,
    store: &StoreReference,
    report: &[CopyLine],
    otherwise: Otherwise<'_>,
) -> Result<(), Error> {
    let namespace = source.namespace().unwrap_or_default();
    let lines: HashMap<&str, &CopyLine> = report.iter().map(|line| (line.run.as_str(), line)).collect();
    for run in context.caches.runs.by(Caches::RUNS_BY_SOURCE, &namespace, &source.name_any()) {
        let line = lines.get(run.name_any().as_str()).copied();
        if committed(&run) && said(&run, store, line, otherwise, context.clock.now()).is_some() {
            write_run(context, &run, store, line, otherwise).await?;
        }
    }
    Ok(())
}

/// How many copies of the report are lacking of which there is no object.
pub fn lacking_elsewhere(context: &Context, source: &BackupSource, report: &[CopyLine]) -> i64 {
    let namespace = source.namespace().unwrap_or_default();
    let lacking = |line: &&CopyLine| line.state == ReplicaState::Missing || line.state.is_problem();
    let unknown = |line: &&CopyLine| context.caches.runs.get(&Key::new(namespace.as_str(), line.run.as_str())).is_none();
    i64::try_from(report.iter().filter(lacking).filter(unknown).count()).unwrap_or(i64::MAX)
}

async fn write_run(
    context: &Context,
    run: &Arc<BackupRun>,
    store: &StoreReference,
    line: Option<&CopyLine>,
    otherwise: Otherwise<'_>,
) -> Result<(), Error> {
    // The cache holds little of what has ended.
    let Some(run) = whole(context, &Key::of(&**run)).await? else {
        return Ok(());
    };
    let Some(place) = said(&run, store, line, otherwise, context.clock.now()) else {
        return Ok(());
    };
    let before = run.status.clone().unwrap_or_default();
    let mut places = before.stores.clone();
    if places.is_empty() {
        places.extend(primary(&run));
    }
    match places.iter().position(|held| held.reference() == *store) {
        Some(held) => places[held] = place,
        None if places.len() < PLACES => places.push(place),
        None => return Ok(()),
    }
    let after = with_stores(&before, before.clone(), places, run.metadata.generation, context.clock.now());
    let written = context.report.status(&context.caches.runs, &run, &after).await?;
    context.report.transitions(&written, &before.conditions, &after.conditions).await;
    Ok(())
}

/// The line of the store that the run itself wrote to, for a run that has none.
fn primary(run: &BackupRun) -> Option<RunInStore> {
    let status = run.status.as_ref()?;
    let copy = status.copy.as_ref()?;
    Some(RunInStore {
        state: ReplicaState::Present,
        reason: None,
        bytes: Some(copy.stored_bytes),
        copied_at: status.completion_time.clone(),
        version_id: copy.version_id.clone(),
        ..RunInStore::awaited(&run.store()?, StoreUse::Primary)
    })
}

/// What the run's line for the store is to say, if it says something else now.
fn said(run: &BackupRun, store: &StoreReference, line: Option<&CopyLine>, otherwise: Otherwise<'_>, now: Timestamp) -> Option<RunInStore> {
    let places = run.status.iter().flat_map(|status| &status.stores);
    let before = places.into_iter().find(|place| place.reference() == *store);
    // What the backup itself wrote, it proved itself.
    let own = before.map_or_else(|| run.store().as_ref() == Some(store), |place| place.role == StoreUse::Primary);
    if own {
        return None;
    }
    let place = before.cloned().unwrap_or_else(|| RunInStore::awaited(store, StoreUse::Copy));
    let after = match (line, otherwise) {
        (Some(line), _) => of_line(place, line, now),
        (None, Some((reason, message))) if before.is_some() && place.state == ReplicaState::Missing => RunInStore {
            reason: Some(reason),
            message: (!message.is_empty()).then(|| shortened(message, MESSAGE)),
            ..place
        },
        (None, _) => return None,
    };
    let same = before.is_some_and(|before| (before.state, before.reason, &before.message) == (after.state, after.reason, &after.message));
    (!same).then_some(after)
}

fn of_line(before: RunInStore, line: &CopyLine, now: Timestamp) -> RunInStore {
    if line.state.is_there() {
        let since = before.copied_at.filter(|_| before.state.is_there());
        return RunInStore {
            // Who brought it does not matter any more.
            state: ReplicaState::Present,
            reason: None,
            message: None,
            bytes: Some(line.bytes),
            copied_at: since.or_else(|| Some(whole_seconds(now).to_string())),
            version_id: line.version_id.clone(),
            ..before
        };
    }
    let reason = line.reason.or(match line.state {
        ReplicaState::Divergent => Some(Reason::Divergent),
        ReplicaState::Missing => Some(Reason::Pending),
        _ => None,
    });
    RunInStore {
        state: line.state,
        reason,
        message: line
            .message
            .as_ref()
            .filter(|_| reason.is_some())
            .map(|message| shortened(message, MESSAGE)),
        bytes: None,
        copied_at: None,
        version_id: None,
        ..before
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_since_when_the_copy_is_there_and_why_it_is_not() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let store = StoreReference::own("vault");
        let line = |state: ReplicaState| -> CopyLine {
            serde_json::from_value(json!({"run": "a", "state": state, "bytes": 7, "versionId": "v1"})).unwrap()
        };
        let awaited = RunInStore::awaited(&store, StoreUse::Copy);
        let copied = of_line(awaited.clone(), &line(ReplicaState::Copied), at("2026-03-01T00:00:00Z"));
        assert_eq!(
            (copied.state, copied.bytes, copied.version_id.as_deref()),
            (ReplicaState::Present, Some(7), Some("v1"))
        );
        let again = of_line(copied.clone(), &line(ReplicaState::Present), at("2026-03-02T00:00:00Z"));
        assert_eq!(again, copied, "the next report changes nothing");
        let gone = of_line(copied, &line(ReplicaState::Divergent), at("2026-03-02T00:00:00Z"));
        assert_eq!(
            (gone.state, gone.reason, gone.copied_at),
            (ReplicaState::Divergent, Some(Reason::Divergent), None)
        );
        let not_kept = of_line(awaited, &line(ReplicaState::NotKept), at("2026-03-02T00:00:00Z"));
        assert_eq!((not_kept.state, not_kept.reason), (ReplicaState::NotKept, None));
    }
}
