//! What a keeper is told of holds. Pure.

use holdfast_crds::{HoldReport, KeepHold, KeepRelease, StoreHolds, document::HoldScope};
use jiff::Timestamp;
use kube::ResourceExt;

use super::Hold;
use crate::{controller::keep::status::HOLDS_TOLD, watch::Caches};

/// The holds that a keeper of a store with copies of these namespaces is told of, in force or being released: first the namespaces' own, then the
/// cluster's, each in order of names. Those whose objects are gone stay in force by their records.
pub fn keep_holds(caches: &Caches, namespaces: &[&str], only: Option<&str>) -> Vec<KeepHold> {
    let own = namespaces.iter().flat_map(|namespace| caches.holds.in_namespace(namespace));
    let own = own.map(|hold| keep_hold(caches, &Hold::from(&*hold), only));
    // What a vanished namespace left may be in each store of the cluster.
    let reached = |named: &String| namespaces.contains(&named.as_str()) || (only.is_none() && caches.vanished(named));
    let cluster = caches.cluster_holds.all().into_iter();
    let cluster = cluster.filter(|hold| hold.spec.namespaces.iter().any(reached));
    let cluster = cluster.map(|hold| keep_hold(caches, &Hold::from(&*hold), only));
    own.chain(cluster).collect()
}

/// Puts first what the store does not know yet, by what its keeper last told: what it knows is in force by its records, told or not.
pub fn unknown_first(holds: &mut [KeepHold], told: Option<&StoreHolds>, now: Timestamp) {
    let reports = told.map(|told| told.reports.as_slice()).unwrap_or_default();
    // What is missing in a full list may be known: going by it would tell others in each pass, and make passes without end.
    if reports.len() >= HOLDS_TOLD {
        return;
    }
    holds.sort_by_cached_key(|hold| {
        let report = reports.iter().find(|report| report.id == hold.id.as_str());
        urgency(hold, report, now)
    });
}

/// 0 for what is to be recorded, 1 for what is told in vain, 2 for what needs no word.
fn urgency(hold: &KeepHold, report: Option<&HoldReport>, now: Timestamp) -> u8 {
    let released = hold.release.as_ref().map(|release| release.effective_at);
    match report {
        // A store tells of what is in force.
        None if [hold.until, released].into_iter().flatten().any(|end| end <= now) => 2,
        None => 0,
        Some(report) if !report.recorded || report.told != Some(hold.digest()) => 0,
        Some(report) if hold.release.is_some() && report.released_at.is_none() => u8::from(report.refused.is_some()),
        Some(_) => 2,
    }
}

/// What a keeper is told of a hold: `only` what concerns the store's own namespace. A store of the cluster may have copies of namespaces that
/// are gone, so its keeper is told all.
pub fn keep_hold(caches: &Caches, hold: &Hold<'_>, only: Option<&str>) -> KeepHold {
    let mut hold = hold.clone();
    if let Some(only) = only {
        hold.namespaces.retain(|namespace| namespace == only);
    }
    KeepHold {
        id: hold.id(),
        namespace: hold.namespace.clone(),
        name: hold.name.clone(),
        placed_by: hold.placed_by.to_owned(),
        release_by: hold.release_by,
        cool_off: hold.cool_off,
        reason: hold.reason.to_owned(),
        scope: scope(caches, &hold),
        until: hold.until,
        release: release(&hold),
    }
}

/// A release counts from the moment at which the operator saw it, which its status says.
fn release(hold: &Hold<'_>) -> Option<KeepRelease> {
    let release = hold.release?;
    Some(KeepRelease {
        released_by: release.released_by.clone(),
        reason: release.reason.clone(),
        effective_at: hold.status.release_effective_at.as_deref()?.parse().ok()?,
    })
}

/// Which copies: with the labels of sources resolved to those that have them now.
pub fn scope(caches: &Caches, hold: &Hold<'_>) -> HoldScope {
    let select = hold.select;
    let places = |names: &[String]| -> Vec<String> {
        let namespaces = hold.namespaces.iter();
        namespaces
            .flat_map(|namespace| names.iter().map(move |name| format!("{namespace}/{name}")))
            .collect()
    };
    let mut sources = (!select.sources.is_empty()).then(|| places(&select.sources));
    if !select.match_labels.is_empty() {
        let labelled = hold.namespaces.iter().flat_map(|namespace| caches.sources.in_namespace(namespace));
        let labelled = labelled.filter(|source| {
            let labels = source.labels();
            select.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        let labelled = labelled.map(|source| format!("{}/{}", source.namespace().unwrap_or_default(), source.name_any()));
        let named = sources.take();
        sources = Some(
            labelled
                .filter(|place| named.as_ref().is_none_or(|named| named.contains(place)))
                .collect(),
        );
    }
    let inside = |path: &&String| {
        path.split('/')
            .next()
            .is_some_and(|namespace| hold.namespaces.iter().any(|it| it == namespace))
    };
    let time = |text: Option<&String>| text.and_then(|text| text.parse::<Timestamp>().ok());
    let range = select.recovery_points.as_ref();
    HoldScope {
        sources,
        namespaces: Some(hold.namespaces.clone()),
        runs: (!select.runs.is_empty()).then(|| select.runs.iter().filter(inside).cloned().collect()),
        from: time(range.and_then(|range| range.from.as_ref())),
        to: time(range.and_then(|range| range.until.as_ref())),
    }
}
