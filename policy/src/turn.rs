//! Whose turn it is where only so many runs may be at work: limits per store and per namespace (rule T5).

use jiff::Timestamp;

/// A run that waits, and what it needs a place in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<I> {
    pub id: I,
    /// When the newest copy of its source becomes too old, or did: who is nearest to that comes first, who has no objective last.
    pub deadline: Option<Timestamp>,
    /// Since when it waits.
    pub since: Timestamp,
    /// Places in the list of pools; it begins when each has room.
    pub pools: Vec<usize>,
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It begins.
    Now,
    /// It waits for room in this pool, as the so-manieth of those that wait for it, from 1.
    Waits { pool: usize, place: usize },
}

/// Who begins and who waits. `free` says how many more each pool takes.
///
/// The most urgent comes first; one that waits for a full pool keeps no place in another. The answers are in the order of urgency.
pub fn turns<I: Clone + Ord>(claims: &[Claim<I>], free: &[usize]) -> Vec<(I, Turn)> {
    let mut free = free.to_vec();
    let mut waiting = vec![0; free.len()];
    let mut order: Vec<_> = claims.iter().collect();
    order.sort_by_key(|claim| (claim.deadline.is_none(), claim.deadline, claim.since, &claim.id));
    let turn = |claim: &Claim<I>| {
        if let Some(pool) = claim.pools.iter().copied().find(|pool| free[*pool] == 0) {
            waiting[pool] += 1;
            let place = waiting[pool];
            return Turn::Waits { pool, place };
        }
        for pool in &claim.pools {
            free[*pool] -= 1;
        }
        Turn::Now
    };
    let turns: Vec<_> = order.iter().copied().map(turn).collect();
    order.into_iter().map(|claim| claim.id.clone()).zip(turns).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim(id: u32, deadline: Option<i64>, pools: &[usize]) -> Claim<u32> {
        Claim {
            id,
            deadline: deadline.map(at),
            since: at(0),
            pools: pools.to_vec(),
        }
    }

    #[test]
    fn the_nearest_to_its_breach_comes_first() {
        let claims = [
            claim(1, None, &[0]),
            claim(2, Some(300), &[0]),
            claim(3, Some(-100), &[0]),
            claim(4, Some(200), &[0]),
        ];
        let waits = |place| Turn::Waits { pool: 0, place };
        assert_eq!(turns(&claims, &[2]), [(3, Turn::Now), (4, Turn::Now), (2, waits(1)), (1, waits(2))]);
        // Of equals who came first, then by name.
        let mut late = claim(1, Some(5), &[0]);
        late.since = at(1);
        let claims = [late, claim(3, Some(5), &[0]), claim(2, Some(5), &[0])];
        assert_eq!(turns(&claims, &[1]), [(2, Turn::Now), (3, waits(1)), (1, waits(2))]);
    }

    #[test]
    fn who_waits_for_one_pool_keeps_no_place_in_another() {
        // The store 0 is full; the namespace 2 has one place left, which the store 1 may use.
        let claims = [claim(1, Some(1), &[0, 2]), claim(2, Some(2), &[1, 2]), claim(3, Some(3), &[1, 2])];
        let found = turns(&claims, &[0, 5, 1]);
        assert_eq!(
            found,
            [
                (1, Turn::Waits { pool: 0, place: 1 }),
                (2, Turn::Now),
                (3, Turn::Waits { pool: 2, place: 1 })
            ]
        );
    }

    proptest! {
        #[test]
        fn limits_hold_and_nobody_waits_in_vain(
            claims in prop::collection::vec((prop::option::of(0_i64..50), 0_i64..5, prop::collection::btree_set(0_usize..4, 0..3)), 0..60),
            free in prop::collection::vec(0_usize..8, 4),
        ) {
            let claims: Vec<_> = claims
                .into_iter()
                .enumerate()
                .map(|(id, (deadline, since, pools))| Claim { id, deadline: deadline.map(at), since: at(since), pools: pools.into_iter().collect() })
                .collect();
            let found = turns(&claims, &free);
            let mut reversed = claims.clone();
            reversed.reverse();
            prop_assert_eq!(&turns(&reversed, &free), &found, "in whatever order they are given");
            prop_assert_eq!(found.len(), claims.len());
            let mut left = free.clone();
            for (id, turn) in &found {
                let needs = &claims[*id].pools;
                match turn {
                    Turn::Now => for pool in needs {
                        prop_assert!(left[*pool] > 0);
                        left[*pool] -= 1;
                    },
                    Turn::Waits { pool, .. } => prop_assert!(needs.contains(pool)),
                }
            }
            // What is left at the end is of no use to who waits, and of two that need the same the more urgent does not wait alone.
            for (place, (id, turn)) in found.iter().enumerate() {
                if let Turn::Waits { .. } = turn {
                    let needs = &claims[*id].pools;
                    prop_assert!(needs.iter().any(|pool| left[*pool] == 0));
                    let overtaken = found[place..].iter().any(|(other, turn)| *turn == Turn::Now && claims[*other].pools == *needs);
                    prop_assert!(!overtaken);
                }
            }
        }
    }
}
