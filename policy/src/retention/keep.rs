//! What keeps a copy. Rules R2 to R4.

use std::{collections::BTreeMap, fmt};

use holdfast_crds::{Retention, document::Label};
use jiff::{SignedDuration, Timestamp};

use super::{
    facts::{CLOCK_TOLERANCE, CopyFacts, CopyType, SourceFacts},
    server, slot,
};
use crate::chain::Chains;

/// Younger copies are never removed.
pub const YOUNG: SignedDuration = SignedDuration::from_hours(24);
/// What is kept of a source for which no rule says how many.
const MIN_GOOD: usize = 2;

/// What keeps a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A hold in force names it, or a copy that needs it.
    Held(Label),
    /// The store refuses to delete it.
    Locked(Timestamp),
    LegalHold,
    /// Until then, by a rule, a floor, or what was asked for.
    Until {
        rule: String,
        until: Timestamp,
    },
    /// Among the newest so many of its schedule.
    KeepLast(i32),
    /// Among the newest so many good full copies of its source in this store.
    MinGood(usize),
    /// Among the newest so many of a server that the source had before, as nobody accepted.
    Former(usize, String),
    /// Younger than a day.
    Young,
    /// Its schedule keeps everything, or nobody says how long it is to be kept.
    NoRule,
    /// Needed for every moment within the recovery window.
    Window,
    /// Somebody reads it.
    Reading(Timestamp),
    /// A restore or a run in flight needs it.
    InUse,
    /// A document of it cannot be read.
    Unreadable(String),
    /// Its time lies in the future.
    Implausible,
    /// A kept copy needs it.
    NeededBy(Label),
}

impl Why {
    /// Whether the store itself refuses, and nobody else.
    pub fn is_lock(&self) -> bool {
        matches!(self, Self::Locked(_) | Self::LegalHold)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(hold) => write!(f, "held by {hold}"),
            Self::Locked(until) => write!(f, "locked by the store until {until}"),
            Self::LegalHold => f.write_str("under legal hold in the store"),
            Self::Until { rule, until } => write!(f, "{rule}, until {until}"),
            Self::KeepLast(count) => write!(f, "keepLast: among the newest {count}"),
            Self::MinGood(count) => write!(f, "among the newest {count} good full copies"),
            Self::Former(count, server) => write!(
                f,
                "among the newest {count} good full copies of server {server}, whose change nobody accepted"
            ),
            Self::Young => f.write_str("younger than 24 h"),
            Self::NoRule => f.write_str("no rule says how long it is kept"),
            Self::Window => f.write_str("needed for the recovery window"),
            Self::Reading(until) => write!(f, "being read, until {until} at the latest"),
            Self::InUse => f.write_str("in use by a restore or a run"),
            Self::Unreadable(problem) => write!(f, "cannot be read: {problem}"),
            Self::Implausible => f.write_str("its time lies in the future"),
            Self::NeededBy(run) => write!(f, "needed by {run}"),
        }
    }
}

/// What keeps the copies, by position, and what is to be recorded.
#[derive(Debug, Default)]
pub struct Kept {
    pub why: Vec<Vec<Why>>,
    /// Rules that are not recorded yet, or for less long.
    pub records: Vec<(usize, String, Timestamp)>,
    pub empty_slots: Vec<String>,
    /// That the copies are of another server than those before, as nobody accepted.
    pub identity: Option<String>,
}

/// Good, full, and of a time that can be believed: what counts.
pub fn counts(copy: &CopyFacts, now: Timestamp) -> bool {
    copy.copy_type == CopyType::Full && copy.is_good() && plausible(copy, now)
}

/// Whether the copy's time can be believed.
pub fn plausible(copy: &CopyFacts, now: Timestamp) -> bool {
    copy.order().0.duration_since(now) <= CLOCK_TOLERANCE
}

/// The good full copies, the newest first, by position.
pub fn good_fulls(copies: &[CopyFacts], now: Timestamp) -> Vec<usize> {
    let mut good: Vec<_> = (0..copies.len()).filter(|&position| counts(&copies[position], now)).collect();
    good.sort_by(|&a, &b| copies[b].order().cmp(&copies[a].order()));
    good
}

/// What keeps each copy.
pub fn keep(facts: &SourceFacts, chains: &Chains) -> Kept {
    let now = facts.now;
    let copies = &facts.copies;
    let mut kept = Kept {
        why: vec![Vec::new(); copies.len()],
        ..Kept::default()
    };
    for (copy, why) in copies.iter().zip(&mut kept.why) {
        by_itself(copy, now, why);
        if !copy.schedule.as_ref().is_some_and(|schedule| facts.rules.contains_key(schedule)) && copy.keep_until.is_none() {
            why.push(Why::NoRule);
        }
    }
    floors(facts, &mut kept);
    by_schedule(facts, &mut kept);
    for (position, copy) in copies.iter().enumerate() {
        if let Some(until) = copy.keep_until {
            grant(&mut kept, copies, position, "keepFor".to_owned(), until, now);
        }
    }
    closure(copies, chains, &mut kept.why);
    kept
}

/// What keeps a copy whatever the rules say.
fn by_itself(copy: &CopyFacts, now: Timestamp, why: &mut Vec<Why>) {
    why.extend(copy.holds.iter().cloned().map(Why::Held));
    if copy.legal_hold {
        why.push(Why::LegalHold);
    }
    // At the very moment of its end a lock still holds.
    why.extend(copy.locked_until.filter(|until| now <= *until).map(Why::Locked));
    let recorded = copy.retained.iter().filter(|(_, until)| now < *until);
    why.extend(recorded.map(|(rule, until)| Why::Until {
        rule: rule.clone(),
        until: *until,
    }));
    if now.duration_since(born(copy, now)) < YOUNG {
        why.push(Why::Young);
    }
    why.extend(copy.reading_until.filter(|until| now < *until).map(Why::Reading));
    if copy.in_use {
        why.push(Why::InUse);
    }
    why.extend(copy.unreadable.clone().map(Why::Unreadable));
    if copy.copy_type == CopyType::Unknown && copy.unreadable.is_none() {
        why.push(Why::Unreadable("its type is not known to this version".to_owned()));
    }
    if !plausible(copy, now) {
        why.push(Why::Implausible);
    }
}

/// When its youth began: with its commit, unless a clock was wrong then and shows the future.
fn born(copy: &CopyFacts, now: Timestamp) -> Timestamp {
    if copy.committed_at.duration_since(now) <= CLOCK_TOLERANCE {
        copy.committed_at
    } else {
        copy.order().0
    }
}

/// A rule keeps the copy until then: a reason, and a record where the store does not say so yet.
fn grant(kept: &mut Kept, copies: &[CopyFacts], position: usize, rule: String, until: Timestamp, now: Timestamp) {
    if until <= now {
        return;
    }
    let recorded = copies[position]
        .retained
        .iter()
        .any(|(known, recorded)| *known == rule && *recorded >= until);
    if recorded {
        return;
    }
    kept.why[position].push(Why::Until { rule: rule.clone(), until });
    kept.records.push((position, rule, until));
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn floors(facts: &SourceFacts, kept: &mut Kept) {
    for floor in &facts.floors {
        let Some(retention) = floor.retention else { continue };
        for (position, copy) in facts.copies.iter().enumerate() {
            if plausible(copy, facts.now) {
                let until = later(copy.order().0, retention);
                grant(kept, &facts.copies, position, format!("floor {}", floor.policy), until, facts.now);
            }
        }
    }
    // Also what was retired: floors beat everything.
    let wanted = facts.floors.iter().filter_map(|floor| floor.good_copies).max().unwrap_or(0);
    let of_rules = facts
        .rules
        .values()
        .map(|rules| usize::try_from(rules.retention.min_good).unwrap_or(1))
        .max();
    let min_good = match &facts.retired {
        Some(_) => 0,
        None => of_rules.unwrap_or(MIN_GOOD).max(1),
    };
    let wanted = min_good.max(wanted as usize);
    let good = good_fulls(&facts.copies, facts.now);
    for position in good.iter().take(wanted) {
        kept.why[*position].push(Why::MinGood(wanted));
    }
    let former = server::former(facts, &good, wanted);
    for server in former.servers {
        let own = good
            .iter()
            .filter(|position| facts.copies[**position].server.as_deref() == Some(server));
        for position in own.take(wanted) {
            kept.why[*position].push(Why::Former(wanted, server.to_owned()));
        }
    }
    kept.identity = former.told;
}

fn by_schedule(facts: &SourceFacts, kept: &mut Kept) {
    let mut by_schedule: BTreeMap<_, Vec<(usize, &CopyFacts)>> = BTreeMap::new();
    for (position, copy) in facts.copies.iter().enumerate() {
        if let Some(schedule) = copy.schedule.as_ref().filter(|schedule| facts.rules.contains_key(schedule)) {
            by_schedule.entry(schedule).or_default().push((position, copy));
        }
    }
    for (schedule, mut copies) in by_schedule {
        let rules = &facts.rules[schedule];
        copies.sort_by(|a, b| a.1.order().cmp(&b.1.order()));
        if rules.retention.keeps_everything() {
            for (position, copy) in &copies {
                // What was made by hand and says for how long is not kept longer because the schedule says nothing.
                if copy.keep_until.is_none() {
                    kept.why[*position].push(Why::NoRule);
                }
            }
            continue;
        }
        within(facts, &copies, &rules.retention, kept);
        last(facts, &copies, &rules.retention, kept);
        let slots = slot::give(&copies, &rules.retention, &rules.zone, facts.now, |copy| counts(copy, facts.now));
        for (position, rule, until) in slots.owned {
            grant(kept, &facts.copies, position, rule, until, facts.now);
        }
        let name = |slot: String| match &schedule.namespace {
            _ if facts.rules.len() == 1 => slot,
            Some(_) => format!("{slot} of {}", schedule.name),
            None => format!("{slot} of cluster schedule {}", schedule.name),
        };
        kept.empty_slots.extend(slots.empty.into_iter().map(name));
    }
}

/// Every good copy within the time, and what a restore to any moment of it needs: the newest full before its begin, and the logs since.
fn within(facts: &SourceFacts, copies: &[(usize, &CopyFacts)], retention: &Retention, kept: &mut Kept) {
    let Some(within) = retention.keep_within else { return };
    for (position, copy) in copies {
        if copy.is_good() && plausible(copy, facts.now) {
            let until = later(copy.order().0, within.signed());
            grant(kept, &facts.copies, *position, "keepWithin".to_owned(), until, facts.now);
        }
    }
    let begin = facts.now.checked_sub(within.signed()).unwrap_or(Timestamp::MIN);
    let mut logs: BTreeMap<&Option<String>, Vec<(usize, &CopyFacts)>> = BTreeMap::new();
    for (position, copy) in copies.iter().filter(|(_, copy)| copy.copy_type == CopyType::Log) {
        logs.entry(&copy.server).or_default().push((*position, copy));
    }
    // Logs of another server continue nothing.
    for (server, logs) in logs {
        let base = copies
            .iter()
            .filter(|(_, copy)| copy.server == *server && counts(copy, facts.now) && copy.recovery_point <= begin)
            .max_by_key(|(_, copy)| (copy.recovery_point, copy.order()));
        let Some((position, base)) = base else { continue };
        kept.why[*position].push(Why::Window);
        for (position, _) in logs.into_iter().filter(|(_, log)| log.recovery_point > base.recovery_point) {
            kept.why[position].push(Why::Window);
        }
    }
}

fn last(facts: &SourceFacts, copies: &[(usize, &CopyFacts)], retention: &Retention, kept: &mut Kept) {
    let Some(count) = retention.keep_last else { return };
    let newest = copies.iter().rev().filter(|(_, copy)| counts(copy, facts.now));
    for (position, _) in newest.take(usize::try_from(count).unwrap_or(0)) {
        kept.why[*position].push(Why::KeepLast(count));
    }
}

/// What kept copies need is kept, and says by whom it is needed first. What a held copy needs is held.
fn closure(copies: &[CopyFacts], chains: &Chains, why: &mut [Vec<Why>]) {
    let mut by_hold: BTreeMap<&Label, Vec<usize>> = BTreeMap::new();
    for (position, copy) in copies.iter().enumerate() {
        for hold in &copy.holds {
            by_hold.entry(hold).or_default().push(position);
        }
    }
    for (hold, held) in by_hold {
        let held: std::collections::HashSet<_> = held.into_iter().collect();
        let closure = chains.closure(held.iter().copied());
        for position in (0..copies.len()).filter(|position| closure[*position] && !held.contains(position)) {
            why[position].push(Why::Held(hold.clone()));
        }
    }
    let kept: Vec<usize> = (0..copies.len()).filter(|&position| !why[position].is_empty()).collect();
    let closure = chains.closure(kept);
    for (position, by) in chains.needed_by(&closure).into_iter().enumerate() {
        why[position].extend(by.map(|by| Why::NeededBy(copies[by].run.clone())));
    }
}
