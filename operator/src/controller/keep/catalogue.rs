//! What a report says of sources: the catalogue in their status. Only sources of the store's own namespace are told anything: a bucket of
//! one namespace says nothing about another's.

use std::collections::HashMap;

use holdfast_crds::{
    BackupSource, BackupStore, CATALOGUES, CatalogueInStore, KeepLine, KeepSummary, SOURCE_FINDINGS, SourceReport, StoreFinding,
    UNKNOWN_SOURCES, UnknownSource, shortened, whole_seconds,
};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    context::{Context, Error},
    watch::Key,
};

/// The longest messages, in bytes, as the schema has them.
const MESSAGE: usize = 512;
const WHY: usize = 256;
const NEWEST: usize = 10;

/// Writes what the report says into the status of its sources, where it says something else. Gives those that have no object here, and
/// how many they are. Killed between two of them it does the rest at the next call.
pub async fn write(
    context: &Context,
    store: &BackupStore,
    summary: &KeepSummary,
    report: &[KeepLine],
) -> Result<(i64, Vec<UnknownSource>), Error> {
    let namespace = store.namespace().unwrap_or_default();
    let mut reports: HashMap<&str, &SourceReport> = HashMap::new();
    let mut unknown = Vec::new();
    let mut count = 0;
    for line in report {
        let KeepLine::Source(source) = line else { continue };
        let key = Key::new(source.namespace.as_str(), source.source.as_str());
        if source.namespace == namespace && context.caches.sources.get(&key).is_some() {
            reports.insert(&source.source, source);
        } else if source.copies > 0 {
            count += 1;
            if unknown.len() < UNKNOWN_SOURCES {
                unknown.push(UnknownSource {
                    namespace: source.namespace.clone(),
                    source: source.source.clone(),
                    copies: source.copies,
                    bytes: source.bytes,
                    held: source.held,
                    newest: source.newest.clone(),
                });
            }
        }
    }
    for source in context.caches.sources.in_namespace(&namespace) {
        let name = source.name_any();
        let findings = findings(report, &format!("{namespace}/{name}"));
        let found = reports.get(name.as_str()).copied();
        if let Some(status) = with(&source, &store.name_any(), summary, found, findings, context.clock.now()) {
            context.report.status(&context.caches.sources, &*source, &status).await?;
        }
    }
    Ok((count, unknown))
}

/// What the report finds wrong with one source.
fn findings(report: &[KeepLine], place: &str) -> Vec<StoreFinding> {
    let of = |finding: &&StoreFinding| {
        let rest = finding.place.as_deref().and_then(|found| found.strip_prefix(place));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let findings = report.iter().filter_map(|line| match line {
        KeepLine::Finding(finding) => Some(finding),
        _ => None,
    });
    findings.filter(of).take(SOURCE_FINDINGS).map(bounded).collect()
}

/// A finding as the schema has it.
pub fn bounded(finding: &StoreFinding) -> StoreFinding {
    StoreFinding {
        message: shortened(&finding.message, MESSAGE),
        ..finding.clone()
    }
}

/// The status of a source with its entry for this store; none where nothing is to be written.
fn with(
    source: &BackupSource,
    store: &str,
    summary: &KeepSummary,
    found: Option<&SourceReport>,
    findings: Vec<StoreFinding>,
    now: Timestamp,
) -> Option<holdfast_crds::BackupSourceStatus> {
    let mut status = source.status.clone().unwrap_or_default();
    let place = status.stores.iter().position(|entry| entry.store == store);
    if found.is_none() && place.is_none() && findings.is_empty() {
        return None;
    }
    let before = place.map(|place| status.stores[place].clone());
    let entry = entry(store, summary, found, findings, before.as_ref(), now);
    match place {
        Some(place) => status.stores[place] = entry,
        None if status.stores.len() < CATALOGUES => status.stores.push(entry),
        None => return None,
    }
    status.stores.sort_by(|a, b| a.store.cmp(&b.store));
    status.copies = Some(status.stores.iter().map(|entry| entry.copies).sum());
    Some(status)
}

fn entry(
    store: &str,
    summary: &KeepSummary,
    found: Option<&SourceReport>,
    findings: Vec<StoreFinding>,
    before: Option<&CatalogueInStore>,
    now: Timestamp,
) -> CatalogueInStore {
    let found = found.cloned().unwrap_or_default();
    let mut blocked = found.blocked;
    if let Some(blocked) = &mut blocked {
        blocked.message = shortened(&blocked.message, MESSAGE);
    }
    let blocked_since = blocked.as_ref().map(|_| {
        let since = before.and_then(|before| before.blocked_since.clone());
        since.unwrap_or_else(|| whole_seconds(now).to_string())
    });
    let mut newest_copies = found.newest_copies;
    newest_copies.truncate(NEWEST);
    for copy in &mut newest_copies {
        copy.why = shortened(&copy.why, WHY);
    }
    let mut empty_slots = found.empty_slots;
    empty_slots.truncate(NEWEST);
    CatalogueInStore {
        store: store.to_owned(),
        as_of: summary.started_at.clone(),
        copies: found.copies,
        good: found.good,
        bytes: found.bytes,
        held: found.held,
        marked: found.marked,
        newest: found.newest,
        oldest: found.oldest,
        blocked,
        blocked_since,
        newest_copies,
        empty_slots,
        findings,
    }
}
