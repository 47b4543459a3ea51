//! What is true: two stores, the objects of two clusters, and the processes that are at work.

use holdfast_crds::{
    ReleaseBy, Span,
    document::{HoldFact, HoldRecord, HoldScope, Label, Ulid},
};
use jiff::{SignedDuration, Timestamp};

use crate::keeper::Keeper;
use crate::process::Process;

/// How many runs there are: two whose copies are there from the beginning, and one that is made.
pub const RUNS: usize = 3;
/// The run that is made.
pub const NEW: usize = 2;
/// What waits are counted in: minutes since the beginning.
pub type Minute = i32;
pub const SHORT: Minute = 5;
pub const LONG: Minute = 8 * 24 * 60;
/// What is sent has its effect within this time, or never.
pub const UNDER_WAY: Minute = 2;
/// The time that an attempt has: longer than what nobody wrote to for a week is left alone.
pub const ATTEMPT: Minute = 10 * 24 * 60;

pub fn time(minute: Minute) -> Timestamp {
    let begin: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
    begin + SignedDuration::from_mins(i64::from(minute))
}

/// Rules that can be broken, to see that the model notices.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The store creates only what is absent.
    pub create_if_absent: bool,
    /// A run that nobody finished is given up in the register before what it wrote is deleted.
    pub register_first: bool,
    /// A keeper deletes for a while after its start only.
    pub cool_down: bool,
    /// What a keeper sends when its time is nearly over is not sent again and again.
    pub in_time: bool,
    /// A hold is said to be in force so long after its record was taken, not after the pass began that wrote it.
    pub from_record: bool,
    /// Whoever commits or removes asks first whose the store is.
    pub epoch: bool,
    /// The outcome of which no answer came is read back.
    pub reads_back: bool,
    /// Locks are only ever made longer.
    pub locks_grow: bool,
    /// A copy that is removed has its record of that before anything of it is deleted.
    pub removed_first: bool,
}

impl Rules {
    pub const KEPT: Self = Self {
        create_if_absent: true,
        register_first: true,
        cool_down: true,
        in_time: true,
        from_record: true,
        epoch: true,
        reads_back: true,
        locks_grow: true,
        removed_first: true,
    };
}

/// How much of everything may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Budget {
    pub shorts: u8,
    pub longs: u8,
    /// By cluster.
    pub keepers: [u8; 2],
    pub pods: [u8; 2],
    pub settles: u8,
    pub copies: u8,
    pub places: [u8; 2],
    pub releases: u8,
    pub take_overs: u8,
    /// Answers that are lost.
    pub lost: u8,
    /// Stores in which anything but copying happens.
    pub stores: u8,
}

/// The register of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Register {
    Copy { by: u8 },
    Abandoned,
}

/// A mark of a run; withdrawn by a later record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Marked {
    pub at: Minute,
    pub not_before: Minute,
    pub number: u8,
    pub withdrawn: bool,
}

/// What lies in a run's folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Folder {
    pub register: Option<Register>,
    /// What the register said first.
    pub first: Option<Register>,
    pub committed_at: Minute,
    pub not_after: Minute,
    /// Bit by bit: whose data is there.
    pub parts: u8,
    pub modified: Minute,
    pub marks: Vec<Marked>,
    /// Records of `retain`, rule by rule.
    pub retained: Vec<(String, Minute)>,
    pub removed: Option<Minute>,
    pub held: bool,
    pub lock: Minute,
    /// The longest lock there ever was.
    pub locked_once: Minute,
}

impl Folder {
    /// Whether it is a copy, as everybody who reads the store sees it.
    pub fn is_copy(&self) -> bool {
        matches!(self.register, Some(Register::Copy { .. })) && self.removed.is_none()
    }

    /// Whether all that the outcome lists is there.
    pub fn is_whole(&self) -> bool {
        matches!(self.register, Some(Register::Copy { by }) if self.parts & (1 << by) != 0)
    }

    pub fn write(&mut self, rules: Rules, register: Register, now: Minute, not_after: Minute) {
        if self.register.is_none() || !rules.create_if_absent {
            self.register = Some(register);
            self.first = self.first.or(self.register);
            (self.committed_at, self.not_after, self.modified) = (now, not_after, now);
        }
    }
}

/// A record of the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word {
    pub at: Minute,
    pub number: u8,
    /// When it ends, of a release.
    pub release: Option<Minute>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub folders: [Folder; RUNS],
    pub hold: Vec<Word>,
    /// Whose it is, and since which epoch and minute.
    pub owner: u8,
    pub epoch: u8,
    pub since: Minute,
    /// When the hold is in force here, as the operator says after it has read a report.
    pub in_force_at: Option<Minute>,
    /// Bit by bit: the copies that were there at any moment in which the hold was said to be in force.
    pub promised: u8,
}

/// The hold's object in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    #[default]
    Absent,
    Placed,
    Released {
        ends: Minute,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub now: Minute,
    pub places: [Place; 2],
    pub objects: [Object; 2],
    pub keepers: Vec<Keeper>,
    pub processes: Vec<Process>,
    pub left: Budget,
    /// The UIDs that were given.
    pub uids: u8,
    /// What became of the run, as processes told, store by store. Bits: 1 copied, 2 given up.
    pub told: [u8; 2],
    /// A rule that a step broke.
    pub broken: Option<&'static str>,
}

impl World {
    /// The copies of two runs are in the first store, the older one marked since three days; the newer one is also in the second.
    pub fn new(budget: Budget) -> Self {
        let day = 24 * 60;
        let copy = |age: Minute| Folder {
            register: Some(Register::Copy { by: 7 }),
            first: Some(Register::Copy { by: 7 }),
            committed_at: -age * day,
            not_after: -age * day + 60,
            parts: 1 << 7,
            modified: -age * day,
            ..Folder::default()
        };
        let mark = Marked {
            at: -3 * day,
            not_before: -day,
            number: 0,
            withdrawn: false,
        };
        let old = Folder {
            marks: vec![mark],
            ..copy(9)
        };
        let place = |folders| Place {
            folders,
            epoch: 1,
            ..Place::default()
        };
        Self {
            now: 0,
            places: [
                place([old, copy(4), Folder::default()]),
                place([Folder::default(), copy(4), Folder::default()]),
            ],
            objects: [Object::Absent; 2],
            keepers: Vec::new(),
            processes: Vec::new(),
            left: budget,
            uids: 0,
            told: [0; 2],
            broken: None,
        }
    }

    /// Whether the hold is said to be in force in this store.
    pub fn says_in_force(&self, store: usize) -> bool {
        let place = &self.places[store];
        let ends = match self.objects[usize::from(place.owner)] {
            Object::Absent => Some(self.now),
            Object::Placed => None,
            Object::Released { ends } => Some(ends),
        };
        ends.is_none_or(|end| self.now < end) && place.in_force_at.is_some_and(|at| at <= self.now)
    }

    /// What holds after each step.
    pub fn settle(&mut self) {
        for store in 0..2 {
            if self.says_in_force(store) {
                let copies = (0..RUNS).filter(|&run| self.places[store].folders[run].is_copy());
                let bits = copies.fold(0, |bits, run| bits | 1 << run);
                self.places[store].promised |= bits;
            } else if !holdfast_policy::hold::in_force(&self.places[store].records(), time(self.now)) {
                self.places[store].promised = 0;
            }
        }
        self.keepers.sort();
        self.processes.sort();
    }
}

impl Place {
    /// The hold's records, as the store has them.
    pub fn records(&self) -> Vec<HoldRecord> {
        records(&self.hold)
    }
}

pub fn placing() -> HoldFact {
    HoldFact::Place {
        namespace: Some("shop".into()),
        name: "case".into(),
        placed_by: "ann".into(),
        release_by: ReleaseBy::AnotherPerson,
        cool_off: Span::from_seconds(1),
        reason: "audit".into(),
        scope: HoldScope::default(),
        until: None,
    }
}

pub fn releasing(ends: Minute) -> HoldFact {
    HoldFact::Release {
        released_by: "bob".into(),
        reason: "over".into(),
        effective_at: time(ends),
    }
}

pub fn label(text: &str) -> Label {
    Label::new("model", text).unwrap()
}

pub fn records(words: &[Word]) -> Vec<HoldRecord> {
    let record = |word: &Word| {
        let fact = word.release.map_or_else(placing, releasing);
        let at = time(word.at);
        HoldRecord::new(label("hcase-1"), Ulid::new(at, [word.number; 10]), label("keeper"), at, fact)
    };
    words.iter().map(record).collect()
}
