//! What the catalogues of the stores say of a source's copies. Pure.

use holdfast_crds::{BackupSource, BackupSourceStatus, CatalogueInStore, ConditionType, CopyReference, CopyState, Finding, Reason};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

/// Our clock and the store's may be so far apart.
pub const APART: SignedDuration = SignedDuration::from_mins(5);

/// The newest good copy of each store, as its keeper read it: it counts also when no object knows of its run.
pub fn newest(source: &BackupSource, status: &BackupSourceStatus) -> Vec<CopyReference> {
    let place = |run: &str| format!("{}/{}/{run}", source.namespace().unwrap_or_default(), source.name_any());
    let of_store = |entry: &CatalogueInStore| {
        let point = entry.newest.clone()?;
        let copy = entry
            .newest_copies
            .iter()
            .find(|copy| copy.recovery_point == point && good(copy.state))?;
        Some(CopyReference {
            run: copy.run.clone(),
            store: entry.store.clone(),
            store_kind: entry.store_kind,
            path: place(&copy.run),
            recovery_point: point,
            stored_bytes: copy.bytes,
            committed_at: None,
        })
    };
    status.stores.iter().filter_map(of_store).collect()
}

/// Whether a copy in this state is there and good.
fn good(state: CopyState) -> bool {
    matches!(state, CopyState::Kept | CopyState::Held | CopyState::Marked)
}

/// Whether a keeper found the copy bad, or looked after it was committed and did not find it.
pub fn is_gone(copy: &CopyReference, status: &BackupSourceStatus) -> bool {
    let Some(entry) = status.in_store(&copy.store_reference()) else {
        return false;
    };
    match entry.newest_copies.iter().find(|listed| listed.run == copy.run) {
        Some(listed) => !good(listed.state),
        // A pass that began before the commit says nothing by this.
        None => unseen(copy, entry) && !may_have_come_later(copy, entry),
    }
}

/// Whether a copy that is committed may yet be in the store of this entry, although the pass that read it did not find it: it may have begun
/// before the commit. The next is to say.
pub fn to_be_seen(copy: &CopyReference, entry: &CatalogueInStore) -> bool {
    copy.store_reference() == entry.reference() && unseen(copy, entry) && may_have_come_later(copy, entry)
}

/// When the copy was committed, by our clock; where that is not known, when its data is of.
pub fn committed(copy: &CopyReference) -> Option<Timestamp> {
    time(copy.committed_at.as_deref().unwrap_or(&copy.recovery_point))
}

fn unseen(copy: &CopyReference, entry: &CatalogueInStore) -> bool {
    time(&copy.recovery_point).is_some_and(|point| entry.newest.as_deref().and_then(time).is_none_or(|newest| point > newest))
}

fn may_have_come_later(copy: &CopyReference, entry: &CatalogueInStore) -> bool {
    match (committed(copy), time(&entry.as_of)) {
        (Some(committed), Some(as_of)) => as_of.duration_since(committed) <= APART,
        _ => true,
    }
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whether what keepers read is as it was written; none where none has read anything.
pub fn intact(status: &BackupSourceStatus) -> Option<Finding> {
    let mut findings = status
        .stores
        .iter()
        .flat_map(|entry| entry.findings.iter().map(move |finding| (entry, finding)));
    let kind = ConditionType::Intact;
    match findings.next() {
        _ if status.stores.is_empty() => None,
        None => Some(Finding::new(
            kind,
            true,
            Reason::CatalogueIntact,
            "the keepers found what was written, and nothing else",
        )),
        Some((entry, first)) => {
            let more = status.stores.iter().map(|entry| entry.more_findings).sum::<i64>();
            let more = match more.saturating_add(i64::try_from(findings.count()).unwrap_or(i64::MAX)) {
                0 => String::new(),
                more => format!("; and {more} more, see status.stores[].findings"),
            };
            let message = format!("in store {}: {}{more}", entry.store, first.message);
            Some(Finding::new(kind, false, first.reason, message))
        }
    }
}
