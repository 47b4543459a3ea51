//! Chains: which copies a copy cannot be restored without.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use holdfast_crds::document::Sha256;

use crate::retention::{CopyFacts, CopyType};

/// Who needs whom among the copies of one source in one store, by position.
///
/// A copy needs its parents: all that its manifest requires. A log that names no log as its parent is replayed onto the newest copy that it
/// names or, where it names none, onto the newest good full of its server before it; it needs that one and all logs of its server between.
#[derive(Debug)]
pub struct Chains {
    needs: Vec<Vec<usize>>,
    complete: Vec<bool>,
    /// The logs of each server, by recovery point.
    logs: Vec<Vec<usize>>,
    /// Of a log: which of `logs`, and which of them it needs: from the first to before the second.
    ranges: HashMap<usize, (usize, usize, usize)>,
}

/// Logs that were not taken yet: each is given out once, so that many overlapping ranges cost no more than one.
#[derive(Debug)]
struct Untaken(Vec<Vec<usize>>);

impl Untaken {
    /// The first that was not taken, from `place` on; the number of logs where all were.
    fn first(&mut self, group: usize, place: usize) -> usize {
        let next = &mut self.0[group];
        let mut place = place;
        while next[place] != place {
            next[place] = next[next[place]];
            place = next[place];
        }
        place
    }

    fn take(&mut self, group: usize, place: usize) {
        self.0[group][place] = place + 1;
    }
}

impl Chains {
    /// Of copies that are sorted by [`CopyFacts::order`].
    pub fn of(copies: &[CopyFacts]) -> Self {
        let mut by_manifest: HashMap<Sha256, Vec<usize>> = HashMap::with_capacity(copies.len());
        for (position, copy) in copies.iter().enumerate() {
            by_manifest.entry(copy.manifest).or_default().push(position);
        }
        let mut chains = Self {
            needs: vec![Vec::new(); copies.len()],
            complete: vec![true; copies.len()],
            logs: Vec::new(),
            ranges: HashMap::new(),
        };
        for (position, copy) in copies.iter().enumerate() {
            for parent in &copy.parents {
                match by_manifest.get(parent) {
                    Some(found) => chains.needs[position].extend(found.iter().filter(|found| **found != position)),
                    None => chains.complete[position] = false,
                }
            }
        }
        chains.follow_logs(copies);
        for list in &mut chains.needs {
            list.sort_unstable();
            list.dedup();
        }
        chains
    }

    fn follow_logs(&mut self, copies: &[CopyFacts]) {
        let by_point = |position: &usize| (copies[*position].recovery_point, *position);
        let mut logs: HashMap<&Option<String>, Vec<usize>> = HashMap::new();
        let mut fulls: HashMap<&Option<String>, Vec<usize>> = HashMap::new();
        for (position, copy) in copies.iter().enumerate() {
            match copy.copy_type {
                CopyType::Log => logs.entry(&copy.server).or_default().push(position),
                CopyType::Full if copy.is_good() => fulls.entry(&copy.server).or_default().push(position),
                _ => {}
            }
        }
        for (server, mut logs) in logs {
            logs.sort_by_key(by_point);
            let mut fulls = fulls.remove(server).unwrap_or_default();
            fulls.sort_by_key(by_point);
            for (place, &log) in logs.iter().enumerate() {
                let parents = &self.needs[log];
                if parents.iter().any(|parent| copies[*parent].copy_type == CopyType::Log) {
                    continue;
                }
                let point = copies[log].recovery_point;
                let before = fulls.partition_point(|full| copies[*full].recovery_point <= point);
                let before = || before.checked_sub(1).map(|last| fulls[last]);
                let Some(base) = parents.iter().copied().max_by_key(by_point).or_else(before) else {
                    continue;
                };
                let first = logs.partition_point(|log| copies[*log].recovery_point <= copies[base].recovery_point);
                self.needs[log].push(base);
                self.ranges.insert(log, (self.logs.len(), first, place));
            }
            self.logs.push(logs);
        }
    }

    fn untaken(&self) -> Untaken {
        Untaken(self.logs.iter().map(|logs| (0..=logs.len()).collect()).collect())
    }

    /// What the copy needs, but for logs that were given out before.
    fn needed(&self, position: usize, untaken: &mut Untaken) -> Vec<usize> {
        let mut needed = self.needs[position].clone();
        if let Some(&(group, first, end)) = self.ranges.get(&position) {
            let mut place = untaken.first(group, first);
            while place < end {
                untaken.take(group, place);
                needed.push(self.logs[group][place]);
                place = untaken.first(group, place);
            }
        }
        needed
    }

    /// Whether every parent that its manifest names is there.
    pub fn is_complete(&self, position: usize) -> bool {
        self.complete[position]
    }

    /// Those, and all that they need.
    pub fn closure(&self, of: impl IntoIterator<Item = usize>) -> Vec<bool> {
        let mut untaken = self.untaken();
        let mut closed = vec![false; self.needs.len()];
        let mut open: Vec<usize> = of.into_iter().collect();
        while let Some(position) = open.pop() {
            if !std::mem::replace(&mut closed[position], true) {
                open.extend(self.needed(position, &mut untaken));
            }
        }
        closed
    }

    /// For each copy that one of `closed` needs: the first that does, by position.
    pub fn needed_by(&self, closed: &[bool]) -> Vec<Option<usize>> {
        let mut untaken = self.untaken();
        let mut by = vec![None; self.needs.len()];
        for position in (0..closed.len()).filter(|position| closed[*position]) {
            for needed in self.needed(position, &mut untaken) {
                by[needed].get_or_insert(position);
            }
        }
        by
    }

    /// For each copy the one that its chain stands on: the end of the way over what it needs first.
    pub fn roots(&self) -> Vec<usize> {
        let mut roots: Vec<Option<usize>> = vec![None; self.needs.len()];
        for start in 0..self.needs.len() {
            let mut way = vec![start];
            let root = loop {
                let position = way[way.len() - 1];
                match (roots[position], self.needs[position].first()) {
                    (Some(root), _) => break root,
                    (None, None) => break position,
                    // A chain has no circle; who forges one gets an end of the walk.
                    (None, Some(next)) if way.len() > self.needs.len() => break *next,
                    (None, Some(next)) => way.push(*next),
                }
            };
            for position in way {
                roots[position] = Some(root);
            }
        }
        roots
            .into_iter()
            .enumerate()
            .map(|(position, root)| root.unwrap_or(position))
            .collect()
    }

    /// Whether a copy can be restored: it and all that it needs are good and there, and of one server.
    pub fn is_restorable(&self, copies: &[CopyFacts], position: usize) -> bool {
        let server = &copies[position].server;
        let closure = self.closure([position]);
        (0..copies.len())
            .filter(|needed| closure[*needed])
            .all(|needed| copies[needed].is_good() && self.complete[needed] && copies[needed].server == *server)
    }

    /// `going` in the order in which they are removed: whatever needs another copy goes before it. Otherwise the oldest first, and logs last,
    /// of them the newest first.
    pub fn removal_order(&self, copies: &[CopyFacts], going: &[bool]) -> Vec<usize> {
        let mut needed_by = vec![0usize; going.len()];
        for position in (0..going.len()).filter(|position| going[*position]) {
            for needed in &self.needs[position] {
                needed_by[*needed] += 1;
            }
        }
        let rank = |position: usize| match copies[position].copy_type {
            CopyType::Log => Reverse((1, going.len() - position, position)),
            _ => Reverse((0, position, position)),
        };
        let mut ready: BinaryHeap<_> = (0..going.len())
            .filter(|position| going[*position] && needed_by[*position] == 0)
            .map(rank)
            .collect();
        let mut order = Vec::new();
        while let Some(Reverse((_, _, position))) = ready.pop() {
            order.push(position);
            for needed in &self.needs[position] {
                needed_by[*needed] -= 1;
                if needed_by[*needed] == 0 && going[*needed] {
                    ready.push(rank(*needed));
                }
            }
        }
        order
    }
}
