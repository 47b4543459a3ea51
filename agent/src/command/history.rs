//! What a source's last copy held: databases that are new since then, or gone, are told.

use std::collections::BTreeSet;

use holdfast_crds::document::{Contents, ObjectPath, RunPath};
use jiff::Timestamp;

use crate::store::{InvalidPath, Store, StoreError, StorePath};

/// The most objects of a source's catalogue that are looked at; beyond them nothing is compared.
const MAX_OBJECTS: usize = 20_000;
/// How many of the newest outcomes are read in search of a copy.
const MAX_OUTCOMES: usize = 5;

/// The newest copy of the source of `run`, other than its own: its run and the names of its databases; or why it cannot be told.
async fn last_copy(store: &Store, run: &RunPath) -> Result<Option<(RunPath, BTreeSet<String>)>, String> {
    let told = |error: StoreError| error.to_string();
    let directory: StorePath = format!("catalog/{}/{}", run.namespace, run.source)
        .parse()
        .map_err(|error: InvalidPath| error.to_string())?;
    let mut pages = store.pages(&directory);
    let mut outcomes = Vec::<(Option<Timestamp>, RunPath)>::new();
    let mut seen = 0;
    while let Some(page) = pages.next().await.map_err(told)? {
        seen += page.len();
        if seen > MAX_OBJECTS {
            return Err(format!("the source's catalogue has more than {MAX_OBJECTS} objects"));
        }
        outcomes.extend(page.into_iter().filter_map(|object| match object.path.parse() {
            Ok(ObjectPath::Outcome { run: other }) if other != *run => Some((object.modified, other)),
            _ => None,
        }));
    }
    outcomes.sort();
    for (_, other) in outcomes.iter().rev().take(MAX_OUTCOMES) {
        let decided = store.outcome(other).await.map_err(|error| error.to_string())?;
        if let Some(copy) = decided.as_ref().and_then(|decided| decided.outcome.committed()) {
            let names = copy.manifest().contents.databases.iter().map(|database| database.name.clone());
            return Ok(Some((other.clone(), names.collect())));
        }
    }
    if outcomes.len() > MAX_OUTCOMES {
        return Err(format!("the newest {MAX_OUTCOMES} runs before have no copy"));
    }
    Ok(None)
}

/// What changed since the last copy, or why that is not told, for people: it fails nothing.
pub async fn changes(store: &Store, run: &RunPath, contents: &Contents) -> Vec<String> {
    let (last, before) = match last_copy(store, run).await {
        Ok(Some(found)) => found,
        Ok(None) => return Vec::new(),
        Err(why) => {
            let why = holdfast_crds::shortened(&why, 256);
            return vec![format!(
                "not compared with the last copy, new and vanished databases are not told: {why}"
            )];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Call, CallKind, Fault, Faulty};
    use crate::store::memory::Memory;
    use crate::store::{Backend, Patience};

    async fn told(backend: impl Backend) -> Vec<String> {
        let run = RunPath::new("shop", "orders", "orders-now").unwrap();
        changes(&Store::new(backend, Patience::PROBE, 1), &run, &Contents::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_compared_is_said_to_be_so() {
        let memory = Memory::new();
        assert_eq!(told(memory.clone()).await, [] as [&str; 0], "the first copy has none before it");
        let away = Faulty::new(memory.clone(), |call: &Call| {
            (call.kind == CallKind::List).then(|| Fault::Before(Fault::slow_down()))
        });
        let notes = told(away).await;
        assert!(
            notes.len() == 1 && notes[0].contains("not compared") && notes[0].contains("SlowDown"),
            "{notes:?}"
        );
        memory.plant("catalog/shop/orders/orders-bad/outcome.json", "no outcome");
        let notes = told(memory.clone()).await;
        assert!(notes.len() == 1 && notes[0].contains("not compared"), "{notes:?}");
        for number in 0..MAX_OBJECTS {
            memory.plant(&format!("catalog/shop/orders/orders-{number}/x.json"), "x");
        }
        let notes = told(memory).await;
        assert!(
            notes[0].ends_with("the source's catalogue has more than 20000 objects"),
            "{notes:?}"
        );
    }
}
