//! The plan for one source in one store.

use std::collections::HashSet;

use holdfast_crds::{
    Blocked,
    document::{Label, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    block,
    facts::{CLOCK_TOLERANCE, CopyFacts, Mark, SourceFacts},
    keep::{self, Why},
    slot::Period,
};
use crate::chain::Chains;

/// What happens to a copy next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It stays.
    Stay,
    /// It stays, and its mark is withdrawn.
    Unmark(Ulid),
    /// Nothing keeps it: it gets a mark.
    Mark { not_before: Timestamp },
    /// It is marked, and its time has not come or something stands in the way.
    Wait,
    /// It is removed.
    Remove(Ulid),
}

/// What is decided about a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub run: Label,
    /// What keeps it; empty where nothing does.
    pub kept: Vec<Why>,
    pub next: Next,
}

impl Verdict {
    /// Whether anything but the store's own lock keeps it.
    pub fn stays(&self) -> bool {
        !self.kept.iter().all(Why::is_lock)
    }

    /// The latest time that any reason names; none where one has no end.
    pub fn until(&self) -> Option<Timestamp> {
        let ends = self.kept.iter().map(|why| match why {
            Why::Until { until, .. } | Why::Locked(until) | Why::Reading(until) => Some(*until),
            // These go by as others come; they promise nothing.
            Why::Young | Why::InUse => Some(Timestamp::MIN),
            _ => None,
        });
        ends.collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
            .filter(|until| *until > Timestamp::MIN)
    }

    /// Until when it stays at least, whatever else may keep it: the latest time that a reason names.
    pub fn at_least_until(&self) -> Option<Timestamp> {
        let ends = self.kept.iter().filter_map(|why| match why {
            Why::Until { until, .. } | Why::Locked(until) | Why::Reading(until) => Some(*until),
            _ => None,
        });
        ends.max()
    }

    /// Why, for an auditor: the strongest reasons first, at most three.
    pub fn why(&self) -> String {
        if self.kept.is_empty() {
            return match self.next {
                Next::Mark { not_before } => format!("nothing keeps it; it is removed after {not_before}"),
                Next::Wait => "nothing keeps it; it is marked".to_owned(),
                Next::Remove(_) => "nothing keeps it".to_owned(),
                Next::Stay | Next::Unmark(_) => "nothing keeps it; it is not touched while retention of the source stands still".to_owned(),
            };
        }
        let mut kept: Vec<_> = self.kept.iter().collect();
        kept.sort();
        let shown: Vec<_> = kept.iter().take(3).map(ToString::to_string).collect();
        match kept.len() {
            0..=3 => shown.join("; "),
            count => format!("{}; and {} more", shown.join("; "), count - 3),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePlan {
    /// By order of the copies.
    pub verdicts: Vec<Verdict>,
    /// What is to be recorded: run, rule, until.
    pub retain: Vec<(Label, String, Timestamp)>,
    /// Copies to remove, in this order: what needs another copy goes before it.
    pub remove: Vec<Label>,
    /// Why nothing, or not everything, is removed.
    pub blocked: Option<Blocked>,
    /// Slots that no good copy has.
    pub empty_slots: Vec<String>,
    /// That the copies are of another server than those before, as nobody accepted, and what to do.
    pub identity: Option<String>,
    /// SHA-256 of what the decision was made from.
    pub input: Sha256,
}

/// Decides.
pub fn plan(facts: &SourceFacts) -> SourcePlan {
    let mut facts = facts.clone();
    facts.copies.sort_by(|a, b| a.order().cmp(&b.order()));
    facts.floors.sort_unstable();
    for copy in &mut facts.copies {
        copy.retained.sort_unstable();
        copy.holds.sort_unstable();
        copy.parents.sort_unstable();
    }
    let facts = &facts;
    let chains = Chains::of(&facts.copies);
    let unreliable = block::unreliable(facts, &chains);
    let mut kept = keep::keep(facts, &chains);
    if unreliable.is_some() {
        // The copy that a slot belongs to may be among those that were not read.
        kept.records.retain(|(_, rule, _)| !Period::is_slot(rule));
    }
    let unhealthy = unreliable.is_none().then(|| block::unhealthy(facts)).flatten();
    let unkept: Vec<_> = (0..facts.copies.len()).filter(|&position| kept.why[position].is_empty()).collect();
    let due: Vec<_> = unkept
        .iter()
        .copied()
        .filter(|&position| {
            facts.copies[position]
                .mark
                .as_ref()
                .is_some_and(|mark| mark.not_before <= facts.now && believable(mark, &facts.copies[position], facts.now))
        })
        .collect();
    let brake = block::unforeseen(facts, &chains, &due);
    let surprise = brake.as_ref().map_or_else(HashSet::new, |(surprise, _)| surprise.clone());
    let standing = unreliable.is_some() || unhealthy.is_some();
    let mut removable = vec![false; facts.copies.len()];
    if !standing {
        for position in due.iter().filter(|position| !surprise.contains(position)) {
            removable[*position] = true;
        }
        // What a copy that waits needs waits with it.
        let waiting = chains.closure(unkept.iter().copied().filter(|&position| !removable[position]));
        for position in (0..removable.len()).filter(|position| waiting[*position]) {
            removable[position] = false;
        }
    }
    let verdicts = facts.copies.iter().zip(&kept.why).enumerate().map(|(position, (copy, why))| {
        let next = match (&copy.mark, why.is_empty()) {
            (None, false) => Next::Stay,
            // A lock ends by itself: it withdraws no mark, the removal waits for it.
            (Some(_), false) if why.iter().all(Why::is_lock) => Next::Wait,
            (Some(mark), false) => Next::Unmark(mark.ulid.clone()),
            // It was made while a clock was wrong: the next pass makes another.
            (Some(mark), true) if !believable(mark, copy, facts.now) => Next::Unmark(mark.ulid.clone()),
            (None, true) if unreliable.is_some() => Next::Stay,
            (None, true) => Next::Mark {
                not_before: facts.now.checked_add(delay(facts, copy)).unwrap_or(Timestamp::MAX),
            },
            (Some(mark), true) if removable[position] => Next::Remove(mark.ulid.clone()),
            (Some(_), true) => Next::Wait,
        };
        Verdict {
            run: copy.run.clone(),
            kept: why.clone(),
            next,
        }
    });
    let verdicts: Vec<_> = verdicts.collect();
    let name = |position: &usize| facts.copies[*position].run.clone();
    let records = kept.records.iter();
    SourcePlan {
        verdicts,
        retain: records
            .map(|(position, rule, until)| (name(position), rule.clone(), *until))
            .collect(),
        remove: chains.removal_order(&facts.copies, &removable).iter().map(name).collect(),
        blocked: unreliable.or(unhealthy).or_else(|| brake.map(|(_, blocked)| blocked)),
        empty_slots: kept.empty_slots,
        identity: kept.identity,
        input: input_digest(facts),
    }
}

/// How long a mark waits: what the copy's schedule says, or the longest of all.
fn delay(facts: &SourceFacts, copy: &CopyFacts) -> SignedDuration {
    let own = copy.schedule.as_ref().and_then(|schedule| facts.rules.get(schedule));
    let delay = match own {
        Some(rules) => Some(rules.retention.deletion_delay.signed()),
        None => facts.rules.values().map(|rules| rules.retention.deletion_delay.signed()).max(),
    };
    delay.unwrap_or_else(|| holdfast_crds::Retention::default().deletion_delay.signed())
}

/// Whether a mark was made by a clock that can have been right: not before its copy, and not in the future.
fn believable(mark: &Mark, copy: &CopyFacts, now: Timestamp) -> bool {
    let in_future = |at: Timestamp| at.duration_since(now) > CLOCK_TOLERANCE;
    let before_copy = copy.committed_at.duration_since(mark.at) > CLOCK_TOLERANCE && !in_future(copy.committed_at);
    !in_future(mark.at) && !before_copy
}

/// Of all that was decided from, but for the time: two passes with the same digest saw the same. Line by line, each digest over the one before
/// it, so that the text of a large source is never in memory.
fn input_digest(facts: &SourceFacts) -> Sha256 {
    let mut digest = Sha256::of(b"");
    let mut add = |line: &str| digest = Sha256::of(&[&digest.0, line.as_bytes()].concat());
    for copy in &facts.copies {
        let good = copy.problem.as_deref().unwrap_or("good");
        add(&format!(
            "{} {} {good} {:?} {:?}",
            copy.run, copy.outcome, copy.retained, copy.holds
        ));
    }
    for (schedule, rules) in &facts.rules {
        add(&format!("{schedule:?} {} {:?}", rules.zone, rules.retention));
    }
    let mut rest: Vec<_> = facts.floors.iter().map(|floor| format!("{floor:?}")).collect();
    rest.extend(facts.accepted.iter().map(|accepted| format!("{accepted:?}")));
    rest.sort_unstable();
    add(&format!("{rest:?} {:?}", facts.retired));
    digest
}
