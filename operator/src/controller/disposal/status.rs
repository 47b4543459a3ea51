//! What a disposal's status says, from the reports of the keepers. Pure.

use holdfast_crds::{
    ConditionType, DisposalInStore, DisposalRequest, DisposalRequestStatus, Finding, Reason, conditions, document::Sha256, whole_seconds,
};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::store::Store;

/// The most stores that a status lists.
const STORES: usize = 100;

/// The status of a request, by the stores of its namespace.
pub fn status(request: &DisposalRequest, stores: &[Store], now: Timestamp) -> DisposalRequestStatus {
    let before = request.status.clone().unwrap_or_default();
    let approved = request.spec.approval.is_some();
    let approved_at = before
        .approved_at
        .clone()
        .or_else(|| approved.then(|| whole_seconds(now).to_string()));
    let told = super::keep_disposal(request).map(|told| told.digest());
    let places: Vec<_> = stores.iter().map(|store| place(request, told, store)).collect();
    let findings = [
        Finding::new(ConditionType::Ready, true, Reason::Accepted, "the request is accepted"),
        disposed(request, &before, &places),
    ];
    DisposalRequestStatus {
        observed_generation: request.metadata.generation,
        conditions: conditions(&before.conditions, &findings, request.metadata.generation, now),
        approved_at,
        stores: if approved {
            places.into_iter().take(STORES).collect()
        } else {
            Vec::new()
        },
    }
}

fn place(request: &DisposalRequest, told: Option<Sha256>, store: &Store) -> DisposalInStore {
    let name = store.full_name();
    let reports = store
        .status()
        .into_iter()
        .flat_map(|status| &status.holds)
        .flat_map(|holds| &holds.disposals);
    let own = |report: &&holdfast_crds::DisposalReport| {
        // A report of another request that had this name says nothing about this one.
        report.name == request.name_any()
            && Some(&report.namespace) == request.namespace().as_ref()
            && told.is_some()
            && report.told == told
    };
    match reports.into_iter().find(own) {
        Some(report) => DisposalInStore {
            store: name,
            left: Some(report.left),
            shredded: report.shredded,
            removed: report.removed,
            deferred: report.deferred,
            message: report.problem.clone().unwrap_or_default(),
        },
        None => DisposalInStore {
            store: name,
            message: "its keeper has not reported yet".to_owned(),
            ..DisposalInStore::default()
        },
    }
}

fn disposed(request: &DisposalRequest, before: &DisposalRequestStatus, places: &[DisposalInStore]) -> Finding {
    let kind = ConditionType::Disposed;
    if request.spec.approval.is_none() {
        let message = format!(
            "requested by {}; another person with the verb approve on this request must add spec.approval",
            request.spec.requested_by
        );
        return Finding::new(kind, false, Reason::AwaitingApproval, message);
    }
    let deferred: Vec<_> = places.iter().filter(|place| place.deferred > 0).collect();
    let unfinished: Vec<_> = places.iter().filter(|place| place.left != Some(0)).collect();
    if places.is_empty() {
        return Finding::new(
            kind,
            false,
            Reason::Pending,
            "there is no store for copies of this namespace whose keeper could do it",
        );
    }
    if unfinished.is_empty() {
        let removed: i64 = places.iter().map(|place| place.removed).sum();
        // Registers and records of what was removed go themselves one day: what was done stays done.
        let done = before
            .conditions
            .iter()
            .find(|known| known.type_ == kind.as_str() && known.status == "True");
        return match (removed, done) {
            (_, Some(done)) if removed == 0 => Finding::new(kind, true, Reason::Succeeded, done.message.clone()),
            (0, _) => Finding::new(
                kind,
                false,
                Reason::CopyNotFound,
                "the request names no copy that any store has: look at the names of its sources and runs, and make a new request",
            ),
            (removed, _) => Finding::new(
                kind,
                true,
                Reason::Succeeded,
                format!("{removed} copies are gone; their records in the stores name this request"),
            ),
        };
    }
    if !deferred.is_empty() {
        let each = deferred
            .iter()
            .map(|place| format!("{}: {} copies are held or locked {}", place.store, place.deferred, place.message));
        return Finding::new(kind, false, Reason::Deferred, each.collect::<Vec<_>>().join("; "));
    }
    let each = unfinished.iter().map(|place| match place.left {
        Some(left) => format!("{}: {left} copies left {}", place.store, place.message),
        None => format!("{}: {}", place.store, place.message),
    });
    Finding::new(kind, false, Reason::Pending, each.collect::<Vec<_>>().join("; "))
}
