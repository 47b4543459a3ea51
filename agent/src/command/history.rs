//! What a source's last copy held: databases that are new since then, or gone, are told.

use std::collections::BTreeSet;

use holdfast_crds::document::{Contents, ObjectPath, RunPath};
use jiff::Timestamp;

use crate::store::{Store, StoreError, StorePath};

/// The most objects of a source's catalogue that are looked at; beyond them nothing is told.
const MAX_OBJECTS: usize = 20_000;
/// How many of the newest outcomes are read in search of a copy.
const MAX_OUTCOMES: usize = 5;

/// The newest copy of the source of `run`, other than its own: its run and the names of its databases.
async fn last_copy(store: &Store, run: &RunPath) -> Result<Option<(RunPath, BTreeSet<String>)>, StoreError> {
    let directory: StorePath = format!("catalog/{}/{}", run.namespace, run.source).parse()?;
    let mut pages = store.pages(&directory);
    let mut outcomes = Vec::<(Option<Timestamp>, RunPath)>::new();
    let mut seen = 0;
    while let Some(page) = pages.next().await? {
        seen += page.len();
        if seen > MAX_OBJECTS {
            return Ok(None);
        }
        outcomes.extend(page.into_iter().filter_map(|object| match object.path.parse() {
            Ok(ObjectPath::Outcome { run: other }) if other != *run => Some((object.modified, other)),
            _ => None,
        }));
    }
    outcomes.sort();
    for (_, other) in outcomes.into_iter().rev().take(MAX_OUTCOMES) {
        let Ok(Some(decided)) = store.outcome(&other).await else { continue };
        if let Some(copy) = decided.outcome.committed() {
            let names = copy.manifest().contents.databases.iter().map(|database| database.name.clone());
            return Ok(Some((other, names.collect())));
        }
    }
    Ok(None)
}

/// What changed since the last copy, for people. That it cannot be found out fails nothing.
pub async fn changes(store: &Store, run: &RunPath, contents: &Contents) -> Vec<String> {
    let (last, before) = match last_copy(store, run).await {
        Ok(Some(found)) => found,
        Ok(None) => return Vec::new(),
        Err(error) => {
            tracing::info!(%error, "what the last copy held cannot be told");
            return Vec::new();
        }
    };
    let now = contents
        .databases
        .iter()
        .map(|database| database.name.clone())
        .collect::<BTreeSet<_>>();
    let there = now
        .iter()
        .chain(contents.not_copied.iter().map(|left| &left.name))
        .collect::<BTreeSet<_>>();
    let new = now.difference(&before).cloned().collect::<Vec<_>>();
    let gone = before.iter().filter(|name| !there.contains(name)).cloned().collect::<Vec<_>>();
    let told = [("new", new), ("gone", gone)].into_iter().filter(|(_, names)| !names.is_empty());
    told.map(|(what, names)| format!("{what} since {}: {}", last.run, names.join(", ")))
        .collect()
}
