//! A keeper: it decides by `holdfast_policy`, from what it read in its pass, and acts step by step.

use std::collections::BTreeMap;

use holdfast_crds::Retention;
use holdfast_crds::document::{ScheduleName, Sha256, Ulid};
use holdfast_policy::hold::{self, Candidate};
use holdfast_policy::retention::{self, CopyFacts, CopyType, Mark, Next, SourceFacts, SourcePlan, plan};
use holdfast_policy::tick::Zone;

use crate::world::{
    Folder, Marked, Minute, Object, Place, RUNS, Register, Rules, UNDER_WAY, Word, World, label, placing, records, releasing, time,
};

/// As long after its start it deletes.
const DELETES_FOR: Minute = 10 - UNDER_WAY;
/// What nobody wrote to for so long is given up.
const STALE: Minute = 7 * 24 * 60;
/// What pods left that lost goes so long after the last moment in which they could have committed.
const LOSER: Minute = 24 * 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Its time and epoch are fixed.
    Begun,
    /// Its hold is recorded, and all is read.
    Read,
    /// What it says of the copies is recorded.
    Recorded,
    /// Goes through what is to be removed, then through what is left over.
    Choosing,
    /// Asked whether it may: about to send the record of the removal.
    Removing { run: u8, asked: Minute },
    /// Asked whether it may: about to close the register of a run that nobody finished.
    Abandoning { run: u8, asked: Minute },
    /// Deletes these.
    Deleting { run: u8, parts: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keeper {
    pub cluster: u8,
    pub store: u8,
    pub told: Object,
    pub step: Step,
    pub started: Minute,
    pub epoch: u8,
    pub hold: Vec<Word>,
    pub seen: Vec<Folder>,
    pub remove: Vec<u8>,
    pub clear: Vec<u8>,
}

impl Keeper {
    /// Begins, if the store is its cluster's.
    pub fn start(world: &World, cluster: u8, store: u8, told: Object) -> Option<Self> {
        let place = &world.places[usize::from(store)];
        (place.owner == cluster).then(|| Self {
            cluster,
            store,
            told,
            step: Step::Begun,
            started: world.now,
            epoch: place.epoch,
            hold: Vec::new(),
            seen: Vec::new(),
            remove: Vec::new(),
            clear: Vec::new(),
        })
    }

    /// What it decides from: all that it read, at the time at which it began.
    fn plan(&self) -> SourcePlan {
        let hold = records(&self.hold);
        let copies = self.seen.iter().enumerate();
        let copies = copies.filter(|(_, folder)| folder.is_copy());
        plan(&SourceFacts {
            now: time(self.started),
            copies: copies.map(|(run, folder)| facts(run, folder, &hold, time(self.started))).collect(),
            rules: BTreeMap::from([(
                schedule(),
                retention::Rules {
                    retention: Retention {
                        keep_last: Some(1),
                        keep_within: Some("2d".parse().unwrap()),
                        min_good: 1,
                        ..Retention::default()
                    },
                    zone: Zone::named("UTC").unwrap(),
                    since: time(-30 * 24 * 60),
                    interval: None,
                    gone: false,
                },
            )]),
            floors: Vec::new(),
            retired: None,
            accepted: Vec::new(),
            copies_before: None,
            counted_at: None,
            removed_at: None,
            problems: Vec::new(),
            untold: None,
        })
    }

    /// The next step. None where there is none any more: it ended.
    pub fn step(mut self, world: &mut World, rules: Rules) -> Option<Self> {
        let now = world.now;
        let place = &mut world.places[usize::from(self.store)];
        self.step = match self.step {
            Step::Begun => {
                self.record_hold(place, now);
                self.seen = place.folders.to_vec();
                Step::Read
            }
            Step::Read => {
                self.record(place, &self.plan(), rules, now);
                Step::Recorded
            }
            Step::Recorded => {
                self.hold.clone_from(&place.hold);
                let plan = self.plan();
                let runs = || (0..3).filter(|run| usize::from(*run) < RUNS);
                let named = |label: &holdfast_crds::document::Label| runs().find(|run| name(usize::from(*run)) == *label);
                self.remove = plan.remove.iter().filter_map(named).collect();
                self.clear = runs()
                    .filter(|run| leftover(&self.seen[usize::from(*run)], self.started) != 0)
                    .collect();
                Step::Choosing
            }
            Step::Choosing => self.choose(place, rules, now)?,
            Step::Removing { asked, .. } if now - asked > UNDER_WAY && rules.in_time => return self.report(place, rules),
            Step::Removing { run, .. } => {
                let folder = &mut place.folders[usize::from(run)];
                folder.removed = folder.removed.or(Some(now));
                let parts = self.seen[usize::from(run)].parts;
                if place.epoch != self.epoch && now - place.since > UNDER_WAY {
                    world.broken = Some("a copy was removed under an epoch that had ended");
                }
                Step::Deleting { run, parts }
            }
            Step::Abandoning { asked, .. } if now - asked > UNDER_WAY => return self.report(place, rules),
            Step::Abandoning { run, .. } => {
                let folder = &mut place.folders[usize::from(run)];
                folder.write(rules, Register::Abandoned, now, now);
                match folder.register {
                    Some(Register::Abandoned) => Step::Deleting {
                        run,
                        parts: self.seen[usize::from(run)].parts,
                    },
                    _ => Step::Choosing,
                }
            }
            Step::Deleting { run, parts } => {
                // One object after the other.
                let one = parts & parts.wrapping_neg();
                let folder = &mut place.folders[usize::from(run)];
                if now >= folder.lock {
                    folder.parts &= !one;
                }
                match parts & !one {
                    0 if self.remove.is_empty() && self.clear.is_empty() => return self.report(place, rules),
                    0 => Step::Choosing,
                    parts => Step::Deleting { run, parts },
                }
            }
        };
        Some(self)
    }

    /// Records what its task says of the hold and the store does not know.
    fn record_hold(&mut self, place: &mut Place, now: Minute) {
        let ends = match self.told {
            Object::Absent => return self.hold.clone_from(&place.hold),
            Object::Placed => None,
            Object::Released { ends } => Some(ends),
        };
        for fact in hold::to_record(&place.records(), placing(), ends.map(releasing), time(now)) {
            place.hold.push(Word {
                at: now,
                number: u8::try_from(place.hold.len()).unwrap(),
                release: if fact == placing() { None } else { ends },
            });
        }
        self.hold.clone_from(&place.hold);
    }

    /// Asks whether it may, and turns to the next that is to go. None where nothing is left.
    fn choose(&mut self, place: &mut Place, rules: Rules, now: Minute) -> Option<Step> {
        let owned = place.owner == self.cluster && place.epoch == self.epoch || !rules.epoch;
        let in_time = now - self.started < DELETES_FOR || !rules.cool_down;
        if owned && in_time && !self.remove.is_empty() {
            let run = self.remove.remove(0);
            let parts = self.seen[usize::from(run)].parts;
            return Some(if rules.removed_first {
                Step::Removing { run, asked: now }
            } else {
                Step::Deleting { run, parts }
            });
        }
        if owned && in_time && !self.clear.is_empty() {
            let run = self.clear.remove(0);
            let folder = &self.seen[usize::from(run)];
            return Some(if folder.register.is_none() && rules.register_first {
                Step::Abandoning { run, asked: now }
            } else {
                let parts = leftover(folder, self.started);
                Step::Deleting { run, parts }
            });
        }
        self.report(place, rules);
        None
    }

    /// The operator reads its report, and says from when on the hold is in force.
    fn report(&self, place: &mut Place, rules: Rules) -> Option<Self> {
        let placed = self.hold.iter().filter(|word| word.release.is_none());
        let taken = placed.map(|word| word.at).max();
        if let Some(from) = taken.map(|at| if rules.from_record { at } else { self.started }) {
            place.in_force_at = Some(from + 10);
        }
        None
    }

    /// Writes what the plan says of copies that stay, and marks those that do not: records, then locks.
    fn record(&self, place: &mut Place, plan: &SourcePlan, rules: Rules, now: Minute) {
        let in_force = hold::in_force(&records(&self.hold), time(self.started));
        for run in 0..RUNS {
            let folder = &mut place.folders[run];
            if !self.seen[run].is_copy() {
                continue;
            }
            folder.held |= in_force;
            for (_, rule, until) in plan.retain.iter().filter(|(label, _, _)| *label == name(run)) {
                let until = Minute::try_from(until.duration_since(time(0)).as_mins()).unwrap();
                if !folder.retained.contains(&(rule.clone(), until)) {
                    folder.retained.push((rule.clone(), until));
                }
            }
            let wanted = folder.retained.iter().map(|(_, until)| *until).max();
            let wanted = if rules.locks_grow {
                wanted
            } else {
                // What is recorded already is not asked for again: as if each pass set what it grants itself.
                let granted = plan.retain.iter().any(|(label, _, _)| *label == name(run));
                wanted.map(|until| if granted { until } else { now })
            };
            if let Some(until) = wanted {
                folder.lock = if rules.locks_grow { folder.lock.max(until) } else { until };
                folder.locked_once = folder.locked_once.max(folder.lock);
            }
            let verdict = plan.verdicts.iter().find(|verdict| verdict.run == name(run)).unwrap();
            match &verdict.next {
                Next::Mark { not_before } => folder.marks.push(Marked {
                    at: now,
                    not_before: Minute::try_from(not_before.duration_since(time(0)).as_mins()).unwrap(),
                    number: u8::try_from(folder.marks.len()).unwrap(),
                    withdrawn: false,
                }),
                Next::Unmark(ulid) => {
                    let withdrawn = folder.marks.iter_mut().filter(|mark| ulid_of(mark) == *ulid);
                    withdrawn.for_each(|mark| mark.withdrawn = true);
                }
                Next::Stay | Next::Wait | Next::Remove(_) => {}
            }
        }
    }
}

/// What of a folder goes that is no copy: what a removal has still to delete, what was given up, what pods left that lost, and what a run left
/// that nobody finished.
fn leftover(folder: &Folder, now: Minute) -> u8 {
    match (folder.register, folder.removed) {
        (Some(Register::Copy { .. }), Some(_)) | (Some(Register::Abandoned), _) => folder.parts,
        (Some(Register::Copy { by }), None) if now - folder.not_after > LOSER => folder.parts & !(1 << by),
        (None, None) if folder.parts != 0 && now - folder.modified > STALE => folder.parts,
        _ => 0,
    }
}

pub fn name(run: usize) -> holdfast_crds::document::Label {
    label(&format!("run-{run}"))
}

fn schedule() -> ScheduleName {
    ScheduleName {
        namespace: Some("shop".into()),
        name: "gold".into(),
    }
}

fn ulid_of(mark: &Marked) -> Ulid {
    Ulid::new(time(mark.at), [mark.number; 10])
}

fn facts(run: usize, folder: &Folder, hold: &[holdfast_crds::document::HoldRecord], now: jiff::Timestamp) -> CopyFacts {
    let tick = time([-9, -4, 0][run] * 24 * 60);
    let candidate = Candidate {
        namespace: "shop",
        source: "orders",
        run: &format!("shop/orders/run-{run}"),
        recovery_point: tick,
    };
    let named = hold::in_force(hold, now) && (folder.held || hold::any_names(hold, &candidate));
    let marks = folder.marks.iter().filter(|mark| !mark.withdrawn);
    CopyFacts {
        run: name(run),
        manifest: Sha256::of(&[u8::try_from(run).unwrap()]),
        outcome: Sha256::of(&[u8::try_from(run).unwrap(), 1]),
        copy_type: CopyType::Full,
        tick: Some(tick),
        recovery_point: tick,
        committed_at: time(folder.committed_at),
        schedule: Some(schedule()),
        keep_until: None,
        parents: Vec::new(),
        server: None,
        bytes: 100,
        problem: (!folder.is_whole()).then(|| "a part is missing".to_owned()),
        unreadable: None,
        retained: folder.retained.iter().map(|(rule, until)| (rule.clone(), time(*until))).collect(),
        holds: if named { vec![label("hcase-1")] } else { Vec::new() },
        locked_until: (folder.lock > 0).then(|| time(folder.lock)),
        legal_hold: false,
        mark: marks.max_by_key(|mark| (mark.at, mark.number)).map(|mark| Mark {
            ulid: ulid_of(mark),
            at: time(mark.at),
            not_before: time(mark.not_before),
        }),
        reading_until: None,
        in_use: false,
    }
}
