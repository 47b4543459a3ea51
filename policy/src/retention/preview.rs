//! What would become of the copies at a later time.

use std::collections::HashMap;

use holdfast_crds::{
    Span,
    document::{Label, Ulid},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    facts::{CopyFacts, Mark, SourceFacts},
    plan::{Next, SourcePlan, plan},
};

/// The plan of a pass at `at`, if until then keepers come as usual and no other copy does. Of the past: the plan of now. `holds` tells which
/// holds name a copy at a time: some end until then.
///
/// That no copy comes is how the preview is asked, not how the source does: its newest copy is not too old for it.
pub fn preview(facts: &SourceFacts, at: Timestamp, holds: impl Fn(&CopyFacts, Timestamp) -> Vec<Label>) -> SourcePlan {
    if at <= facts.now {
        return plan(facts);
    }
    let today = plan(facts);
    let mut later = facts.clone();
    for rules in later.rules.values_mut() {
        rules.interval = None;
    }
    // What is marked then was marked by a pass in time. The longest delay is that of the last mark that can be due.
    let delays = facts.rules.values().map(|rules| rules.retention.deletion_delay);
    let delay = delays.max().unwrap_or(Span::from_hours(48)).signed();
    follow(&mut later, &today);
    let marked = at.checked_sub(delay + SignedDuration::from_secs(1)).unwrap_or(Timestamp::MIN);
    let go_to = |later: &mut SourceFacts, at: Timestamp| {
        later.now = at;
        for copy in &mut later.copies {
            copy.holds = holds(copy, at);
        }
    };
    if marked > facts.now {
        go_to(&mut later, marked);
        let then = plan(&later);
        follow(&mut later, &then);
    }
    go_to(&mut later, at);
    plan(&later)
}

/// Does to the facts what a plan's records say.
fn follow(facts: &mut SourceFacts, plan: &SourcePlan) {
    let now = facts.now;
    let mut next: HashMap<_, _> = plan.verdicts.iter().map(|verdict| (&verdict.run, &verdict.next)).collect();
    let mut recorded: HashMap<_, Vec<_>> = HashMap::new();
    for (run, rule, until) in &plan.retain {
        recorded.entry(run).or_default().push((rule.clone(), *until));
    }
    for copy in &mut facts.copies {
        match next.remove(&copy.run) {
            Some(Next::Mark { not_before }) => {
                copy.mark = Some(Mark {
                    ulid: Ulid::new(now, [0; 10]),
                    at: now,
                    not_before: *not_before,
                });
            }
            Some(Next::Unmark(_)) => copy.mark = None,
            _ => {}
        }
        copy.retained.extend(recorded.remove(&copy.run).into_iter().flatten());
    }
}
