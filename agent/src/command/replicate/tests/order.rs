//! Which copies are brought, and in which order, whatever the two stores hold.

use std::collections::HashMap;

use holdfast_crds::document::Label;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::command::keep::inventory::SourceFolder;
use crate::command::keep::read::{Copy, Run, State};
use crate::command::replicate::choose::{Catalogue, Sides, brings};

/// A run as both stores know it: its parents come before it.
#[derive(Clone, Debug)]
struct Made {
    parents: Vec<usize>,
    full: bool,
    here: Here,
    there: There,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Here {
    Good,
    Removed,
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Absent,
    Present,
    Other,
    Removed,
}

fn name(number: usize) -> Label {
    Label::new("run", format!("r{number:03}")).unwrap()
}

fn digest(number: usize) -> Sha256 {
    Sha256::of(number.to_string().as_bytes())
}

fn stored(number: usize, made: &Made, manifest: Sha256, removed_too: bool) -> Run {
    let at = keep::at(FIRST) + SignedDuration::from_hours(i64::try_from(number).unwrap());
    let path = run(name(number).as_str());
    let copy = Copy {
        committed_at: at,
        outcome_digest: manifest,
        manifest_digest: manifest,
        kind: if made.full { "Full" } else { "Incremental" }.to_owned(),
        tick: Some(at),
        recovery_point: at,
        not_after: at,
        schedule: None,
        keep_until: None,
        parents: made.parents.iter().map(|parent| digest(*parent)).collect(),
        server: None,
        bytes: 1,
        pod: name(number),
        encrypted: true,
        problems: Vec::new(),
    };
    let record = || {
        let ulid = holdfast_crds::document::Ulid::new(at, [0; 10]);
        Record::new(path.clone(), ulid, name(number), at, None, removed())
    };
    Run {
        path: path.clone(),
        state: State::Copy(Box::new(copy)),
        records: removed_too.then(record).into_iter().collect(),
        unreadable: None,
        forged: None,
    }
}

fn catalogue(runs: Vec<Run>) -> Catalogue {
    let folder = SourceFolder {
        namespace: Label::new("namespace", "shop").unwrap(),
        source: Label::new("source", "orders").unwrap(),
        runs: BTreeMap::new(),
        records: BTreeMap::new(),
        foreign: Vec::new(),
        data_listed: false,
    };
    Catalogue { folder, runs }
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let here = prop_oneof![8 => Just(Here::Good), 1 => Just(Here::Removed), 1 => Just(Here::Absent)];
    let there = prop_oneof![6 => Just(There::Absent), 2 => Just(There::Present), 1 => Just(There::Other), 1 => Just(There::Removed)];
    let one = (
        any::<bool>(),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        here,
        there,
    );
    prop::collection::vec(one, 1..40).prop_map(|all| {
        let of = |(number, (full, parents, here, there)): (usize, (bool, Vec<prop::sample::Index>, Here, There))| {
            let mut parents: Vec<_> = parents
                .iter()
                .filter(|_| number > 0)
                .map(|parent| parent.index(number.max(1)))
                .collect();
            parents.sort_unstable();
            parents.dedup();
            Made {
                parents: if full { Vec::new() } else { parents },
                full,
                here,
                there,
            }
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_brought_finds_all_that_it_needs_and_nothing_is_brought_back(all in made(), only_fulls in any::<bool>()) {
        let here = all.iter().enumerate().filter(|(_, made)| made.here != Here::Absent);
        let here = here.map(|(number, made)| stored(number, made, digest(number), made.here == Here::Removed));
        let there = all.iter().enumerate().filter(|(_, made)| made.there != There::Absent);
        let there = there.map(|(number, made)| {
            let manifest = if made.there == There::Other { digest(number + 1_000) } else { digest(number) };
            stored(number, made, manifest, made.there == There::Removed)
        });
        let scene_task = serde_json::json!({"namespace": "shop", "source": "orders", "types": if only_fulls { vec!["Full"] } else { vec![] },
            "from": {"name": "near", "uid": "u", "spec": {"volume": {"claimName": "c"}, "encryption": {"none": {}}}},
            "now": "2026-11-20T22:10:00Z", "notAfter": "2126-01-01T00:00:00Z"});
        let task: CopyTask = serde_json::from_value(scene_task).unwrap();
        let sides = Sides::new(&task, true, catalogue(here.collect()), catalogue(there.collect()));
        let order = sides.order();
        let mut states = HashMap::new();
        for (run, standing) in &order {
            let number: usize = run.as_str()[1..].parse().unwrap();
            let made = &all[number];
            if standing.state == ReplicaState::Missing {
                prop_assert_eq!((made.here, made.there), (Here::Good, There::Absent));
                for parent in &made.parents {
                    prop_assert!(states.get(&name(*parent)).is_some_and(|state| brings(*state)), "{} before {}", parent, number);
                }
            }
            let expected = match (made.there, made.here) {
                (There::Removed, _) => Some(ReplicaState::Removed),
                (There::Other, Here::Absent) | (There::Present, _) => Some(ReplicaState::Present),
                (There::Other, _) => Some(ReplicaState::Divergent),
                (There::Absent, Here::Removed) => Some(ReplicaState::Going),
                (There::Absent, _) => None,
            };
            match expected {
                Some(expected) => prop_assert_eq!(standing.state, expected),
                None => prop_assert!(matches!(standing.state, ReplicaState::Missing | ReplicaState::ParentMissing | ReplicaState::NotFound)),
            }
            prop_assert!(states.insert(run.clone(), standing.state).is_none(), "{} twice", run);
        }
        // All that is asked for has its word.
        for (number, made) in all.iter().enumerate() {
            let asked = made.here != Here::Absent && (made.full || !only_fulls);
            prop_assert!(!asked || states.contains_key(&name(number)));
        }
        // And those that nothing stands against are brought.
        for (number, made) in all.iter().enumerate().filter(|(_, made)| made.full && made.here == Here::Good && made.there == There::Absent) {
            prop_assert_eq!(states.get(&name(number)), Some(&ReplicaState::Missing), "{:?}", made);
        }
    }
}
