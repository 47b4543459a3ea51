//! What is copied next into a store. Pure.

use holdfast_crds::{COPY_RUNS, Replication, StoreReference};
use holdfast_policy::backoff::Backoff;
use jiff::{SignedDuration, Timestamp};

use super::target::Target;

/// What is to be decided anew follows a failure so soon.
const AFTER_CHANGE: SignedDuration = SignedDuration::from_secs(5);

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The store lacks nothing that is known of.
    Rest,
    /// Not before this time.
    Wait(Timestamp),
    /// Something is to be brought, from the first of these stores that can be read.
    Copy(Pass),
}

/// What a copy Job is to bring.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// One of these, in order of preference.
    pub from: Vec<StoreReference>,
    /// These runs; empty: all that the store is to have.
    pub runs: Vec<String>,
}

/// Decides what is brought next into a store that no copy Job fills. `name` spreads what failed together.
pub fn step(before: Option<&Replication>, target: &Target, name: &str, now: Timestamp) -> Step {
    let told_anew = before.is_none_or(|before| before.told != target.told);
    let looked_at = before
        .filter(|_| !told_anew)
        .map(|before| before.looked_at.as_slice())
        .unwrap_or_default();
    let unseen = target.unseen.iter().find(|store| !looked_at.contains(store));
    if unseen.is_none() && target.lacking.is_empty() {
        return Step::Rest;
    }
    if let Some(due) = before.and_then(|before| due(before, told_anew, name)).filter(|due| *due > now) {
        return Step::Wait(due);
    }
    let pass = match (unseen, target.lacking.first()) {
        (Some(store), _) => Pass {
            from: vec![store.clone()],
            runs: Vec::new(),
        },
        (None, first) => {
            let from = first.map(|first| first.from.clone()).unwrap_or_default();
            let runs = target
                .lacking
                .iter()
                .filter(|lacking| from.first().is_some_and(|from| lacking.from.contains(from)));
            Pass {
                runs: runs.take(COPY_RUNS).map(|lacking| lacking.run.clone()).collect(),
                from,
            }
        }
    };
    Step::Copy(pass)
}

/// When the next may follow failures.
fn due(before: &Replication, told_anew: bool, name: &str) -> Option<Timestamp> {
    let failures = u32::try_from(before.failures).unwrap_or(u32::MAX);
    let finished: Timestamp = before.finished_at.as_deref()?.parse().ok()?;
    let wait = match (failures, told_anew) {
        (0, _) => return None,
        (_, true) => AFTER_CHANGE,
        (failures, false) => Backoff::COPY.delay(failures, name),
    };
    Some(finished.checked_add(wait).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use holdfast_crds::StoreKind;

    use super::{super::target::Lacking, *};

    fn store(name: &str) -> StoreReference {
        StoreReference {
            name: name.to_owned(),
            kind: StoreKind::default(),
        }
    }

    fn target(lacking: &[(&str, &[&str])], unseen: &[&str]) -> Target {
        let lacking = lacking.iter().map(|(run, from)| Lacking {
            run: (*run).to_owned(),
            from: from.iter().map(|name| store(name)).collect(),
            since: Timestamp::UNIX_EPOCH,
        });
        Target {
            store: store("vault"),
            types: Vec::new(),
            schedules: Vec::new(),
            told: "a".to_owned(),
            lacking: lacking.collect(),
            unseen: unseen.iter().map(|name| store(name)).collect(),
        }
    }

    fn pass(from: &[&str], runs: &[&str]) -> Step {
        Step::Copy(Pass {
            from: from.iter().map(|name| store(name)).collect(),
            runs: runs.iter().map(|run| (*run).to_owned()).collect(),
        })
    }

    #[test]
    fn table() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let told = |told: &str, looked_at: &[&str], failures| Replication {
            number: 1,
            told: told.to_owned(),
            looked_at: looked_at.iter().map(|name| store(name)).collect(),
            finished_at: Some("2026-02-28T23:59:59Z".to_owned()),
            failures,
            ..Replication::default()
        };
        let next = |before: Option<&Replication>, target: &Target| step(before, target, "shop/a", now);
        assert_eq!(next(None, &target(&[], &[])), Step::Rest, "nothing is known that it lacks");
        let one = target(&[("r1", &["offsite"])], &[]);
        assert_eq!(next(None, &one), pass(&["offsite"], &["r1"]));
        assert_eq!(next(Some(&told("a", &[], 0)), &one), pass(&["offsite"], &["r1"]));
        assert_eq!(next(None, &target(&[], &["offsite"])), pass(&["offsite"], &[]), "old copies");
        assert_eq!(
            next(Some(&told("a", &["offsite"], 0)), &target(&[], &["offsite"])),
            Step::Rest,
            "all were looked at"
        );
        assert_eq!(
            next(Some(&told("b", &["offsite"], 0)), &target(&[], &["offsite"])),
            pass(&["offsite"], &[]),
            "another store or another rule"
        );
        let two = target(&[("r1", &["offsite"]), ("r2", &["near"]), ("r3", &["near", "offsite"])], &[]);
        assert_eq!(next(None, &two), pass(&["offsite"], &["r1", "r3"]), "from one store at a time");
        let Step::Wait(due) = next(Some(&told("a", &[], 3)), &one) else {
            panic!("it backs off")
        };
        assert!(due > now && due <= "2026-03-01T00:02:00Z".parse().unwrap(), "{due}");
        assert_eq!(
            next(Some(&told("b", &[], 9)), &one),
            Step::Wait("2026-03-01T00:00:04Z".parse().unwrap())
        );
    }
}
