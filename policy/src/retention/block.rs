//! When nothing of a source is removed, although nothing keeps it. Rules R6 to R8.

use std::collections::HashSet;

use holdfast_crds::{
    Blocked, KEEP_DELETES_FOR, Reason,
    document::{Acceptance, ScheduleName, Sha256},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    facts::{CopyFacts, SourceFacts},
    keep::{good_fulls, plausible},
    slot::PENDING,
};
use crate::chain::Chains;

/// So many copies before the newest are compared with its size.
const MEDIAN_OF: usize = 7;
/// A brake stops more chains than this …
const CHAINS: usize = 5;
/// … or more than one of so many.
const SHARE: usize = 10;
/// The marks of one pass follow each other more closely than this, and passes do not.
const SAME_PASS: SignedDuration = SignedDuration::from_mins(5);
/// A copy that was marked so soon after the end that was promised for it went for its age, as everybody could foresee.
const AGED: SignedDuration = SignedDuration::from_hours(48);

fn blocked(reason: Reason, message: impl Into<String>) -> Blocked {
    let message: String = message.into();
    Blocked {
        reason,
        message: holdfast_crds::shortened(&message, 512),
    }
}

/// Facts that cannot be relied on: nothing is marked or removed.
pub fn unreliable(facts: &SourceFacts, chains: &Chains) -> Option<Blocked> {
    if let Some(problem) = facts.problems.iter().min() {
        let more = match facts.problems.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        return Some(blocked(
            Reason::CatalogueUnreadable,
            format!("{problem}{more}; nothing is removed until all of the source can be read"),
        ));
    }
    if let Some(copy) = facts
        .copies
        .iter()
        .filter(|copy| copy.unreadable.is_some())
        .min_by_key(|copy| copy.order())
    {
        let problem = copy.unreadable.clone().unwrap_or_default();
        return Some(blocked(
            Reason::CatalogueUnreadable,
            format!("{}: {problem}; nothing is removed until it can be read", copy.run),
        ));
    }
    let mut seen = HashSet::with_capacity(facts.copies.len());
    if let Some(twice) = facts.copies.iter().find(|copy| !seen.insert(&copy.run)) {
        return Some(blocked(
            Reason::CatalogueUnreadable,
            format!("{} was listed twice; nothing is removed until the listing adds up", twice.run),
        ));
    }
    let orphan = (0..facts.copies.len()).find(|position| !chains.is_complete(*position));
    if let Some(orphan) = orphan.map(|position| &facts.copies[position]) {
        return Some(blocked(
            Reason::CopiesMissing,
            format!(
                "{} needs a copy that is not there; nothing is removed until it is back, or the copy was disposed of",
                orphan.run
            ),
        ));
    }
    lost(facts).or_else(|| {
        let untold = facts.untold.as_ref()?;
        Some(blocked(
            Reason::KeeperTaskTooLarge,
            format!("{untold}; nothing is removed until they are fewer"),
        ))
    })
}

/// Fewer copies than the last pass left, as nobody accepted.
fn lost(facts: &SourceFacts) -> Option<Blocked> {
    let counted = |copy: &&CopyFacts| facts.counted_at.is_none_or(|at| copy.committed_at <= at);
    let left: Vec<_> = facts.copies.iter().filter(counted).collect();
    let before = facts.copies_before.filter(|before| (left.len() as u64) < *before)?;
    let there = left.len();
    let set = loss_digest(before, facts.counted_at, left.into_iter());
    let accepted = facts.accepted.contains(&Acceptance::Loss { set });
    (!accepted).then(|| {
        blocked(
            Reason::CopiesMissing,
            format!(
                "of {before} copies that the last pass left {there} are there now; find out who removed the others, then accept exactly this loss with spec.accept: [{{loss: {{set: {set}}}, by: your user name, reason: why}}]"
            ),
        )
    })
}

/// What an acceptance of a loss names: SHA-256 over a line with how many copies there were, when they were counted (or `-`), and the
/// [`set_digest`] of what is left of them.
pub fn loss_digest<'a>(before: u64, counted_at: Option<Timestamp>, left: impl Iterator<Item = &'a CopyFacts>) -> Sha256 {
    let counted_at = counted_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let left = set_digest(left);
    Sha256::of(format!("{before} {counted_at} {left}\n").as_bytes())
}

/// How often a full copy of the source is to come. Schedules that made copies of it say so; where all of them are gone, as they were
/// recorded, for that no copy comes any more is no reason to remove those that are there. Other schedules of the namespace count only where
/// nothing else tells a pace: one of them may have taken the place of one that was never recorded.
fn pace(facts: &SourceFacts) -> Option<SignedDuration> {
    let made = |schedule: &ScheduleName| facts.copies.iter().any(|copy| copy.schedule.as_ref() == Some(schedule));
    let shortest = |own: bool, gone: bool| {
        let rules = facts
            .rules
            .iter()
            .filter(|(schedule, rules)| rules.gone == gone && made(schedule) == own);
        rules.filter_map(|(_, rules)| rules.interval).min()
    };
    shortest(true, false)
        .or_else(|| shortest(true, true))
        .or_else(|| shortest(false, false))
}

/// A source that does not do well: copies may be marked, none is removed.
pub fn unhealthy(facts: &SourceFacts) -> Option<Blocked> {
    if facts.retired.is_some() {
        return None;
    }
    let good = good_fulls(&facts.copies, facts.now);
    let interval = pace(facts);
    if let (Some(interval), Some(newest)) = (interval, good.first()) {
        let newest = &facts.copies[*newest];
        let age = facts.now.duration_since(newest.order().0);
        if age > interval.saturating_mul(2) {
            return Some(blocked(
                Reason::CopyTooOld,
                format!(
                    "the newest good full copy, {}, is older than two intervals of its schedule; nothing is removed until a new one is there",
                    newest.run
                ),
            ));
        }
    } else if interval.is_some() && !facts.copies.is_empty() {
        return Some(blocked(
            Reason::CopyTooOld,
            "there is no good full copy; nothing is removed until one is there",
        ));
    }
    let (newest, median) = anomalous(facts, &good)?;
    Some(blocked(
        Reason::SizeAnomalous,
        format!(
            "the newest copy, {}, has {} bytes, those of the usual size before it {median} (median); look at it, then accept it with spec.accept: [{{size: {{run: {}}}}}]",
            newest.run, newest.bytes, newest.run
        ),
    ))
}

/// The newest copy and the median of those that it is compared with, if its size is neither like theirs nor accepted.
///
/// Copies are judged one after the other, as they came, and one that was not like those before it is none that later ones are compared with:
/// a series of them does not become the usual by itself. An accepted copy takes those before it along, and is what later ones may be like.
/// What was there when a copy was last removed was judged then, and is not judged again by the few that are left of its time.
fn anomalous<'a>(facts: &'a SourceFacts, good: &[usize]) -> Option<(&'a CopyFacts, u64)> {
    let decided = facts.removed_at.and_then(|at| at.checked_sub(KEEP_DELETES_FOR).ok());
    let accepted: HashSet<_> = facts
        .accepted
        .iter()
        .filter_map(|accepted| match accepted {
            Acceptance::Size { run } => Some(run),
            _ => None,
        })
        .collect();
    let mut usual = Vec::with_capacity(good.len());
    let mut accepted_size = None;
    let mut found = None;
    for &position in good.iter().rev() {
        let copy = &facts.copies[position];
        let like = |size: &u64| copy.bytes.saturating_mul(2) >= *size && copy.bytes <= size.saturating_mul(2);
        let is_accepted = accepted.contains(&copy.run);
        let judged = is_accepted || decided.is_some_and(|at| copy.committed_at <= at);
        let median = median(&usual).filter(|median| !judged && !like(median) && !accepted_size.as_ref().is_some_and(like));
        found = median.map(|median| (copy, median));
        if is_accepted {
            accepted_size = Some(copy.bytes);
        }
        if found.is_none() {
            usual.push(copy.bytes);
        }
    }
    found
}

/// Of the last few sizes.
fn median(sizes: &[u64]) -> Option<u64> {
    let mut last = sizes[sizes.len().saturating_sub(MEDIAN_OF)..].to_vec();
    last.sort_unstable();
    last.get(last.len() / 2).copied()
}

/// What of `due` (positions of copies that would be removed) nobody foresaw and is too much to go without a person's approval: these stay,
/// and the digest of the set is what an approval names.
///
/// Foreseen is what was marked under rules that had been in force for a day, a few in each pass: time alone made it go. What one pass marked
/// in a mass was not, whatever it was that ended: a hold, a floor, or days in which nothing could be marked.
pub fn unforeseen(facts: &SourceFacts, chains: &Chains, due: &[usize]) -> Option<(HashSet<usize>, Blocked)> {
    let new_rules = |copy: &CopyFacts| {
        let rules = copy.schedule.as_ref().and_then(|schedule| facts.rules.get(schedule));
        match (rules, &copy.mark) {
            (Some(rules), Some(mark)) => mark.at.duration_since(rules.since) < PENDING,
            _ => false,
        }
    };
    let roots = chains.roots();
    let mass = marked_in_a_mass(facts, &roots);
    let surprise = due.iter().copied();
    let surprise: HashSet<usize> = surprise
        .filter(|&position| new_rules(&facts.copies[position]) || mass.contains(&position))
        .collect();
    if surprise.is_empty() {
        return None;
    }
    let chains = |positions: &mut dyn Iterator<Item = usize>| positions.map(|position| roots[position]).collect::<HashSet<_>>().len();
    let gone = chains(&mut surprise.iter().copied());
    let all = chains(&mut (0..facts.copies.len()));
    let bytes =
        |positions: &mut dyn Iterator<Item = usize>| positions.fold(0u64, |sum, position| sum.saturating_add(facts.copies[position].bytes));
    let going = bytes(&mut surprise.iter().copied());
    let total = bytes(&mut (0..facts.copies.len()));
    let good = good_fulls(&facts.copies, facts.now);
    let last = !good.is_empty() && good.iter().all(|position| due.contains(position));
    if gone <= CHAINS.max(all / SHARE) && going <= total / 2 && !last {
        return None;
    }
    let set = set_digest(surprise.iter().map(|&position| &facts.copies[position]));
    if facts.accepted.contains(&Acceptance::Removal { set }) {
        return None;
    }
    let block = blocked(
        Reason::RemovalNeedsApproval,
        format!(
            "{gone} of {all} chains ({going} of {total} bytes) would go at once, by new rules or after one pass marked many; a RetentionPreview of the source shows them; approve exactly these with spec.accept: [{{removal: {{set: {set}}}, by: your user name, reason: why}}]"
        ),
    );
    Some((surprise, block))
}

/// The copies, by position, that a pass marked together with more chains than a brake lets go, and not for their age.
fn marked_in_a_mass(facts: &SourceFacts, roots: &[usize]) -> HashSet<usize> {
    let aged = |copy: &CopyFacts, at: Timestamp| {
        let promised = copy.retain_until().filter(|until| *until <= at);
        promised.is_some_and(|until| at.duration_since(until) <= AGED)
    };
    let marks = facts.copies.iter().enumerate().filter_map(|(position, copy)| {
        let at = copy.mark.as_ref()?.at;
        (!aged(copy, at)).then_some((at, position))
    });
    let mut marks: Vec<_> = marks.collect();
    marks.sort_unstable();
    let all: HashSet<_> = roots.iter().collect();
    let limit = CHAINS.max(all.len() / SHARE);
    let passes = marks.chunk_by(|a, b| b.0.duration_since(a.0) <= SAME_PASS);
    let masses = passes.filter(|pass| pass.iter().map(|(_, position)| roots[*position]).collect::<HashSet<_>>().len() > limit);
    masses.flatten().map(|(_, position)| *position).collect()
}

/// SHA-256 over the lines `<run> <outcome digest>`, sorted: what an approval of a removal names.
pub fn set_digest<'a>(copies: impl Iterator<Item = &'a CopyFacts>) -> Sha256 {
    let mut lines: Vec<_> = copies.map(|copy| format!("{} {}\n", copy.run, copy.outcome)).collect();
    lines.sort_unstable();
    Sha256::of(lines.concat().as_bytes())
}

/// Whether the copy may be the parent of a new increment: good, not marked, and of the same server.
pub fn may_be_parent(copy: &CopyFacts, server: Option<&str>, now: jiff::Timestamp) -> bool {
    copy.is_good() && copy.mark.is_none() && copy.server.as_deref() == server && plausible(copy, now)
}
