//! What a hold's status says, from the reports of the keepers. Pure.

use std::collections::BTreeMap;

use holdfast_crds::{
    ComplianceHoldStatus, ConditionType, Finding, HoldInStore, HoldReport, KEEP_DELETES_FOR, Reason, conditions, shortened, whole_seconds,
};
use jiff::{SignedDuration, Timestamp};

use super::{Hold, build::keep_hold};
use crate::{
    controller::{keep::status::HOLDS_TOLD, store::unusable},
    store::Store,
    watch::Caches,
};

/// The most stores that a status lists.
const STORES: usize = 100;
/// The longest message of one store, in bytes.
const MESSAGE: usize = 512;
/// How many stores that are missing a message names.
const NAMED: usize = 5;

/// A status, and when it would say something else although nothing happened.
pub struct Judged {
    pub status: ComplianceHoldStatus,
    pub again: Option<Timestamp>,
}

/// Judges a hold by what the keepers of its namespaces' stores reported.
pub fn judge(hold: &Hold<'_>, caches: &Caches, now: Timestamp) -> Judged {
    let before = hold.status.clone();
    let mut hold = hold.clone();
    let foreign = hold.select.runs.iter().find(|run| {
        let namespace = run.split('/').next().unwrap_or_default();
        !hold.namespaces.iter().any(|own| own == namespace)
    });
    let foreign = foreign.cloned();
    if hold.release.is_some() && hold.status.released_at.is_none() {
        let now = whole_seconds(now);
        hold.status.released_at = Some(now.to_string());
        hold.status.release_effective_at = Some(later(now, hold.cool_off.signed()).to_string());
    }
    let stores: Vec<_> = hold
        .namespaces
        .iter()
        .flat_map(|namespace| match &hold.namespace {
            Some(own) => caches.stores_of(own),
            None => caches.stores_to_hold(namespace),
        })
        .map(|store| (store.key(), store))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect();
    let told = stores.iter().filter_map(|store| report_of(&hold, caches, store).ok());
    let release = Release::of(&hold, &told.collect::<Vec<_>>());
    let mut wakes: Vec<Timestamp> = release.ends(&hold).into_iter().collect();
    let places: Vec<_> = stores.iter().map(|store| place(&hold, caches, store, now, &mut wakes)).collect();
    let ready = foreign.map_or_else(
        || Finding::new(ConditionType::Ready, true, Reason::Accepted, "the hold is accepted"),
        |run| {
            let message =
                format!("spec.select.runs: found {run:?}, a run of another namespace, which this hold does not reach; place one for it");
            Finding::new(ConditionType::Ready, false, Reason::InvalidSpec, message)
        },
    );
    let findings = [ready, effective(&hold, &places, &release, now)];
    let copies = places.iter().map(|place| place.copies).sum();
    let status = ComplianceHoldStatus {
        observed_generation: hold.generation,
        conditions: conditions(&before.conditions, &findings, hold.generation, now),
        copies,
        stores: places.into_iter().take(STORES).collect(),
        released_at: hold.status.released_at,
        release_effective_at: hold.status.release_effective_at,
    };
    Judged {
        status,
        again: wakes.into_iter().filter(|at| *at > now).min(),
    }
}

/// What a release amounts to.
#[derive(Default)]
struct Release {
    /// When it has taken effect in each store that told.
    effective_at: Option<Timestamp>,
    /// Why it is none, where a store says so: there the hold goes on.
    refused: Option<String>,
}

impl Release {
    /// By the operator's own clock, and by what stores know of others that placed a hold of this name: the later.
    fn of(hold: &Hold<'_>, reports: &[&HoldReport]) -> Self {
        let own = hold.status.release_effective_at.as_deref();
        let told = reports.iter().filter_map(|report| report.released_at.as_deref());
        Self {
            effective_at: own.and_then(|own| own.parse().ok().into_iter().chain(told.filter_map(|at| at.parse().ok())).max()),
            refused: reports.iter().find_map(|report| report.refused.clone()),
        }
    }

    /// When the hold ends: by its release, or by itself.
    fn ends(&self, hold: &Hold<'_>) -> Option<Timestamp> {
        let released = self.effective_at.filter(|_| self.refused.is_none());
        [released, hold.until].into_iter().flatten().min()
    }
}

/// What the store's keeper told of the hold as it is; or what is missing.
fn report_of<'a>(hold: &Hold<'_>, caches: &Caches, store: &'a Store) -> Result<&'a HoldReport, String> {
    let Some(pass) = store.status().and_then(|status| status.holds.as_ref()) else {
        let why = unusable(store).map(|reason| format!(": the store is {reason}")).unwrap_or_default();
        return Err(format!("its keeper has not reported yet{why}"));
    };
    let id = hold.id();
    let Some(report) = pass.reports.iter().find(|report| report.id == id.as_str()) else {
        let keeper = store.status().and_then(|status| status.keeper.as_ref()?.last_pass.as_ref());
        let more = match keeper {
            _ if pass.reports.len() >= HOLDS_TOLD => {
                ": there are more holds than the status of a store has room for, so that this one is not seen there"
            }
            Some(pass) if pass.summary.cut.holds => {
                ": there are more holds than a keeper can be told of at once, and the next passes are told the others"
            }
            _ => "",
        };
        return Err(format!("its keeper's pass of {} did not know the hold yet{more}", pass.started_at));
    };
    if report.told != Some(keep_hold(caches, hold, store.meta().namespace.as_deref()).digest()) {
        return Err(format!("its keeper's pass of {} knew the hold as it was before", pass.started_at));
    }
    Ok(report)
}

fn place(hold: &Hold<'_>, caches: &Caches, store: &Store, now: Timestamp, wakes: &mut Vec<Timestamp>) -> HoldInStore {
    let name = store.full_name();
    let waiting = |message: String| HoldInStore {
        store: name.clone(),
        message: shortened(&message, MESSAGE),
        ..HoldInStore::default()
    };
    let report = match report_of(hold, caches, store) {
        Ok(report) => report,
        Err(missing) => return waiting(missing),
    };
    let problem = report.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    if !report.recorded {
        return waiting(format!("its record could not be read back{problem}"));
    }
    // A keeper that did not see the record began before the store took it, and may delete for so long after its start. The pass's own start
    // would be too early where two keepers are at work, and each pass would begin the wait anew.
    let harmless = report
        .recorded_at
        .as_deref()
        .and_then(|at| at.parse().ok())
        .map(|started| later(started, SignedDuration::try_from(KEEP_DELETES_FOR).unwrap_or_default()));
    let effective = harmless.is_some_and(|harmless| harmless <= now);
    wakes.extend(harmless);
    let message = match harmless {
        Some(harmless) if !effective => format!("an older keeper may still delete until {}", whole_seconds(harmless)),
        _ => report.refused.clone().or_else(|| report.problem.clone()).unwrap_or_default(),
    };
    HoldInStore {
        store: name,
        effective,
        copies: report.copies,
        legal_hold: report.copies > 0 && report.legal_holds >= report.copies,
        message: shortened(&message, MESSAGE),
    }
}

fn effective(hold: &Hold<'_>, places: &[HoldInStore], release: &Release, now: Timestamp) -> Finding {
    let kind = ConditionType::Effective;
    let released = release.effective_at;
    if let Some(ends) = release.ends(hold).filter(|ends| *ends <= now) {
        let why = match (hold.release, released) {
            (Some(release), Some(at)) if at <= now => format!("released by {}, effective since {}", release.released_by, whole_seconds(at)),
            _ => format!("it ended by itself at {}", whole_seconds(ends)),
        };
        return Finding::new(kind, false, Reason::HoldReleased, why);
    }
    if places.is_empty() {
        let message = format!("not yet effective: there is no store for copies of {}", hold.namespaces.join(", "));
        return Finding::new(kind, false, Reason::HoldPending, message);
    }
    let missing: Vec<_> = places.iter().filter(|place| !place.effective).collect();
    if !missing.is_empty() {
        let named = missing
            .iter()
            .take(NAMED)
            .map(|place| format!("{}: {}", place.store, place.message));
        let more = missing.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let message = format!("not yet effective: {}{more}", named.collect::<Vec<_>>().join("; "));
        return Finding::new(kind, false, Reason::HoldPending, message);
    }
    if places.iter().all(|place| place.copies == 0) {
        return match hold.select.runs.first() {
            Some(run) => {
                let message = format!(
                    "spec.select.runs: no store has a copy of {run}, nor of another run that is named; correct the names, or wait for the copy"
                );
                Finding::new(kind, false, Reason::HoldPending, message)
            }
            None => Finding::new(
                kind,
                true,
                Reason::HoldPlaced,
                "no copy is named yet; what comes and matches is held from its birth",
            ),
        };
    }
    let by = if places.iter().all(|place| place.legal_hold || place.copies == 0) && places.iter().any(|place| place.legal_hold) {
        "by Holdfast and by the buckets"
    } else {
        "by Holdfast alone where status.stores says legalHold false: who may delete in the bucket can still delete there"
    };
    let release = match (&release.refused, hold.release, released) {
        (Some(refused), ..) => format!("; {refused}"),
        (None, Some(release), Some(at)) => format!("; released by {}, effective at {}", release.released_by, whole_seconds(at)),
        _ => String::new(),
    };
    Finding::new(kind, true, Reason::HoldPlaced, format!("held {by}{release}"))
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
