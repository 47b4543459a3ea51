//! Pods of attempts, settle Jobs and copy Jobs: what writes a register.

use crate::world::{ATTEMPT, Minute, NEW, Register, Rules, UNDER_WAY, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Copies the database into the first store.
    Backup,
    /// Gives the run up.
    Settle,
    /// Copies a run from the first store into the second.
    Copy { run: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Put,
    Ask,
    Send { asked: Minute },
    Doubt,
}

/// What happens to a message and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    Comes,
    /// It was carried out.
    Lost,
    /// It was not carried out either.
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub cluster: u8,
    pub work: Work,
    /// Under whose UID it writes.
    pub uid: u8,
    pub step: Step,
    pub epoch: u8,
    pub made: Minute,
}

impl Process {
    pub fn store(&self) -> usize {
        usize::from(matches!(self.work, Work::Copy { .. }))
    }

    fn run(&self) -> usize {
        match self.work {
            Work::Copy { run } => usize::from(run),
            Work::Backup | Work::Settle => NEW,
        }
    }

    fn word(&self) -> Register {
        match self.work {
            Work::Settle => Register::Abandoned,
            Work::Backup | Work::Copy { .. } => Register::Copy { by: self.uid },
        }
    }

    /// Pins whose the store is and looks into the register: if something is there, that is told, and nothing begins.
    pub fn start(world: &mut World, cluster: u8, work: Work) -> Option<Self> {
        let mut process = Self {
            cluster,
            work,
            uid: world.uids,
            step: if work == Work::Settle { Step::Ask } else { Step::Put },
            epoch: 0,
            made: world.now,
        };
        let (store, run) = (process.store(), process.run());
        let place = &world.places[store];
        if place.owner != cluster {
            return None;
        }
        process.epoch = place.epoch;
        if let Some(register) = place.folders[run].register {
            tell(world, store, run, register);
            return None;
        }
        world.uids += u8::from(work != Work::Settle);
        Some(process)
    }

    /// The next step. None where it ended. A process that is killed makes no step any more, which needs no step of its own.
    pub fn step(mut self, world: &mut World, answer: Answer, rules: Rules) -> Option<Self> {
        let (now, store, run) = (world.now, self.store(), self.run());
        let not_after = self.made + ATTEMPT;
        let source = world.places[0].folders[run].clone();
        let place = &mut world.places[store];
        let owned = place.owner == self.cluster && (place.epoch == self.epoch || !rules.epoch);
        let (place_epoch, since) = (place.epoch, place.since);
        let folder = &mut place.folders[run];
        self.step = match self.step {
            Step::Put => {
                if matches!(self.work, Work::Copy { .. }) && !(source.is_copy() && source.is_whole()) {
                    return None;
                }
                folder.parts |= 1 << self.uid;
                folder.modified = now;
                Step::Ask
            }
            Step::Ask => {
                let in_time = now <= not_after || self.work == Work::Settle;
                // Without the question whose the store is, only the Job's own cluster is left to ask.
                if !(in_time && (owned || !rules.epoch)) {
                    return None;
                }
                Step::Send { asked: now }
            }
            Step::Send { asked } => {
                if now - asked > UNDER_WAY {
                    // Nothing is sent any more; whether something was is not known.
                    Step::Doubt
                } else {
                    if answer != Answer::Dropped {
                        let free = folder.register.is_none();
                        folder.write(rules, self.word(), now, not_after);
                        if free && place_epoch != self.epoch && now - since > UNDER_WAY {
                            world.broken = Some("an outcome was written under an epoch that had ended");
                        }
                    }
                    match answer {
                        Answer::Comes => {
                            read(world, store, run);
                            return None;
                        }
                        Answer::Lost | Answer::Dropped if rules.reads_back => Step::Doubt,
                        // As if no answer meant that nothing was written.
                        Answer::Lost | Answer::Dropped => {
                            world.told[store] |= 2;
                            return None;
                        }
                    }
                }
            }
            Step::Doubt => {
                read(world, store, run);
                return None;
            }
        };
        Some(self)
    }
}

/// Reads the register and tells what it says; where it is empty nothing is told.
fn read(world: &mut World, store: usize, run: usize) {
    if let Some(register) = world.places[store].folders[run].register {
        tell(world, store, run, register);
    }
}

fn tell(world: &mut World, store: usize, run: usize, register: Register) {
    if run == NEW {
        world.told[store] |= match register {
            Register::Copy { .. } => 1,
            Register::Abandoned => 2,
        };
    }
}
