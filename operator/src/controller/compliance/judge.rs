//! Which floors of its policies a source misses, by its schedules, their stores and its copies. Pure.

use std::{collections::BTreeSet, sync::Arc};

use holdfast_crds::{
    BackupSchedule, CompliancePolicy, ConditionType, Encryption, EncryptionFloor, Finding, FloorMissed, Reason, Retention, ScheduleStore,
    Span, StoreKind, StoreReference, shortened,
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

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
    /// Whether any of those schedules has a tick to come for it.
    pub fires: bool,
    /// How old its newest copy may be, by its schedules.
    pub rpo: Option<SignedDuration>,
    /// Recovery point of its newest copy.
    pub newest: Option<Timestamp>,
    pub now: Timestamp,
}

/// The floors that are missed, in order of the policies' names, and when the verdict changes although nothing happens.
pub fn judge(policies: &[Arc<CompliancePolicy>], known: &Known<'_>) -> (Vec<FloorMissed>, Option<SignedDuration>) {
    let mut missed = Vec::new();
    let mut changes = None;
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
        if let Some(floor) = floors.stores {
            let exists = |name: &StoreReference| known.stores.iter().any(|store| store.reference() == *name);
            let stores: BTreeSet<_> = names(known).filter(exists).collect();
            if i64::try_from(stores.len()).unwrap_or(i64::MAX) < i64::from(floor) {
                miss(
                    "floors.stores",
                    floor.to_string(),
                    format!("{} that exist, by the schedules of the source", stores.len()),
                );
            }
        }
        let names: BTreeSet<_> = names(known).collect();
        for name in names {
            let store = known.stores.iter().find(|store| store.reference() == name).map(Store::frozen);
            let store = store.as_ref();
            let name = shown(&name);
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
                if let Some(found) = found {
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
                Some(age) => {
                    let left = floor.signed() - age + SignedDuration::from_secs(1);
                    changes = Some(changes.map_or(left, |before: SignedDuration| before.min(left)));
                }
            }
        }
        if let Some(ceiling) = ceiling.retention {
            for (place, retention) in placed(known) {
                if let Some(found) = above(retention, ceiling) {
                    miss("ceiling.retention", ceiling.to_string(), format!("{found} ({place})"));
                }
            }
        }
        // A schedule that was emptied or never fires is as good as none, whatever it says.
        let silent = !known.schedules.is_empty() && !known.fires;
        let by_schedules = [
            ("floors.retention", floors.retention.is_some()),
            ("floors.goodCopies", floors.good_copies.is_some()),
            ("floors.encryption", floors.encryption.is_some()),
            ("floors.lockMode", floors.lock_mode.is_some()),
            ("floors.stores", floors.stores.is_some() && silent),
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
    (missed, changes)
}

/// What a source's condition says; nothing where no policy selects its namespace.
pub fn finding(policies: &[Arc<CompliancePolicy>], missed: &[FloorMissed]) -> Option<Finding> {
    if policies.is_empty() {
        return None;
    }
    let names = policies.iter().map(|policy| policy.name_any()).collect::<Vec<_>>().join(", ");
    if missed.is_empty() {
        let message = format!("no floor of {names} is missed");
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

/// The retention of each store of each schedule.
fn placed<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (String, Option<&'a Retention>)> {
    known.schedules.iter().flat_map(|schedule| {
        let name = schedule.name_any();
        let stores = schedule.spec.stores.iter();
        stores.map(move |store| (format!("schedule {name}, {}", shown(&store.reference())), store.retention.as_ref()))
    })
}

/// Those under which copies go at some time.
fn limited<'a>(known: &'a Known<'_>) -> impl Iterator<Item = (String, &'a Retention)> {
    placed(known)
        .filter_map(|(place, retention)| Some((place, retention?)))
        .filter(|(_, retention)| !retention.keeps_everything())
}

fn names(known: &Known<'_>) -> impl Iterator<Item = StoreReference> {
    let stores = known.schedules.iter().flat_map(|schedule| &schedule.spec.stores);
    stores.map(ScheduleStore::reference)
}

fn shown(store: &StoreReference) -> String {
    match store.kind {
        StoreKind::BackupStore => format!("store {}", store.name),
        StoreKind::ClusterBackupStore => store.to_string(),
    }
}

/// The first rule that keeps copies for longer than `ceiling`, with a month of 31 days, a quarter of 92 and a year of 366, as admission counts.
fn above(retention: Option<&Retention>, ceiling: Span) -> Option<String> {
    let Some(retention) = retention.filter(|retention| !retention.keeps_everything()) else {
        return Some("no rule, which keeps each copy for ever".to_owned());
    };
    if let Some(within) = retention.keep_within.filter(|within| *within > ceiling) {
        return Some(format!("keepWithin {within}"));
    }
    let slots = [
        ("hourly", retention.hourly, 3_600),
        ("daily", retention.daily, 86_400),
        ("weekly", retention.weekly, 7 * 86_400),
        ("monthly", retention.monthly, 31 * 86_400),
        ("quarterly", retention.quarterly, 92 * 86_400),
        ("yearly", retention.yearly, 366 * 86_400),
    ];
    slots.into_iter().find_map(|(name, count, seconds)| {
        let count = count?;
        (u64::try_from(count).unwrap_or(0) * seconds > ceiling.seconds()).then(|| format!("{name} {count}"))
    })
}

fn words(duration: SignedDuration) -> String {
    Span::from_seconds(duration.as_secs().unsigned_abs()).to_string()
}
