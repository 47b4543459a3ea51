//! Whether there are as many good copies, in as many stores, as a floor demands: by what the keepers read, not by what schedules intend. Pure.

use std::collections::BTreeSet;

use holdfast_crds::{BackupSchedule, ScheduleStore, StoreReference};
use jiff::SignedDuration;
use kube::ResourceExt;

use super::judge::{Found, Known, shown};
use crate::controller::store::unusable;

/// For the first copy, and to copy it.
const COPYING: i32 = 2;

/// The good copies of each store of the schedules that fire. So many objectives after it was made, a source has had the time for them.
pub fn good(floor: i32, known: &Known<'_>) -> Vec<Found> {
    let few = stores_of(known).into_iter().filter_map(|store| {
        let good = good_in(known, &store);
        (good < i64::from(floor)).then(|| format!("{good} good ({})", shown(&store)))
    });
    few.map(|found| young_or_missed(known, floor, found)).collect()
}

/// In how many stores copies are: as many as the schedule that goes to the fewest sees to; and with a good copy in so many of them; and not lacking in
/// one for longer than the objective.
pub fn stores(floor: i32, known: &Known<'_>) -> Vec<Found> {
    let wanted = usize::try_from(floor).unwrap_or(0);
    let firing = known
        .schedules
        .iter()
        .filter(|schedule| known.firing.contains(&schedule.name_any()));
    let Some((count, why)) = firing.map(|schedule| seen_to(schedule, known)).min_by_key(|(count, _)| *count) else {
        return vec![Found::Missed("no schedule of the source that fires".to_owned())];
    };
    if count < wanted {
        return vec![Found::Missed(format!("{count} ({why})"))];
    }
    let with: Vec<_> = stores_of(known).into_iter().filter(|store| good_in(known, store) > 0).collect();
    let mut found = Vec::new();
    if with.len() < wanted {
        let with: Vec<_> = with.iter().map(shown).collect();
        let named = if with.is_empty() {
            String::new()
        } else {
            format!(" ({})", with.join(", "))
        };
        found.push(young_or_missed(
            known,
            COPYING,
            format!("a good copy in {} of them{named}", with.len()),
        ));
    }
    if let (Some(since), Some(rpo)) = (known.unreplicated, known.rpo)
        && let Ok(until) = since.checked_add(rpo)
    {
        found.push(if until < known.now {
            Found::Missed(format!(
                "copies in fewer than their schedules require since {since}, see Replicated"
            ))
        } else {
            Found::Until(until)
        });
    }
    found
}

/// In how many stores that can be used a schedule sees to it that its copies are, and why not in more.
fn seen_to(schedule: &BackupSchedule, known: &Known<'_>) -> (usize, String) {
    let name = schedule.name_any();
    let (mut usable, mut not) = (0, Vec::new());
    for store in schedule.spec.stores.iter().map(ScheduleStore::reference) {
        match known.stores.iter().find(|known| known.reference() == store) {
            None => not.push(format!("no {}", shown(&store))),
            Some(found) => match unusable(found) {
                Some(reason) => not.push(format!("{} is {reason}", shown(&store))),
                None => usable += 1,
            },
        }
    }
    let required = schedule.spec.required_copies.and_then(|count| usize::try_from(count).ok());
    match required.filter(|required| *required < usable) {
        Some(required) => (required, format!("schedule {name}: requiredCopies {required}")),
        None if not.is_empty() => (usable, format!("schedule {name}")),
        None => (usable, format!("schedule {name}: {}", not.join(", "))),
    }
}

/// The stores of the schedules that fire.
fn stores_of(known: &Known<'_>) -> BTreeSet<StoreReference> {
    let firing = known
        .schedules
        .iter()
        .filter(|schedule| known.firing.contains(&schedule.name_any()));
    let stores = firing.flat_map(|schedule| &schedule.spec.stores);
    stores.map(ScheduleStore::reference).collect()
}

fn good_in(known: &Known<'_>, store: &StoreReference) -> i64 {
    let entry = known.catalogue.iter().find(|entry| entry.reference() == *store);
    entry.map_or(0, |entry| entry.good)
}

fn young_or_missed(known: &Known<'_>, objectives: i32, found: String) -> Found {
    let time = known.rpo.unwrap_or(SignedDuration::ZERO).saturating_mul(objectives);
    match known.created.checked_add(time) {
        Ok(until) if until > known.now => Found::Young { found, until },
        _ => Found::Missed(found),
    }
}
