//! From what was read to what is decided from.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::document::{Acceptance, Fact, Label, Record, ScheduleName, SourceFact};
use holdfast_crds::{KeepSchedule, KeepSource, KeepTask, ProposedRules, Retention, SHORTEST_DELETION_DELAY};
use holdfast_policy::retention::{self, CopyFacts, CopyType, Floor, Mark, Rules, SourceFacts};
use holdfast_policy::tick::Zone;
use jiff::{SignedDuration, Timestamp};

use super::disposing;
use super::holds::Holds;
use super::inventory::SourceFolder;
use super::read::{Copy, Run, SourceWords, State};
use super::removal;

/// The rules of each schedule: those of the task, else the last that were recorded.
pub fn rules(
    task: &KeepTask,
    words: &SourceWords,
    namespace: &Label,
    now: Timestamp,
    problems: &mut Vec<String>,
) -> BTreeMap<ScheduleName, Rules> {
    let mut zone = |name: &str, schedule: &ScheduleName| match Zone::named(name) {
        Ok(zone) => Some(zone),
        Err(error) => {
            problems.push(format!("the rules of schedule {} cannot be used: {error}", schedule.name));
            None
        }
    };
    let mut rules = BTreeMap::new();
    for recorded in &words.policies {
        if let Some(zone) = zone(&recorded.time_zone, &recorded.schedule) {
            let known = Rules {
                retention: followed(&recorded.retention),
                zone,
                since: recorded.since,
                interval: recorded.interval_seconds.map(interval),
                gone: true,
            };
            rules.insert(recorded.schedule.clone(), known);
        }
    }
    for wanted in task.schedules.iter().filter(|wanted| ours(&wanted.schedule, namespace)) {
        let Some(zone) = zone(&wanted.time_zone, &wanted.schedule) else {
            continue;
        };
        let since = match rules.get(&wanted.schedule) {
            Some(known) if known.retention == followed(&wanted.retention) && known.zone == zone => known.since,
            _ => now,
        };
        let current = Rules {
            retention: followed(&wanted.retention),
            zone,
            since,
            interval: Some(interval(wanted.interval_seconds)),
            gone: false,
        };
        rules.insert(wanted.schedule.clone(), current);
    }
    rules
}

/// Rules as they are followed: what was recorded before there was a shortest delay is followed with it.
fn followed(retention: &Retention) -> Retention {
    Retention {
        deletion_delay: retention.deletion_delay.max(SHORTEST_DELETION_DELAY),
        ..retention.clone()
    }
}

fn interval(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Puts rules that are not applied yet in the place of those in force.
pub fn propose(facts: &mut SourceFacts, proposed: &[ProposedRules], namespace: &Label) {
    for wanted in proposed {
        let each = || {
            let made = facts.copies.iter().filter_map(|copy| copy.schedule.clone());
            made.chain(facts.rules.keys().cloned()).collect()
        };
        let schedules: BTreeSet<_> = wanted.schedule.clone().map_or_else(each, |schedule| [schedule].into());
        for schedule in schedules.into_iter().filter(|schedule| ours(schedule, namespace)) {
            let known = facts.rules.get(&schedule);
            let zone = match (&wanted.time_zone, known) {
                (None, Some(known)) => Ok(known.zone.clone()),
                (named, _) => Zone::named(named.as_deref().unwrap_or("UTC")),
            };
            let zone = match zone {
                Ok(zone) => zone,
                Err(error) => {
                    facts.problems.push(format!("the proposed rules cannot be used: {error}"));
                    return;
                }
            };
            let rules = Rules {
                since: match known {
                    Some(known) if known.retention == wanted.retention && known.zone == zone => known.since,
                    _ => facts.now,
                },
                interval: wanted
                    .interval_seconds
                    .map(interval)
                    .or_else(|| known.and_then(|known| known.interval)),
                retention: wanted.retention.clone(),
                zone,
                gone: known.is_some_and(|known| known.gone) && wanted.interval_seconds.is_none(),
            };
            facts.rules.insert(schedule, rules);
        }
    }
}

/// Whether a schedule's rules are for copies of this namespace.
fn ours(schedule: &ScheduleName, namespace: &Label) -> bool {
    schedule.namespace.as_deref().is_none_or(|of| of == namespace.as_str())
}

/// The rules that are not recorded yet, for copies that this source has.
pub fn unrecorded(task: &KeepTask, words: &SourceWords, copies: &[CopyFacts]) -> Vec<SourceFact> {
    let made = |schedule: &ScheduleName| copies.iter().any(|copy| copy.schedule.as_ref() == Some(schedule));
    let known = |wanted: &KeepSchedule| {
        words.policies.iter().any(|recorded| {
            recorded.schedule == wanted.schedule
                && recorded.time_zone == wanted.time_zone
                && recorded.retention == wanted.retention
                && recorded.interval_seconds == Some(wanted.interval_seconds)
        })
    };
    task.schedules
        .iter()
        .filter(|wanted| made(&wanted.schedule) && !known(wanted))
        .map(|wanted| SourceFact::Policy {
            schedule: wanted.schedule.clone(),
            time_zone: wanted.time_zone.clone(),
            retention: wanted.retention.clone(),
            interval_seconds: Some(wanted.interval_seconds),
        })
        .collect()
}

/// What the operator says of a source and the store does not know yet.
pub fn unspoken(told: Option<&KeepSource>, words: &SourceWords) -> Vec<SourceFact> {
    let Some(told) = told else { return Vec::new() };
    let mut facts = Vec::new();
    match (&told.retired, &words.retired) {
        (Some(said), known) if known.as_ref().is_none_or(|known| known.who != said.who || known.why != said.why) => {
            facts.push(SourceFact::Retired {
                who: said.who.clone(),
                why: said.why.clone(),
            });
        }
        (None, Some(known)) => facts.push(SourceFact::Unretired { who: known.who.clone() }),
        _ => {}
    }
    for accepted in &told.accepted {
        if !words.accepted.contains(&accepted.what) {
            facts.push(SourceFact::Accepted {
                what: accepted.what.clone(),
                who: accepted.said.who.clone(),
                why: accepted.said.why.clone(),
            });
        }
    }
    facts
}

/// The copies of a source: committed and not removed.
pub fn copies(runs: &[Run], holds: &Holds, task: &KeepTask, now: Timestamp) -> Vec<CopyFacts> {
    let copies = runs
        .iter()
        .filter(|run| run.removed().is_none())
        .filter_map(|run| match &run.state {
            State::Copy(copy) => Some(facts_of(run, copy, holds, task, now)),
            // What it was is not known: it stands for itself, so that it is counted and nothing of the source is removed.
            State::Unreadable { .. } | State::Open | State::Abandoned { .. } => None,
        });
    copies.collect()
}

fn facts_of(run: &Run, copy: &Copy, holds: &Holds, task: &KeepTask, now: Timestamp) -> CopyFacts {
    let records = &run.records;
    let retained = records.iter().filter_map(|record| match &record.fact {
        Fact::Retain { until, rule } => Some((rule.clone(), *until)),
        _ => None,
    });
    let reading = records.iter().filter_map(|record| match &record.fact {
        Fact::Reading { until, .. } => Some(*until),
        _ => None,
    });
    let place = run.path.to_string();
    let candidate = removal::candidate(&run.path, &place, copy);
    let shredded = records.iter().find_map(|record| match &record.fact {
        Fact::Shredded { disposal, .. } => Some(disposal),
        _ => None,
    });
    let problem = shredded
        .map(|named| match disposing::begun(run, copy, task) {
            Some(disposal) => format!("disposal {disposal} destroys it"),
            None => format!("disposal {named} destroyed keys of it, says a record, and no approved request {named} names it"),
        })
        .or_else(|| retention::standing_problem(records))
        .or_else(|| (!copy.problems.is_empty()).then(|| copy.problems.join("; ")));
    CopyFacts {
        run: run.path.run.clone(),
        manifest: copy.manifest_digest,
        outcome: copy.outcome_digest,
        copy_type: CopyType::of(&copy.kind),
        tick: copy.tick,
        recovery_point: copy.recovery_point,
        committed_at: copy.committed_at,
        schedule: copy.schedule.clone(),
        keep_until: copy.keep_until,
        parents: copy.parents.clone(),
        server: copy.server.clone(),
        bytes: copy.bytes,
        problem,
        unreadable: run.unreadable.clone(),
        retained: retained.collect(),
        holds: holds.of(&candidate, records, now),
        locked_until: None,
        legal_hold: false,
        mark: active_mark(records),
        reading_until: reading.max(),
        in_use: task.in_use.contains(&run.path),
    }
}

/// The newest mark that was not withdrawn.
pub fn active_mark(records: &[Record]) -> Option<Mark> {
    let withdrawn: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.fact {
            Fact::Unmark { mark, .. } => Some(mark),
            _ => None,
        })
        .collect();
    let marks = records.iter().filter_map(|record| match &record.fact {
        Fact::Mark { not_before, .. } if !withdrawn.contains(&&record.ulid) => Some(Mark {
            ulid: record.ulid.clone(),
            at: record.at,
            not_before: *not_before,
        }),
        _ => None,
    });
    marks.max_by(|a, b| a.ulid.cmp(&b.ulid))
}

/// All that the plan for a source is made from.
pub struct Gathered<'a> {
    pub folder: &'a SourceFolder,
    pub runs: &'a [Run],
    pub words: &'a SourceWords,
    pub holds: &'a Holds,
    pub task: &'a KeepTask,
    pub now: Timestamp,
}

impl Gathered<'_> {
    pub fn told(&self) -> Option<&KeepSource> {
        let folder = self.folder;
        self.task
            .sources
            .iter()
            .find(|source| source.namespace == folder.namespace && source.source == folder.source)
    }

    /// Why it is not known what keeps these copies of the source.
    fn untold(&self, copies: &[CopyFacts]) -> Option<String> {
        let cut = &self.task.cut;
        let sources = || "there are more sources than a keeper can be told of at once, and this one is not told to this pass".to_owned();
        let told = |schedule: &ScheduleName| self.task.schedules.iter().any(|told| told.schedule == *schedule);
        let schedules = || {
            let made = copies.iter().filter_map(|copy| copy.schedule.as_ref());
            let missing = made.filter(|schedule| !told(schedule)).min()?;
            Some(format!(
                "there are more schedules than a keeper can be told of, and {} of a copy is not told or gone",
                missing.name
            ))
        };
        self.task
            .untold
            .clone()
            .or_else(|| ((cut.sources || cut.counted) && self.told().is_none()).then(sources))
            .or_else(|| cut.schedules.then(schedules).flatten())
    }

    pub fn facts(&self) -> SourceFacts {
        let mut problems = self.holds.unreadable.clone();
        problems.extend(self.words.unreadable.iter().cloned());
        for run in self.runs {
            if let State::Unreadable { problem, .. } = &run.state {
                problems.push(format!("{}: {problem}", run.path));
            }
        }
        let rules = rules(self.task, self.words, &self.folder.namespace, self.now, &mut problems);
        let told = self.told();
        let floors = self
            .task
            .floors
            .iter()
            .filter(|floor| floor.namespaces.contains(&self.folder.namespace));
        let retired = match told {
            Some(told) => told.retired.as_ref().map(|said| (&said.who, &said.why)),
            // The object is gone: what was said last holds.
            None => self.words.retired.as_ref().map(|said| (&said.who, &said.why)),
        };
        let copies = copies(self.runs, self.holds, self.task, self.now);
        SourceFacts {
            now: self.now,
            untold: self.untold(&copies),
            copies,
            rules,
            floors: floors
                .map(|floor| Floor {
                    policy: floor.policy.clone(),
                    retention: floor
                        .retention_seconds
                        .map(|seconds| SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))),
                    good_copies: floor.good_copies,
                })
                .collect(),
            retired: retired.map(|(who, why)| format!("{who}: {why}")),
            accepted: self.accepted(told),
            copies_before: told.and_then(|told| Some(told.copies?.saturating_sub(self.removed_since(told.copies_as_of)))),
            counted_at: told.and_then(|told| told.copies_as_of),
            removed_at: self.removed_at(),
            problems,
        }
    }

    /// Copies that were removed after they had been counted.
    fn removed_since(&self, counted: Option<Timestamp>) -> u64 {
        let Some(counted) = counted else { return 0 };
        let was_counted = |run: &&Run| match &run.state {
            State::Copy(copy) => copy.committed_at <= counted,
            State::Open | State::Abandoned { .. } | State::Unreadable { .. } => true,
        };
        let removed = self.runs.iter().filter(was_counted).filter_map(Run::removed);
        removed.filter(|record| record.at >= counted).count() as u64
    }

    /// When retention last removed a copy, as far as that is still recorded.
    fn removed_at(&self) -> Option<Timestamp> {
        let removed = self.runs.iter().filter_map(Run::removed);
        let by_mark = removed.filter(|record| matches!(record.fact, Fact::Removed { mark: Some(_), .. }));
        by_mark.map(|record| record.at).max()
    }

    fn accepted(&self, told: Option<&KeepSource>) -> Vec<Acceptance> {
        let now = told.into_iter().flat_map(|told| &told.accepted).map(|accepted| &accepted.what);
        self.words.accepted.iter().chain(now).cloned().collect()
    }
}
