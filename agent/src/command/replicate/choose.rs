//! What is to be brought, and what is not, from what was read in the two stores. Nothing here does I/O.

use std::collections::{BTreeSet, HashMap, HashSet};

use holdfast_crds::document::{Fact, Label, Sha256};
use holdfast_crds::{CopyTask, KeepTask, Reason, ReplicaState};
use holdfast_policy::retention::{self, CopyFacts};
use jiff::Timestamp;

use crate::command::keep::{
    disposal,
    facts::{self, Gathered},
    holds::Holds,
    inventory::SourceFolder,
    read::{Copy, Run, SourceWords, State},
    removal,
};

/// What a store has of the source.
pub struct Catalogue {
    pub folder: SourceFolder,
    /// By name.
    pub runs: Vec<Run>,
}

impl Catalogue {
    fn run(&self, run: &Label) -> Option<&Run> {
        let position = self.runs.binary_search_by(|known| known.path.run.cmp(run));
        position.ok().map(|position| &self.runs[position])
    }

    pub fn copy(&self, run: &Label) -> Option<&Copy> {
        match &self.run(run)?.state {
            State::Copy(copy) => Some(copy),
            _ => None,
        }
    }

    /// The first version of the run's register: the one that counts.
    pub fn version(&self, run: &Label) -> Option<String> {
        self.folder.runs.get(run)?.outcome.first()?.version.clone()
    }

    /// Whether somebody wrote or deleted over the register.
    fn altered(&self, run: &Label) -> bool {
        self.folder.runs.get(run).is_some_and(|run| run.outcome.altered())
    }
}

/// How a copy stands, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: ReplicaState,
    pub reason: Option<Reason>,
    pub message: Option<String>,
}

impl Standing {
    pub fn new(state: ReplicaState) -> Self {
        Self {
            state,
            reason: None,
            message: None,
        }
    }

    pub fn told(state: ReplicaState, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            ..Self::new(state)
        }
    }

    pub fn problem(state: ReplicaState, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            ..Self::told(state, message)
        }
    }
}

/// The two stores as they were read, and what is asked for.
pub struct Sides<'a> {
    pub task: &'a CopyTask,
    /// Whether the store that is filled takes only encrypted copies.
    pub encrypts: bool,
    pub from: Catalogue,
    pub to: Catalogue,
    /// The run of each manifest that either store has.
    digests: HashMap<Sha256, Label>,
}

impl<'a> Sides<'a> {
    pub fn new(task: &'a CopyTask, encrypts: bool, from: Catalogue, to: Catalogue) -> Self {
        let copies = |catalogue: &Catalogue| -> Vec<_> {
            let copies = catalogue.runs.iter().filter_map(|run| match &run.state {
                State::Copy(copy) => Some((copy.manifest_digest, run.path.run.clone())),
                _ => None,
            });
            copies.collect()
        };
        let digests = copies(&to).into_iter().chain(copies(&from)).collect();
        Self {
            task,
            encrypts,
            from,
            to,
            digests,
        }
    }

    /// How the store that is filled stands towards a run. `Missing` is what is to be brought, as far as the run alone is concerned.
    pub fn standing(&self, run: &Label) -> Standing {
        self.standing_there(run).unwrap_or_else(|| self.standing_here(run))
    }

    /// What the store that is filled says itself: its register has the first word.
    fn standing_there(&self, run: &Label) -> Option<Standing> {
        let there = self.to.run(run)?;
        let unreadable = |reason, problem: &str| {
            let message = format!("in the store that is filled: {problem}");
            Some(Standing::problem(ReplicaState::Unreadable, reason, message))
        };
        if let Some(problem) = &there.unreadable {
            return unreadable(Reason::FormatUnknown, problem);
        }
        if let Some(message) = gone(there) {
            return Some(Standing::told(ReplicaState::Removed, message));
        }
        match &there.state {
            State::Open => None,
            State::Unreadable { reason, problem } => unreadable(*reason, problem),
            State::Abandoned { at } => Some(Standing::told(
                ReplicaState::Abandoned,
                format!("given up in the register of the store that is filled at {at}"),
            )),
            State::Copy(_) if self.to.altered(run) => unreadable(Reason::Tampered, "its register was overwritten or hidden"),
            State::Copy(copy) => Some(match self.from.copy(run) {
                Some(other) if other.manifest_digest != copy.manifest_digest => Standing::problem(
                    ReplicaState::Divergent,
                    Reason::Divergent,
                    format!(
                        "the manifest's SHA-256 is {} where it would come from, and {} in the store that is filled",
                        other.manifest_digest, copy.manifest_digest
                    ),
                ),
                _ => match facts::active_mark(&there.records) {
                    Some(mark) => Standing::told(
                        ReplicaState::Removed,
                        format!("nothing keeps it there: it is removed after {}", mark.not_before),
                    ),
                    None => Standing::new(ReplicaState::Present),
                },
            }),
        }
    }

    /// What the store that has it says.
    fn standing_here(&self, run: &Label) -> Standing {
        let missing = |why: &str| Standing::problem(ReplicaState::NotFound, Reason::CopyNotFound, why);
        let unreadable = |reason, problem: &str| Standing::problem(ReplicaState::Unreadable, reason, problem);
        let Some(here) = self.from.run(run) else {
            return missing("the store that is read knows no such run");
        };
        if let Some(problem) = &here.unreadable {
            return unreadable(Reason::FormatUnknown, problem);
        }
        let copy = match &here.state {
            State::Copy(copy) => copy,
            State::Open => return missing("the run has no outcome"),
            State::Abandoned { at } => return missing(&format!("the run was given up at {at}")),
            State::Unreadable { reason, problem } => return unreadable(*reason, problem),
        };
        if self.from.altered(run) {
            return unreadable(Reason::Tampered, "its register was overwritten or hidden after it had been written");
        }
        if let Some(message) = gone(here) {
            return Standing::told(ReplicaState::Going, message);
        }
        if let Some(mark) = facts::active_mark(&here.records) {
            return Standing::told(
                ReplicaState::Going,
                format!("nothing keeps it: it is removed after {}", mark.not_before),
            );
        }
        let place = here.path.to_string();
        let disposed = |disposal| disposal::names(disposal, &removal::candidate(&here.path, &place, copy));
        if let Some(disposal) = self.task.disposals.iter().find(|disposal| disposed(disposal)) {
            let message = format!("disposal {}/{} names it", disposal.namespace, disposal.name);
            return Standing::told(ReplicaState::Going, message);
        }
        if let Some(problem) = retention::standing_problem(&here.records) {
            return Standing::told(ReplicaState::NotGood, problem);
        }
        if self.encrypts && !copy.encrypted {
            let message =
                "it is not encrypted, and the store that is filled takes only encrypted copies; the stores of a schedule must agree";
            return Standing::problem(ReplicaState::NotEncrypted, Reason::InvalidSpec, message);
        }
        Standing::new(ReplicaState::Missing)
    }

    /// The runs that are asked for: the newest first, what cannot be read last.
    fn asked(&self) -> Vec<Label> {
        let types: HashSet<_> = self.task.types.iter().map(ToString::to_string).collect();
        let of_type = |run: &Run| match &run.state {
            State::Copy(copy) => types.is_empty() || types.contains(&copy.kind),
            State::Unreadable { .. } => true,
            State::Open | State::Abandoned { .. } => false,
        };
        let mut asked: Vec<_> = if self.task.runs.is_empty() {
            let wanted = self.from.runs.iter().filter(|run| of_type(run));
            wanted.map(|run| run.path.run.clone()).collect()
        } else {
            self.task.runs.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
        };
        asked.sort_by_cached_key(|run| std::cmp::Reverse(self.from.copy(run).map(order)));
        asked
    }

    /// The runs whose copies a copy needs, as far as either store knows them; none where one of them is not known.
    pub fn parents(&self, run: &Label) -> Option<Vec<Label>> {
        let parents = &self.from.copy(run)?.parents;
        parents.iter().map(|parent| self.digests.get(parent).cloned()).collect()
    }

    /// Every copy that is asked for or needed by one that is, in the order in which they are to be brought: the newest first, and what a
    /// copy needs before it.
    pub fn order(&self) -> Vec<(Label, Standing)> {
        let mut order: Vec<(Label, Standing)> = Vec::new();
        let mut states: HashMap<Label, ReplicaState> = HashMap::new();
        let mut entered: HashSet<Label> = HashSet::new();
        for asked in self.asked() {
            let mut stack = vec![asked];
            while let Some(run) = stack.pop() {
                if states.contains_key(&run) {
                    continue;
                }
                let mut standing = self.standing(&run);
                if standing.state == ReplicaState::Missing {
                    let parents = self.parents(&run);
                    let first_time = entered.insert(run.clone());
                    let unknown = parents.iter().flatten().filter(|parent| !states.contains_key(*parent));
                    let unknown: Vec<_> = unknown.filter(|parent| !entered.contains(*parent)).cloned().collect();
                    if first_time && !unknown.is_empty() {
                        stack.push(run);
                        stack.extend(unknown);
                        continue;
                    }
                    let good = |parent: &Label| states.get(parent).is_some_and(|state| brings(*state));
                    if !parents.is_some_and(|parents| parents.iter().all(good)) {
                        standing = parent_missing();
                    }
                }
                states.insert(run.clone(), standing.state);
                order.push((run, standing));
            }
        }
        order
    }

    /// Takes out what no rule of the store that is filled would keep, going by all that it would then have.
    pub fn keep(&self, order: &mut [(Label, Standing)], words: &SourceWords, now: Timestamp) {
        let rules = KeepTask {
            now,
            schedules: self.task.schedules.clone(),
            floors: self.task.floors.clone(),
            ..KeepTask::default()
        };
        let holds = Holds::default();
        let gathered = Gathered {
            folder: &self.to.folder,
            runs: &self.to.runs,
            words,
            holds: &holds,
            task: &rules,
            now,
        };
        let mut facts = gathered.facts();
        let missing = |standing: &Standing| standing.state == ReplicaState::Missing;
        let wanted: HashSet<_> = order
            .iter()
            .filter(|(_, standing)| missing(standing))
            .map(|(run, _)| run.clone())
            .collect();
        let mut candidates = facts::copies(&self.from.runs, &holds, &rules, now);
        candidates.retain(|copy| wanted.contains(&copy.run));
        // What the other store recorded binds that store alone.
        facts.copies.extend(candidates.into_iter().map(|copy| CopyFacts {
            retained: Vec::new(),
            reading_until: None,
            ..copy
        }));
        let plan = retention::plan(&facts);
        let unkept = plan.verdicts.iter().filter(|verdict| verdict.kept.is_empty());
        let unkept: HashSet<_> = unkept.map(|verdict| &verdict.run).collect();
        for (run, standing) in order {
            if missing(standing) && unkept.contains(run) {
                *standing = Standing::told(ReplicaState::NotKept, "no rule of the store that is filled would keep it");
            }
        }
    }
}

/// Whether a copy that needs one in this state can be brought.
pub fn brings(state: ReplicaState) -> bool {
    state.is_there() || state == ReplicaState::Missing
}

/// A copy that it needs is not there.
pub fn parent_missing() -> Standing {
    let message = "a copy that it needs is not in the store that is filled, or is about to be removed there";
    Standing::problem(ReplicaState::ParentMissing, Reason::CopyNotFound, message)
}

/// By tick, as retention orders.
fn order(copy: &Copy) -> (Timestamp, Timestamp) {
    (copy.tick.unwrap_or(copy.committed_at), copy.recovery_point)
}

/// Why a run's copy is none any more.
fn gone(run: &Run) -> Option<String> {
    if let Some(removed) = run.removed() {
        let Fact::Removed { reason, .. } = &removed.fact else { return None };
        return Some(format!("removed at {}: {reason}", removed.at));
    }
    let shredded = run.records.iter().find(|record| matches!(record.fact, Fact::Shredded { .. }))?;
    Some(format!("its keys were destroyed on purpose at {}", shredded.at))
}
