//! Which floors of its policies a source misses, by its schedules, their stores and its copies. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_crds::{
    BackupSchedule, CatalogueInStore, CompliancePolicy, ConditionType, Encryption, EncryptionFloor, Finding, FloorMissed, Reason,
    Retention, ScheduleStore, Span, StoreKind, StoreReference, shortened,
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{ceiling, copies};
use crate::store::Store;

/// The longest text of what was found, in bytes.
const FOUND_LIMIT: usize = 256;
/// The most floors that a status lists.
const FLOORS: usize = 32;

/// What is known of a source.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The schedules that select it.
    pub schedules: &'a [Arc<BackupSchedule>],
    /// The stores that those name, where they exist.
    pub stores: &'a [Store],
    /// The names of those of them that have a tick to come for it.
    pub firing: BTreeSet<String>,
    /// The longest time between two full copies, by schedules: of those that make any, and only where a ceiling asks for it.
    pub intervals: BTreeMap<String, SignedDuration>,
    /// What the keepers of its stores read.
    pub catalogue: &'a [CatalogueInStore],
    /// Since when copies are in fewer stores than their schedules require, without a moment in which they were not.
    pub unreplicated: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// How old its newest copy may be, by its schedules.
    pub rpo: Option<SignedDuration>,
    /// Recovery point of its newest copy.
    pub newest: Option<Timestamp>,
    pub now: Timestamp,
}

/// What a source is to its policies.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The floors that are missed, in order of the policies' names.
    pub missed: Vec<FloorMissed>,
    /// Floors of which it is too early to say that they are missed, in words.
    pub young: Vec<String>,
    /// When the verdict changes although nothing happens.
    pub changes: Option<SignedDuration>,
}

/// What was found of one floor.
pub enum Found {
    /// It is missed.
    Missed(String),
    /// It would be, but the source could not have met it by now.
    Young { found: String, until: Timestamp },
    /// It is met, and will not be at that time.
    Until(Timestamp),
}

/// Judges a source.
pub fn judge(policies: &[Arc<CompliancePolicy>], known: &Known<'_>) -> Verdict {
    let mut missed = Vec::new();
    let mut young = Vec::new();
    let mut changes = None;
    let again = |changes: &mut Option<SignedDuration>, at: Timestamp| {
        let left = at.duration_since(known.now) + SignedDuration::from_secs(1);
        *changes = Some(changes.map_or(left, |before: SignedDuration| before.min(left)));
    };
    for policy in policies {
        let mut miss = |floor: &str, demands: String, found: String| {
            missed.push(FloorMissed {
                policy: policy.name_any(),
                floor: floor.to_owned(),
                demands,
                found: shortened(&found, FOUND_LIMIT),
            });
        };
        let (floors, ceiling) = (&policy.spec.floors, &policy.spec.ceiling);
        if let Some(floor) = floors.retention {
            for (place, retention) in limited(known) {
                if retention.keep_within.is_none_or(|within| within < floor) {
                    let found = retention.keep_within.map_or_else(
                        || "no keepWithin beside other rules".to_owned(),
                        |within| format!("keepWithin {within}"),
                    );
                    miss("floors.retention", floor.to_string(), format!("{found} ({place})"));
                }
            }
        }
        if let Some(floor) = floors.good_copies {
            for (place, retention) in limited(known) {
                if retention.min_good < floor {
                    miss(
                        "floors.goodCopies",
                        floor.to_string(),
                        format!("minGood {} ({place})", retention.min_good),
                    );
                }
            }
        }
        let good = floors
            .good_copies
            .map(|floor| ("floors.goodCopies", floor, copies::good(floor, known)));
        let stores = floors.stores.map(|floor| ("floors.stores", floor, copies::stores(floor, known)));
        for (name, floor, found) in good.into_iter().chain(stores) {
            for found in found {
                match found {
                    Found::Missed(found) => miss(name, floor.to_string(), found),
                    Found::Young { found, until } => {
                        young.push(format!(
                            "{name} {floor} of {} is judged from {until}, until when so many could not be there yet (found {found})",
                            policy.name_any()
                        ));
                        again(&mut changes, until);
                    }
                    Found::Until(until) => again(&mut changes, until),
                }
            }
        }
        let names: BTreeSet<_> = names(known).collect();
        for reference in names {
            let store = known.stores.iter().find(|store| store.reference() == reference).map(Store::frozen);
            let store = store.as_ref();
            let name = shown(&reference);
            if floors.encryption == Some(EncryptionFloor::Required) {
                let found = match store.map(|store| &store.spec.encryption) {
                    Some(Encryption::None(_)) => Some(format!("none ({name})")),
                    Some(_) => None,
                    None => Some(format!("no {name}")),
                };
                if let Some(found) = found {
                    miss("floors.encryption", "Required".to_owned(), found);
                }
            }
            if let Some(floor) = floors.lock_mode {
                let found = match store.map(|store| store.spec.object_lock) {
                    Some(Some(lock)) => (lock.mode < floor).then(|| format!("{:?} ({name})", lock.mode)),
                    Some(None) => Some(format!("no objectLock ({name})")),
                    None => Some(format!("no {name}")),
                };
                let entry = known.catalogue.iter().find(|entry| entry.reference() == reference);
                let unlocked = entry.map(|entry| entry.unlocked).filter(|unlocked| *unlocked > 0);
                let unlocked = unlocked.map(|unlocked| format!("{unlocked} copies without a lock ({name})"));
                for found in found.into_iter().chain(unlocked) {
                    miss("floors.lockMode", format!("{floor:?}"), found);
                }
            }
        }
        if let Some(floor) = floors.rpo {
            match known.rpo {
                None => miss("floors.rpo", floor.to_string(), "no schedule with a trigger".to_owned()),
                Some(rpo) if rpo > floor.signed() => {
                    miss(
                        "floors.rpo",
                        floor.to_string(),
                        format!("an objective of {} by the schedules", words(rpo)),
                    );
                }
                Some(_) => {}
            }
            match known.newest.map(|newest| known.now.duration_since(newest)) {
                None => miss("floors.rpo", floor.to_string(), "no copy".to_owned()),
                Some(age) if age > floor.signed() => miss("floors.rpo", floor.to_string(), "a newest copy that is older".to_owned()),
                Some(age) => again(&mut changes, known.now + (floor.signed() - age)),
            }
        }
        if let Some(most) = ceiling.retention {
            for schedule in known.schedules {
                let interval = known.intervals.get(&schedule.name_any()).copied();
                for (place, retention) in placed(schedule) {
                    if let Some(found) = ceiling::above(retention, interval, most) {
                        miss("ceiling.retention", most.to_string(), format!("{found} ({place})"));
                    }
                }
            }
            for found in ceiling::copies(most, known) {
                match found {
                    Found::Missed(found) | Found::Young { found, .. } => miss("ceiling.retention", most.to_string(), found),
                    Found::Until(until) => again(&mut changes, until),
                }
            }
        }
        // A schedule that was emptied or never fires is as good as none, whatever it says.
        let silent = !known.schedules.is_empty() && known.firing.is_empty();
        let by_schedules = [
            ("floors.retention", floors.retention.is_some()),
            ("floors.goodCopies", floors.good_copies.is_some()),
            ("floors.encryption", floors.encryption.is_some()),
            ("floors.lockMode", floors.lock_mode.is_some()),
            ("floors.rpo", floors.rpo.is_some() && silent),
        ];
        if (known.schedules.is_empty() || silent)
            && let Some((floor, _)) = by_schedules.into_iter().find(|(_, said)| *said)
        {
            let (demands, found) = if silent {
                let found = "no tick to come: its schedules are suspended, invalid, or of types that it has not";
                ("a schedule that fires", found)
            } else {
                ("a schedule", "no schedule selects the source")
            };
            miss(floor, demands.to_owned(), found.to_owned());
        }
    }
    missed.truncate(FLOORS);
    Verdict { missed, young, changes }
}

/// What a source's condition says; nothing where no policy selects its namespace.
pub fn finding(policies: &[Arc<CompliancePolicy>], Verdict { missed, young, .. }: &Verdict) -> Option<Finding> {
    if policies.is_empty() {
        return None;
    }
    let names = policies.iter().map(|policy| policy.name_any()).collect::<Vec<_>>().join(", ");
    if missed.is_empty() {
        let young: String = young.iter().flat_map(|young| ["; ", young.as_str()]).collect();
        let message = format!("no floor of {names} is missed{young}");
        return Some(Finding::new(ConditionType::Compliant, true, Reason::Compliant, message));
    }
    let each = missed.iter().map(|missed| {
        format!(
            "{} of {} demands {}, found {}",
            missed.floor, missed.policy, missed.demands, missed.found
        )
    });
    let message = each.collect::<Vec<_>>().join("; ");
    Some(Finding::new(ConditionType::Compliant, false, Reason::FloorMissed, message))
}

/// The retention of each store of a schedule.
fn placed(schedule: &BackupSchedule) -> impl Iterator<Item = (String, Option<&Retention>)> {
    let name = schedule.name_any();
    let stores = schedule.spec.stores.iter();
    stores.map(move |store| (format!("schedule {name}, {}", shown(&store.reference())), store.retention.as_ref()))
}

/// Those under which copies go at some time.
fn limited<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (String, &'a Retention)> {
    let placed = known.schedules.iter().flat_map(|schedule| placed(schedule));
    placed
        .filter_map(|(place, retention)| Some((place, retention?)))
        .filter(|(_, retention)| !retention.keeps_everything())
}

fn names(known: &Known<'_>) -> impl Iterator<Item = StoreReference> {
    let stores = known.schedules.iter().flat_map(|schedule| &schedule.spec.stores);
    stores.map(ScheduleStore::reference)
}

/// A store for people.
pub fn shown(store: &StoreReference) -> String {
    match store.kind {
        StoreKind::BackupStore => format!("store {}", store.name),
        StoreKind::ClusterBackupStore => store.to_string(),
    }
}

/// A duration as specifications say it.
pub fn words(duration: SignedDuration) -> String {
    Span::from_seconds(duration.as_secs().unsigned_abs()).to_string()
}
