//! What the next copy of a source is made of, and on which copy it builds (rule T6).
//!
//! A full copy needs nothing; a differential one its full; an incremental one and a log the copy before them, with all that this needs.

use std::collections::BTreeMap;

use holdfast_crds::BackupType;
use jiff::{SignedDuration, Timestamp};

/// A copy that the store holds, as far as building on it is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<I> {
    pub id: I,
    pub kind: BackupType,
    pub tick: Timestamp,
    /// The copy that it was built on; none for a full.
    pub parent: Option<I>,
    /// Whether it is good, and nothing marked it for removal: a marked copy is no parent.
    pub sound: bool,
    /// Tells the server from all others, and its history from one that was reset.
    pub server: String,
}

/// What is done where an increment cannot be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBroken {
    /// A full copy is made in its place, and says why.
    #[default]
    TakeFull,
    /// Nothing is made until the next tick of a full trigger.
    WaitForFull,
}

/// Why an increment cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why<I> {
    /// There is no full copy that is good.
    NoFull,
    /// This copy is missing, not good or marked, and the newest needs it.
    Broken { at: I },
    /// The newest copy is of another server, or of one whose history was reset.
    OtherServer,
    /// The full copy is older than the chain may grow.
    Grown { since: Timestamp },
}

/// The next copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<I> {
    /// It is made, of the kind that was wanted, on its parent.
    Make { kind: BackupType, parent: Option<I> },
    /// A full one is made where another was wanted.
    FullInstead { why: Why<I> },
    /// None is made.
    Wait { why: Why<I> },
}

/// What the tick of a trigger makes, by the copies there are. `server` is that of the database as it is now; the chain may grow for `limit`
/// from its full copy's tick.
pub fn next<I: Clone + Ord>(
    wanted: BackupType,
    tick: Timestamp,
    copies: &[Link<I>],
    server: &str,
    limit: SignedDuration,
    on_broken: OnBroken,
) -> Next<I> {
    let parent = match wanted {
        BackupType::Full => {
            return Next::Make {
                kind: wanted,
                parent: None,
            };
        }
        _ => parent(wanted, tick, copies, server, limit),
    };
    match (parent, on_broken) {
        (Ok(parent), _) => Next::Make {
            kind: wanted,
            parent: Some(parent),
        },
        (Err(why), OnBroken::TakeFull) => Next::FullInstead { why },
        (Err(why), OnBroken::WaitForFull) => Next::Wait { why },
    }
}

fn parent<I: Clone + Ord>(
    wanted: BackupType,
    tick: Timestamp,
    copies: &[Link<I>],
    server: &str,
    limit: SignedDuration,
) -> Result<I, Why<I>> {
    let newest = copies
        .iter()
        .filter(|link| link.tick < tick && (wanted != BackupType::Differential || link.kind == BackupType::Full));
    // One that is not sound is not built on, but it is not passed over either: what was in it would be in no copy.
    let newest = newest.max_by_key(|link| (link.tick, &link.id)).ok_or(Why::NoFull)?;
    if newest.server != server {
        return Err(Why::OtherServer);
    }
    let by_id: BTreeMap<&I, &Link<I>> = copies.iter().map(|link| (&link.id, link)).collect();
    let mut link = newest;
    // More steps than copies would be a circle.
    for _ in 0..=copies.len() {
        if !link.sound || link.server != server {
            return Err(Why::Broken { at: link.id.clone() });
        }
        let Some(parent) = &link.parent else {
            if link.kind != BackupType::Full {
                return Err(Why::Broken { at: link.id.clone() });
            }
            let grown = tick.duration_since(link.tick) > limit;
            return if grown {
                Err(Why::Grown { since: link.tick })
            } else {
                Ok(newest.id.clone())
            };
        };
        link = by_id.get(parent).ok_or_else(|| Why::Broken { at: parent.clone() })?;
    }
    Err(Why::Broken { at: link.id.clone() })
}

/// What is wrong with the times of a chain, before it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainFinding {
    /// The limit is shorter than the time between two fulls: increments would become fulls.
    LimitTooShort { limit: SignedDuration, full_every: SignedDuration },
    /// The server forgets (WAL, binlog, oplog, …) before the next increment comes.
    WindowTooShort { interval: SignedDuration, kept: SignedDuration },
}

/// Compares what triggers ask for with what the chain and the server allow. The limit is by default the time between two fulls.
pub fn findings(
    limit: Option<SignedDuration>,
    full_every: SignedDuration,
    interval: SignedDuration,
    kept: Option<SignedDuration>,
) -> Vec<ChainFinding> {
    let limit = limit
        .filter(|limit| *limit < full_every)
        .map(|limit| ChainFinding::LimitTooShort { limit, full_every });
    let window = kept
        .filter(|kept| *kept < interval)
        .map(|kept| ChainFinding::WindowTooShort { interval, kept });
    limit.into_iter().chain(window).collect()
}

#[cfg(test)]
mod tests {
    use BackupType::{Differential, Full, Incremental, Log};
    use proptest::prelude::*;

    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3_600).unwrap()
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    fn link(id: u32, kind: BackupType, parent: Option<u32>) -> Link<u32> {
        Link {
            id,
            kind,
            tick: at(i64::from(id)),
            parent,
            sound: true,
            server: "one".to_owned(),
        }
    }

    /// A full, two increments, a differential and a log on it.
    fn chain() -> Vec<Link<u32>> {
        vec![
            link(1, Full, None),
            link(2, Incremental, Some(1)),
            link(3, Incremental, Some(2)),
            link(4, Differential, Some(1)),
            link(5, Log, Some(4)),
        ]
    }

    fn taken(wanted: BackupType, copies: &[Link<u32>]) -> Next<u32> {
        next(wanted, at(6), copies, "one", hours(24), OnBroken::TakeFull)
    }

    fn instead(why: Why<u32>) -> Next<u32> {
        Next::FullInstead { why }
    }

    #[test]
    fn on_which_copy_the_next_builds() {
        let on = |kind, parent| Next::Make { kind, parent };
        assert_eq!(taken(Full, &chain()), on(Full, None));
        assert_eq!(taken(Full, &[]), on(Full, None));
        assert_eq!(taken(Differential, &chain()), on(Differential, Some(1)));
        assert_eq!(taken(Incremental, &chain()), on(Incremental, Some(5)));
        assert_eq!(taken(Log, &chain()[..3]), on(Log, Some(3)));
        // Order is that of ticks, not of the list.
        let mut turned = chain();
        turned.reverse();
        assert_eq!(taken(Incremental, &turned), on(Incremental, Some(5)));
        // What is of a later tick is no parent: the run of an earlier tick may come late.
        assert_eq!(
            next(Incremental, at(3), &chain(), "one", hours(24), OnBroken::TakeFull),
            on(Incremental, Some(2))
        );
    }

    #[test]
    fn where_a_full_copy_is_made_instead() {
        assert_eq!(taken(Incremental, &[]), instead(Why::NoFull));
        assert_eq!(taken(Differential, &[link(2, Incremental, Some(1))]), instead(Why::NoFull));
        // Its parent was removed.
        assert_eq!(taken(Incremental, &[link(2, Incremental, Some(1))]), instead(Why::Broken { at: 1 }));
        let broken = |at: usize| {
            let mut copies = chain();
            copies[at].sound = false;
            copies
        };
        assert_eq!(
            taken(Log, &broken(4)),
            instead(Why::Broken { at: 5 }),
            "the newest is not passed over"
        );
        assert_eq!(taken(Log, &broken(3)), instead(Why::Broken { at: 4 }));
        assert_eq!(taken(Differential, &broken(0)), instead(Why::Broken { at: 1 }));
        // What is not on the way does not matter.
        assert!(matches!(taken(Log, &broken(2)), Next::Make { parent: Some(5), .. }));
        assert!(matches!(taken(Differential, &broken(4)), Next::Make { parent: Some(1), .. }));
        // Another server under the name, and a timeline that was reset within the chain.
        assert_eq!(
            next(Log, at(6), &chain(), "two", hours(24), OnBroken::TakeFull),
            instead(Why::OtherServer)
        );
        let mut reset = chain();
        reset[0].server = "zero".to_owned();
        assert_eq!(taken(Log, &reset), instead(Why::Broken { at: 1 }));
        // An increment without a parent, and a circle, are no chain.
        assert_eq!(taken(Incremental, &[link(2, Incremental, None)]), instead(Why::Broken { at: 2 }));
        assert!(matches!(
            taken(Incremental, &[link(2, Incremental, Some(3)), link(3, Incremental, Some(2))]),
            Next::FullInstead { why: Why::Broken { .. } }
        ));
    }

    #[test]
    fn a_chain_grows_no_longer_than_its_limit() {
        let taken = |tick| next(Incremental, at(tick), &chain(), "one", hours(24), OnBroken::TakeFull);
        assert_eq!(
            taken(25),
            Next::Make {
                kind: Incremental,
                parent: Some(5)
            }
        );
        assert_eq!(taken(26), instead(Why::Grown { since: at(1) }));
    }

    #[test]
    fn who_waits_for_a_full_makes_nothing() {
        let wait = |wanted, copies: &[Link<u32>]| next(wanted, at(6), copies, "one", hours(24), OnBroken::WaitForFull);
        assert_eq!(wait(Incremental, &[]), Next::Wait { why: Why::NoFull });
        assert!(matches!(wait(Full, &[]), Next::Make { kind: Full, parent: None }));
        assert!(matches!(wait(Incremental, &chain()), Next::Make { parent: Some(5), .. }));
    }

    #[test]
    fn times_that_will_break_a_chain_are_found_before_they_do() {
        assert_eq!(findings(None, hours(168), hours(1), None), []);
        assert_eq!(findings(Some(hours(168)), hours(168), hours(1), Some(hours(1))), []);
        assert_eq!(
            findings(Some(hours(24)), hours(168), hours(2), Some(hours(1))),
            [
                ChainFinding::LimitTooShort {
                    limit: hours(24),
                    full_every: hours(168)
                },
                ChainFinding::WindowTooShort {
                    interval: hours(2),
                    kept: hours(1)
                }
            ]
        );
    }

    /// The rule again, by sets: the copies that can be restored, grown until nothing is added.
    fn restorable(copies: &[Link<u32>], server: &str) -> Vec<u32> {
        let usable = |link: &&Link<u32>| link.sound && link.server == server;
        let mut found: Vec<u32> = copies
            .iter()
            .filter(usable)
            .filter(|link| link.kind == Full && link.parent.is_none())
            .map(|link| link.id)
            .collect();
        loop {
            let more = copies
                .iter()
                .filter(usable)
                .find(|link| !found.contains(&link.id) && link.parent.is_some_and(|parent| found.contains(&parent)));
            match more {
                Some(link) => found.push(link.id),
                None => return found,
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_built_on_what_cannot_be_restored(
            links in prop::collection::vec((0..4_usize, prop::option::of(0_u32..14), prop::bool::weighted(0.8), prop::bool::weighted(0.9)), 0..12),
            wanted in 0..4_usize,
        ) {
            let kinds = [Log, Incremental, Differential, Full];
            let copies: Vec<_> = (1_u32..)
                .zip(links)
                .map(|(id, (kind, parent, sound, ours))| Link {
                    sound,
                    server: if ours { "one" } else { "other" }.to_owned(),
                    parent: if kinds[kind] == Full { None } else { parent },
                    ..link(id, kinds[kind], None)
                })
                .collect();
            let wanted = kinds[wanted];
            let found = next(wanted, at(20), &copies, "one", hours(1_000), OnBroken::TakeFull);
            let base = copies.iter().rev().find(|link| wanted != Differential || link.kind == Full);
            let good = base.is_some_and(|base| restorable(&copies, "one").contains(&base.id));
            match found {
                Next::Make { parent: None, kind } => prop_assert_eq!((kind, wanted), (Full, Full)),
                Next::Make { parent, kind } => {
                    prop_assert!(good);
                    prop_assert_eq!((kind, parent), (wanted, base.map(|base| base.id)));
                }
                Next::FullInstead { .. } => prop_assert!(!good && wanted != Full),
                Next::Wait { .. } => prop_assert!(false),
            }
        }
    }
}
